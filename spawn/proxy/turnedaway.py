"""Tells the operator that clients are turned away: once for each reason when it begins, and once when all is over.

Which clients, and how many, is for the counters. It is over when one was served and none was turned away for
``QUIET_S``: while the journal is nearly full, small updates may pass between large ones that do not. Until then a
reason that comes back is no news, for two may take turns at every request.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

log = logging.getLogger("spawn.proxy")

QUIET_S = 10.0


class TurnedAway:
    """``whom``: what clients bring, such as "updates"."""

    def __init__(self, whom: str, now: Callable[[], float] = time.monotonic) -> None:
        self._whom = whom
        self._now = now
        self._said: set[tuple[int, str]] = set()
        self._count = 0
        self._last_s = 0.0

    def one(self, status: int, why: str, kind: str = "") -> None:
        """A client is turned away with that status. ``kind`` tells reasons with one status apart: of few values."""
        self._count += 1
        self._last_s = self._now()
        if (status, kind) not in self._said:
            self._said.add((status, kind))
            log.error("%s are turned away with %d: %s", self._whom, status, why)

    def served(self) -> None:
        """A client is not."""
        if self._said and self._now() - self._last_s >= QUIET_S:
            log.warning("%s are taken again, after %d were turned away", self._whom, self._count)
            self._said.clear()
            self._count = 0
