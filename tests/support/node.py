"""A small application in the test's own process: a node that does what the test tells it, and remembers what it got.

Health checks ask for ``HEALTH`` and are answered apart. Every other request is kept in ``requests``, in the order in
which their last byte came, and answered by what ``answers`` says. A node can go away and come back on the same port,
and take large bodies slowly.
"""

from __future__ import annotations

import contextlib
import io
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import gevent
from gevent import socket
from gevent.event import Event
from gevent.greenlet import Greenlet

from tests.support.processes import free_port

HEALTH = "/healthy"
DRIP_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as the node got it; header names in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    connection: int  # the how many-th of this node

    @property
    def sequence(self) -> int:
        """The update's number, 0 for a read."""
        return int(self.headers.get("spawn-sequence", 0))

    @property
    def key(self) -> str:
        return self.headers.get("idempotency-key", "")


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. ``gate``: only when the test says so. ``cut``: the connection ends after the body, however long it
    was said to be (``length``)."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    delay_s: float = 0.0
    gate: Event | None = None
    length: int | None = None
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Cut:
    """No answer: the connection ends once the request is there."""


Action = Reply | Cut


@dataclass(eq=False)
class AppNode:
    """``answers`` gives the action for a request; actions put in ``next_up`` (for updates) come first."""

    name: str = "node"
    answers: Callable[[Seen], Action] | None = None
    port: int = field(default_factory=free_port)
    next_up: deque[Action] = field(default_factory=deque)
    health: Reply = field(default_factory=Reply)
    requests: list[Seen] = field(default_factory=list)
    applied: list[int] = field(default_factory=list)  # sequences that were answered below 400, or cut after application
    checks: int = 0
    last_check: Seen | None = None
    connections: int = 0
    drip_s: float = 0.0  # a pause after every ``DRIP_BYTES`` of a body

    def __post_init__(self) -> None:
        self._listener: socket.socket | None = None
        self._greenlets: set[Greenlet[..., None]] = set()

    def __enter__(self) -> Self:
        self.come()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.go_away()

    @property
    def updates(self) -> list[Seen]:
        return [seen for seen in self.requests if seen.sequence]

    @property
    def reads(self) -> list[Seen]:
        return [seen for seen in self.requests if not seen.sequence]

    def come(self) -> None:
        """Listen; again on the same port."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(128)
        self._listener = listener
        self._spawn(self._accept, listener)

    def go_away(self) -> None:
        """Close everything at once, as a killed process would."""
        gevent.killall(list(self._greenlets))
        self._greenlets.clear()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        gevent.sleep(0)  # gevent closes descriptors in the next round of its loop

    def drop_connections(self) -> None:
        """Close what is open and go on listening, as a server does whose workers are replaced."""
        listener = self._listener
        self.go_away()
        assert listener is not None
        self.come()

    def _spawn(self, function: Callable[..., None], *args: object) -> None:
        greenlet = gevent.spawn(function, *args)
        self._greenlets.add(greenlet)
        greenlet.link(self._greenlets.discard)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            sock, _ = listener.accept()
            self.connections += 1
            self._spawn(self._serve, sock, self.connections)

    def _serve(self, sock: socket.socket, connection: int) -> None:
        with contextlib.suppress(ConnectionError, EOFError), sock, sock.makefile("rb") as stream:
            while self._answer(sock, self._read_request(stream, connection)):
                pass

    def _answer(self, sock: socket.socket, seen: Seen) -> bool:
        """Whether the connection goes on."""
        if seen.target == HEALTH:
            self.checks += 1
            self.last_check = seen
            return _send(sock, self.health, seen)
        self.requests.append(seen)
        action = self._action_for(seen)
        if isinstance(action, Cut):
            return False
        if action.gate is not None:
            action.gate.wait()
        if seen.sequence and action.status < 400:
            self.applied.append(seen.sequence)
        return _send(sock, action, seen)

    def _read_request(self, stream: io.BufferedReader, connection: int) -> Seen:
        line = stream.readline().decode("latin-1")
        if not line:
            raise EOFError
        method, target, _ = line.split(" ")
        headers: dict[str, str] = {}
        while (line := stream.readline().decode("latin-1").strip()) != "":
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        body = self._read_body(stream, int(headers.get("content-length", "0")))
        return Seen(method, target, headers, body, connection)

    def _read_body(self, stream: io.BufferedReader, length: int) -> bytes:
        body = bytearray()
        while len(body) < length:
            data = stream.read(min(DRIP_BYTES, length - len(body)))
            if not data:
                raise EOFError
            body += data
            if self.drip_s:
                gevent.sleep(self.drip_s)
        return bytes(body)

    def _action_for(self, seen: Seen) -> Action:
        if seen.sequence and self.next_up:
            return self.next_up.popleft()
        if self.answers is not None:
            return self.answers(seen)
        return Reply(200, self.name.encode())


def _send(sock: socket.socket, reply: Reply, seen: Seen) -> bool:
    if reply.delay_s:
        gevent.sleep(reply.delay_s)
    length = len(reply.body) if reply.length is None else reply.length
    lines = [f"HTTP/1.1 {reply.status} Told", *(f"{name}: {value}" for name, value in reply.headers)]
    if reply.status not in (204, 304):
        lines.append(f"Content-Length: {length}")
    body = b"" if seen.method == "HEAD" else reply.body
    sock.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
    return not reply.cut and seen.headers.get("connection", "").lower() != "close"
