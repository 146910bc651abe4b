"""Is it this update that no node can digest, or is everything out behind health checks that pass?

The first is given up after ``delivery.attempts-uncertain`` tries, so that it does not stop the queues. The second must
not cost acknowledged updates: a proxy in front of an application answers 502 to everything, and its own health page
well, for as long as a deployment takes. What tells them apart is whether anything else is answered. While an update is
tried in vain, a working application answers reads, or other nodes' updates; in an outage nothing is answered with
success or a 4xx. So giving up is put off, for at most ``delivery.outage``, while nothing was heard of any node during
the second half of the tries. Pure: the caller says what time it is.
"""

from __future__ import annotations


class Patience:
    """One worker's with one update. Times are monotonic seconds."""

    __slots__ = ("_began_s", "_limit", "_since_s")

    def __init__(self, limit: int, now_s: float) -> None:
        self._limit = limit  # of uncertain tries
        self._began_s = now_s
        self._since_s: float | None = None
        self.tried(0, now_s)

    def tried(self, uncertain: int, now_s: float) -> None:
        """So many tries of this round were in vain: from half of them on it counts what is heard."""
        if self._since_s is None and uncertain >= self._limit // 2:
            self._since_s = now_s

    def lasts(self, heard_s: float, outage_s: float, now_s: float) -> bool:
        """All tries of a round were in vain: whether to begin another one, which then has begun."""
        if now_s - self._began_s >= outage_s or (self._since_s is not None and heard_s >= self._since_s):
            return False
        self._since_s = None
        self.tried(0, now_s)
        return True
