"""Messages of every shape, through the codec and over sockets: the good ones arrive exactly, the nearly good do not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spawn.errors import ProtocolError
from spawn.http11.bodies import LAST_CHUNK, ChunkedDecoder, chunk
from spawn.http11.exchange import EMPTY_BODY
from spawn.http11.forwarding import TrustedProxies, forward_request_headers
from spawn.http11.message import NO_BODY, Framing, Headers, OutgoingRequest, Request, get_all
from spawn.http11.outgoing import pieces
from spawn.http11.server import HttpServer
from spawn.http11.wire import HeadLimits, check_partial_head, parse_request_head
from tests.support.codec import Outcome, Taken, answer_outcome, outcome
from tests.support.hops import pairs, rendered
from tests.support.rawhttp import Echo, RawClient, running_server
from tests.support.shapes import (
    CHANGES,
    EOL,
    Message,
    answers,
    any_case,
    framings_for,
    requests,
    splits,
    spoilt,
    white,
)
from tests.support.splits import cut_at
from tests.support.strictreader import read_request

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy
LIMITS = HeadLimits()
PEER = "192.0.2.7"
NOBODY = TrustedProxies(())
OURS = frozenset((b"host", b"content-length", b"transfer-encoding", b"via"))
OF_ANSWERS = frozenset(what for what, (kind, _) in CHANGES.items() if kind in ("status", "reason"))
OF_REQUESTS = frozenset(what for what, (kind, _) in CHANGES.items() if kind in ("method", "target", "host"))


@pytest.fixture(scope="module")
def echo() -> Echo:
    return Echo()


@pytest.fixture(scope="module")
def server(echo: Echo) -> Iterator[HttpServer]:
    with running_server(echo) as running:
        yield running


def framing_of(message: Message) -> Framing:
    if message.framing == "length":
        return Framing(length=len(message.body))
    return Framing(chunked=True) if message.framing == "chunked" else NO_BODY


def end_of_head(message: Message) -> int:
    """How many parts the head has."""
    return next(number for number, part in enumerate(message.parts) if part.kind == "end") + 1


def forwarded(taken: Taken, via: bytes, trusted: TrustedProxies) -> Headers:
    return pairs(forward_request_headers(Request(taken.head, EMPTY_BODY, PEER), trusted, via))


def untouched(headers: Headers) -> Headers:
    """What is the client's own and not a hop's."""
    return [header for header in headers if header[0].lower() not in OURS and not header[0].startswith(b"X-Forwarded-")]


def sent_to_node(taken: Taken, headers: Headers) -> bytes:
    head = taken.head
    body = None if head.framing == NO_BODY else taken.body
    return b"".join(pieces(OutgoingRequest(head.method, head.target, rendered(headers), body), ("node.test", 80)))


def decode(pieces: Iterable[bytes], *, endless: bool = False) -> tuple[bytes, bytes] | int | None:
    """Body and what follows it, the status of a refusal, or None: more is waited for."""
    decoder = ChunkedDecoder(endless=endless)
    body, left = [], iter(pieces)
    try:
        for piece in left:
            body.append(decoder.feed(piece))
            if decoder.done:
                return b"".join(body), decoder.leftover + b"".join(left)
    except ProtocolError as fault:
        return fault.status
    return None


class TestLimitsDoNotDependOnSplits:
    def test_an_empty_line_before_a_head_of_the_largest_size_costs_nothing(self) -> None:
        head = b"GET / HTTP/1.1\r\nHost: a.test\r\nX: %b\r\n\r\n" % (b"y" * 100)
        limits = HeadLimits(head_bytes=len(head))
        data = b"\r\n" + head
        assert parse_request_head(data, limits)
        for size in range(1, len(data)):
            check_partial_head(data[:size], size - 1, limits)
        with pytest.raises(ProtocolError, match="too long"):
            check_partial_head(data[:-4] + b"yyyyy", 0, limits)

    @pytest.mark.parametrize("size", [1, 1_000, 65_536, 10_000_000])
    def test_an_upload_is_refused_at_the_same_chunk(self, size: int) -> None:
        """It has too much framing at one time, although by its end there would be data enough."""
        body = chunk(b"x") * 87_400 + chunk(b"x" * 15) * 900 + LAST_CHUNK
        assert decode(body[at : at + size] for at in range(0, len(body), size)) == 400

    @pytest.mark.parametrize("size", [1, 1_000, 65_536, 10_000_000])
    def test_an_endless_answer_is_refused_at_the_same_chunk(self, size: int) -> None:
        """Data that came before does not make up for sizes that are mostly zeros."""
        body = chunk(b"x" * 15) * 100 + b"000000000000001\r\nx\r\n" * 17_000 + LAST_CHUNK
        assert decode((body[at : at + size] for at in range(0, len(body), size)), endless=True) == 400


def request_of(data: bytes, places: Sequence[int] = ()) -> Outcome:
    return outcome(cut_at(data, places), LIMITS)


def every_place(data: bytes) -> range:
    return range(1, len(data))


class TestGoodRequests:
    @given(requests(), st.binary(max_size=20), st.data())
    @PATIENT
    def test_arrive_exactly_wherever_they_are_split(self, sent: Message, behind: bytes, data: st.DataObject) -> None:
        raw = sent.data + behind
        found = request_of(raw, data.draw(splits(raw)))
        assert isinstance(found, Taken)
        head = found.head
        assert ((head.method, head.target, head.host), head.minor) == (sent.start, sent.minor)
        assert head.headers == sent.headers
        assert (found.body, found.rest) == (sent.body, behind)
        assert head.framing == framing_of(sent)
        assert head.keep_alive is (sent.minor == 1)

    @given(requests(), st.data())
    @PATIENT
    def test_are_waited_for_until_their_last_byte(self, sent: Message, data: st.DataObject) -> None:
        raw = sent.data[: data.draw(st.integers(0, len(sent.data) - 1))]
        assert request_of(raw, data.draw(splits(raw))) == 0

    @given(requests())
    @PATIENT
    def test_pass_at_their_own_size_and_not_beyond(self, sent: Message) -> None:
        raw = sent.data
        lines = 1 + sum(part.kind in ("eol", "end") for part in sent.parts[: end_of_head(sent)])
        start = raw.index(EOL)
        size = sum(len(part.data) for part in sent.parts[: end_of_head(sent)])
        exact = HeadLimits(size, lines - 3, start)
        assert isinstance(outcome([raw], exact), Taken)
        assert isinstance(outcome(cut_at(raw, every_place(raw)), exact), Taken)
        for limits, status in (
            (replace(exact, head_bytes=size - 1), 431),
            (replace(exact, headers=lines - 4), 431),
            (replace(exact, line_bytes=start - 1), 414),
        ):
            assert outcome([raw], limits) == status
            assert outcome(cut_at(raw, every_place(raw)), limits) == status

    @given(requests(), st.data())
    @PATIENT
    def test_are_passed_on_as_one_request_that_the_next_hop_reads_alike(
        self, sent: Message, data: st.DataObject
    ) -> None:
        first = request_of(sent.data)
        assert isinstance(first, Taken)
        headers = forwarded(first, b"spawn-00000001", NOBODY)
        wire = sent_to_node(first, headers)
        reading = read_request(wire)
        assert (reading.method, reading.target, reading.host) == sent.start
        assert (reading.body, reading.size) == (sent.body, len(wire))
        second = request_of(wire, data.draw(splits(wire)))
        assert isinstance(second, Taken)
        again = forwarded(second, b"spawn-00000002", TrustedProxies([PEER]))
        assert untouched(again) == untouched(headers) == untouched(sent.headers)
        assert get_all(again, b"via") == [b"1.%d spawn-00000001" % sent.minor, b"1.1 spawn-00000002"]
        assert get_all(again, b"host") == get_all(headers, b"host") == [sent.start[2]]

    @given(requests(), st.lists(st.integers(0, 9), min_size=1, max_size=4), st.data())
    @PATIENT
    def test_leave_behind_what_connection_names_and_nothing_else(
        self, sent: Message, chosen: list[int], data: st.DataObject
    ) -> None:
        others = [name for name, _ in untouched(sent.headers)]
        named = {others[number % len(others)].lower() for number in chosen} if others else set()
        options = data.draw(st.permutations([*named, b"close", b"", b"x-absent"]))
        lines = [data.draw(white) + data.draw(any_case(name)) + data.draw(white) for name in options]
        border = data.draw(st.integers(0, len(lines)))
        told = b"".join(b"Connection: %b\r\n" % b",".join(part) for part in (lines[:border], lines[border:]))
        start, rest = sent.data.split(EOL, 1)
        found = request_of(start + EOL + told + rest)
        assert isinstance(found, Taken)
        headers = forwarded(found, b"spawn-00000001", NOBODY)
        assert untouched(headers) == [header for header in untouched(sent.headers) if header[0].lower() not in named]


class TestNearlyGoodRequests:
    @pytest.mark.parametrize("what", [what for what in CHANGES if what not in OF_ANSWERS])
    def test_are_never_taken_in(self, what: str) -> None:
        @given(requests(framings=framings_for(what)), st.data())
        @settings(PATIENT, max_examples=50)
        def check(message: Message, data: st.DataObject) -> None:
            raw = data.draw(spoilt(message, what))
            found = request_of(raw)
            assert found in (0, 400, 501, 505)
            assert request_of(raw, every_place(raw)) == found
            assert request_of(raw, data.draw(splits(raw))) == found

        check()


class TestGoodAnswers:
    @given(answers(), st.binary(max_size=20), st.data())
    @PATIENT
    def test_arrive_exactly_wherever_they_are_split(self, sent: Message, behind: bytes, data: st.DataObject) -> None:
        raw = sent.data + behind
        found = answer_outcome(cut_at(raw, data.draw(splits(raw))))
        assert isinstance(found, tuple)
        head, body, leftover = found
        assert ((b"%d" % head.status, head.reason), head.minor) == (sent.start, sent.minor)
        assert (head.headers, head.framing) == (sent.headers, framing_of(sent))
        assert (body, leftover) == (sent.body, behind)

    @given(answers(), st.data())
    @PATIENT
    def test_are_waited_for_until_their_last_byte(self, sent: Message, data: st.DataObject) -> None:
        raw = sent.data[: data.draw(st.integers(0, len(sent.data) - 1))]
        assert answer_outcome(cut_at(raw, data.draw(splits(raw)))) == "not whole"


class TestNearlyGoodAnswers:
    @pytest.mark.parametrize("what", [what for what in CHANGES if what not in OF_REQUESTS])
    def test_are_never_passed_on(self, what: str) -> None:
        @given(answers(framings=framings_for(what)), st.data())
        @settings(PATIENT, max_examples=50)
        def check(message: Message, data: st.DataObject) -> None:
            raw = data.draw(spoilt(message, what))
            for places in ((), every_place(raw), data.draw(splits(raw))):
                assert not isinstance(answer_outcome(cut_at(raw, places)), tuple)

        check()


class TestOverSockets:
    """A sample only: what a socket adds is that pieces arrive when they like."""

    @given(st.lists(requests(minors=[1]), max_size=3), requests(), st.data())
    @settings(PATIENT, max_examples=40)
    def test_pipelined_requests_arrive_as_sent_and_are_answered_in_order(
        self, server: HttpServer, echo: Echo, first: list[Message], last: Message, data: st.DataObject
    ) -> None:
        sent = [*first, last]
        raw = b"".join(message.data for message in sent)
        before = len(echo.seen)
        with RawClient(server.port) as client:
            client.send(*cut_at(raw, data.draw(st.lists(st.integers(1, len(raw)), max_size=6))))
            for message in sent:
                answer = client.answer()
                assert (answer.status, answer.body) == (200, message.body)
            assert client.end().at_end()
        for message, seen in zip(sent, echo.seen[before:], strict=True):
            assert (seen.method, seen.target, seen.host) == message.start
            assert (seen.headers, seen.body) == (message.headers, message.body)

    @given(requests(minors=[1]), st.sampled_from(sorted(set(CHANGES) - OF_ANSWERS)), st.data())
    @settings(PATIENT, max_examples=40)
    def test_a_spoilt_request_behind_a_good_one_is_not_seen(
        self, server: HttpServer, echo: Echo, good: Message, what: str, data: st.DataObject
    ) -> None:
        bad = data.draw(requests(framings=framings_for(what)))
        raw = good.data + data.draw(spoilt(bad, what))
        before = len(echo.seen)
        with RawClient(server.port) as client:
            client.try_send(*cut_at(raw, data.draw(st.lists(st.integers(1, len(raw)), max_size=4))))
            assert client.answer().body == good.body
            client.end()
            rest = client.rest()
        assert not rest or rest.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 ", b"HTTP/1.1 505 "))
        assert [seen.body for seen in echo.seen[before:]] == [good.body]
