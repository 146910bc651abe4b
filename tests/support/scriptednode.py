"""A node whose every byte a test decides: a server on port 0 that plays one script per connection.

A script is a function of a ``Peer``. The first connection plays the first script and so on; the last script repeats.
What a script raises fails the test at the end of the ``with`` block, but for a connection that the other side ended.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import gevent
from gevent import socket
from gevent.greenlet import Greenlet

from spawn.http11.client import Answer, Client, OutgoingRequest
from spawn.http11.deadlines import Deadlines
from spawn.http11.resolver import Resolver

Script = Callable[["Peer"], None]


class Peer:
    """The node's end of one connection."""

    def __init__(self, sock: socket.socket, requests: list[bytes]) -> None:
        """``requests``: where whole requests are kept."""
        self.sock = sock
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what is sent apart shall arrive apart
        self._requests = requests
        self._buffer = b""

    def read_head(self) -> bytes:
        """A request's head; EOFError when the connection ends before."""
        while b"\r\n\r\n" not in self._buffer:
            self._fill()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        return head + b"\r\n\r\n"

    def read_exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._fill()
        data, self._buffer = self._buffer[:count], self._buffer[count:]
        return data

    def read_request(self) -> bytes:
        """A head and the body its Content-Length announces; kept in the node's ``requests``."""
        head = self.read_head()
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        request = head + self.read_exactly(length)
        self._requests.append(request)
        return request

    def read_to_end(self) -> int:
        """Take everything until the other side closes; how many bytes that were."""
        count, self._buffer = len(self._buffer), b""
        try:
            while data := self.sock.recv(65_536):
                count += len(data)
        except ConnectionError:
            pass
        return count

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def answer(self, body: bytes = b"", status: bytes = b"200 OK", headers: bytes = b"") -> None:
        self.send(b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n\r\n%b" % (status, headers, len(body), body))

    def trickle(self, data: bytes, pause_s: float, step: int = 1) -> None:
        for start in range(0, len(data), step):
            self.send(data[start : start + step])
            gevent.sleep(pause_s)

    def close(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        """End with RST instead of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def _fill(self) -> None:
        data = self.sock.recv(65_536)
        if not data:
            raise EOFError
        self._buffer += data


def serve(peer: Peer) -> None:
    """The script of a well-behaved node: answers every request with ``hello``."""
    while True:
        peer.read_request()
        peer.answer(b"hello")


class ScriptedNode:
    def __init__(self, *scripts: Script, host: str = "127.0.0.1") -> None:
        self.host = host
        self.port = 0
        self.connections = 0  # accepted so far
        self.open = 0  # accepted and not yet at the end of its script
        self.requests: list[bytes] = []
        self.failures: list[BaseException] = []
        self._scripts = scripts or (serve,)
        self._listener: socket.socket | None = None
        self._greenlets: list[Greenlet[..., None]] = []

    def __enter__(self) -> Self:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind((self.host, self.port))
        self._listener.listen(128)
        self.port = self._listener.getsockname()[1]
        self._greenlets.append(gevent.spawn(self._accept, self._listener))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
        if error is None and self.failures:
            raise self.failures[0]

    def stop(self) -> None:
        gevent.killall(self._greenlets)
        if self._listener is not None:
            self._listener.close()
        gevent.sleep(0)  # gevent closes descriptors in the next round of its loop

    def _accept(self, listener: socket.socket) -> None:
        while True:
            sock, _ = listener.accept()
            script = self._scripts[min(self.connections, len(self._scripts) - 1)]
            self.connections += 1
            self.open += 1
            self._greenlets.append(gevent.spawn(self._play, script, sock))

    def _play(self, script: Script, sock: socket.socket) -> None:
        try:
            script(Peer(sock, self.requests))
        except (EOFError, ConnectionError):
            pass  # Spawn has closed, which it may
        except Exception as error:  # noqa: BLE001 - shown to the test
            self.failures.append(error)
        finally:
            self.open -= 1
            sock.close()


class ClientUnderTest:
    """A real client with its resolver and deadlines, and short ways to use it.

    ``careful``: as with updates; else as with reads, for which small requests are sent in another way.
    """

    def __init__(self, *, connect_timeout_s: float = 2.0, max_idle_per_node: int = 32, careful: bool = True) -> None:
        self._careful = careful
        self.deadlines = Deadlines(resolution_s=0.02)
        self.resolver = Resolver()
        self.client = Client(
            self.resolver, self.deadlines, connect_timeout_s=connect_timeout_s, max_idle_per_node=max_idle_per_node
        )

    def __enter__(self) -> Self:
        self.deadlines.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.client.stop(1.0)
        self.resolver.stop(1.0)
        self.deadlines.stop(1.0)
        gevent.sleep(0)

    def send(
        self,
        node: ScriptedNode,
        request: OutgoingRequest | None = None,
        *,
        progress_timeout_s: float = 5.0,
        max_idle_s: float = 30.0,
        on_sent: Callable[[], None] | None = None,
        on_slow: Callable[[str], None] | None = None,
        key: str = "node",
    ) -> Answer:
        return self.client.send(
            key,
            node.host,
            node.port,
            request or get(),
            progress_timeout_s=progress_timeout_s,
            max_idle_s=max_idle_s,
            careful=self._careful,
            on_sent=on_sent,
            on_slow=on_slow,
        )

    def fetch(self, node: ScriptedNode, request: OutgoingRequest | None = None, **more: Any) -> tuple[int, bytes]:
        """Status and whole body."""
        with self.send(node, request, **more) as answer:
            return answer.head.status, read_all(answer)


def get(target: bytes = b"/", method: bytes = b"GET") -> OutgoingRequest:
    return OutgoingRequest(method, target, b"Host: app.test\r\n")


def post(body: bytes, method: bytes = b"POST") -> OutgoingRequest:
    return OutgoingRequest(method, b"/things", b"Host: app.test\r\n", body)


def read_all(answer: Answer, step: int = 65_536) -> bytes:
    result = bytearray()
    while data := answer.read(step):
        assert len(data) <= step
        result += data
    return bytes(result)


def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Wait, letting greenlets run, until ``condition`` holds."""
    with gevent.Timeout(timeout_s):
        while not condition():
            gevent.sleep(0.002)
