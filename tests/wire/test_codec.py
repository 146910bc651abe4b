"""The codec alone: what it makes of heads and bodies. Messages as they come are in ``test_corpus_codec``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from spawn.errors import ProtocolError
from spawn.http11.message import NO_BODY, Framing, RequestHead
from spawn.http11.wire import (
    LAST_CHUNK,
    BadAnswer,
    ChunkedDecoder,
    HeadLimits,
    LengthDecoder,
    UntilCloseDecoder,
    check_partial_head,
    chunk,
    decoder_for,
    find_head_end,
    parse_request_head,
    parse_response_head,
)

LIMITS = HeadLimits()


def parse(lines: bytes) -> RequestHead:
    return parse_request_head(lines + b"\r\n\r\n", LIMITS)


def answer(lines: bytes, method: bytes = b"GET") -> object:
    return parse_response_head(lines + b"\r\n\r\n", method, LIMITS)


class TestRequestHead:
    def test_bytes_stay_as_they_are(self) -> None:
        target = b"/a%2fb%7e/../x|y//z?q=%zz&w=a+b%20{}\xc3\xa4"
        head = parse(b"FROB-nicate " + target + b" HTTP/1.1\r\nhOST: A.test:80\r\nX-B: 1\r\nX-a:\t 2 \t\r\nX-B: \xe9")
        assert (head.method, head.target, head.minor, head.host) == (b"FROB-nicate", target, 1, b"A.test:80")
        assert head.headers == [(b"hOST", b"A.test:80"), (b"X-B", b"1"), (b"X-a", b"2"), (b"X-B", b"\xe9")]
        assert head.framing == NO_BODY
        assert head.keep_alive

    @pytest.mark.parametrize(
        ("method", "target", "reduced", "host"),
        [
            (b"GET", b"http://b.test/x?y", b"/x?y", b"b.test"),
            (b"GET", b"HTTP://b.test:81", b"/", b"b.test:81"),
            (b"GET", b"https://b.test?q", b"/?q", b"b.test"),
            (b"GET", b"http://[::1]:8/", b"/", b"[::1]:8"),
            (b"OPTIONS", b"http://b.test", b"*", b"b.test"),
            (b"OPTIONS", b"*", b"*", b"a.test"),
            (b"GET", b"//evil.test/x", b"//evil.test/x", b"a.test"),
        ],
    )
    def test_the_authority_of_the_target_wins(self, method: bytes, target: bytes, reduced: bytes, host: bytes) -> None:
        head = parse(method + b" " + target + b" HTTP/1.1\r\nX: 1\r\nHost: a.test")
        assert (head.target, head.host) == (reduced, host)
        assert head.headers == [(b"X", b"1"), (b"Host", host)]

    def test_http_1_0_needs_no_host(self) -> None:
        head = parse(b"GET / HTTP/1.0")
        assert (head.minor, head.host, head.headers, head.keep_alive) == (0, b"", [], False)
        assert parse(b"GET http://b.test/ HTTP/1.0").headers == [(b"Host", b"b.test")]

    def test_one_empty_line_may_come_first(self) -> None:
        assert parse(b"\r\nGET / HTTP/1.1\r\nHost: a").target == b"/"

    def test_names_with_an_underscore_are_dropped_and_counted(self) -> None:
        head = parse(b"GET / HTTP/1.1\r\nHost: a\r\nX_Forwarded_For: 1\r\nContent_Length: 3\r\nX: a_b")
        assert head.headers == [(b"Host", b"a"), (b"X", b"a_b")]
        assert (head.dropped_headers, head.framing) == (2, NO_BODY)

    @pytest.mark.parametrize(
        ("line", "framing"),
        [
            (b"Content-Length: 0", Framing(length=0)),
            (b"content-length: \t003 ", Framing(length=3)),
            (b"Transfer-Encoding: Chunked", Framing(chunked=True)),
            (b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3", Framing(length=3)),
            (b"Connection: Upgrade\r\nUpgrade: x\r\nTransfer-Encoding: chunked", Framing(chunked=True)),
        ],
    )
    def test_there_is_one_framing(self, line: bytes, framing: Framing) -> None:
        assert parse(b"POST / HTTP/1.1\r\nHost: a\r\n" + line).framing == framing

    @pytest.mark.parametrize(
        ("lines", "keep"),
        [
            (b" HTTP/1.1\r\nConnection: close", False),
            (b" HTTP/1.1\r\nConnection: x ,\tCLOSE, y", False),
            (b" HTTP/1.1\r\nConnection: x\r\nConnection: close", False),
            (b" HTTP/1.1\r\nConnection: closed, keep-alive", True),
            (b" HTTP/1.1\r\nConnection: keep-alive, close", False),
            (b" HTTP/1.1\r\nConnection: ,,", True),
            (b" HTTP/1.0\r\nConnection: keep-alive", False),
        ],
    )
    def test_who_closes(self, lines: bytes, keep: bool) -> None:
        assert parse(b"GET /" + lines + b"\r\nHost: a").keep_alive is keep

    def test_expectations(self) -> None:
        expect = b"\r\nHost: a\r\nExpect: 100-CONTINUE\r\nContent-Length: 3"
        assert parse(b"POST / HTTP/1.1" + expect).expect_continue
        assert not parse(b"POST / HTTP/1.0" + expect).expect_continue
        assert not parse(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue").expect_continue

    def test_limits_are_the_largest_that_pass(self) -> None:
        line = b"GET /" + b"a" * 50 + b" HTTP/1.1\r\n"
        data = line + b"Host: a\r\nX: y\r\n\r\n"
        good = HeadLimits(head_bytes=len(data), headers=2, line_bytes=len(line) - 2)
        assert parse_request_head(data, good)
        for limits, status in (
            (HeadLimits(len(data) - 1, 2, len(line) - 2), 431),
            (HeadLimits(len(data), 1, len(line) - 2), 431),
            (HeadLimits(len(data), 2, len(line) - 3), 414),
        ):
            with pytest.raises(ProtocolError) as caught:
                parse_request_head(data, limits)
            assert caught.value.status == status


class TestResponseHead:
    @pytest.mark.parametrize(
        ("lines", "method", "framing"),
        [
            (b"HTTP/1.1 200 OK\r\nContent-Length: 7", b"GET", Framing(length=7)),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 7", b"HEAD", NO_BODY),
            (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7", b"GET", NO_BODY),
            (b"HTTP/1.1 204 No Content\r\nContent-Length: 7", b"GET", NO_BODY),
            (b"HTTP/1.1 100 Continue", b"POST", NO_BODY),
            (b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x", b"POST", NO_BODY),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", b"GET", Framing(chunked=True)),
            (b"HTTP/1.1 200 OK", b"GET", Framing(until_close=True)),
            (b"HTTP/1.0 200 OK", b"GET", Framing(until_close=True)),
            (b"HTTP/1.1 200 OK\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 1", b"GET", Framing(length=1)),
        ],
    )
    def test_framing(self, lines: bytes, method: bytes, framing: Framing) -> None:
        head = parse_response_head(lines + b"\r\n\r\n", method, LIMITS)
        assert head.framing == framing
        assert head.keep_alive is (not framing.until_close)

    def test_bytes_stay_as_they_are(self) -> None:
        head = parse_response_head(b"HTTP/1.1 299 \xc3\xa4 b\r\nset-cookie: a\r\nSet-Cookie: b\r\n\r\n", b"GET", LIMITS)
        assert (head.status, head.reason, head.minor) == (299, b"\xc3\xa4 b", 1)
        assert head.headers == [(b"set-cookie", b"a"), (b"Set-Cookie", b"b")]
        assert parse_response_head(b"HTTP/1.1 200\r\n\r\n", b"GET", LIMITS).reason == b""

    def test_keep_alive(self) -> None:
        for lines, keep in (
            (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close", False),
            (b"HTTP/1.0 200 OK\r\nContent-Length: 0", False),
            (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: Keep-Alive", True),
        ):
            assert parse_response_head(lines + b"\r\n\r\n", b"GET", LIMITS).keep_alive is keep


class TestBodies:
    def test_length(self) -> None:
        decoder = LengthDecoder(5)
        assert decoder.feed(b"abc") == b"abc"
        assert not decoder.done
        assert not decoder.eof()
        assert decoder.feed(b"deGET") == b"de"
        assert decoder.done
        assert decoder.eof()
        assert decoder.leftover == b"GET"

    def test_until_close(self) -> None:
        decoder = UntilCloseDecoder()
        assert decoder.feed(b"abc") == b"abc"
        assert not decoder.done
        assert decoder.eof()

    def test_no_decoder_without_a_body(self) -> None:
        assert decoder_for(NO_BODY) is None
        assert decoder_for(Framing(length=0)) is None

    def test_an_open_chunked_body_does_not_end_with_the_connection(self) -> None:
        decoder = ChunkedDecoder()
        assert decoder.feed(b"3\r\nabc\r\n0\r\n") == b"abc"
        assert not decoder.eof()
        assert decoder.feed(b"\r\nnext") == b""
        assert decoder.eof()
        assert decoder.leftover == b"next"

    def test_many_small_chunks_pass(self) -> None:
        decoder = ChunkedDecoder(endless=True)
        assert decoder.feed(b"1\r\nx\r\n" * 1_000_000 + LAST_CHUNK) == b"x" * 1_000_000
        assert decoder.done

    def test_an_upload_of_many_small_chunks_is_refused(self) -> None:
        decoder = ChunkedDecoder()
        decoder.feed(b"1\r\nx\r\n" * 80_000)
        with pytest.raises(ProtocolError, match="mostly framing"):
            decoder.feed(b"1\r\nx\r\n" * 10_000)

    @pytest.mark.parametrize("size", [3, 15, 16, 100])
    def test_an_upload_of_larger_chunks_passes(self, size: int) -> None:
        decoder = ChunkedDecoder()
        assert decoder.feed(chunk(b"x" * size) * 200_000 + LAST_CHUNK) == b"x" * size * 200_000

    @pytest.mark.parametrize("size", [*range(1, 18), 255, 256])
    def test_chunks_of_every_size_in_every_notation(self, size: int) -> None:
        data = (b"\r\n1\r\nx\r\n0\r\n\r\n" * 99)[:size]
        for line in (b"%x", b"%X", b"0%x", b"%015x", b"%x;a=b"):
            encoded = (line % size + b"\r\n" + data + b"\r\n") * 3
            decoder = ChunkedDecoder()
            assert decoder.feed(encoded + LAST_CHUNK + b"next") == data * 3
            assert decoder.leftover == b"next"
        for bad in (b"%016x\r\n%b\r\n", b"%x\n%b\r\n", b"%x\r\n%b\n", b"%x\r\n%bx\r\n", b" %x\r\n%b\r\n"):
            with pytest.raises(ProtocolError):
                ChunkedDecoder().feed(b"1\r\nx\r\n" + bad % (size, data))


@given(
    st.lists(st.binary(min_size=1, max_size=300) | st.binary(min_size=1, max_size=4)), st.binary(max_size=20), st.data()
)
def test_chunking_round_trip(parts: list[bytes], leftover: bytes, data: st.DataObject) -> None:
    encoded = b"".join(map(chunk, parts)) + LAST_CHUNK + leftover
    decoder = ChunkedDecoder()
    decoded, at = b"", 0
    while not decoder.done:
        size = data.draw(st.integers(1, 64))
        decoded += decoder.feed(encoded[at : at + size])
        at += size
    assert decoded == b"".join(parts)
    assert decoder.leftover + encoded[at:] == leftover


@given(
    st.lists(
        st.sampled_from(
            [b"3", b"0", b"\r", b"\n", b"\r\n", b"abc", b";", b" ", b":", b"X", b"\x00", b"f", b"1\r\nx\r\n"]
        )
    )
)
@example([b"3", b"\r\n", b"abc", b"\r\n", b"0", b"\r\n", b"\r\n"])
def test_chunked_bytes_decode_or_are_refused_alike_however_split(tokens: list[bytes]) -> None:
    data = b"".join(tokens)

    def decode(pieces: Sequence[bytes]) -> object:
        decoder = ChunkedDecoder()
        body = b""
        try:
            for piece in pieces:
                if decoder.done:
                    return body
                body += decoder.feed(piece)
        except ProtocolError as fault:
            return fault.status
        return body if decoder.done else None

    whole = decode([data] if data else [])
    one_by_one = decode([data[at : at + 1] for at in range(len(data))])
    assert whole == one_by_one


token = st.text("!#$%&'*+-.^`|~abcXYZ019", min_size=1, max_size=12).map(str.encode)
value = st.binary(max_size=30).map(lambda raw: bytes(b for b in raw if b >= 32 and b != 127).strip(b" "))
ours = {b"host", b"content-length", b"transfer-encoding", b"connection", b"expect", b"upgrade"}


@given(
    token.filter(lambda m: m != b"CONNECT"), st.lists(st.tuples(token.filter(lambda t: t.lower() not in ours), value))
)
def test_head_round_trip(method: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    lines = b"".join(b"%b: %b\r\n" % header for header in headers)
    head = parse_request_head(method + b" /x HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n", LIMITS)
    assert (head.method, head.headers) == (method, [(b"Host", b"a"), *headers])


fragments = st.sampled_from(
    [
        b"GET",
        b" ",
        b"/",
        b"HTTP/1.1",
        b"HTTP/1.0",
        b"\r\n",
        b"\n",
        b"\r",
        b"Host: a",
        b"Content-Length: 3",
        b"_",
        b":",
        b"Transfer-Encoding: chunked",
        b"Connection: upgrade",
        b"Upgrade: x",
        b"http://b",
        b"*",
        b"\x00",
        b"\xa0",
        b"OPTIONS",
        b"Expect: 100-continue",
        b"HTTP/1.1 200 OK",
        b"HTTP/1.0 204",
    ]
)


@given(st.one_of(st.binary(max_size=200), st.lists(fragments, max_size=25).map(b"".join)))
@example(b"GET / HTTP/1.1\r\nHost: a\r\n")
def test_nothing_but_a_refusal_is_raised(data: bytes) -> None:
    for raw in (data, data + b"\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n" + data + b"\r\n\r\n"):
        end = find_head_end(raw)
        try:
            check_partial_head(raw, 0, LIMITS)
            head = parse_request_head(raw[:end] if end > 0 else raw, LIMITS)
            assert head.host or head.minor == 0
            assert head.target[:1] == b"/" or head.target == b"*"
        except ProtocolError as fault:
            assert fault.status in (400, 414, 417, 431, 501, 505)  # noqa: PT017
        with suppress(BadAnswer):
            parse_response_head(raw, b"GET", LIMITS)
