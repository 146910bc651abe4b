"""Bodies in tiny chunks, which make much work of few bytes, leave the hub to others in good time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import gevent
import pytest
from gevent.event import Event

from spawn.http11.fairness import DENSE_BYTES
from spawn.http11.message import Request, ResponseWriter
from tests.support.rawhttp import RawClient, running_server
from tests.support.scriptednode import ClientUnderTest, Peer, ScriptedNode

TINY = b"1\r\nx\r\n"
COUNT = 60_000


@pytest.fixture(autouse=True)
def deadline() -> Iterator[None]:
    with gevent.Timeout(60):
        yield


class Others:
    """Everybody else on the hub: how often they could run since the last look."""

    def __init__(self) -> None:
        self.turns = 0

    def run(self) -> None:
        while True:
            gevent.sleep(0.000_01)
            self.turns += 1

    def look(self) -> int:
        turns, self.turns = self.turns, 0
        return turns


@contextmanager
def others() -> Iterator[Others]:
    them = Others()
    greenlet = gevent.spawn(them.run)
    yield them
    greenlet.kill()


def check(pieces: list[tuple[int, int]]) -> None:
    """(bytes of the body, turns of the others before they came) of each read."""
    assert sum(size for size, _ in pieces) == COUNT
    later = pieces[2:]  # what is received is smaller once it is known to be dense
    assert all(size <= DENSE_BYTES // len(TINY) + 1 for size, _ in later)
    assert sum(turns > 0 for _, turns in later) > 0.8 * len(later)


def test_an_upload() -> None:
    pieces: list[tuple[int, int]] = []
    arrived = Event()

    def handle(request: Request, writer: ResponseWriter) -> None:
        arrived.wait(10)
        them.look()
        while data := request.body.read():
            pieces.append((len(data), them.look()))
        writer.reply(200, "done")

    with others() as them, running_server(handle) as server, RawClient(server.port) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        sending = gevent.spawn(client.send, TINY * COUNT + b"0\r\n\r\n")
        sending.join(0.2)  # as much as the kernel takes: no read has to wait
        arrived.set()
        assert client.answer().status == 200
        sending.join(5)
    check(pieces)


def test_an_upload_of_nothing_but_tiny_chunks_is_refused() -> None:
    def handle(request: Request, writer: ResponseWriter) -> None:
        while request.body.read():
            pass
        writer.reply(200, "done")

    with running_server(handle) as server, RawClient(server.port) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        sending = gevent.spawn(client.try_send, TINY * 200_000 + b"0\r\n\r\n")
        assert client.answer().status == 400
        sending.join(5)


def test_a_nodes_answer() -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + TINY * COUNT + b"0\r\n\r\n")
        peer.read_to_end()

    pieces: list[tuple[int, int]] = []
    with others() as them, ScriptedNode(script) as node, ClientUnderTest() as client, client.send(node) as answer:
        gevent.sleep(0.2)
        them.look()
        while data := answer.read():
            pieces.append((len(data), them.look()))
    check(pieces)
