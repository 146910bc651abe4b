"""Running the service in this process: in the foreground, or as what a daemon does.

This is the only place of the command that makes a ``Service``. It imports it inside functions: ``spawn.service``
imports gevent, and a process that still means to become a daemon must not have touched gevent.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from spawn import log as spawn_log
from spawn.config import Config, LoadedConfig, default_state_dir

if TYPE_CHECKING:
    from spawn.service import Service
    from spawn.service.supervision import Supervision

log = logging.getLogger("spawn.service")

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
LATER_SIGNALS = (signal.SIGHUP, signal.SIGUSR1)


@dataclass(frozen=True)
class Plan:
    """Everything a run needs; all paths are absolute, because a daemon's working directory is the root."""

    config: Config
    config_path: str | None
    state_dir: Path
    overrides: Mapping[str, object]
    warnings: tuple[str, ...] = ()
    restored: bool = False  # the state comes from a backup

    @classmethod
    def make(
        cls,
        loaded: LoadedConfig,
        overrides: Mapping[str, object],
        restored: bool = False,
        environ: Mapping[str, str] = os.environ,
    ) -> Plan:
        """Find the place of the state where the configuration names none, and make paths that were typed absolute.

        :raises StartError: there is no place for the state.
        """
        config = loaded.config
        typed = {"state-dir": config.state_dir, "log.file": config.log.file}  # as the loader resolved them
        absolute = {key: typed.get(key, value) for key, value in overrides.items()}
        state_dir = Path(default_state_dir(config, os.geteuid(), environ))
        return cls(config, loaded.path, state_dir, absolute, loaded.warnings, restored)

    def logging_to(self, file: Path) -> Plan:
        """The same with another log file."""
        log_config = msgspec.structs.replace(self.config.log, file=str(file))
        config = msgspec.structs.replace(self.config, log=log_config)
        return dataclasses.replace(self, config=config, overrides={**self.overrides, "log.file": str(file)})


class StopAsked(BaseException):
    """SIGTERM or SIGINT came while the service was still starting."""


def serve(
    plan: Plan,
    on_ready: Callable[[Service], None] = lambda service: None,
    on_stopped: Callable[[Service], None] = lambda service: None,
) -> int:
    """Run the service until it is told to stop.

    :param on_ready: called once the ports are open and signals are handled.
    :param on_stopped: called after the service has stopped, before its last traces are gone.
    :return: the exit code of the process.
    :raises StartError: it cannot start.
    """
    spawn_log.setup(plan.config.log.level, plan.config.log.format, plan.config.log.file)
    spawn_log.show_crashes()  # SIGABRT is what a service manager ends a service with that does not answer
    for warning in plan.warnings:
        log.warning("%s", warning)
    hold_later_signals()
    with ExitStack() as at_the_end:
        at_the_end.callback(_let_later_signals_go)
        try:
            with _stoppable(plan) as (service, release):
                supervision = _supervise(service)
                at_the_end.callback(supervision.stop)
                service.start()
                return _run(service, supervision, release, on_ready, on_stopped)
        except StopAsked:
            log.info("told to stop while starting")
            end_undisturbed()
            supervision.stopping()
            service.stop(plan.config.timeouts.shutdown)
            return 0


def _supervise(service: Service) -> Supervision:
    """Tell the service manager of this process, if there is one, how the service is from now on."""
    from spawn.service.notify import ServiceManager
    from spawn.service.supervision import Supervision

    supervision = Supervision(service, ServiceManager.of(os.environ, os.getpid()))
    supervision.start()
    return supervision


def hold_later_signals() -> None:
    """Keep SIGHUP and SIGUSR1, whose default is to kill, until ``run()`` heeds them. May be called twice.

    A thread inherits that, so it has to come before the first one; a fork inherits it too. It also has to come before
    anybody can know the pid, such as from a pid file: what is sent earlier is the end.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, LATER_SIGNALS)


def _let_later_signals_go() -> None:
    """Without effect now: nobody is left to heed them."""
    for which in LATER_SIGNALS:
        signal.signal(which, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, LATER_SIGNALS)


def _run(
    service: Service,
    supervision: Supervision,
    release: Callable[[], None],
    on_ready: Callable[[Service], None],
    on_stopped: Callable[[Service], None],
) -> int:
    import gevent

    from spawn.service.signals import run

    def installed() -> None:
        release()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, LATER_SIGNALS)

    announcing = gevent.spawn(_announce, on_ready, service, supervision)  # its turn comes when run() waits for signals
    try:
        return run(service, supervision.reload, installed, supervision.stopping)
    finally:
        end_undisturbed()
        announcing.kill()
        on_stopped(service)


def end_undisturbed() -> None:
    """A second Ctrl-C must not cut the end short: what is left to do is short and has deadlines."""
    for which in STOP_SIGNALS:
        signal.signal(which, signal.SIG_IGN)


def _announce(on_ready: Callable[[Service], None], service: Service, supervision: Supervision) -> None:
    try:
        on_ready(service)
    except OSError as error:
        log.warning("standard output is gone: %s", error.strerror)
    supervision.ready()


@contextmanager
def _stoppable(plan: Plan) -> Iterator[tuple[Service, Callable[[], None]]]:
    """A new service, and StopAsked in the calling greenlet when SIGTERM or SIGINT come before the release is called.

    The signals are held back until that works: an import that one of them broke off would leave half a module. Without
    a release they have no effect afterwards (to cancel the handlers would bring back the default, which is to die).
    """
    watchers: list[Any] = []
    over = False
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        import gevent

        from spawn.service import Service

        service = Service(
            plan.config,
            state_dir=str(plan.state_dir),
            config_path=plan.config_path,
            overrides=plan.overrides,
            restored=plan.restored,
        )
        caller = gevent.getcurrent()

        def stop() -> None:
            nonlocal over
            if not over:
                over = True
                caller.throw(StopAsked)

        watchers = [gevent.signal_handler(which, stop) for which in STOP_SIGNALS]
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

        def release() -> None:
            while watchers:
                watchers.pop().cancel()

        yield service, release
    finally:
        over = True
        if watchers:
            end_undisturbed()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
