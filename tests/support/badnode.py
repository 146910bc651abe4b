"""Nodes that misbehave on the wire, many in one process: each does what its mode file says, at that very moment.

A mode file is JSON: how to treat the ``listener``, and requests that are a ``health`` check (``/info``), a ``read`` or
an ``update``; ``well`` where nothing is said. It is read anew for every request, so a test switches a node by replacing
the file. A well node is a loggingnode: it writes each update to the same kind of log (fsync) before it answers. What an
update meets otherwise is noted in a second file, so that a test sees the attempts: one JSON line each.

Run: ``python -m tests.support.badnode PORT:DIRECTORY/NAME …`` (``NAME.log``, ``NAME.seen``, ``NAME.mode``).
"""

from __future__ import annotations

import hashlib
import json
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support.loggingnode import Store, UpdateLog

POLL_S = 0.02
HELD_S = 120.0  # a connection that gets no answer is kept for this long, unless the other side ends it
TRICKLE_S = 1.0
WELL = "well"


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def kind(self) -> str:
        if self.target == "/info":
            return "health"
        return "read" if self.method in ("GET", "HEAD") else "update"


class BadNode:
    def __init__(self, port: int, stem: Path) -> None:
        self.log = UpdateLog(stem.with_suffix(".log"))
        self.store = Store(self.log.lines)
        self._seen = stem.with_suffix(".seen").open("a", encoding="utf-8")
        self._mode = stem.with_suffix(".mode")
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", port), backlog=128)
        self._listener.setblocking(False)

    def mode(self, kind: str) -> str:
        try:
            return str(json.loads(self._mode.read_text("utf-8")).get(kind, WELL))
        except FileNotFoundError:
            return WELL

    def accept_forever(self) -> None:
        was_full = False
        while True:
            full = self.mode("listener") == "full"
            if full is not was_full:
                self._listener.listen(0 if full else 128)
                if was_full:
                    self._drop_waiting()
                was_full = full
            if full:
                time.sleep(POLL_S)
            elif select.select([self._listener], [], [], POLL_S)[0] and self.mode("listener") != "full":
                sock, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _drop_waiting(self) -> None:
        """Whoever got into the queue of a node that took nobody has long given up."""
        while select.select([self._listener], [], [], 0)[0]:
            reset(self._listener.accept()[0])

    def _serve(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            with sock:
                if self.mode("listener") == "deaf":
                    hold(sock)
                else:
                    Conversation(self, sock).run()
        except OSError:
            return  # the other side went away, or it was us

    def saw(self, request: Request, mode: str) -> None:
        header = request.headers.get
        record = {"mode": mode, "target": request.target, "sequence": int(header("spawn-sequence") or 0)}
        with self._lock:
            self._seen.write(json.dumps(record | {"key": header("idempotency-key")}) + "\n")
            self._seen.flush()

    def apply(self, request: Request) -> tuple[int, int]:
        """Durable and done; returns its number in the log and the status of a good answer."""
        header = request.headers.get
        text = request.body.decode("utf-8", "replace")
        record = {
            "method": request.method,
            "target": request.target,
            "key": header("idempotency-key"),
            "sequence": header("spawn-sequence"),
            "size": len(request.body),
            "sha256": hashlib.sha256(request.body).hexdigest(),
            "value": text if len(text) < 65_536 else None,
            "start": text[:40],
        }
        return self.log.applied(record, self.store)


class Conversation:
    """One connection: requests one after the other, each treated as the mode says when its head is there."""

    def __init__(self, node: BadNode, sock: socket.socket) -> None:
        self.node = node
        self.sock = sock
        self._file = sock.makefile("rb")

    def run(self) -> None:
        while True:
            request = self._read_head()
            if request is None:
                return
            mode = self.node.mode(request.kind)
            if mode != WELL and request.kind == "update":
                self.node.saw(request, mode)
            if mode == "early":
                answer(self.sock, 503, b"not now", "Connection: close\r\n")
                return
            size = int(request.headers.get("content-length", "0"))
            body = self._file.read(size)
            if len(body) < size:
                return
            request = Request(request.method, request.target, request.headers, body)
            if mode == "late-500":  # once the test says something else
                while self.node.mode("update") == mode:
                    time.sleep(POLL_S)
                answer(self.sock, 500, b"failed", "Connection: close\r\n")
                return
            if mode in UNDONE:
                UNDONE[mode](self.sock)
                return
            number, status = self.node.apply(request) if request.kind == "update" else (0, 200)
            if mode in DONE:
                DONE[mode](self.sock)
                return
            answer(self.sock, status, b"version:1" if request.kind == "health" else b"well")
            if number:
                self.node.log.answered(number)

    def _read_head(self) -> Request | None:
        first = self._file.readline().split()
        if len(first) != 3:
            return None
        headers = {}
        while (line := self._file.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        return Request(first[0].decode(), first[1].decode("latin-1"), headers, b"")


def answer(sock: socket.socket, status: int, body: bytes, headers: str = "", length: int | None = None) -> None:
    framing = "" if status == 204 else f"Content-Length: {len(body) if length is None else length}\r\n"
    sock.sendall(f"HTTP/1.1 {status} Whatever\r\n{headers}{framing}\r\n".encode() + (b"" if status == 204 else body))


def hold(sock: socket.socket) -> None:
    """Keep the connection, read nothing, until the other side hangs up."""
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP | select.POLLHUP | select.POLLERR)
    poll.poll(HELD_S * 1000)


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def trickle(sock: socket.socket, data: bytes) -> None:
    for place in range(len(data)):
        sock.sendall(data[place : place + 1])
        time.sleep(TRICKLE_S)


def endless(sock: socket.socket, first: bytes, again: bytes) -> None:
    """As fast as the other side takes it, until it hangs up."""
    sock.sendall(first)
    again *= max(1, 16_384 // len(again))
    while True:
        sock.sendall(again)


def silent(sock: socket.socket) -> None:
    hold(sock)


def half_head(sock: socket.socket) -> None:
    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/pl")
    hold(sock)


def half_head_close(sock: socket.socket) -> None:
    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/pl")


def half_head_reset(sock: socket.socket) -> None:
    half_head_close(sock)
    reset(sock)


def close(sock: socket.socket) -> None:
    """Which the end of a conversation does anyway."""


def trickle_head(sock: socket.socket) -> None:
    trickle(sock, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


def garbage(sock: socket.socket) -> None:
    sock.sendall(b"SSH-2.0-OpenSSH_9.2p1\r\n" + bytes(range(256)))
    hold(sock)


def endless_head(sock: socket.socket) -> None:
    endless(sock, b"HTTP/1.1 200 OK\r\n", b"X-More: and more\r\n")


def endless_100(sock: socket.socket) -> None:
    endless(sock, b"", b"HTTP/1.1 100 Continue\r\n\r\n")


def endless_103(sock: socket.socket) -> None:
    endless(sock, b"", b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n")


def loop_307(sock: socket.socket) -> None:
    answer(sock, 307, b"", "Location: /loop\r\nConnection: close\r\n")


def half_body(sock: socket.socket) -> None:
    answer(sock, 200, b"half", length=8)
    hold(sock)


def half_body_close(sock: socket.socket) -> None:
    answer(sock, 200, b"half", length=8)


def half_body_reset(sock: socket.socket) -> None:
    answer(sock, 200, b"half", length=8)
    reset(sock)


def trickle_body(sock: socket.socket) -> None:
    answer(sock, 200, b"", length=60)
    trickle(sock, b"x" * 60)


def surplus(sock: socket.socket) -> None:
    answer(sock, 200, b"more than was announced", length=4)


def endless_body(sock: socket.socket) -> None:
    endless(sock, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"400\r\n" + b"x" * 1024 + b"\r\n")


def loop_302(sock: socket.socket) -> None:
    answer(sock, 302, b"", "Location: /loop\r\nConnection: close\r\n")


Behaviour = Callable[[socket.socket], None]

# Each ends the connection. What these are given is not applied …
UNDONE: dict[str, Behaviour] = {
    "silent": silent,
    "half-head": half_head,
    "half-head-close": half_head_close,
    "half-head-reset": half_head_reset,
    "reset": reset,
    "close": close,
    "trickle-head": trickle_head,
    "garbage": garbage,
    "endless-head": endless_head,
    "endless-100": endless_100,
    "endless-103": endless_103,
    "loop-307": loop_307,
}
# … and what these are given is.
DONE: dict[str, Behaviour] = {
    "done-silent": silent,
    "done-close": close,
    "half-body": half_body,
    "half-body-close": half_body_close,
    "half-body-reset": half_body_reset,
    "trickle-body": trickle_body,
    "surplus": surplus,
    "endless-body": endless_body,
    "loop-302": loop_302,
}


def main() -> None:
    threading.stack_size(262_144)
    for argument in sys.argv[1:]:
        port, _, stem = argument.partition(":")
        node = BadNode(int(port), Path(stem))
        threading.Thread(target=node.accept_forever).start()


if __name__ == "__main__":
    main()
