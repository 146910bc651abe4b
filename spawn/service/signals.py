"""A service in a process of its own: signals in, an exit code out.

SIGTERM and SIGINT stop it within ``timeouts.shutdown``, SIGHUP reads the configuration again, SIGUSR1 opens the log
file anew (for logrotate). A second SIGTERM or SIGINT changes nothing: the stop has a deadline already. When the service
has ended all four stay without effect, so that none of them makes a good end look like a crash.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable

import gevent
from gevent.event import Event

import spawn.log
from spawn.errors import JournalBroken, StartError
from spawn.service.compose import Service

log = logging.getLogger("spawn.service")

HEEDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
EXIT_OK = 0
EXIT_BROKEN = 1


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
    asked = Event()
    gevent.signal_handler(signal.SIGTERM, _ask, asked, "SIGTERM")
    gevent.signal_handler(signal.SIGINT, _ask, asked, "SIGINT")
    gevent.signal_handler(signal.SIGHUP, _reload, asked, reload)
    gevent.signal_handler(signal.SIGUSR1, _reopen)
    installed()
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
    log.info("stopped; %s", _farewell(service))
    return EXIT_OK


def _ask(asked: Event, name: str) -> None:
    if not asked.is_set():
        log.info("%s: told to stop", name)
    asked.set()


def _reload(asked: Event, reload: Callable[[], None]) -> None:
    if not asked.is_set():
        reload()


def _reopen() -> None:
    try:
        spawn.log.reopen()
    except StartError as error:
        log.error("%s", error)


def _farewell(service: Service) -> str:
    unsettled = service.unsettled()
    return "; ".join(f"{node} {reason}" for node, reason in unsettled.items()) or "every node has every update"
