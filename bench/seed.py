"""Makes a state directory whose journal holds a backlog, without anybody having to send it.

    python bench/seed.py STATE_DIR UPDATES HOST:PORT=POSITION…

The updates go through the journal's own ``append``, so the result is what a service would have left behind when it was
stopped in order; the nodes are stored at the positions given (``head`` for the last update). The directory must be
new. Runs in a process of its own: the memory it takes is not the service's.
"""

from __future__ import annotations

import argparse
import itertools
import sys

import gevent

from spawn.journal.base import NewUpdate
from spawn.journal.sqlite import SqliteJournal
from spawn.nodes.node import new_node_id
from spawn.state.directory import StateDirectory
from spawn.state.nodes import NodeStore, Stored, StoredNode

APPENDERS = 256  # as many updates per commit
MAX_BYTES = 64 << 30
STOP_S = 60.0
REFERENCE = 200  # what the clients were told
HEAD = b"Host: app.example.com\r\nUser-Agent: backlog/1\r\nContent-Type: application/json\r\nAccept: */*\r\n"


def small_update(number: int) -> NewUpdate:
    """The ``number``th update, 1 for the first: it names itself in target and body."""
    body = b'{"update": %d, "text": "%s"}' % (number, b"x" * 100)
    return NewUpdate(b"PUT", b"/items/%d" % number, HEAD, body)


def seed(state_dir: str, updates: int, places: dict[tuple[str, int], int | None]) -> None:
    """``places``: host and port of each node, and its position (None: the head)."""
    directory = StateDirectory(state_dir)
    directory.open()
    journal = SqliteJournal(directory.journal_path, MAX_BYTES)
    journal.start(lambda batch: None, sys.exit)
    try:
        _fill(journal, updates)
        nodes = []
        for (host, port), position in places.items():
            node = StoredNode(id=new_node_id(), host=host, port=port, active=True, settled=True)
            journal.set_position(node.id, journal.head if position is None else position)
            nodes.append(node)
        seen = sorted(f"{node.host}:{node.port}" for node in nodes)
        NodeStore(directory.path).save(Stored(nodes=nodes, seen_in_file=seen, journal=journal.uuid))
    finally:
        journal.stop(STOP_S)
        directory.close()


def _fill(journal: SqliteJournal, updates: int) -> None:
    """The appenders take their turns: each commit is a batch, and the order is that of the numbers."""
    numbers = itertools.count(journal.head + 1)

    def append() -> None:
        while (number := next(numbers)) <= updates:
            journal.settle(journal.append(small_update(number)), REFERENCE)

    gevent.joinall([gevent.spawn(append) for _ in range(min(APPENDERS, updates))], raise_error=True)


def _place(text: str) -> tuple[tuple[str, int], int | None]:
    node, _, position = text.partition("=")
    host, _, port = node.rpartition(":")
    return (host, int(port)), None if position == "head" else int(position)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("state_dir")
    parser.add_argument("updates", type=int)
    parser.add_argument("places", nargs="+", metavar="HOST:PORT=POSITION")
    options = parser.parse_args()
    seed(options.state_dir, options.updates, dict(map(_place, options.places)))


if __name__ == "__main__":
    main()
