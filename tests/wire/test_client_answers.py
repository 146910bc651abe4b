"""Answers as nodes send them: every framing, cut short in every way, and what becomes of the connection."""

from __future__ import annotations

from collections.abc import Iterator

import gevent
import psutil
import pytest

from spawn.errors import AnswerCut
from spawn.http11 import transaction
from tests.support.scriptednode import ClientUnderTest, Peer, ScriptedNode, get, post, read_all, until


@pytest.fixture(autouse=True)
def deadline() -> Iterator[None]:
    with gevent.Timeout(60):
        yield


@pytest.fixture(params=[True, False], ids=["careful", "quick"])
def client(request: pytest.FixtureRequest) -> Iterator[ClientUnderTest]:
    with ClientUnderTest(careful=request.param) as under_test:
        yield under_test
    assert not under_test.client._in_use


@pytest.fixture(autouse=True)
def no_socket_stays_open() -> Iterator[None]:
    before = len(psutil.Process().net_connections("tcp"))
    yield
    until(lambda: len(psutil.Process().net_connections("tcp")) <= before)


def answering(raw: bytes, then: str = "wait") -> ScriptedNode:
    """Sends the same bytes to each request, then closes, resets, or waits for more requests."""

    def script(peer: Peer) -> None:
        while True:
            peer.read_request()
            peer.send(raw)
            if then != "wait":
                gevent.sleep(0.02)  # a reset may overtake what is still on its way
                getattr(peer, then)()
                return

    return ScriptedNode(script)


def test_the_same_head_has_no_body_for_head_requests(client: ClientUnderTest) -> None:
    """What a head means is remembered, and depends on what was asked."""

    def script(peer: Peer) -> None:
        while True:
            method = peer.read_request()[:4]
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + (b"" if method == b"HEAD" else b"hello"))

    with ScriptedNode(script) as node:
        for method, body in ((b"GET", b"hello"), (b"HEAD", b""), (b"GET", b"hello"), (b"HEAD", b"")):
            assert client.fetch(node, get(method=method)) == (200, body)
        assert node.connections == 1


