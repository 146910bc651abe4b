"""A cluster whose nodes record what arrives byte by byte and answer with bytes that a test has written.

``RawCluster`` is a whole service in the test's process. Reads go to the first node, updates to all. What comes out is
compared as bytes: ``for_node`` and ``for_client`` say what has to be on the wire, headers that Spawn adds included.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gevent import socket

from tests.support.inprocess import Cluster, until
from tests.support.node import HEALTH, AppNode
from tests.support.rawhttp import RawClient
from tests.support.scriptednode import Peer

DATE = b"Date: Mon, 23 Nov 2026 21:00:41 GMT\r\n"  # of the node, so that the whole answer is known beforehand
OK = b"HTTP/1.1 200 OK\r\n" + DATE + b"Content-Length: 2\r\n\r\nok"

Script = Callable[[Peer], object]  # plays the answer to one request; true: the connection ends

_TIME = re.compile(rb"(?m)^Spawn-Time: \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z\r$")


def say(answer: bytes, *, end: bool = False) -> Script:
    def script(peer: Peer) -> bool:
        peer.send(answer)
        return end

    return script


def hang_up(peer: Peer) -> bool:
    return True


@dataclass(eq=False)
class RawNode(AppNode):
    """Every request that is no health check is kept as it came, head and body, and answered by ``script``."""

    script: Script = field(default_factory=lambda: say(OK))
    heard: list[bytes] = field(default_factory=list)

    def _serve(self, sock: socket.socket, connection: int) -> None:
        with contextlib.suppress(ConnectionError, EOFError), sock:
            peer, going_on = Peer(sock, []), True
            while going_on:
                request = peer.read_request()
                if request.split(b" ", 2)[1] == HEALTH.encode():
                    self.checks += 1
                    peer.answer()
                else:
                    self.heard.append(request)
                    going_on = not self.script(peer)


class RawCluster(Cluster):
    def __init__(self, directory: Path, count: int = 3, **changes: Any) -> None:
        self.raw_nodes = [RawNode(f"node{n}") for n in range(1, count + 1)]
        super().__init__(directory, list(self.raw_nodes), **changes)

    @property
    def via(self) -> bytes:
        return b"spawn-" + self.uuid[:8]

    @property
    def uuid(self) -> bytes:
        return self.service._journal.uuid.encode()

    @property
    def head(self) -> int:
        """The sequence of the last update."""
        return self.service._journal.head

    def clear(self) -> None:
        """Nothing is under way, nothing was heard, everybody says OK."""
        self.until_applied(self.head)
        for node in self.raw_nodes:
            node.heard.clear()
            node.script = say(OK)
        until(lambda: not self.service._client._in_use, "no request is under way")

    def forget_kept_connections(self) -> None:
        """The next request to any node goes over a new one."""
        self.service._client._idle.clear()

    def answer(self, script: Script | bytes) -> None:
        """What every node answers from now on."""
        for node in self.raw_nodes:
            node.script = say(script) if isinstance(script, bytes) else script

    def client(self) -> RawClient:
        return RawClient(self.port)

    def heard(self) -> list[list[bytes]]:
        """What each node got, once every update is applied; the value of Spawn-Time is replaced by ``*``."""
        self.until_applied(self.head)
        return [[_TIME.sub(b"Spawn-Time: *\r", request) for request in node.heard] for node in self.raw_nodes]

    def for_node(
        self,
        line: bytes,
        fields: bytes = b"",
        body: bytes | None = None,
        *,
        host: bytes = b"app.test",
        minor: int = 1,
        chain: bytes = b"127.0.0.1",
        key: bytes | None = None,
        sequence: int = 0,
    ) -> bytes:
        """A request as a node gets it: ``fields`` are those of the client that pass, ``minor`` its version of HTTP.

        An update has a ``sequence``, and the client's own ``key`` stands in ``fields`` where it sent one.
        """
        lines = [b"%b HTTP/1.1\r\nHost: %b\r\n%b" % (line, host, fields)]
        lines.append(b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: %b\r\n" % (chain, host))
        lines.append(b"Via: 1.%d %b\r\n" % (minor, self.via))
        if sequence:
            if key is None:
                lines.append(b"Idempotency-Key: %b-%d\r\n" % (self.uuid, sequence))
            lines.append(b"Spawn-Sequence: %d\r\nSpawn-Time: *\r\n" % sequence)
        if body is not None:
            lines.append(b"Content-Length: %d\r\n" % len(body))
        return b"".join([*lines, b"\r\n", body or b""])

    def for_client(
        self,
        line: bytes = b"200 OK",
        fields: bytes = DATE,
        framing: bytes = b"",
        body: bytes = b"",
        *,
        minor: int = 1,
        sequence: int = 0,
        close: bool = False,
    ) -> bytes:
        """An answer as a client gets it: ``fields`` are those of the node that pass, ``minor`` its version of HTTP."""
        mark = b"Spawn-Sequence: %d\r\n" % sequence if sequence else b""
        end = b"Connection: close\r\n\r\n" if close else b"\r\n"
        return b"HTTP/1.1 %b\r\n%bVia: 1.%d %b\r\n%b%b%b%b" % (
            *(line, fields, minor, self.via, mark, framing, end),
            body,
        )


def length(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n" % len(body)


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (*pieces, b""))
