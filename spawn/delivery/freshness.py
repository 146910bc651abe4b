"""The floor: how far a node must be for a read to be fresh, and the wait for a node that is.

The floor is the highest sequence whose reference answer below 500 was about to be sent to a client. It moves before
the first byte of that answer leaves, so a client that has its answer, and tells somebody, is never behind the floor.
After a restart nobody knows what was answered, so the floor starts at the journal's head.

Reads wait in groups, by the floor they found. A serving node goes on by one update at a time, so each step makes it
fresh for one group, and wakes no other; any other change of a node wakes all.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from gevent.event import Event

T = TypeVar("T")


class _Group:
    """Those that wait for the same floor."""

    def __init__(self) -> None:
        self.woken = Event()
        self.size = 0


class Freshness:
    def __init__(self) -> None:
        self.floor = 0
        self._waiting: dict[int, _Group] = {}

    def raise_to(self, sequence: int) -> None:
        self.floor = max(self.floor, sequence)

    def reached(self, position: int) -> None:
        """A serving node has moved to ``position`` from the one before: who waits for just that looks again."""
        group = self._waiting.pop(position, None)
        if group is not None:
            group.woken.set()

    def notify(self) -> None:
        """States, flags or positions have changed in any way: whoever waits for a node looks again."""
        waiting, self._waiting = self._waiting, {}
        for group in waiting.values():
            group.woken.set()

    def wait_for(self, floor: int, look: Callable[[], T | None], timeout_s: float) -> T | None:
        """What ``look`` finds, at once or within ``timeout_s``; None when time ran out.

        ``look`` wants a node at ``floor`` or above.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            group = self._waiting.setdefault(floor, _Group())
            group.size += 1  # before the look, so that no notice comes too early
            try:
                found = look()
                remaining_s = deadline - time.monotonic()
                if found is not None or remaining_s <= 0 or not group.woken.wait(remaining_s):
                    return found
            finally:
                self._leave(floor, group)

    def _leave(self, floor: int, group: _Group) -> None:
        group.size -= 1
        if not group.size and self._waiting.get(floor) is group:
            del self._waiting[floor]