@pytest.mark.parametrize("line", [b"Set-Cookie: id=secret", b"sEt-cOOkie: id=secret", b"X-Long: " + b"x" * 600])
def test_few_heads_are_remembered_and_neither_cookies_nor_long_ones(client: ClientUnderTest, line: bytes) -> None:
    numbers = iter(range(1, 1_000))

    def script(peer: Peer) -> None:
        while True:
            peer.read_request()
            peer.answer(headers=b'ETag: "%d"\r\n' % next(numbers))
            peer.read_request()
            peer.answer(headers=line + b"\r\n")

    with ScriptedNode(script) as node:
        for count in range(2 * (transaction.MAX_REMEMBERED + 10)):
            with client.send(node) as answer:
                expected = (b"ETag", b'"%d"' % (count // 2 + 1)) if count % 2 == 0 else None
                assert expected is None or answer.head.headers[0] == expected
    assert 0 < len(transaction._remembered) <= transaction.MAX_REMEMBERED
    assert not any(line in head for head in transaction._remembered)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
WHOLE = {
    "length": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello", True),
    "empty": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"", True),
    "chunked": (CHUNKED + b"2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nT: 1\r\n\r\n", b"hello", True),
    "204 with a length": (b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", b"", True),
    "304 with a length": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n", b"", True),
    "100 and 103 first": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"hello",
        True,
    ),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 1\r\n\r\nx", b"x", True),
    "connection: close": (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx", b"x", False),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", b"x", False),
    "HTTP/1.0 kept": (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 1\r\n\r\nx", b"x", True),
    "a byte too many": (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhello", b"hell", False),
    "a second answer": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" * 2, b"", False),
    "204 with a body": (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello", b"", False),
    "junk behind the chunks": (CHUNKED + b"1\r\nx\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n", b"x", False),
}


@pytest.mark.parametrize(("raw", "body", "kept"), WHOLE.values(), ids=WHOLE.keys())
def test_whole_answers(client: ClientUnderTest, raw: bytes, body: bytes, kept: bool) -> None:
    with answering(raw) as node:
        for _ in range(2):
            with client.send(node) as answer:
                assert read_all(answer, 2) == body
                assert answer.read() == b""
        assert node.connections == (1 if kept else 2)


@pytest.mark.parametrize("name", ["length", "chunked", "100 and 103 first"])
def test_answers_byte_by_byte(client: ClientUnderTest, name: str) -> None:
    raw, body, _ = WHOLE[name]

    def script(peer: Peer) -> None:
        while True:
            peer.read_request()
            peer.trickle(raw, 0)

    with ScriptedNode(script) as node:
        assert [client.fetch(node)[1] for _ in range(3)] == [body] * 3
        assert node.connections == 1


@pytest.mark.parametrize("framing", [b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b""])
def test_an_answer_to_head_has_no_body(client: ClientUnderTest, framing: bytes) -> None:
    with answering(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n") as node:
        for _ in range(2):
            assert client.fetch(node, get(method=b"HEAD")) == (200, b"")
        assert node.connections == 1


def test_a_body_behind_an_answer_to_head_is_not_the_next_answer(client: ClientUnderTest) -> None:
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello") as node:
        assert client.fetch(node, get(method=b"HEAD")) == (200, b"")
        assert client.fetch(node) == (200, b"hello")
        assert node.connections == 2


def test_junk_that_comes_while_idle_is_not_the_next_answer(client: ClientUnderTest) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.answer(b"one")
        gevent.sleep(0.02)
        peer.send(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        junk.append(True)
        peer.read_to_end()

    junk: list[bool] = []
    with ScriptedNode(script) as node:
        assert client.fetch(node) == (200, b"one")
        until(lambda: junk)
        gevent.sleep(0.02)
        assert client.fetch(node) == (200, b"one")
        assert node.connections == 2


def test_a_body_until_close_ends_cleanly_with_the_connection(client: ClientUnderTest) -> None:
    with answering(b"HTTP/1.1 200 OK\r\n\r\nhello", "close") as node:
        assert client.fetch(node) == (200, b"hello")


def test_the_head_is_there_before_the_body(client: ClientUnderTest) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(b"HTTP/1.1 201 Made It\r\nX-A: 1\r\nX-A: 2\r\nContent-Length: 4\r\n\r\n")
        until(lambda: seen)
        peer.send(b"body")

    seen: list[int] = []
    with ScriptedNode(script) as node, client.send(node, post(b"x")) as answer:
        assert (answer.head.status, answer.head.reason) == (201, b"Made It")
        assert answer.head.headers[:2] == [(b"X-A", b"1"), (b"X-A", b"2")]
        seen.append(1)
        assert read_all(answer) == b"body"


CUT = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhello",
    "chunk": CHUNKED + b"9\r\nhello",
    "chunks": CHUNKED + b"5\r\nhello\r\n",
    "trailers": CHUNKED + b"5\r\nhello\r\n0\r\n",
}


@pytest.mark.parametrize("raw", CUT.values(), ids=CUT.keys())
@pytest.mark.parametrize("then", ["close", "reset", "wait"])
def test_a_body_cut_short(client: ClientUnderTest, raw: bytes, then: str) -> None:
    with answering(raw, then) as node, client.send(node, progress_timeout_s=0.2) as answer:
        received = b""
        with pytest.raises(AnswerCut) as caught:
            while data := answer.read():
                received += data
        assert received == b"hello"
        with pytest.raises(AnswerCut):
            answer.read()
        if then == "wait":
            assert "stalled for 0.2 s" in str(caught.value)


@pytest.mark.parametrize("then", ["reset", "wait"])
def test_a_body_until_close_that_does_not_end_cleanly(client: ClientUnderTest, then: str) -> None:
    raw = b"HTTP/1.1 200 OK\r\n\r\nhello"
    with answering(raw, then) as node, client.send(node, progress_timeout_s=0.2) as answer:
        assert answer.read() == b"hello"
        with pytest.raises(AnswerCut):
            answer.read()


@pytest.mark.parametrize(
    "chunks", [b"zz\r\nhello", b"5\r\nhelloX\r\n", b"\r\n", b"-1\r\n", b"f" * 30 + b"\r\n", b"5\n"]
)
def test_malformed_chunks(client: ClientUnderTest, chunks: bytes) -> None:
    with answering(CHUNKED + chunks) as node, client.send(node) as answer:
        with pytest.raises(AnswerCut, match="malformed"):
            read_all(answer)
        assert client.client._idle.take("node", (node.host, node.port), 60) is None


def test_a_reader_that_pauses_is_no_stalled_node(client: ClientUnderTest) -> None:
    """The deadline is the node's: time that the caller takes between reads does not count."""
    body = b"x" * 200_000
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + body) as node:
        with client.send(node, progress_timeout_s=0.1) as answer:
            received = answer.read(1000)
            gevent.sleep(0.4)
            received += read_all(answer)
        assert received == body


def test_a_large_body_waits_in_the_node_and_not_in_memory(client: ClientUnderTest) -> None:
    sent: list[int] = []

    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 104857600\r\n\r\n")
        for _ in range(100):
            peer.send(b"x" * 1_048_576)
            sent.append(1)

    with ScriptedNode(script) as node, client.send(node) as answer:
        assert answer.read(10) == b"x" * 10
        gevent.sleep(0.1)
        assert len(sent) < 50  # what the kernel's buffers hold, and no more
        assert len(answer._ready) <= 65_536


class TestFinish:
    @pytest.mark.parametrize(
        ("size", "kept"), [(0, True), (10, True), (60_000, True), (70_000, False), (5_000_000, False)]
    )
    def test_drains_so_much_and_no_more(self, client: ClientUnderTest, size: int, kept: bool) -> None:
        with answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size) as node:
            for _ in range(2):
                client.send(node).finish()
            assert node.connections == (1 if kept else 2)

    def test_does_not_raise_when_the_node_breaks(self, client: ClientUnderTest) -> None:
        with answering(CUT["length"], "reset") as node:
            answer = client.send(node)
            answer.finish()
            answer.finish()
            answer.close()

    def test_does_not_wait_for_a_stalled_node(self, client: ClientUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("spawn.http11.client.DRAIN_S", 0.1)
        with answering(CUT["length"]) as node, gevent.Timeout(5):
            client.send(node, progress_timeout_s=50).finish()

    def test_after_part_of_the_body(self, client: ClientUnderTest) -> None:
        with answering(WHOLE["chunked"][0]) as node:
            for _ in range(2):
                answer = client.send(node)
                assert answer.read(1) == b"h"
                answer.finish()
            assert node.connections == 1


def test_close_drops_what_is_not_read(client: ClientUnderTest) -> None:
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n" + b"x" * 70_000) as node:
        answer = client.send(node)
        answer.close()
        answer.close()
        with pytest.raises(AnswerCut):
            answer.read()
        until(lambda: node.open == 0)
