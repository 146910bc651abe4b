"""A latch: opened once, and waited for by one greenlet, with a deadline.

Every update waits twice, for the disk and for its answer. gevent's events serve any number of greenlets, and end a wait
by an exception that a timer throws; this costs half as much.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gevent import get_hub, getcurrent


class Latch:
    __slots__ = ("_resume", "is_open")

    def __init__(self) -> None:
        self.is_open = False
        self._resume: Callable[[], Any] | None = None  # the greenlet that waits

    def open(self) -> None:
        """Let whoever waits go on, a moment later. May be called again."""
        self.is_open = True
        if self._resume is not None:
            get_hub().loop.run_callback(self._wake)

    def wait(self, timeout_s: float) -> bool:
        """Whether it is open: at once when it is, else when it opens or after ``timeout_s`` seconds, not earlier."""
        if self.is_open or timeout_s <= 0:
            return self.is_open
        assert self._resume is None, "somebody else waits for this"
        hub = get_hub()
        self._resume = getcurrent().switch
        timer = hub.loop.timer(timeout_s)
        try:
            timer.start(self._wake, update=True)  # from now, and not from when the event loop last looked at the clock
            hub.switch()
        finally:  # also when it is killed: it is somewhere else then
            self._resume = None
            timer.stop()
            timer.close()
        return self.is_open

    def _wake(self) -> None:
        if self._resume is not None:
            self._resume()
