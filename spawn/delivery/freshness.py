"""The floor: how far a node must be for a read to be fresh, and the wait for a node that is.

The floor is the highest sequence whose reference answer below 500 was about to be sent to a client. It moves before
the first byte of that answer leaves, so a client that has its answer, and tells somebody, is never behind the floor.
After a restart nobody knows what was answered, so the floor starts at the journal's head.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from gevent.event import Event

T = TypeVar("T")


class Freshness:
    def __init__(self) -> None:
        self.floor = 0
        self._changed = Event()
        self._waiting = 0

    def raise_to(self, sequence: int) -> None:
        self.floor = max(self.floor, sequence)

    def notify(self) -> None:
        """A position or a state has changed: whoever waits for a node looks again."""
        if self._waiting:
            changed, self._changed = self._changed, Event()
            changed.set()

    def wait_for(self, look: Callable[[], T | None], timeout_s: float) -> T | None:
        """What ``look`` finds, at once or within ``timeout_s``; None when time ran out."""
        deadline = time.monotonic() + timeout_s
        self._waiting += 1
        try:
            while (found := look()) is None:
                remaining_s = deadline - time.monotonic()
                if remaining_s <= 0 or not self._changed.wait(remaining_s):
                    return None
            return found
        finally:
            self._waiting -= 1
