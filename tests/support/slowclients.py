"""Clients that hold on to a server, many of them in a process of their own.

There are six kinds: a head, a body of known length and a body in chunks that drip; a large answer that is not read at
all or in sips; a kept connection without a request. Each does its worst: it goes on after it was told to go, and is
gone only when the kernel says that the connection is no more (``TCP_INFO``; the other end's FIN is enough where nothing
is sent). Nobody connects a second time.

It prints a line of JSON twice a second, a ``Status``, and ends when all connections have ended or after ``--seconds``.

Run: ``python -m tests.support.slowclients --port P --target T --count N --seconds S``. T is a large answer's target.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import socket
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.support.processes import ManagedProcess, Processes, clean_environment
from tests.support.waiting import eventually

BEAT_S = 0.1
BEATS_PER_TURN = 5  # so each does something twice a second
BURST = 200  # connections made in one beat: well below any backlog
SIP_BYTES = 10
RECEIVE_BUFFER_BYTES = 4_096  # the least there is: what is on its way to a client that does not read is the server's
_ESTABLISHED, _CLOSE_WAIT = 1, 8  # states of TCP in Linux; in the second the server may still be reading

HEAD = b" HTTP/1.1\r\nHost: a.test\r\n"
GET = b"GET %b" + HEAD
POST = b"POST /items" + HEAD
OPENINGS = {
    "head": GET % b"/items" + b"X-Slow: ",
    "length": POST + b"Content-Length: 1000000\r\n\r\n",
    "chunked": POST + b"Transfer-Encoding: chunked\r\n\r\n",
    "unread": GET + b"\r\n",
    "sipped": GET + b"\r\n",
    "idle": GET % b"/items" + b"\r\n",
}
# Those that ask for much also occupy a connection to a node each, and nodes are to be no bottleneck.
MIX = ("head", "length", "chunked", "idle") * 4 + ("unread", "sipped")
DRIPS = {"head": b"x", "length": b"x", "chunked": b"1\r\nx\r\n"}


def kinds(count: int) -> list[str]:
    """What so many slow clients are."""
    return [MIX[number % len(MIX)] for number in range(count)]


@dataclass(frozen=True, slots=True)
class Status:
    made: int  # connections so far
    open: dict[str, int]  # those of them that still are, by kind
    longest_s: dict[str, float]  # that one of a kind has lasted, if it has ended

    @property
    def left(self) -> int:
        return sum(self.open.values())


class SlowClient:
    """One connection."""

    def __init__(self, kind: str, port: int, target: bytes, beat: int) -> None:
        self.kind = kind
        self.beat = beat % BEATS_PER_TURN  # that it acts on
        self._sock = socket.socket()
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        self._sock.settimeout(10)
        self._sock.connect(("127.0.0.1", port))
        opening = OPENINGS[kind]
        self._sock.sendall(opening % target if b"%b" in opening else opening)
        self._sock.setblocking(False)
        self._began_s = time.monotonic()

    def turn(self) -> None:
        """Do a little, if that."""
        with contextlib.suppress(OSError):  # ``ended`` says what matters
            if drip := DRIPS.get(self.kind):
                self._sock.send(drip)
            elif self.kind == "sipped":
                self._sock.recv(SIP_BYTES)

    @property
    def ended(self) -> bool:
        state = self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        return state not in (_ESTABLISHED, _CLOSE_WAIT) if self.kind in DRIPS else state != _ESTABLISHED

    def close(self) -> float:
        """Returns how long it lasted."""
        self._sock.close()
        return time.monotonic() - self._began_s


class Crowd:
    """All of them."""

    def __init__(self, port: int, target: str, count: int) -> None:
        self._port, self._target = port, target.encode()
        self._coming = kinds(count)
        self._open: list[SlowClient] = []
        self._made = 0
        self._longest_s: dict[str, float] = {}

    def beat(self, number: int) -> Status:
        for _ in range(min(BURST, len(self._coming))):
            self._open.append(SlowClient(self._coming.pop(), self._port, self._target, self._made))
            self._made += 1
        for client in self._open:
            if client.beat == number % BEATS_PER_TURN:
                client.turn()
        for client in (ended := {client for client in self._open if client.ended}):
            self._longest_s[client.kind] = max(client.close(), self._longest_s.get(client.kind, 0.0))
        self._open = [client for client in self._open if client not in ended]
        return Status(self._made, dict(Counter(client.kind for client in self._open)), self._longest_s)

    def close(self) -> None:
        for client in self._open:
            client.close()


class SlowClients:
    """The test's side of the process."""

    def __init__(self, processes: Processes, port: int, target: str, count: int, seconds: float) -> None:
        options = {"port": port, "target": target, "count": count, "seconds": seconds}
        command = [sys.executable, "-m", "tests.support.slowclients", *(f"--{k}={v}" for k, v in options.items())]
        environment = clean_environment(processes.directory, {"PYTHONPATH": str(Path(__file__).parents[2])})
        self.process: ManagedProcess = processes.add(
            "slowclients", command, environment=environment, must_be_clean=True
        )
        self._count = count

    def start(self) -> None:
        self.process.start()
        eventually(lambda: self.status.made == self._count, timeout_s=20, what=f"{self._count} slow clients")

    @property
    def status(self) -> Status:
        lines = self.process.output().rpartition("\n")[0].splitlines()
        return Status(**json.loads(lines[-1])) if lines else Status(0, {}, {})

    def wait_gone(self, timeout_s: float) -> Status:
        """Until the server has ended all of their connections."""
        assert self.process.wait(timeout_s) == 0, self.process.tail()
        return self.status


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    crowd = Crowd(options.port, options.target, options.count)
    number, ends_s = 0, time.monotonic() + options.seconds
    while True:
        began_s = time.monotonic()
        status = crowd.beat(number)
        over = began_s > ends_s or (status.made == options.count and not status.left)
        if over or number % BEATS_PER_TURN == 0:
            print(json.dumps(asdict(status)), flush=True)
        if over:
            break
        number += 1
        time.sleep(max(0.0, began_s + BEAT_S - time.monotonic()))
    crowd.close()


if __name__ == "__main__":
    main()
