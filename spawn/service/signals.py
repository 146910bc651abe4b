"""A service in a process of its own: signals in, an exit code out.

SIGTERM and SIGINT stop it within ``timeouts.shutdown``, SIGHUP reads the configuration again, SIGUSR1 opens the log
file anew (for logrotate). A second SIGTERM or SIGINT changes nothing: the stop has a deadline already. When the service
has ended all four stay without effect, so that none of them makes a good end look like a crash.

A signal only sets an event, and what it asks for is done by one greenlet: any number of them that come meanwhile are
one more time, and leave nothing behind that grows.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from typing import NoReturn

import gevent
from gevent.event import Event

import spawn.log
from spawn.errors import JournalBroken
from spawn.service.compose import Service

log = logging.getLogger("spawn.service")

HEEDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
EXIT_OK = 0
EXIT_BROKEN = 1
KILL_S = 1.0  # for a reload that is under way when the service has ended: it has nothing left to change


def run(
    service: Service,
    reload: Callable[[], None],
    installed: Callable[[], None] = lambda: None,
    stopping: Callable[[], None] = lambda: None,
) -> int:
    """Block until the started service is told to stop, or has to. Returns the exit code.

    ``installed`` is called when the signals are handled here: until then the caller's own handlers have to stand.
    ``stopping`` is called just before the service is stopped, whatever the reason. Neither may block or fail.
    Once in a process: the signals stay without effect afterwards.
    """
    asked, hung_up, rotated = Event(), Event(), Event()
    gevent.signal_handler(signal.SIGTERM, _ask, asked, "SIGTERM")
    gevent.signal_handler(signal.SIGINT, _ask, asked, "SIGINT")
    gevent.signal_handler(signal.SIGHUP, hung_up.set)
    gevent.signal_handler(signal.SIGUSR1, rotated.set)
    installed()
    heeding = [
        gevent.spawn(_each_time, hung_up, "SIGHUP", _unless(asked, reload)),
        gevent.spawn(_each_time, rotated, "SIGUSR1", spawn.log.reopen),
    ]
    try:
        gevent.wait([asked, service.ended], count=1)
        log.info("stopping")
        stopping()
        service.stop()
        service.wait()
    except JournalBroken:
        service.stop()
        return EXIT_BROKEN
    finally:
        for which in HEEDED:  # over the handlers: to cancel those would bring back the default, which is to die
            signal.signal(which, signal.SIG_IGN)
        gevent.killall(heeding, timeout=KILL_S)
    log.info("stopped; %s", _farewell(service))
    return EXIT_OK


def _ask(asked: Event, name: str) -> None:
    if not asked.is_set():
        log.info("%s: told to stop", name)
    asked.set()


def _each_time(came: Event, name: str, work: Callable[[], None]) -> NoReturn:
    """Do ``work`` when the signal came, and once more when it came again meanwhile, however often."""
    while True:
        came.wait()
        came.clear()
        try:
            work()
        except Exception:
            log.exception("an error in Spawn: what %s asks for failed", name)


def _unless(asked: Event, reload: Callable[[], None]) -> Callable[[], None]:
    """A service that stops takes over nothing."""
    return lambda: None if asked.is_set() else reload()


def _farewell(service: Service) -> str:
    unsettled = service.unsettled()
    return "; ".join(f"{node} {reason}" for node, reason in unsettled.items()) or "every node has every update"
