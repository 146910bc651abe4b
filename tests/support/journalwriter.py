"""A process that writes to a journal until it is killed, and says on standard output what it was promised.

``append <sequence> <n>`` after an append of update n returned, ``position <n>`` after a position was durable.
Each line is one write(2), so a line that arrived was promised before the kill.
"""

from __future__ import annotations

import itertools
import os
import sys

import gevent

from spawn.journal.base import FileBody, Journal
from spawn.journal.sqlite import SqliteJournal
from tests.support.journals import update

LARGE = b"large" * 70_000


def say(line: str) -> None:
    os.write(1, line.encode() + b"\n")


def write(journal: Journal, numbers: itertools.count[int]) -> None:
    while True:
        n = next(numbers)
        body: bytes | FileBody = b"small %d" % n
        if n % 40 == 0:
            path = os.path.join(journal.spool_path(), str(n))
            with open(path, "wb") as file:
                file.write(LARGE)
            body = FileBody(path, len(LARGE))
        say(f"append {journal.append(update(n, body))} {n}")


def follow(journal: Journal) -> None:
    journal.set_position("node", journal.positions().get("node", 0))
    while True:
        gevent.sleep(0.001)
        position = journal.head
        journal.advance("node", position)
        if journal.wait_durable("node", position, 10):
            say(f"position {position}")


def main(directory: str, first: int) -> None:
    journal = SqliteJournal(directory, 1 << 30, ballast_bytes=1 << 20)
    journal.start(lambda batch: None, lambda reason: os._exit(3))
    numbers = itertools.count(first)
    gevent.joinall([gevent.spawn(write, journal, numbers) for _ in range(12)] + [gevent.spawn(follow, journal)])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
