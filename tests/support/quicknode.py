"""A node for long backlogs, in a process of its own: it says 200 to everything and notes what it got.

``/info`` is the health check (``version:1``) and is not noted. The log has a line for every other request, written
before the answer leaves: monotonic time, ``Spawn-Sequence`` (``-`` for a read) and target. Nothing is synced, so that
it takes thousands of updates a second; the log is a witness for as long as the machine runs.

Run: ``python -m tests.support.quicknode --port P --log FILE``.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import ManagedProcess, Processes, clean_environment, free_port, wait_listening

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.I)
SEQUENCE = re.compile(rb"\r\nspawn-sequence: *(\d+)\r\n", re.I)
OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b"


class Node(asyncio.Protocol):
    """One connection; bodies are read and thrown away."""

    def __init__(self, log: int) -> None:
        self._log = log
        self._received = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n") + 4) >= 4:
            head = self._received[:end]
            length = LENGTH.search(head)
            whole = end + (int(length[1]) if length else 0)
            if len(self._received) < whole:
                return
            self._received = self._received[whole:]
            self._answer(head)

    def _answer(self, head: bytes) -> None:
        target = head.split(b" ", 2)[1]
        body = b"version:1"
        if target != b"/info":
            sequence = SEQUENCE.search(head)
            os.write(self._log, b"%.6f %b %b\n" % (time.monotonic(), sequence[1] if sequence else b"-", target))
            body = b"done"
        assert self._transport is not None
        self._transport.write(OK % (len(body), body))


async def serve(port: int, path: str) -> None:
    log = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    server = await asyncio.get_running_loop().create_server(lambda: Node(log), "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


@dataclass(frozen=True, slots=True)
class Noted:
    time_s: float  # monotonic, the same clock in all processes
    sequence: int | None  # None: a read
    target: str


class QuickNode:
    """The test's side of it."""

    def __init__(self, processes: Processes, name: str) -> None:
        self.port = free_port()
        self.log_path = processes.directory / f"{name}.log"
        command = [sys.executable, "-m", "tests.support.quicknode", "--port", str(self.port), "--log"]
        environment = clean_environment(processes.directory, {"PYTHONPATH": str(Path(__file__).parents[2])})
        self.process: ManagedProcess = processes.add(
            name, [*command, str(self.log_path)], environment=environment, must_be_clean=True
        )

    def start(self) -> QuickNode:
        self.process.start()
        wait_listening(self.port, process=self.process)
        return self

    def noted(self) -> list[Noted]:
        """All whole lines so far."""
        whole, _, _ = self.log_path.read_text("utf-8").rpartition("\n")
        return [_noted(line.split(" ", 2)) for line in whole.splitlines()]

    def sequences(self) -> list[int]:
        """The updates that it got, in the order of their arrival."""
        return [noted.sequence for noted in self.noted() if noted.sequence is not None]


def _noted(fields: Sequence[str]) -> Noted:
    return Noted(float(fields[0]), None if fields[1] == "-" else int(fields[1]), fields[2])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--log", required=True)
    options = parser.parse_args()
    asyncio.run(serve(options.port, options.log))


if __name__ == "__main__":
    main()
