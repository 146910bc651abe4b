"""A node for tests: a small REST store in a process of its own that writes every update to a log before it answers.

The log is the witness: one JSON line for each update *applied*, on disk (fsync) before the answer leaves, and one when
the answer has been given to the kernel, or could not be (``unanswered``: nobody waits for it any more). Each has its
time. An update that was applied but not answered when the process was killed is *in doubt*: only such a one may be
delivered again. ``Test-Life`` is what a test lets each process of Spawn send, so that it is known who sent an update.
The log survives restarts and rebuilds the store. The store is deliberately naive: it knows no repeated update.

Routes: ``/info`` and ``/`` (health: ``version:1``), ``/broken`` (always 500), ``/busy`` (how many requests wait for a
``delay``), ``/reads`` (how many reads of an item this process has had, by how many updates it had applied by then),
``/items`` and ``/items/NAME`` (the store), ``/big/NAME`` (uploads are hashed and thrown away, downloads are
``pattern(size)``). Query of any of them: ``delay=S`` waits before applying, ``answer-delay=S`` after it, ``status=N``
answers so without applying.

Run: ``python loggingnode.py --port P --log FILE [--host H] [--delay S] [--answer-delay S]``. Standard library only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import socketserver
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

STEP_BYTES = 262_144
KEPT_BYTES = 65_536  # a longer value is kept as its hash


def pattern(size: int) -> Iterator[bytes]:
    """``size`` bytes that are the same for everybody who asks, in pieces; no two pieces of them are equal."""
    block = hashlib.shake_256(b"spawn").digest(STEP_BYTES - 8)
    for start in range(0, size, STEP_BYTES):
        yield (start.to_bytes(8, "big") + block)[: size - start]


class UpdateLog:
    """The log on disk; all calls are safe between threads, and lines stand in the order of the calls."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._repair()
        self.lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        self.count = sum(line["event"] == "applied" for line in self.lines)
        self._write({"event": "start", "pid": os.getpid(), "time": time.time()})

    def _repair(self) -> None:
        """Drop a last line that was cut by a kill: it was not answered, so it never happened."""
        content = os.pread(self._file, os.fstat(self._file).st_size, 0)
        os.ftruncate(self._file, content.rfind(b"\n") + 1)

    def _write(self, record: dict[str, Any]) -> None:
        os.write(self._file, json.dumps(record).encode() + b"\n")

    def applied(self, record: dict[str, Any], store: Store) -> tuple[int, int]:
        """Write the update, make it durable, then do it. Returns its number and the status to answer."""
        with self._lock:
            self.count += 1
            record = {"event": "applied", "n": self.count, "time": time.time(), **record}
            self._write(record)
            os.fsync(self._file)
            return self.count, store.apply(record)

    def answered(self, number: int) -> None:
        self._ended("answered", number)

    def unanswered(self, number: int) -> None:
        self._ended("unanswered", number)

    def _ended(self, event: str, number: int) -> None:
        with self._lock:
            self._write({"event": event, "n": number, "time": time.time()})


