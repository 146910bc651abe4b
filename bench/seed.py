"""Makes a state directory whose journal holds a backlog, without anybody having to send it.

    python bench/seed.py STATE_DIR UPDATES HOST:PORT=POSITION[,maintenance]…

The updates go through the journal's own ``append``, so the result is what a service would have left behind when it was
stopped in order; the nodes are stored at the positions given (``head`` for the last update), in maintenance where it
says so. The directory must be new. Runs in a process of its own: the memory it takes is not the service's.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Place:
    """A node, and where in the journal it is."""

    host: str
    port: int
    position: int | None  # None: the head
    maintenance: bool = False


def seed(state_dir: str, updates: int, places: Sequence[Place]) -> None:
    directory = StateDirectory(state_dir)
    directory.open()
    journal = SqliteJournal(directory.journal_path, MAX_BYTES)
    journal.start(lambda batch: None, sys.exit)
    try:
        _fill(journal, updates)
        nodes = []
        for place in places:
            node = _stored(place)
            journal.set_position(node.id, journal.head if place.position is None else place.position)
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


def _stored(place: Place) -> StoredNode:
    return StoredNode(
        id=new_node_id(),
        host=place.host,
        port=place.port,
        active=True,
        maintenance=place.maintenance,
        settled=True,
    )


def _place(text: str) -> Place:
    node, _, where = text.partition("=")
    host, _, port = node.rpartition(":")
    position, _, state = where.partition(",")
    if state not in ("", "maintenance"):
        raise argparse.ArgumentTypeError(f"{state!r} is no state of a node here")
    return Place(host, int(port), None if position == "head" else int(position), bool(state))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("state_dir")
    parser.add_argument("updates", type=int)
    parser.add_argument("places", nargs="+", type=_place, metavar="HOST:PORT=POSITION[,maintenance]")
    options = parser.parse_args()
    seed(options.state_dir, options.updates, options.places)


if __name__ == "__main__":
    main()
