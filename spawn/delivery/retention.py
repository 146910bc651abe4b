"""What the journal may forget, and what happens when it is full.

Entries go when every node that gets deliveries has durably passed them; while some node may still be given a position
(it is out of sync, or inactive), they stay ``journal.retain`` longer. While no node gets deliveries at all, nothing
goes: the journal is the only copy. Pruning goes in small steps, so that updates never wait for it.
"""

from __future__ import annotations

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


class Retention:
    def __init__(self, fleet: Fleet, journal: Journal, retain_s: float, now: Callable[[], float] = time.time) -> None:
        self._fleet = fleet
        self._journal = journal
        self._retain_s = retain_s
        self._now = now
        self._making_room = RLock()
        self._greenlet: gevent.Greenlet[..., None] | None = None
        self._said = ""

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
        while gone := self._journal.prune(*self._bounds(force=False), STEP_ENTRIES):
            total += gone
            gevent.sleep(PAUSE_S)
        return total

    def _bounds(self, force: bool) -> tuple[int, float, float]:
        """What ``Journal.prune`` takes; ``force``: also what is only kept for nodes that may be given a position."""
        now = self._now()
        nodes = self._fleet.registry.nodes
        delivered = [node for node in nodes if node.record.active and not node.out_of_sync]
        positions = self._journal.positions()  # those not durable yet become so before anything is pruned
        upto = min((positions.get(node.id, 0) for node in delivered), default=0)
        at_once = force or (len(delivered) == len(nodes) and bool(nodes))
        return upto, math.inf if at_once else now - self._retain_s, now - self._retain_s

    def make_room(self, needed_bytes: int) -> bool:
        """The journal is full. Where a node has everything, those that hold the log back are declared out of sync.

        Returns whether ``needed_bytes`` fit now; takes a bounded time.
        """
        if not self._making_room.acquire(timeout=ROOM_S):
            return self._fits(needed_bytes)
        end = time.monotonic() + ROOM_S
        try:
            while not self._prune_for(needed_bytes, end):
                # Out of time is no reason to give a node up: there may have been more to prune.
                culprits = self._culprits() if time.monotonic() < end else []
                if not culprits:
                    return False
                for node in culprits:
                    self._give_up(node, self._journal.head)
            return True
        finally:
            self._making_room.release()

    def could_make_room(self, needed_bytes: int) -> bool:
        """Whether ``make_room`` may succeed; gives nobody up."""
        return self._prune_for(needed_bytes, time.monotonic() + ROOM_S) or bool(self._culprits())

    def _culprits(self) -> list[Node]:
        """The nodes at the end of the log, when each of them holds it back and some other node goes on."""
        nodes = [n for n in self._fleet.registry.nodes if n.record.active and not n.out_of_sync]
        if not nodes:
            return []
        head, last = self._journal.head, min(node.position for node in nodes)
        culprits = [node for node in nodes if node.position == last]
        others_go_on = any(not self._holds_back(node, head) for node in nodes)
        return culprits if others_go_on and all(self._holds_back(node, head) for node in culprits) else []

    def _fits(self, needed_bytes: int) -> bool:
        usage = self._journal.usage()
        return usage.used_bytes + needed_bytes <= usage.max_bytes

    def _prune_for(self, needed_bytes: int, end: float) -> bool:
        """Prune until that much fits, nothing is left to prune, or the (monotonic) time is over."""
        while not self._fits(needed_bytes):
            if not self._journal.prune(*self._bounds(force=True), STEP_ENTRIES) or time.monotonic() >= end:
                break
        return self._fits(needed_bytes)

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
