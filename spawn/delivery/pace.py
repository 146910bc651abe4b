"""How fast a node that catches up is given its updates: as the operator says, else as fast as does not hurt clients.

A delivery from the backlog costs the process a third of what a client's update costs. With nothing else to do a
backlog drains at full speed; beside clients that keep Spawn busy it would take a quarter of what they get. So while
they do, all nodes that catch up share one delivery each ``SPACING_S``. How busy clients keep Spawn is estimated from
the counters: each request answered, update journalled and update applied (other than to catch up) stands for
``EVENT_S`` of its time. A few requests a second thus change nothing, nor does one that takes long (a stream, a poll).

``delivery.catch-up-rate`` replaces all of this: the operator knows better, in both directions.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from spawn.counters import Counters

SPACING_S = 1 / 600  # of deliveries that cost 0.14 ms each: a twelfth of what a saturated process can do
EVENT_S = 0.000_4  # three times what it takes on a good machine, so that a slower one is seen to be busy too
SLACK_S = 0.01  # what a wait was too long by may be made up for: a busy hub is late by whole rounds of its clients
BURST_S = 0.05  # no burst of traffic counts for longer than this after it is over


class CatchUpPace:
    """Shared by the workers of all nodes. ``now`` is a monotonic clock."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._seen = 0  # traffic, as it was last looked at
        self._looked_s = now()
        self._busy_until_s = 0.0
        self._next_s = 0.0  # the next delivery beside traffic

    def wait_s(self, rate: float, last_s: float, counters: Counters) -> float:
        """How long to wait before the next delivery to a node whose last one began at ``last_s``.

        ``rate``: updates per second, 0 for as fast as is good for everybody.
        """
        now_s = self._now()
        if rate > 0:
            return max(0.0, last_s + 1 / rate - now_s)
        if not self._busy(now_s, counters):
            return 0.0
        begin_s = min(max(now_s - SLACK_S, self._next_s), self._busy_until_s)
        self._next_s = begin_s + SPACING_S
        return max(0.0, begin_s - now_s)

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
