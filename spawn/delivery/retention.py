"""What the journal may forget, and what happens when it is full.

Entries go when every node that gets deliveries has durably passed them; while some node may still be given a position
(it is out of sync, or inactive), they stay ``journal.retain`` longer. While no node gets deliveries at all, nothing
goes: the journal is the only copy. Pruning goes in small steps, so that updates never wait for it.

A full journal takes more, in this order, and says so: entries that are only kept for nodes that may be given a
position; the oldest records, with the bodies that are kept for retries; then nodes that hold the log back.
"""

from __future__ import annotations

import enum
import logging
import math
import time
from collections.abc import Callable

import gevent
from gevent.lock import RLock

from spawn.delivery.feed import QUEUE_ENTRIES
from spawn.delivery.fleet import Fleet
from spawn.errors import JournalError
from spawn.journal.base import Journal
from spawn.nodes.node import Node, NodeState

log = logging.getLogger("spawn.journal")

PERIOD_S = 5.0
STEP_ENTRIES = 500
PAUSE_S = 0.01  # between two steps
ROOM_S = 5.0  # an update waits no longer than this for room
ROOMY = 0.8  # of the journal: below it a full journal is news again


class Taking(enum.Enum):
    """What may be pruned; each after what is before it."""

    DONE_WITH = "what is of no use any more"
    KEPT_FOR_PLACES = (
        "updates are not kept any more for nodes that are inactive or out of sync: they need a copy of another node's "
        'data and "position": "head"'
    )
    HISTORY = (
        "what is kept of delivered updates goes before journal.retain is over, the oldest first, with the bodies of "
        "those that were refused or skipped: GET /updates/N and retries get 410 for them"
    )


class Retention:
    def __init__(self, fleet: Fleet, journal: Journal, retain_s: float, now: Callable[[], float] = time.time) -> None:
        self._fleet = fleet
        self._journal = journal
        self._retain_s = retain_s
        self._now = now
        self._making_room = RLock()
        self._greenlet: gevent.Greenlet[..., None] | None = None
        self._said = ""
        self._taken: set[Taking] = set()  # what was said to be taken because the journal is full

    def start(self) -> None:
        self._greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        if self._greenlet is not None:
            self._greenlet.kill(block=True, timeout=5.0)
            self._greenlet = None

    def _run(self) -> None:
        while True:
            gevent.sleep(PERIOD_S)
            try:
                self.prune()
                self._said = ""
            except JournalError as error:
                if self._journal.broken:
                    return
                self._say(str(error))

    def _say(self, what: str) -> None:
        """Once until it is another reason, or goes well."""
        if what != self._said:
            log.error("pruning failed, it is tried again every %g s: %s", PERIOD_S, what)
            self._said = what

    def prune(self) -> int:
        """Forget all that may be forgotten now; returns how many entries and records went."""
        total = 0
        while gone := self._journal.prune(*self._bounds(Taking.DONE_WITH), STEP_ENTRIES):
            total += gone
            gevent.sleep(PAUSE_S)
        if self._used() < ROOMY:
            self._taken.clear()
        return total

    def _bounds(self, taking: Taking) -> tuple[int, float, float]:
        """What ``Journal.prune`` takes."""
        old_s = self._now() - self._retain_s
        nodes = self._fleet.registry.nodes
        delivered = self._delivered()
        positions = self._journal.positions()  # those not durable yet become so before anything is pruned
        upto = min((positions.get(node.id, 0) for node in delivered), default=0)
        at_once = taking is not Taking.DONE_WITH or (len(delivered) == len(nodes) and bool(nodes))
        return upto, math.inf if at_once else old_s, math.inf if taking is Taking.HISTORY else old_s

    def _delivered(self) -> list[Node]:
        """The nodes that are to get updates, now or later."""
        return [node for node in self._fleet.registry.nodes if node.record.active and not node.out_of_sync]

    def make_room(self, needed_bytes: int) -> bool:
        """The journal is full. Where a node has everything, those that hold the log back are declared out of sync.

        Returns whether ``needed_bytes`` fit now; takes a bounded time.
        """
        if not self._making_room.acquire(timeout=ROOM_S):
            return self._fits(needed_bytes)
        end = time.monotonic() + ROOM_S
        try:
            while not self._take(needed_bytes, end):
                # Out of time is no reason to give a node up: there may have been more to prune.
                culprits = self._culprits() if time.monotonic() < end else []
                if not culprits:
                    return False
                for node in culprits:
                    self._give_up(node, self._journal.head)
            return True
        finally:
            self._making_room.release()

    def _take(self, needed_bytes: int, end: float) -> bool:
        """All that may be pruned, as far as it is needed; whether that was enough."""
        for taking in Taking:
            if self._prune_for(needed_bytes, end, taking):
                return True
            if time.monotonic() >= end:
                break
        return False

    def could_make_room(self, needed_bytes: int) -> bool:
        """Whether ``make_room`` may succeed, as far as that can be known without taking anything."""
        journal, upto = self._journal, self._bounds(Taking.HISTORY)[0]
        entries, records = journal.tail <= upto, journal.records_tail < min(journal.tail, journal.head)
        return self._fits(needed_bytes) or entries or records or bool(self._culprits())

    def _culprits(self) -> list[Node]:
        """The nodes at the end of the log, when each of them holds it back and some other node goes on."""
        nodes = self._delivered()
        if not nodes:
            return []
        head, last = self._journal.head, min(node.position for node in nodes)
        culprits = [node for node in nodes if node.position == last]
        others_go_on = any(not self._holds_back(node, head) for node in nodes)
        return culprits if others_go_on and all(self._holds_back(node, head) for node in culprits) else []

    def _used(self) -> float:
        """The part of ``journal.max-bytes`` that is used."""
        usage = self._journal.usage()
        return usage.used_bytes / max(1, usage.max_bytes)

    def _fits(self, needed_bytes: int) -> bool:
        usage = self._journal.usage()
        return usage.used_bytes + needed_bytes <= usage.max_bytes

    def _prune_for(self, needed_bytes: int, end: float, taking: Taking) -> bool:
        """Prune until that much fits, nothing is left to prune, or the (monotonic) time is over."""
        while not self._fits(needed_bytes):
            gone = self._journal.prune(*self._bounds(taking), STEP_ENTRIES)
            if gone:
                self._say_taken(taking)
            if gone == 0 or time.monotonic() >= end:
                break
        return self._fits(needed_bytes)

    def _say_taken(self, taking: Taking) -> None:
        """Once until the journal had room again."""
        if taking is not Taking.DONE_WITH and taking not in self._taken:
            self._taken.add(taking)
            log.error("the journal is full: %s", taking.value)

    def _holds_back(self, node: Node, head: int) -> bool:
        """Whether a node is the reason: far behind, or behind and not going on. Few updates may be many bytes."""
        behind = head - node.position
        stuck = node.held or node.state not in (NodeState.SERVING, NodeState.CATCHING_UP)
        return behind > QUEUE_ENTRIES or (behind > 0 and stuck)

    def _give_up(self, node: Node, head: int) -> None:
        log.critical(
            "the journal is full and node %s is %d updates behind: it is now out of sync; copy the data of another "
            "node to it and tell it its position",
            node.name,
            head - node.position,
        )
        node.out_of_sync = True
        self._fleet.flag()
        self._fleet.behind(node)
        gevent.spawn(self._fleet.reconcile, node)  # its worker may take a while to stop
