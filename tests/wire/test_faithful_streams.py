"""Answers that go on: each piece reaches the client before the node has said the next one, the head before the first.

Node and client go in step: the node sends a piece only when the client has the last one. So whatever waits for more, or
for an end, waits for ever, and the test fails.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from gevent.event import Event
from gevent.queue import Queue

from spawn.proxy import updates
from tests.support.inprocess import until
from tests.support.rawcluster import DATE, RawCluster, chunked
from tests.support.rawhttp import RawClient
from tests.support.scriptednode import Peer

SSE = DATE + b"Content-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
EVENTS = [
    b": hello\n\n",
    b"data: 1\n\n",
    b"d",
    b"ata: 2\n",
    b"\n",
    b"id: 3\ndata: " + b"x" * 100_000 + b"\n\n",
    b"data: 4\n\n",
]
CLOSES = b"Connection: close\r\n"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RawCluster]:
    with RawCluster(tmp_path_factory.mktemp("streams"), 2) as cluster:
        yield cluster


@pytest.fixture
def cluster(running: RawCluster) -> RawCluster:
    running.clear()
    return running


class Stream:
    """What a node says, piece by piece; ``None`` ends the connection. The other node answers nothing meanwhile."""

    def __init__(self, cluster: RawCluster) -> None:
        self.pieces: Queue[bytes | None] = Queue()
        self.ended = Event()
        cluster.raw_nodes[0].script = self._speak
        cluster.raw_nodes[1].script = lambda peer: self.ended.wait() and peer.answer()

    def _speak(self, peer: Peer) -> bool:
        try:
            while (piece := self.pieces.get()) is not None:
                peer.send(piece)
        finally:
            self.ended.set()
        return True

    def say(self, *pieces: bytes | None) -> None:
        for piece in pieces:
            self.pieces.put(piece)


@pytest.fixture
def stream(cluster: RawCluster) -> Iterator[Stream]:
    stream = Stream(cluster)
    yield stream
    stream.say(None)


def expect_event(client: RawClient, event: bytes, *, coded: bool) -> None:
    """In as many chunks as it takes."""
    got = b""
    while len(got) < len(event):
        if coded:
            got += client.exactly(int(client.until(b"\r\n"), 16))
            assert client.exactly(2) == b"\r\n"
        else:
            got += client.exactly(len(event) - len(got))
    assert got == event


@pytest.mark.parametrize("version", [1, 0])
@pytest.mark.parametrize("framing", [CHUNKED, b"", CLOSES])
@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_events_are_passed_on_as_they_come(
    cluster: RawCluster,
    stream: Stream,
    monkeypatch: pytest.MonkeyPatch,
    method: bytes,
    framing: bytes,
    version: int,
) -> None:
    """However long an update may wait for the rest of an answer: this one has no rest."""
    monkeypatch.setattr(updates, "READY_S", 3_600.0)
    with cluster.client() as client:
        client.send(b"%b /events HTTP/1.%d\r\nHost: app.test\r\nAccept: text/event-stream\r\n\r\n" % (method, version))
        stream.say(b"HTTP/1.1 200 OK\r\n" + SSE + framing + b"\r\n")
        sequence = cluster.head + 1 if method == b"POST" else 0
        ours = CHUNKED if version else b""
        client.expect(cluster.for_client(b"200 OK", SSE, ours, sequence=sequence, close=not version))
        for event in EVENTS:
            stream.say(chunked(event)[: -len(b"0\r\n\r\n")] if framing == CHUNKED else event)
            expect_event(client, event, coded=bool(version))
            assert client.buffer == b""
        stream.say(b"0\r\n\r\n" if framing == CHUNKED else b"", None)
        client.expect(b"0\r\n\r\n" if version else b"")
        assert version or client.at_end()


def test_a_long_answer_of_known_length_is_passed_on_as_it_comes(cluster: RawCluster, stream: Stream) -> None:
    with cluster.client() as client:
        client.send(b"GET /long HTTP/1.1\r\nHost: app.test\r\n\r\n")
        framing = b"Content-Length: %d\r\n" % sum(map(len, EVENTS))
        stream.say(b"HTTP/1.1 200 OK\r\n" + DATE + framing + b"\r\n" + EVENTS[0])
        client.expect(cluster.for_client(framing=framing))
        for event, following in zip(EVENTS, [*EVENTS[1:], b""], strict=True):
            expect_event(client, event, coded=False)
            stream.say(following)


@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_a_client_that_leaves_ends_the_stream(cluster: RawCluster, stream: Stream, method: bytes) -> None:
    """The node is not made to talk to nobody: the next pieces find its connection closed."""
    with cluster.client() as client:
        client.send(method + b" /events HTTP/1.1\r\nHost: app.test\r\n\r\n")
        stream.say(b"HTTP/1.1 200 OK\r\n" + SSE + CHUNKED + b"\r\n" + chunked(b"data: 1\n\n")[:-5])
        client.until(b"data: 1\n\n")

    def has_ended() -> bool:
        stream.say(chunked(b"data: on\n\n")[:-5])
        return stream.ended.is_set()

    until(has_ended, "the node's connection is closed")


def test_a_stream_keeps_no_other_request_waiting(cluster: RawCluster, stream: Stream) -> None:
    """Not even further updates on the node that still talks to a client."""
    with cluster.client() as listener:
        listener.send(b"POST /events HTTP/1.1\r\nHost: app.test\r\n\r\n")
        stream.say(b"HTTP/1.1 200 OK\r\n" + SSE + CHUNKED + b"\r\n" + chunked(b"data: 1\n\n")[:-5])
        listener.until(b"data: 1\n\n")
        for node in cluster.raw_nodes:
            node.script = lambda peer: peer.answer(b"another")
        stream.ended.set()
        with cluster.client() as client:
            for method in (b"GET", b"POST", b"POST", b"GET"):
                client.send(method + b" / HTTP/1.1\r\nHost: app.test\r\n\r\n")
                assert client.answer().body == b"another"
        stream.say(chunked(b"data: 2\n\n"))
        listener.until(b"data: 2\n\n")
