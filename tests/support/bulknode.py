"""A node for bodies of gigabytes, in a process of its own: it makes and counts them and keeps none.

``/info`` is the health check. Of any other target the query says how large the answer's body is (``size=N``, else a few
bytes), and the body of the request is counted. The log has a JSON line for each request whose body came whole.
``Bulk`` is such a body: as long as it likes, the same for everybody, with a checksum that costs next to nothing.

Run: ``python -m tests.support.bulknode --port P --log FILE``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import socket
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.support.processes import ManagedProcess, Processes, clean_environment, free_port, wait_listening

STEP_BYTES = 1_048_576
_BLOCK = hashlib.shake_256(b"bulk").digest(STEP_BYTES - 8)


class Bulk:
    """What has been seen of a body so far."""

    def __init__(self) -> None:
        self.size = 0
        self.checksum = 1

    def add(self, data: bytes | memoryview) -> None:
        self.size += len(data)
        self.checksum = zlib.adler32(data, self.checksum)

    @property
    def seen(self) -> tuple[int, int]:
        return self.size, self.checksum


def bulk(size: int) -> Iterator[bytes]:
    """``size`` bytes; no two pieces are equal, so that one out of its place is noticed."""
    for start in range(0, size, STEP_BYTES):
        yield (start.to_bytes(8, "big") + _BLOCK)[: size - start]


def checksum(size: int) -> tuple[int, int]:
    """What ``Bulk.seen`` has to be after ``bulk(size)``."""
    whole = Bulk()
    for piece in bulk(size):
        whole.add(piece)
    return whole.seen


def receive_head(sock: socket.socket) -> tuple[bytes, bytes]:
    """A head and what came with it of the body. Raises ``EOFError``."""
    data = b""
    while b"\r\n\r\n" not in data:
        if not (more := sock.recv(65_536)):
            raise EOFError
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def receive_body(sock: socket.socket, first: bytes, size: int, body: Bulk) -> None:
    """Count ``size`` bytes in all. Raises ``EOFError``."""
    body.add(first)
    view = memoryview(bytearray(STEP_BYTES))
    while body.size < size:
        count = sock.recv_into(view, min(STEP_BYTES, size - body.size))
        if not count:
            raise EOFError
        body.add(view[:count])


def content_length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


class _Server:
    def __init__(self, port: int, log: Path) -> None:
        self._listener = socket.create_server(("127.0.0.1", port), backlog=128)
        self._log = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)

    def serve(self) -> None:
        while True:
            sock, _ = self._listener.accept()
            threading.Thread(target=self._play, args=(sock,), daemon=True).start()

    def _play(self, sock: socket.socket) -> None:
        try:
            with sock:
                while True:
                    self._answer(sock)
        except (OSError, EOFError):
            pass  # Spawn has closed, which it may

    def _answer(self, sock: socket.socket) -> None:
        head, rest = receive_head(sock)
        method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        body = Bulk()
        receive_body(sock, rest, content_length(head), body)
        url = urlsplit(target)
        if url.path == "/info":
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nversion:1")
            return
        size = int(parse_qs(url.query).get("size", ["2"])[0])
        self._note(method=method, target=target, seen=body.seen)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        sent = 0
        for piece in bulk(size):
            sock.sendall(piece)
            sent += len(piece)
            self._note(sent=sent)

    def _note(self, **record: Any) -> None:
        os.write(self._log, json.dumps(record).encode() + b"\n")


class BulkNode:
    """The test's side of it."""

    def __init__(self, processes: Processes, name: str) -> None:
        self.port = free_port()
        self._log_path = processes.directory / f"{name}.log"
        command = [sys.executable, "-m", "tests.support.bulknode", "--port", str(self.port), "--log"]
        environment = clean_environment(processes.directory, {"PYTHONPATH": str(Path(__file__).parents[2])})
        self.process: ManagedProcess = processes.add(
            name, [*command, str(self._log_path)], environment=environment, must_be_clean=True
        )

    def start(self) -> BulkNode:
        self.process.start()
        wait_listening(self.port, process=self.process)
        return self

    def requests(self) -> list[tuple[str, str, tuple[int, int]]]:
        """Method, target and ``Bulk.seen`` of each request so far."""
        return [(line["method"], line["target"], tuple(line["seen"])) for line in self._lines() if "seen" in line]

    @property
    def sent_bytes(self) -> int:
        """How much of the last answer the kernel has taken."""
        return max((line.get("sent", 0) for line in self._lines()), default=0)

    def _lines(self) -> list[dict[str, Any]]:
        whole, _, _ = self._log_path.read_text("utf-8").rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--log", type=Path, required=True)
    options = parser.parse_args()
    _Server(options.port, options.log).serve()


if __name__ == "__main__":
    main()
