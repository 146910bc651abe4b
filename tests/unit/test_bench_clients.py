"""What the benchmark's own clients and nodes must do, since nobody would see it in the figures."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from bench.rate import Client, Failed, percentile, whole_length
from bench.sink import Connection

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone"
STALL_S = 0.4


class StallingServer:
    """Answers each request at once, but for one pause in which it answers nobody."""

    def __init__(self, stall_after: int, answer: bytes = ANSWER) -> None:
        self._stall_after = stall_after
        self._answer = answer
        self._gate = threading.Lock()
        self._requests = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._serve, args=(accepted,)))
            self._threads[-1].start()

    def _serve(self, accepted: socket.socket) -> None:
        with accepted:
            while accepted.recv(65_536):
                with self._gate:
                    self._requests += 1
                    if self._requests == self._stall_after:
                        time.sleep(STALL_S)
                accepted.sendall(self._answer)


@pytest.fixture
def stalling() -> Iterator[StallingServer]:
    server = StallingServer(stall_after=200)
    yield server
    server.stop()


def test_a_stall_costs_every_request_that_was_due_meanwhile(stalling: StallingServer) -> None:
    """A closed loop would see 32 slow answers, one a connection; 80 more requests were due in that time."""
    client = Client(stalling.port)
    figures = client.run(per_second=300, seconds=2)
    slow = [latency for latency in client.latencies if latency > STALL_S / 4]
    assert len(client.latencies) == 600
    assert len(slow) >= 0.9 * 300 * STALL_S * 3 / 4  # all that were due in its first three quarters
    assert figures["p99_ms"] > STALL_S / 2 * 1000


def test_a_wrong_answer_ends_the_measurement() -> None:
    server = StallingServer(stall_after=0, answer=ANSWER.replace(b"200 OK", b"502 Bad Gateway"))
    try:
        with pytest.raises(Failed, match="502"):
            Client(server.port).run(per_second=100, seconds=1)
    finally:
        server.stop()


def test_an_answer_is_whole_when_its_body_is() -> None:
    assert whole_length(ANSWER) == len(ANSWER)
    assert whole_length(ANSWER[:-2]) == len(ANSWER)
    assert whole_length(ANSWER[:20]) == 0


def test_percentiles_are_by_nearest_rank() -> None:
    assert percentile([float(n) for n in range(100)], 0.99) == 99
    assert percentile([5.0], 0.99) == 5


def test_the_sink_answers_when_it_has_the_whole_body_and_not_before() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        node = Connection(theirs)
        ours.sendall(b"PUT /large HTTP/1.1\r\nContent-Length: 1000\r\n\r\n" + b"x" * 400)
        assert node.readable()
        ours.setblocking(False)
        with pytest.raises(BlockingIOError):
            ours.recv(1)
        ours.send(b"x" * 600)
        assert node.readable()
        assert ours.recv(1000).startswith(b"HTTP/1.1 200 OK")