class Store:
    """The application's data: items by name."""

    def __init__(self, history: list[dict[str, Any]]) -> None:
        self.items: dict[str, str] = {}
        for record in history:
            if record["event"] == "applied":
                self.apply(record)

    def apply(self, record: dict[str, Any]) -> int:
        path, method = urlsplit(record["target"]).path, record["method"]
        if method == "POST" and path == "/items":  # Spawn's sequence makes the same name on every node
            path = f"/items/item-{record['sequence'] or record['key'] or record['n']}"
        if not path.startswith("/items/"):
            return 200
        name = path.removeprefix("/items/")
        if method == "DELETE":
            return 204 if self.items.pop(name, None) is not None else 404
        status = 200 if name in self.items else 201
        self.items[name] = record["value"] if record["value"] is not None else record["sha256"]
        return status


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 65_536
    timeout = 120
    server: LoggingServer

    def log_message(self, format: str, *arguments: object) -> None:
        """Quiet: the log of updates says more."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        wish = self._wish(url.query)
        self.server.wait(wish["delay"])
        if wish["status"]:
            self._answer(int(wish["status"]), b"as you wish")
        elif url.path in ("/", "/info"):
            self._answer(200, b"version:1")
        elif url.path == "/broken":
            self._answer(500, b"broken")
        elif url.path == "/busy":
            self._answer(200, str(len(self.server.waiting)).encode())
        elif url.path == "/reads":
            self._answer(200, json.dumps(dict(self.server.reads)).encode())
        elif url.path == "/items":
            self._answer(200, json.dumps(self.server.store.items, sort_keys=True).encode())
        elif url.path.startswith("/big/"):
            self._download(int(wish["size"]))
        else:
            self._read(url.path.removeprefix("/items/"))

    do_HEAD = do_GET  # noqa: N815

    def _read(self, name: str) -> None:
        self.server.reads[self.server.log.count] += 1
        value = self.server.store.items.get(name)
        self._answer(*((404, b"no such item") if value is None else (200, value.encode())))

    def _update(self) -> None:
        wish = self._wish(urlsplit(self.path).query)
        body = self._body()
        if body is None:
            self.close_connection = True  # cut short: nothing happened
            return
        self.server.wait(wish["delay"] + self.server.delay_s)
        if wish["status"]:
            self._answer(int(wish["status"]), b"as you wish")
            return
        record = {**self._described(), **body}
        number, status = self.server.log.applied(record, self.server.store)
        time.sleep(wish["answer-delay"] + self.server.answer_delay_s)
        try:
            self._answer(status, b"" if status == 204 else json.dumps({"n": number, **body}).encode()[:KEPT_BYTES])
        except OSError:
            self.server.log.unanswered(number)
            raise
        self.server.log.answered(number)

    do_POST = do_PUT = do_PATCH = do_DELETE = _update  # noqa: N815

    def _described(self) -> dict[str, Any]:
        header = self.headers.get
        return {
            "method": self.command,
            "target": self.path,
            "key": header("Idempotency-Key"),
            "sequence": header("Spawn-Sequence"),
            "spawn-time": header("Spawn-Time"),
            "attempt": header("Spawn-Attempt"),
            "life": header("Test-Life"),
            "framing": "chunked" if header("Transfer-Encoding") else "length",
        }

    @staticmethod
    def _wish(query: str) -> dict[str, float]:
        asked = {name: float(values[-1]) for name, values in parse_qs(query).items() if name in _WISHES}
        return dict.fromkeys(_WISHES, 0.0) | asked

    def _body(self) -> dict[str, Any] | None:
        """What the log keeps of a body, read in steps; None when it was cut short."""
        digest, size, kept = hashlib.sha256(), 0, bytearray()
        for piece in self._pieces():
            if piece is None:
                return None
            digest.update(piece)
            size += len(piece)
            kept += piece[: KEPT_BYTES - len(kept)]
        text = kept.decode("utf-8", "replace")
        value = text if size <= KEPT_BYTES else None
        return {"size": size, "sha256": digest.hexdigest(), "value": value, "start": text[:40]}

    def _pieces(self) -> Iterator[bytes | None]:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline(100) or b"0", 16):
                yield from self._exactly(size)
                self.rfile.readline(3)
            if self.rfile.readline(100) != b"\r\n":
                yield None
        else:
            yield from self._exactly(int(self.headers.get("Content-Length") or 0))

    def _exactly(self, size: int) -> Iterator[bytes | None]:
        while size:
            piece = self.rfile.read(min(size, STEP_BYTES))
            if not piece:
                yield None
                return
            size -= len(piece)
            yield piece

    def _download(self, size: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        if self.command == "GET":
            for piece in pattern(size):
                self.wfile.write(piece)
        self.wfile.flush()

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD" and status != 204:
            self.wfile.write(body)
        self.wfile.flush()


_WISHES = ("delay", "answer-delay", "status", "size")


class LoggingServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1_024  # a burst is not to wait for a SYN that is sent again

    def __init__(self, host: str, port: int, log: UpdateLog, delay_s: float, answer_delay_s: float) -> None:
        self.log = log
        self.store = Store(log.lines)
        self.delay_s = delay_s
        self.answer_delay_s = answer_delay_s
        self.waiting: list[float] = []
        self.reads: Counter[int] = Counter()
        super().__init__((host, port), Handler)

    def server_bind(self) -> None:
        """As in the base of all servers: HTTPServer's asks the name server for a name that nobody uses."""
        socketserver.TCPServer.server_bind(self)

    def wait(self, delay_s: float) -> None:
        if delay_s:
            self.waiting.append(delay_s)
            time.sleep(delay_s)
            self.waiting.remove(delay_s)

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), OSError):  # a peer that went away is nobody's fault
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--answer-delay", type=float, default=0.0)
    options = parser.parse_args()
    LoggingServer(
        options.host, options.port, UpdateLog(options.log), options.delay, options.answer_delay
    ).serve_forever()


if __name__ == "__main__":
    main()
