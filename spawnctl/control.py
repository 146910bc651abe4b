"""The service commands: install, remove, start, stop, status. One line each, and an exit code.

Where a service is installed for systemd, systemd is asked. Everywhere else (SysV, containers, users without root)
Spawn is its own daemon; the SysV script calls these commands, not the other way round.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from spawn.config import Config, default_state_dir, load
from spawn.errors import ConfigError, StartError
from spawn.state.directory import StateDirectory
from spawnctl import account, daemon, foreground, install, installed, pidfile, purge
from spawnctl.daemon import Daemon
from spawnctl.foreground import Plan
from spawnctl.machine import USER, ControlError, Init, Machine
from spawnctl.output import say
from spawnctl.pidfile import PidFile
from spawnctl.privileges import Identity
from spawnctl.systemd import Systemd, UncleanEnd, has_low_port
from spawnctl.usage import CommandLine

VERBS = {"install": "Install", "remove": "Removing", "start": "Starting", "stop": "Stopping"}
LOCK = Path("/run/spawnctl.lock")
READY_TIMEOUT_S = 60.0
STOP_MARGIN_S = 15.0  # for what comes after timeouts.shutdown
MAX_STOP_S = 120.0
NOT_INSTALLED = "Service is not installed"
NO_SERVICE = "It runs as a daemon of root's: 'spawnctl install' makes a service of it, which a boot starts."
LIMITS = ("no permission to listen on port", "read-only file system", "Read-only file system")
HOW_TO_WIDEN = "The unit allows what was configured when it was installed: 'spawnctl remove', then 'spawnctl install'."
KEPT = "Kept: {what}. 'spawnctl remove --purge{own}' deletes that, too."
RUNNING, STOPPED, UNKNOWN = 0, 3, 4  # the LSB's exit codes of status
CANCELLED = 1  # the operator said no


def run(line: CommandLine, machine: Machine) -> int:
    """Carry out one of the five commands; the return value is the exit code."""
    try:
        machine = machine.for_user(line.user) if line.command == "install" else meant(machine, line.user)
        if line.purge and not _agreed(machine):
            say("Nothing has been removed.")
            return CANCELLED
    except (ControlError, StartError) as error:
        say(str(error), stream=sys.stderr)
        return UNKNOWN if line.command == "status" else 1
    if line.command == "status":
        return _status(machine)
    say(f"{VERBS[line.command]} Spawn Sync Service:", end="")
    try:
        with contextlib.ExitStack() as around:
            if line.command in ("install", "remove"):
                around.enter_context(_alone(machine))
            if line.command in ("install", "remove") or machine.installed() is Init.SYSTEMD:
                around.enter_context(_undone_when_told_to_end())
            notes = _carry_out(line, machine)
    except ConfigError as error:
        return _failed(error.faults, 2)
    except ControlError as error:
        return _failed([str(error), *(f"  {line}" for line in error.log_tail)], 1)
    except (StartError, OSError) as error:
        return _failed([str(error)], 1)
    say(outcome(True, sys.stdout))
    for note in notes:
        say(note)
    return 0


def meant(machine: Machine, user: bool = False) -> Machine:
    """Whose service is meant. A user who has one, on a machine that has none, need not say ``--user``.

    :raises ControlError: the user has no home to look in.
    """
    if user or machine.uid == 0 or machine.installed() is not Init.NONE:
        return machine.for_user(user)
    return machine.for_user(machine.for_user(True).installed() is Init.SYSTEMD)


@contextlib.contextmanager
def _alone(machine: Machine) -> Iterator[None]:
    """One ``install`` or ``remove`` of the machine's service at a time: one's undo would take what another needs."""
    path = machine.at(LOCK)
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:  # not root, as will be said; or there is no /run
        yield
        return
    with contextlib.closing(os.fdopen(handle)):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ControlError("another 'spawnctl install' or 'remove' is at work") from None
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _undone_when_told_to_end() -> Iterator[None]:
    """SIGTERM, and SIGHUP of a connection that breaks, are like Ctrl-C meanwhile: what has been begun is undone."""

    def end(number: int, frame: object) -> None:
        for which in before:
            signal.signal(which, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {which: signal.getsignal(which) for which in (signal.SIGTERM, signal.SIGHUP)}
    before = {which: handler for which, handler in before.items() if handler is not signal.SIG_IGN}  # as by nohup(1)
    for which in before:
        signal.signal(which, end)
    try:
        yield
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)


def _carry_out(line: CommandLine, machine: Machine) -> Sequence[str]:
    """Returns what there is to say beyond the one line."""
    if machine.user and line.command in ("start", "stop") and machine.installed() is Init.NONE:
        raise ControlError(f"{NOT_INSTALLED}: 'spawnctl install --user' does that")
    match line.command:
        case "install":
            if not machine.user and machine.uid == 0 and machine.installed() is Init.NONE and _runs(machine):
                raise ControlError("a daemon of Spawn's runs, which nobody installed: 'spawnctl stop' first")
            return install.install(machine, install.plan(machine, line))
        case "remove":
            return _remove(machine, line.purge)
        case "start":
            _start(machine, line.restored)
            if machine.installed() is Init.NONE and machine.init is not Init.NONE and machine.uid == 0:
                return [NO_SERVICE]
        case "stop":
            _stop(machine)
    return []


def outcome(good: bool, stream: TextIO) -> str:
    """How the line of a command ends: in colour on a terminal, unless the user wants none (no-color.org)."""
    text, colour = ("  OK  ", 32) if good else ("FAILED", 31)
    if stream.isatty() and not os.environ.get("NO_COLOR"):
        text = text.replace(text.strip(), f"\033[{colour}m{text.strip()}\033[0m")
    return f"\t\t\t\t\t[{text}]"


def _failed(lines: Sequence[str], code: int) -> int:
    say(outcome(False, sys.stdout))
    for line in lines:
        say(line, stream=sys.stderr)
    return code


# -- remove


def _agreed(machine: Machine) -> bool:
    """Whether the operator wants all of it gone. A script that says ``--purge`` is not asked."""
    if not sys.stdin.isatty() or (machine.uid != 0 and not machine.user):
        return True
    found = purge.find(machine)
    if not found:
        return True
    asked = "\n".join(["Beside the service this deletes for ever:", *found.lines(), "Delete it? [y/N] "])
    if not say(asked, end=""):
        return False  # nobody agrees to a question that was not seen
    try:
        answer = sys.stdin.readline()
    except (OSError, ValueError):
        return False
    if not answer.endswith("\n"):
        say()
    return answer.strip().lower() in ("y", "yes")


def _remove(machine: Machine, everything: bool) -> Sequence[str]:
    machine.need_root()
    found = purge.find(machine)
    notes: list[str] = []
    if machine.installed() is not Init.NONE:
        install.remove(machine, lambda: notes.extend(_stop_if_running(machine)))
    elif not (everything and found):
        raise ControlError(NOT_INSTALLED)
    elif _runs(machine):
        raise ControlError("the service runs: 'spawnctl stop' first")
    if everything:
        return [*notes, *purge.purge(machine, found)]
    own = " --user" if machine.user else ""
    return [*notes, KEPT.format(what=found.summary(), own=own)] if found else notes


def _stop_if_running(machine: Machine) -> list[str]:
    """Returns what there is to say of its end. One that has ended, in whatever way, is no reason not to remove it."""
    try:
        if _runs(machine):
            _stop(machine)
    except UncleanEnd as error:
        return [str(error)]
    return []


def _runs(machine: Machine) -> bool:
    if machine.installed() is Init.SYSTEMD:
        return not Systemd(machine).has_stopped()
    return find_pid_file(machine).holder() is not None


# -- start


def _start(machine: Machine, restored: bool) -> None:
    here = machine.installed()
    if here is Init.SYSTEMD:
        machine.need_root()
        installed.plan(machine)  # a faulty configuration is said here, at once and in full
        return _start_by_systemd(machine, restored)
    if here is Init.SYSV:
        machine.need_root()
    plan = installed.with_log_file(machine, dataclasses.replace(installed.plan(machine), restored=restored))
    pid_file = _pid_file(machine, plan.state_dir)
    if restored:
        StateDirectory(str(plan.state_dir)).require()  # before the directory is made, or the log file in it
    identity = _identity(machine, plan) if here is Init.SYSV else None
    if identity is None:
        # Before a pid file in it makes it less private. Should that fail, the service says what is wrong with it.
        with contextlib.suppress(OSError):
            plan.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)

    def serve(ready: Callable[[], None]) -> int:
        if identity is not None:
            _read_again(plan)
        return foreground.serve(plan, on_ready=lambda service: ready())

    daemon.start(Daemon(serve, pid_file, Path(plan.config.log.file), identity), READY_TIMEOUT_S)
    return None


def _start_by_systemd(machine: Machine, restored: bool) -> None:
    command = installed.command(machine) if restored else []
    if restored and not command:
        raise ControlError("what the unit runs cannot be read: see 'systemctl cat spawn'")
    try:
        Systemd(machine).start([*command, "--restored"] if restored else ())
    except ControlError as error:
        if any(limit in line for limit in LIMITS for line in error.log_tail):
            error.log_tail.append(HOW_TO_WIDEN)
        raise


def _read_again(plan: Plan) -> None:
    """Root could read the configuration. As who it is now, the service has to, or no reload will work."""
    try:
        load(plan.config_path, plan.overrides, search=())
    except ConfigError as error:
        raise StartError(f"as the service's user '{USER}': {error.faults[0]}") from None


def _identity(machine: Machine, plan: Plan) -> Identity:
    """Whom an installed service runs as. Its log file is made for it, since it may not make one in /var/log."""
    account.owner(machine)
    install.make_log_file(machine, Path(plan.config.log.file))
    user = machine.account(USER)
    assert user is not None  # owner() has seen it
    return Identity(user, has_low_port(plan.config))


def _pid_file(machine: Machine, state_dir: Path) -> PidFile:
    return PidFile(pidfile.pid_path(machine.environ, machine.uid, state_dir))


def find_pid_file(machine: Machine) -> PidFile:
    """The pid file of the daemon that runs; a configuration that was broken since then does not hide it.

    :raises ControlError: there is one that cannot be read.
    """
    if machine.installed() is Init.SYSV:
        return PidFile(pidfile.pid_path(machine.environ, 0, Path("/")))
    try:
        state_dir = installed.plan(machine).state_dir
    except ConfigError:
        state_dir = Path(default_state_dir(Config(), machine.uid, machine.environ))
    own = _pid_file(machine, state_dir)
    places = (own.path, pidfile.pid_path({}, 0, state_dir), state_dir / "spawn.pid")
    candidates = [PidFile(path) for path in dict.fromkeys(places)]
    return next((candidate for candidate in candidates if candidate.holder() is not None), own)


# -- stop


def _stop(machine: Machine) -> None:
    here = machine.installed()
    if here is not Init.NONE:
        machine.need_root()
    if here is Init.SYSTEMD:
        return Systemd(machine).stop()
    daemon.stop(find_pid_file(machine), _shutdown_s(machine) + STOP_MARGIN_S)
    return None


def _shutdown_s(machine: Machine) -> float:
    """How long it may take over its end. What runs may have been told longer than what is in the file by now."""
    try:
        return max(MAX_STOP_S, installed.plan(machine).config.timeouts.shutdown)
    except ConfigError:
        return MAX_STOP_S


# -- status


def _status(machine: Machine) -> int:
    try:
        here = machine.installed()
        systemd = Systemd(machine) if here is Init.SYSTEMD else None
        pid = systemd.pid() if systemd else find_pid_file(machine).holder()
        why = systemd.why_stopped() if systemd and not pid else ""
    except (ControlError, StartError, OSError) as error:
        say(str(error), stream=sys.stderr)
        return UNKNOWN
    if not pid:
        say("Service is stopped")
        if here is Init.NONE and machine.init is not Init.NONE:
            why = "it is not installed"
        if why:
            say(why)
        return STOPPED
    say(f"Service (pid  {pid}) is running...")
    for line in _describe(machine, systemd, pid):
        say(line)
    return RUNNING


def _describe(machine: Machine, systemd: Systemd | None, pid: int) -> list[str]:
    from spawnctl import status  # requests takes longer to import than all the rest

    words = systemd.words(pid) if systemd else []
    try:
        config = installed.plan(machine, installed.options_in(words) or None).config
    except ConfigError as error:
        return [f"where its API listens is not known: {error.faults[0]}"]
    lines = status.describe(installed.api_url(config.api.host, config.api.port), pid)
    if words and os.path.realpath(os.path.dirname(words[0])) != os.path.realpath(os.path.dirname(machine.python)):
        lines.append(f"it runs by {words[0]}, and this command by {machine.python}")
    return lines
