"""What the service of this machine was given: found again from what ``install`` wrote, or from what runs.

Where nothing is installed it is what ``spawnctl start`` means here and now: the configuration of the working directory.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from spawn.config import load
from spawn.config.load import SEARCH
from spawnctl import systemd, sysv, usage
from spawnctl.foreground import Plan
from spawnctl.machine import Init, Machine


def command(machine: Machine) -> list[str]:
    """The words of the command that an installed systemd service runs; empty where its unit cannot be understood."""
    try:
        return systemd.command_of(machine.unit_file.read_text("utf-8"))
    except (OSError, ValueError):
        return []


def options(machine: Machine) -> list[str] | None:
    """The options of the installed service; None where none is installed."""
    installed = machine.installed()
    if installed is Init.SYSTEMD:
        return options_in(command(machine))
    return sysv.options(machine) if installed is Init.SYSV else None


def options_in(words: Sequence[str]) -> list[str]:
    """Those of a command line of a service: what follows ``-m spawnctl``."""
    return list(words[words.index("spawnctl") + 1 :]) if "spawnctl" in words else []


def plan(machine: Machine, words: Sequence[str] | None = None) -> Plan:
    """What the service runs.

    :param words: options that are known better than by what is installed.
    :raises ConfigError: the options or the configuration are faulty by now.
    """
    given = options(machine) if words is None else list(words)
    line = usage.parse(given or [], "")
    loaded = load(line.config, line.overrides, search=SEARCH if given is None else (str(machine.config_file),))
    return Plan.make(loaded, line.overrides)


def with_log_file(machine: Machine, plan: Plan) -> Plan:
    """The same for a daemon: it has no terminal, and nobody who keeps what it prints."""
    if plan.config.log.file:
        return plan
    return plan.logging_to(sysv.LOG_FILE if machine.uid == 0 else plan.state_dir / "spawn.log")


def api_url(host: str, port: int) -> str:
    """Where the API of a service that listens on ``host`` is asked on its own machine."""
    near = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{near}]:{port}" if ":" in near else f"http://{near}:{port}"


def is_state(path: Path) -> bool:
    """Whether a directory holds a state of Spawn's, or nothing at all."""
    try:
        names = {entry.name for entry in path.iterdir()}
    except OSError:
        return False
    return not names - {"lost+found"} or bool(names & {"lock", "nodes.json", "journal"})
