"""Native threads for calls that block, without a traceback on standard error when one of them fails.

The threads are native even when the embedding program has monkey-patched ``threading``. They run in the scheduling
class for work that is not interactive. Otherwise, where they share a core with the hub, the kernel suspends the hub
for them whenever a system call of theirs is over, thousands of times a second, only for them to find that the hub holds
the interpreter's lock. With a core of their own they run at once all the same.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import gevent
from gevent.event import AsyncResult
from gevent.threadpool import ThreadPool

from spawn.http11.threads import call_in

T = TypeVar("T")


def to_its_end(function: Callable[[], T]) -> T:
    """Run in a greenlet of its own, which goes on when the caller's is killed; its errors are raised here."""
    result: AsyncResult[T] = AsyncResult()

    def run() -> None:
        try:
            result.set(function())
        except Exception as error:  # noqa: BLE001 — raised again where it is waited for
            result.set_exception(error)

    gevent.spawn(run)
    got: T = result.get()  # type: ignore[assignment]
    return got


class Ended(Exception):
    """A deadline passed; never leaves the function that set it."""


def _without_preempting(function: Callable[..., T], *args: object) -> T:
    """Call it in a thread that does not interrupt others (SCHED_BATCH of sched(7)), where the system has such."""
    with contextlib.suppress(OSError, AttributeError):  # forbidden by a sandbox; not Linux
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    return function(*args)


def _nothing() -> None:
    """A piece of work that shows that others would be done."""


class NativeThreads:
    """A fixed number of threads; use it from the hub's thread only."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._pool: ThreadPool | None = None
        self._worker = 0  # the kernel's number of the one that was given something last
        self._unanswered_s = 0.0  # monotonic time of the first question since the last answer; 0: none is open

    def call(self, function: Callable[..., T], *args: object) -> T:
        """Run on one of the threads; blocks the calling greenlet only. The call goes on if that greenlet is killed."""
        if self._pool is None:
            self._pool = ThreadPool(self._size)
        result: T = call_in(self._pool, self._run, (function, *args))
        return result

    def _run(self, function: Callable[..., T], *args: object) -> T:
        """On a thread."""
        self._worker = threading.get_native_id()
        return _without_preempting(function, *args)

    def answer(self, timeout_s: float, busy_s: float) -> bool:
        """Whether the one thread does what it is given: an empty call came back within ``timeout_s``.

        A thread that is busy counts as well while its clock shows that it goes on, for ``busy_s`` at most: one that
        waits for a disk that hangs takes no time of a CPU, one that waits for a slow disk takes a little for each
        answer of it. A thread that was not needed yet, or not any more, has nothing to answer.
        """
        if self._pool is None:
            return True
        asked_s, worked_ns = time.monotonic(), self._worked_ns()
        try:
            with gevent.Timeout(timeout_s, Ended):
                self.call(_nothing)
        except Ended:
            self._unanswered_s = self._unanswered_s or asked_s
            return self._worked_ns() > worked_ns and time.monotonic() < self._unanswered_s + busy_s
        self._unanswered_s = 0.0
        return True

    def _worked_ns(self) -> int:
        """CPU time of the thread so far, by the clock of it that clock_getres(2) tells how to name."""
        try:
            return time.clock_gettime_ns((~self._worker << 3) | 6) if self._worker else 0
        except OSError:  # a system without such clocks
            return 0

    def stop(self, deadline_s: float) -> None:
        """End the threads once they are idle; after the deadline they are left to themselves (they are daemons)."""
        pool, self._pool = self._pool, None
        if pool is not None:
            with contextlib.suppress(Ended), gevent.Timeout(max(0.0, deadline_s), Ended):
                pool.kill()
