"""Raw bytes to and from a port of the same process: a client over gevent's sockets, and a server to talk to.

Every wait has a deadline and fails the test when it passes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from socket import SHUT_WR
from types import TracebackType
from typing import Any

import gevent
from gevent import socket

from spawn.counters import Counters
from spawn.http11.deadlines import Deadlines
from spawn.http11.message import Request, ResponseWriter
from spawn.http11.server import HttpServer, ServerLimits, ServerTimeouts

WAIT_S = 10.0  # nothing a test waits for takes nearly as long
ROUNDS = 10  # of the event loop; from a connect to the first receive take about five


@dataclass
class RawAnswer:
    """One answer as it came."""

    status: int
    reason: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def get(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.headers if key.lower() == name), None)

    @property
    def closes(self) -> bool:
        return self.get(b"connection") == b"close"

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class RawClient:
    """A connection on which a test sends what it likes."""

    def __init__(self, port: int, host: str = "127.0.0.1", receive_buffer: int = 0) -> None:
        self.sock = socket.socket()
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(WAIT_S)
        try:
            self.sock.connect((host, port))
        except OSError:
            self.sock.close()
            raise
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.sock.close()

    def send(self, *pieces: bytes) -> RawClient:
        """Send each piece on its own, so that the server sees the splits."""
        for number, piece in enumerate(pieces):
            if number:
                gevent.sleep(0.002)
            self.sock.sendall(piece)
        return self

    def try_send(self, *pieces: bytes) -> RawClient:
        """Send to a server that may have closed already."""
        with suppress(OSError):
            self.send(*pieces)
        return self

    def end(self) -> RawClient:
        self.sock.shutdown(SHUT_WR)
        return self

    def answer(self, method: bytes = b"GET") -> RawAnswer:
        """The next answer, its body by its own framing."""
        head = self.until(b"\r\n\r\n")
        status_line, *lines = head[:-4].split(b"\r\n")
        version, status, reason = status_line.split(b" ", 2)
        assert version == b"HTTP/1.1"
        headers = [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]
        answer = RawAnswer(int(status), reason, headers, b"")
        if method == b"HEAD" or answer.status in (204, 304) or answer.status < 200:
            return answer
        if answer.get(b"transfer-encoding") == b"chunked":
            assert answer.get(b"content-length") is None
            answer.body = self.chunks()
        elif (length := answer.get(b"content-length")) is not None:
            answer.body = self.exactly(int(length))
        else:
            answer.body = self.rest()
        return answer

    def expect(self, expected: bytes) -> RawClient:
        """Exactly these bytes come next."""
        with suppress(TimeoutError):  # a deadline that passes shows in what is missing
            while len(self.buffer) < len(expected) and (data := self.sock.recv(65_536)):
                self.buffer += data
        got, self.buffer = self.buffer[: len(expected)], self.buffer[len(expected) :]
        assert got == expected, f"got {got!r}\ninstead of {expected!r}"
        return self

    def rest(self) -> bytes:
        """Everything up to the end of the connection, which has to come. A reset counts as an end."""
        with suppress(ConnectionResetError):
            while data := self.sock.recv(65_536):
                self.buffer += data
        data, self.buffer = self.buffer, b""
        return data

    def at_end(self) -> bool:
        """Whether the server has closed without sending any more. Waits for it."""
        return self.rest() == b""

    def _more(self) -> None:
        data = self.sock.recv(65_536)
        assert data, f"the server closed after {self.buffer!r}"
        self.buffer += data

    def until(self, mark: bytes) -> bytes:
        """What comes up to ``mark``, and that."""
        while mark not in self.buffer:
            self._more()
        head, _, self.buffer = self.buffer.partition(mark)
        return head + mark

    def exactly(self, count: int) -> bytes:
        """So many bytes."""
        while len(self.buffer) < count:
            self._more()
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    def chunks(self) -> bytes:
        """The rest of a chunked body; there must be no trailers."""
        parts = []
        while size := int(self.until(b"\r\n"), 16):
            parts.append(self.exactly(size))
            assert self.exactly(2) == b"\r\n"
        assert self.exactly(2) == b"\r\n"
        return b"".join(parts)


@dataclass
class Seen:
    """A request that reached the handler and came through whole."""

    method: bytes
    target: bytes
    headers: list[tuple[bytes, bytes]]
    host: bytes
    body: bytes
    peer: str


@dataclass
class Echo:
    """A handler that reads the body, remembers the request, and answers with the body."""

    seen: list[Seen] = field(default_factory=list)

    def __call__(self, request: Request, writer: ResponseWriter) -> None:
        parts = []
        while data := request.body.read():
            parts.append(data)
        body = b"".join(parts)
        head = request.head
        self.seen.append(Seen(head.method, head.target, head.headers, head.host, body, request.peer))
        writer.start(200, b"OK", [(b"Content-Type", b"text/plain")], len(body))
        if head.method != b"HEAD":
            writer.write(body)
        writer.finish()


@contextmanager
def running_server(
    handle: Callable[[Request, ResponseWriter], None],
    *,
    limits: ServerLimits | None = None,
    timeouts: ServerTimeouts | None = None,
    host: str = "127.0.0.1",
) -> Iterator[HttpServer]:
    """A server on a free port, with a sweeper that is quick enough for short time-outs."""
    deadlines = Deadlines(resolution_s=0.02)
    deadlines.start()
    server = HttpServer(
        (host, 0),
        handle,
        limits=limits or ServerLimits(),
        timeouts=timeouts or ServerTimeouts(),
        deadlines=deadlines,
        counters=Counters(),
        name="proxy",
    )
    server.start()
    try:
        yield server
    finally:
        server.stop(0.5)
        assert not server.connections
        assert len(deadlines) == 0, "a watch was left behind"
        deadlines.stop(1.0)


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = WAIT_S) -> None:
    """Let the other greenlets run until ``condition`` holds."""
    with gevent.Timeout(timeout_s, AssertionError(f"not in time: {what}")):
        while not condition():
            gevent.sleep(0.005)


def let_sockets_be_served() -> None:
    """Let whoever waits for a socket on this hub have what has arrived, a server's new connection included.

    ``sleep(0)`` is not enough for that, since the hub goes on with callbacks before it looks at sockets; a time-out
    that has passed already makes it look, without the millisecond that epoll would take for a short sleep.
    """
    for _ in range(ROUNDS):
        gevent.sleep(1e-9)
