"""``remove --purge``: what ``remove`` leaves goes too: configuration, journal, logs, and the user that was made.

Only what is Spawn's: a configuration or a log that an operator keeps elsewhere is his, and a directory that holds no
state of Spawn's is not deleted because a configuration names it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spawn.config import Config, default_state_dir
from spawn.errors import ConfigError
from spawnctl import account, files, installed, sysv
from spawnctl.machine import UNIT, ControlError, Machine


@dataclass(frozen=True)
class Remains:
    """What outlives ``remove``. Paths that exist."""

    config_dir: Path | None
    state_dir: Path | None
    logs: tuple[Path, ...]
    changes: tuple[Path, ...]  # to the unit

    def __bool__(self) -> bool:
        return bool(self.config_dir or self.state_dir or self.logs or self.changes)

    def summary(self) -> str:
        """What there is, in one line; nothing where there is nothing."""
        logs = ", ".join(str(path) for path in self.logs[:1])
        found = [(self.config_dir, "configuration"), (self.state_dir, "journal"), (logs, "log")]
        return ", ".join(f"the {what} in {where}" for where, what in found if where)

    def lines(self) -> list[str]:
        """What there is, for the operator."""
        found = [
            (self.config_dir, "the configuration"),
            (self.state_dir, "the journal: updates that nodes lack are in it"),
        ]
        return [f"  {path}  ({what})" for path, what in found if path] + [
            f"  {path}" for path in (*self.logs, *self.changes)
        ]


def find(machine: Machine) -> Remains:
    """What there is of a service that is installed, or was. To be asked before ``remove``, which forgets the options.

    A configuration that cannot be read any more leaves the places of the default.
    """
    log_file = None
    try:
        plan = installed.plan(machine, installed.options(machine) or [])
        state_dir, log_file = plan.state_dir, plan.config.log.file
    except ConfigError:
        state_dir = Path(default_state_dir(Config(), machine.uid, machine.environ))
    state_dir = machine.at(state_dir)
    config = machine.config_dir if machine.config_dir.is_dir() else None
    state = state_dir if state_dir.is_dir() and installed.is_state(state_dir) else None
    logs = [] if machine.user else _logs(machine.at(sysv.LOG_FILE))
    if log_file and state and machine.at(Path(log_file)).parent != state:
        logs += _logs(machine.at(Path(log_file)))
    return Remains(config, state, tuple(dict.fromkeys(logs)), tuple(_changes(machine)))


def _logs(path: Path) -> list[Path]:
    """A log file and what logrotate made of it."""
    return sorted(path.parent.glob(f"{path.name}*")) if path.parent.is_dir() else []


def _changes(machine: Machine) -> Sequence[Path]:
    """What ``systemctl edit`` has written."""
    directory = machine.unit_file.with_name(f"{UNIT}.d")
    return [directory] if directory.is_dir() else []


def purge(machine: Machine, found: Remains) -> None:
    """Delete it all, and the service's user. Raises ``ControlError``."""
    try:
        for path in (found.config_dir, found.state_dir, *found.logs, *found.changes):
            if path is not None:
                files.delete_tree(path)
    except OSError as error:
        raise ControlError(f"cannot delete {error.filename}: {error.strerror}") from None
    if not machine.user:
        account.delete(machine)
