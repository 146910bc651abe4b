"""What the service manager is told of a service, and when: its phases, one line of status, and that it is alive.

``Supervision`` is for a process of its own (``spawnctl``); an embedded ``Service`` knows nothing of it. Its calls never
block, but for ``reload``, which takes as long as the reload.

Alive means that the hub runs, since this runs on it, **and** that the journal's thread answers, or is seen to work.
Only then a start or a reload that takes long is given more time, and the watchdog is served. Both go on asking, so
nothing is remembered that could be wrong later.
"""

from __future__ import annotations

import logging
import time
from typing import Any, Protocol

import gevent
from gevent.event import Event
from gevent.lock import RLock

from spawn.service.notify import ServiceManager

log = logging.getLogger("spawn.service")

STATUS_S = 3.0  # a change of the status is told after this long at most, and not more often
WATCHDOG_PART = 6  # of its interval: a piece of work that is not seen to go on may take five of them
START_ASK_S = 10.0  # how often a start or a reload is looked at,
START_EXTENSION_S = 60.0  # and how much longer than that it may take: as the watchdog, a few missed looks do no harm
STOP_MARGIN_S = 15.0  # for what comes after timeouts.shutdown
MICROSECONDS = 1_000_000


class Supervised(Protocol):
    """What is asked of a service; ``compose.Service`` has it."""

    @property
    def shutdown_s(self) -> float: ...

    def status(self) -> str: ...

    def answers(self, timeout_s: float) -> bool: ...

    def reload(self) -> bool: ...


class Supervision:
    """Life: ``start`` before the service's, ``ready``, any number of ``reload``, ``stopping``, ``stop`` at the end."""

    def __init__(self, service: Supervised, manager: ServiceManager) -> None:
        self._service = service
        self._manager = manager
        self._is_ready = False
        self._is_reloading = False
        self._is_stopping = False
        self._refused_at = ""  # when the configuration was not taken over
        self._said = ""  # the last status
        self._has_news = Event()  # a status that is not to be waited for
        self._one_reload = RLock()  # one after the other: the manager counts none
        self._has_begun = Event()  # a reload, which is looked at from its beginning on
        self._silent_from_s = 0.0  # monotonic; 0 while the journal answers
        self._greenlets: list[gevent.Greenlet[..., Any]] = []

    def start(self) -> None:
        """From now on the start is alive as long as it is seen to be."""
        if self._manager.address:
            self._greenlets = [gevent.spawn(self._keep_status), gevent.spawn(self._keep_alive)]

    def ready(self) -> None:
        if not self._is_stopping:
            self._is_ready = True
            self._manager.insist(READY=1, STATUS=self._status())

    def reload(self) -> None:
        """Have the service read its configuration again; what came of it is in the status."""
        with self._one_reload:
            self._is_reloading = True
            self._manager.insist(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1_000)
            self._has_begun.set()
            taken = False
            try:
                taken = self._service.reload()
            finally:
                self._is_reloading = False
                self._refused_at = "" if taken else time.strftime("%H:%M")
                self.ready()

    def stopping(self) -> None:
        """It was told to stop, or has to, and is about to. May be called twice."""
        if not self._is_stopping:
            self._is_stopping = True
            more_us = round((self._service.shutdown_s + STOP_MARGIN_S) * MICROSECONDS)
            self._manager.insist(STOPPING=1, EXTEND_TIMEOUT_USEC=more_us)
            self._has_news.set()  # the status changes as soon as the stop has begun

    def stop(self) -> None:
        """Nothing is told any more."""
        greenlets, self._greenlets = self._greenlets, []
        gevent.killall(greenlets, timeout=1.0)

    # --- status

    def _status(self) -> str:
        """The present one, which counts as said."""
        self._said = self._service.status()
        if self._refused_at:
            self._said += f"; the configuration was not taken over at {self._refused_at}, see the log"
        return self._said

    def _keep_status(self) -> None:
        while True:
            before = self._said
            self._manager.catch_up()
            if self._status() != before:
                self._manager.tell(STATUS=self._said)
            self._has_news.wait(STATUS_S)
            self._has_news.clear()

    # --- life

    def _keep_alive(self) -> None:
        """Asked all the time, where the last answer is outstanding: the first sign of life is told at once."""
        period_s = START_ASK_S
        if self._manager.watchdog_s:
            period_s = min(period_s, self._manager.watchdog_s / WATCHDOG_PART)
        while True:
            began_s = time.monotonic()
            if self._is_waited_for() and self._sees_life(period_s):
                self._tell_life()
            rest_s = max(0.0, began_s + period_s - time.monotonic())
            self._has_begun.wait(rest_s if self._is_waited_for() else None)
            self._has_begun.clear()

    def _is_waited_for(self) -> bool:
        """Whether the manager wants to hear a sign of life, now or within some time."""
        return bool(self._manager.watchdog_s) or self._is_short_of_time()

    def _is_short_of_time(self) -> bool:
        """In a phase that the manager breaks off unless it is told that it goes on. A stop asks for all at once."""
        return not self._is_stopping and (self._is_reloading or not self._is_ready)

    def _tell_life(self) -> None:
        """All in one message: more time for a phase is more time for the watchdog too, until it hears its own word."""
        said = {}
        if self._is_short_of_time():
            said["EXTEND_TIMEOUT_USEC"] = round((START_EXTENSION_S + START_ASK_S) * MICROSECONDS)
        if self._manager.watchdog_s and (self._is_ready or self._is_stopping):  # its first word begins it: not earlier
            said["WATCHDOG"] = 1
        if said:
            self._manager.tell(**said)

    def _sees_life(self, timeout_s: float) -> bool:
        asked_s = time.monotonic()
        answers = self._service.answers(timeout_s)
        if answers and self._silent_from_s:
            log.warning("the journal's thread answers again, after %.1f s", time.monotonic() - self._silent_from_s)
            self._silent_from_s = 0.0
        elif not answers and not self._silent_from_s:
            self._silent_from_s = asked_s
            log.error(
                "the journal's thread has not answered for %.1f s: until it does the service manager does not hear "
                "that Spawn is alive, and may end it",
                timeout_s,
            )
        return answers
