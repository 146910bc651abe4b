"""What the service of this machine was given: found again from what ``install`` wrote, or from what runs.

Where nothing is installed it is what ``spawnctl start`` means here and now: the configuration of the working directory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from spawn.config import load
from spawn.config.load import SEARCH
from spawn.errors import ConfigError
from spawnctl import options_file, systemd, sysv, usage
from spawnctl.foreground import Plan
from spawnctl.machine import UNIT, ControlError, Init, Machine
from spawnctl.systemd import Systemd
from spawnctl.usage import CommandLine, UsageError


def command(machine: Machine) -> list[str]:
    """The words of the command that an installed systemd service runs; empty where that cannot be understood.

    What ``systemctl edit`` has given it counts.
    """
    text = ""
    with contextlib.suppress(ControlError):
        text = Systemd(machine).control("cat", UNIT)
    with contextlib.suppress(OSError, ValueError):
        return systemd.command_of(text or machine.unit_file.read_text("utf-8"))
    return []


def options(machine: Machine) -> list[str] | None:
    """The options of the installed service; None where none is installed."""
    installed = machine.installed()
    if installed is Init.SYSTEMD:
        return options_in(command(machine))
    return options_file.read(machine.options_file) if installed is Init.SYSV else None


def options_in(words: Sequence[str]) -> list[str]:
    """Those of a command line of a service: what follows ``-m spawnctl``, or the path of the script."""
    at = next((number for number, word in enumerate(words) if Path(word).name == "spawnctl"), len(words))
    return list(words[at + 1 :])


def plan(machine: Machine, words: Sequence[str] | None = None) -> Plan:
    """What the service runs.

    :param words: options that are known better than by what is installed.
    :raises ConfigError: the options or the configuration are faulty by now.
    """
    given = options(machine) if words is None else list(words)
    line = parsed(given or [])
    loaded = load(line.config, line.overrides, search=SEARCH if given is None else (str(machine.config_file),))
    return Plan.make(loaded, line.overrides, environ=machine.environ)


def parsed(options: Sequence[str]) -> CommandLine:
    """The options of a service, read again. Raises ``ConfigError``: they are not ours, or no longer."""
    try:
        return usage.parse(options, "")
    except UsageError as error:
        raise ConfigError([f"the options of the installed service: {error}"]) from None


def with_log_file(machine: Machine, plan: Plan) -> Plan:
    """The same for a daemon: it has no terminal, and nobody who keeps what it prints."""
    if plan.config.log.file:
        return plan
    return plan.logging_to(sysv.LOG_FILE if machine.uid == 0 else plan.state_dir / "spawn.log")


def api_url(host: str, port: int) -> str:
    """Where the API of a service that listens on ``host`` is asked on its own machine."""
    near = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{near}]:{port}" if ":" in near else f"http://{near}:{port}"
