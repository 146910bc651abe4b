"""The service commands: install, remove, start, stop, status. One line each, and an exit code.

Where a service is installed for systemd, systemd is asked. Everywhere else (SysV, containers, users without root)
Spawn is its own daemon; the SysV script calls these commands, not the other way round.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from spawn.config import Config, default_state_dir, load
from spawn.config.load import SEARCH
from spawn.errors import ConfigError, StartError
from spawn.state.directory import StateDirectory
from spawnctl import foreground, process, unit, usage
from spawnctl.foreground import Plan
from spawnctl.process import DaemonError, PidFile
from spawnctl.unit import Init, Machine, UnitError
from spawnctl.usage import CommandLine

VERBS = {"install": "Install", "remove": "Removing", "start": "Starting", "stop": "Stopping"}
SERVICE_SEARCH = ("/etc/spawn/spawn.conf",)  # an installed service has no working directory of the user's
READY_TIMEOUT_S = 60.0
STOP_MARGIN_S = 15.0  # for what comes after timeouts.shutdown
MAX_STOP_S = 120.0  # where the configuration of the running service is not known
RESTORED_BY_HAND = (
    "systemd starts the service with the options of 'install' only: start it by hand this once, with "
    "'runuser -u {user} -- {python} -P -m spawnctl --restored' and those options, end it with Ctrl-C when it serves, "
    "then 'spawnctl start'"
)
RUNNING, STOPPED, UNKNOWN = 0, 3, 4  # the LSB's exit codes of status


def run(line: CommandLine, machine: Machine) -> int:
    """Carry out one of the five commands; the return value is the exit code."""
    if line.command == "status":
        return _status(machine)
    print(f"{VERBS[line.command]} Spawn Sync Service:", end="", flush=True)
    try:
        _carry_out(line, machine)
    except ConfigError as error:
        return _failed(error.faults, 2)
    except (UnitError, DaemonError) as error:
        return _failed([str(error), *(f"  {line}" for line in error.log_tail)], 1)
    except (StartError, OSError) as error:
        return _failed([str(error)], 1)
    print(outcome(True, sys.stdout))
    if line.command == "remove":
        print(f"The configuration stays in {machine.config_file.parent}, the journal in its state directory.")
    return 0


def _carry_out(line: CommandLine, machine: Machine) -> None:
    match line.command:
        case "install":
            _install(machine, line.with_absolute_paths())
        case "remove":
            unit.remove(machine, lambda: _stop_if_running(machine))
        case "start":
            _start(machine, line.restored)
        case "stop":
            _stop(machine)


def outcome(good: bool, stream: TextIO) -> str:
    """How the line of a command ends: in colour on a terminal, unless the user wants none (no-color.org)."""
    text, colour = ("  OK  ", 32) if good else ("FAILED", 31)
    if stream.isatty() and not os.environ.get("NO_COLOR"):
        text = text.replace(text.strip(), f"\033[{colour}m{text.strip()}\033[0m")
    return f"\t\t\t\t\t[{text}]"


def _failed(lines: Sequence[str], code: int) -> int:
    print(outcome(False, sys.stdout), flush=True)
    for line in lines:
        print(line, file=sys.stderr)
    return code


def _install(machine: Machine, line: CommandLine) -> None:
    """Everything is checked before anything is written."""
    unit.check_can_install(machine)
    load(line.config, line.overrides, search=SERVICE_SEARCH)
    unit.install(machine, line.as_options())


def _start(machine: Machine, restored: bool) -> None:
    installed = machine.installed()
    if installed is Init.SYSTEMD:
        if restored:
            raise UnitError(RESTORED_BY_HAND.format(user=unit.USER, python=machine.python))
        return unit.start_systemd(machine)
    if installed is Init.SYSV:
        machine.need_root()
    plan = dataclasses.replace(_plan(machine), restored=restored)
    pid_file = _pid_file(machine, plan.state_dir)
    if restored:
        StateDirectory(str(plan.state_dir)).require()  # before the directory is made, or the log file in it
    with suppress(OSError):  # the service says what is wrong with it
        plan.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)  # before a pid file in it makes it less private

    def serve(ready: Callable[[], None]) -> int:
        return foreground.serve(plan, on_ready=lambda service: ready())

    process.start_daemon(serve, pid_file, Path(plan.config.log.file), READY_TIMEOUT_S)
    return None


def _plan(machine: Machine) -> Plan:
    """What the daemon runs: the options of ``install`` or none, and a log file, since it has no terminal."""
    words = machine.options()
    line = usage.parse(words or [], "")
    loaded = load(line.config, line.overrides, search=SEARCH if words is None else SERVICE_SEARCH)
    plan = Plan.make(loaded, line.overrides)
    if plan.config.log.file:
        return plan
    return plan.logging_to(Path("/var/log/spawn.log") if machine.uid == 0 else plan.state_dir / "spawn.log")


def _pid_file(machine: Machine, state_dir: Path) -> PidFile:
    return PidFile(process.pid_path(os.environ, machine.uid, state_dir))


def _find_pid_file(machine: Machine) -> PidFile:
    """The pid file of the daemon that runs; a configuration that was broken since then does not hide it."""
    try:
        state_dir = _plan(machine).state_dir
    except ConfigError:
        state_dir = Path(default_state_dir(Config(), machine.uid, os.environ))
    own = _pid_file(machine, state_dir)
    system = PidFile(process.pid_path({}, 0, state_dir))
    return system if own.holder() is None and system.holder() is not None else own


def _stop(machine: Machine) -> None:
    installed = machine.installed()
    if installed is Init.SYSTEMD:
        return unit.stop_systemd(machine)
    if installed is Init.SYSV:
        machine.need_root()
    timeout_s = MAX_STOP_S
    with suppress(ConfigError):
        timeout_s = _plan(machine).config.timeouts.shutdown + STOP_MARGIN_S
    process.stop_daemon(_find_pid_file(machine), timeout_s)
    return None


def _stop_if_running(machine: Machine) -> None:
    if _find_pid_file(machine).holder() is not None:
        _stop(machine)


def _status(machine: Machine) -> int:
    try:
        systemd = machine.installed() is Init.SYSTEMD
        pid = unit.systemd_pid(machine) if systemd else _find_pid_file(machine).holder()
    except (UnitError, StartError, OSError) as error:
        print(error, file=sys.stderr)
        return UNKNOWN
    print(f"Service (pid  {pid}) is running..." if pid else "Service is stopped")
    return RUNNING if pid else STOPPED
