"""All deadlines of sockets, kept by one greenlet.

A timer per read or write costs a third of the throughput, so nobody has one. A ``Watch`` holds the moment when its
socket's current wait is over; arming and disarming it is storing a float. The sweeper looks at all watches every
``resolution_s`` and shuts down the sockets whose moment has passed, which wakes the greenlet that waits for them: a
``recv`` comes back with an end of file, a ``send`` fails. That greenlet then sees ``expired`` and knows why.

Invariants: a deadline is never early and at most about ``resolution_s`` late (an idle client that has not taken its
last answer is given the time for that besides); only a socket's owner closes it, so that no descriptor is shut down
that has been given to somebody else meanwhile (``cancel`` comes before ``close``).
"""

from __future__ import annotations

import contextlib
import math
import socket
import time
from collections.abc import Callable
from typing import Protocol

import gevent
from gevent.event import Event
from gevent.greenlet import Greenlet

_NEVER = math.inf
_now = time.monotonic


class Shutdownable(Protocol):
    """A socket, as far as the sweeper is concerned."""

    def shutdown(self, how: int, /) -> None: ...


def wake(sock: Shutdownable, how: int) -> None:
    """Shut a socket down so that the greenlet that waits for it comes back with an end of file or a failed send.

    This goes past gevent's own ``shutdown``, which throws "bad file descriptor" into that greenlet a moment later, even
    if it waits for something else by then.
    """
    with contextlib.suppress(OSError):  # the peer was quicker
        getattr(sock, "_sock", sock).shutdown(how)


class Watch:
    """The deadline of one socket. Its owner arms it before a wait and disarms it afterwards."""

    __slots__ = ("_deadlines", "deadline_s", "expired", "how", "renew", "sock")

    def __init__(self, deadlines: Deadlines, sock: Shutdownable, how: int) -> None:
        self._deadlines = deadlines
        self.sock = sock
        self.how = how
        self.deadline_s = _NEVER  # on the monotonic clock
        self.expired = False
        self.renew: Callable[[], float] | None = (
            None  # asked at the deadline for more seconds; 0.0: none. May not wait.
        )

    def arm(self, seconds: float, how: int | None = None) -> None:
        """Give the wait that begins now ``seconds``; it replaces an earlier deadline. ``how``: SHUT_RD or SHUT_RDWR."""
        self.expired = False
        if how is not None:
            self.how = how
        self.deadline_s = _now() + seconds

    def disarm(self) -> None:
        """The wait is over."""
        self.deadline_s = _NEVER

    def cancel(self) -> None:
        """No more deadlines: the socket is about to be closed. May be called twice."""
        self.deadline_s = _NEVER
        self.renew = None
        self._deadlines.forget(self)

    def expire(self, now_s: float) -> None:
        """Called by the sweeper when the moment has passed."""
        more_s = self.renew() if self.renew is not None else 0.0
        if more_s > 0:
            self.deadline_s = now_s + more_s
            return
        self.deadline_s = _NEVER
        self.expired = True
        wake(self.sock, self.how)


class Deadlines:
    """The sweeper. Watches may be made before it is started; they expire once it runs."""

    def __init__(self, resolution_s: float = 0.25) -> None:
        self.resolution_s = resolution_s
        self._watches: set[Watch] = set()
        self._stopping = Event()
        self._sweeper: Greenlet[[], None] | None = None

    def start(self) -> None:
        if self._sweeper is None:
            self._stopping.clear()
            self._sweeper = gevent.spawn(self._run)

    def stop(self, deadline_s: float = 1.0) -> None:
        """End the sweeper. What is still watched has no deadline any more."""
        self._stopping.set()
        if self._sweeper is not None:
            self._sweeper.join(deadline_s)
            self._sweeper = None

    def watch(self, sock: Shutdownable, how: int = socket.SHUT_RDWR) -> Watch:
        """A disarmed watch; its owner cancels it before it closes the socket."""
        watch = Watch(self, sock, how)
        self._watches.add(watch)
        return watch

    def forget(self, watch: Watch) -> None:
        self._watches.discard(watch)

    def __len__(self) -> int:
        return len(self._watches)

    def _run(self) -> None:
        while not self._stopping.wait(self.resolution_s):
            now_s = _now()
            for watch in [watch for watch in self._watches if watch.deadline_s <= now_s]:
                watch.expire(now_s)
