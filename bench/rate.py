"""Sends GETs at a constant rate, whatever becomes of the answers: what a closed loop such as wrk's cannot show.

    python -m bench.rate PORT RATE SECONDS

Request number *n* is due at *n* / rate. It takes a kept connection that is free, else it waits for the next one, and
its latency counts from the moment it was due: a candidate that stops for a while pays for all that was due meanwhile
(Gil Tene's "coordinated omission"). Prints one line of JSON. The client also says how late it was itself: the time from
the moment at which a request was due and a connection free, to the moment at which it was sent. What is not well above
that, is the client's.

It sleeps between requests, because it shares a core with the nodes, and a loop that never sleeps starves them.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import select
import socket
import sys
import time
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass

CONNECTIONS = 32
PATH = "/items/1"
DRAIN_S = 10.0  # for the last answers
ANSWER_BYTES = 65_536
WARM_UP = 0.1  # of the requests; they are sent and not counted
GOOD = b"HTTP/1.1 200 "
PR_SET_TIMERSLACK = 29  # prctl(2)


class Failed(Exception):
    """An answer was wrong, or did not come."""


@dataclass
class Connection:
    """Is free, or waits for the answer to the request that was due at ``due``; times are those of one clock, in s."""

    socket: socket.socket
    due: float = 0.0
    freed: float = 0.0
    received: int = 0

    def fileno(self) -> int:
        return self.socket.fileno()


class Client:
    def __init__(self, port: int) -> None:
        self._port = port
        self._request = f"GET {PATH} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
        self._length = 0  # of an answer; all are alike
        self.latencies: list[float] = []
        self._late: list[float] = []

    def run(self, per_second: float, seconds: float) -> dict[str, float]:
        """Raises ``Failed``."""
        total = int(per_second * seconds)
        with ExitStack() as stack:
            connections = [self._connected(stack) for _ in range(CONNECTIONS)]
            began = time.perf_counter()
            self._loop(connections, total, 1 / per_second)
            elapsed = time.perf_counter() - began
        skipped = int(total * WARM_UP)
        latencies, late = sorted(self.latencies[skipped:]), sorted(self._late[skipped:])
        return {
            "per_second": total / elapsed,
            "p50_ms": percentile(latencies, 0.50) * 1e3,
            "p99_ms": percentile(latencies, 0.99) * 1e3,
            "worst_ms": latencies[-1] * 1e3,
            "late_p99_ms": percentile(late, 0.99) * 1e3,
        }

    def _connected(self, stack: ExitStack) -> Connection:
        """It has had one answer, and so the candidate has whatever it keeps for a connection."""
        made = stack.enter_context(socket.create_connection(("127.0.0.1", self._port), timeout=DRAIN_S))
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.sendall(self._request)
        answer = b""
        while not (length := whole_length(answer)) or len(answer) < length:
            data = made.recv(ANSWER_BYTES)
            if not data:
                raise Failed("the first answer did not come")
            answer += data
        if not answer.startswith(GOOD) or len(answer) > length or self._length not in (0, length):
            raise Failed(f"unexpected answer {answer!r}")
        self._length = length
        made.setblocking(False)
        return Connection(made)

    def _loop(self, connections: list[Connection], total: int, interval: float) -> None:
        """A measured hot loop: one long function, without a call that it can do without."""
        now, request, length = time.perf_counter, self._request, self._length
        latencies, late = self.latencies, self._late
        free, sent = deque(connections), 0
        start = now() + 0.001
        deadline = start + total * interval + DRAIN_S
        while len(latencies) < total:
            moment = now()
            while free and sent < total and (due := start + sent * interval) <= moment:
                connection = free.popleft()
                if connection.socket.send(request) != len(request):
                    raise Failed("a request does not fit the socket's buffer")
                late.append(moment - max(due, connection.freed))
                connection.due, connection.received = due, 0
                sent += 1
                moment = now()
            until = start + sent * interval if free and sent < total else deadline
            ready, _, _ = select.select(connections, (), (), max(0.0, until - moment))
            moment = now()
            if moment > deadline:
                raise Failed(f"{total - len(latencies)} answers are missing")
            for connection in ready:
                data = connection.socket.recv(ANSWER_BYTES)
                if not data or (not connection.received and not data.startswith(GOOD)):
                    raise Failed(f"unexpected answer {data[:200]!r}")
                connection.received += len(data)
                if connection.received > length:
                    raise Failed(f"an answer is longer than others: {data[:200]!r}")
                if connection.received == length:
                    connection.freed = moment = now()
                    latencies.append(moment - connection.due)
                    free.append(connection)


def whole_length(answer: bytes) -> int:
    """Bytes of an answer that begins so, 0 while its head is not complete."""
    head, end, _ = answer.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return len(head) + len(end) + int(lengths[0].partition(b":")[2]) if end and lengths else 0


def percentile(values: list[float], share: float) -> float:
    """Of sorted values, by nearest rank."""
    return values[min(len(values) - 1, int(len(values) * share))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("rate", type=float)
    parser.add_argument("seconds", type=float)
    chosen = parser.parse_args()
    gc.disable()
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)  # else a sleep is up to 50 µs longer than it should be
    try:
        print(json.dumps(Client(chosen.port).run(chosen.rate, chosen.seconds)))
    except (Failed, OSError) as failed:
        print(failed, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
