"""How fast a node that catches up is given its updates: as the operator says, else as fast as does not hurt clients.

A delivery from the backlog costs the process a third of what a client's update costs. With nothing else to do a
backlog drains at full speed; beside clients that keep Spawn busy it would take a quarter of what they get. So while
they do, all nodes that catch up share one delivery each ``SPACING_S``. How busy clients keep Spawn is estimated from
the counters: each request answered, update journalled and update applied (other than to catch up) stands for
``EVENT_S`` of its time. A few requests a second thus change nothing, nor does one that takes long (a stream, a poll).

Clients that never pause could so keep a node from ever catching up. So after ``GENTLE_S`` each such node gets
``GAIN`` times what clients add to the journal, if that is more: slower clients are better than a node lost for good.

``delivery.catch-up-rate`` replaces all of this: the operator knows better, in both directions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from spawn.counters import Counters

SPACING_S = 1 / 600  # of deliveries that cost 0.14 ms each: a twelfth of what a saturated process can do
EVENT_S = 0.000_4  # three times what it takes on a good machine, so that a slower one is seen to be busy too
SLACK_S = 0.01  # what a wait was too long by may be made up for: a busy hub is late by whole rounds of its clients
GENTLE_S = 60.0  # clients come first for so long
GAIN = 1.2
FORGET_S = 5.0  # a node that has not asked for so long does not catch up; clients are not busy any more
MEASURE_S = 1.0
BURST_S = 0.05  # no burst of traffic counts for longer than this after it is over


class CatchUpPace:
    """Shared by the workers of all nodes. ``now`` is a monotonic clock."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._seen = 0  # traffic, as it was last looked at
        self._looked_s = now()
        self._busy_until_s = 0.0
        self._next_s = 0.0  # the next delivery beside traffic
        self._asked_s: dict[str, float] = {}  # by the id of a node that catches up
        self._busy_from_s = self._busy_last_s = -FORGET_S
        self._journalled = (now(), 0)
        self._journalled_per_s = 0.0

    def wait_s(self, node_id: str, rate: float, last_s: float, counters: Counters) -> float:
        """How long to wait before the next delivery to that node, whose last one began at ``last_s``.

        ``rate``: updates per second, 0 for as fast as is good for everybody.
        """
        now_s = self._now()
        if rate > 0:
            return max(0.0, last_s + 1 / rate - now_s)
        if not self._busy(now_s, counters):
            return 0.0
        begin_s = min(max(now_s - SLACK_S, self._next_s), self._busy_until_s)
        self._next_s = begin_s + min(SPACING_S, self._needed_s(node_id, now_s, counters))
        return max(0.0, begin_s - now_s)

    def _needed_s(self, node_id: str, now_s: float, counters: Counters) -> float:
        """The spacing at which the backlogs become shorter; infinite while clients come first."""
        self._asked_s[node_id] = now_s
        if now_s - self._busy_last_s > FORGET_S:
            self._busy_from_s = now_s
        self._busy_last_s = now_s
        self._measure(now_s, counters.value("updates.journalled"))
        if now_s - self._busy_from_s < GENTLE_S or not self._journalled_per_s:
            return math.inf
        return 1 / (GAIN * self._journalled_per_s * len(self._asked_s))

    def _measure(self, now_s: float, journalled: int) -> None:
        since_s, before = self._journalled
        if now_s - since_s >= MEASURE_S:
            self._journalled_per_s = (journalled - before) / (now_s - since_s)
            self._journalled = (now_s, journalled)
            self._asked_s = {each: at_s for each, at_s in self._asked_s.items() if now_s - at_s < FORGET_S}

    def _busy(self, now_s: float, counters: Counters) -> bool:
        """Whether what was counted since the last look fills the time until now."""
        traffic = _traffic(counters)
        work_s = max(0, traffic - self._seen) * EVENT_S
        self._seen = max(self._seen, traffic)
        self._busy_until_s = min(max(self._busy_until_s, self._looked_s) + work_s, now_s + BURST_S)
        self._looked_s = now_s
        return self._busy_until_s > now_s


def _traffic(counters: Counters) -> int:
    applied = counters.value("delivery.applied") - counters.value("delivery.caught-up")
    return counters.value("reads.served") + counters.value("updates.journalled") + applied
