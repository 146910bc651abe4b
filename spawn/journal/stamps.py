"""The times that updates are stamped with: the clock's, but never back.

While the clock is behind the newest update, its time stands still. Where that would be for more than ``FAR_US`` (a
clock that was years ahead when an update came), it goes on from there, half as fast as the clock: so what is stamped
like this grows older all the same, and goes one day.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import NamedTuple

log = logging.getLogger("spawn.journal")

FAR_US = 86_400_000_000  # a day
SAID_FROM_US = 60_000_000


class Ages(NamedTuple):
    """Which times are old: those before a time of the clock, and of those ahead of the clock the older ones."""

    before_us: int
    now_us: int
    ahead_before_us: int  # 0: what is ahead is not old

    def is_old(self, time_us: int) -> bool:
        return time_us < self.before_us or self.now_us < time_us < self.ahead_before_us


class Stamps:
    """All times are Unix times in microseconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._newest_us = 0
        self._clock_us = 0  # what the clock said as that was given

    def load(self, newest_us: int) -> None:
        """Go on after an update that was found at start."""
        ahead_us = newest_us - self.now_us()
        if ahead_us > SAID_FROM_US:
            said = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(newest_us / 1e6))
            log.warning(
                "the newest update is stamped %s, %d s ahead of the clock: one of the two is wrong; times of updates "
                "do not run backwards, so the next ones are not stamped with the clock's time until it is there",
                said, ahead_us / 1e6,
            )  # fmt: skip
        self.given(newest_us)

    def now_us(self) -> int:
        """What the clock says."""
        return int(self._clock() * 1e6)

    def next_us(self) -> int:
        """For an update that comes now."""
        now_us = self.now_us()
        self._clock_us = min(self._clock_us, now_us)
        if self._newest_us - now_us <= FAR_US:
            return max(self._newest_us, now_us)
        return self._newest_us + (now_us - self._clock_us) // 2

    def given(self, time_us: int) -> None:
        """An update has got it."""
        self._newest_us, self._clock_us = time_us, self.now_us()

    def ages(self, before_us: int) -> Ages:
        """What is older than a time of the clock."""
        now_us = self.now_us()
        ahead_us = self.next_us() - now_us
        return Ages(before_us, now_us, before_us + ahead_us if ahead_us > FAR_US else 0)


def microseconds(time_s: float) -> int:
    """Of any Unix time, infinities included."""
    return int(min(max(time_s, 0.0), 1e12) * 1e6)
