"""``remove --purge``: what ``remove`` leaves goes too: configuration, journal, logs, and the user that was made.

Only what is Spawn's. Of a state directory the files that Spawn makes, and the directory if that was all; a log file and
what logrotate makes of it; no configuration that the operator keeps elsewhere. Where the service's user could have put
a link in the way, root deletes nothing.
"""

from __future__ import annotations

import re
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from spawn.config import Config, default_state_dir
from spawn.errors import ConfigError
from spawn.state.directory import StateDirectory
from spawnctl import account, files, installed, options_file, sysv
from spawnctl.files import Owner
from spawnctl.machine import UNIT, USER, ControlError, Machine

CONFIG_FILES = ("spawn.conf", "service.options", "removed.options", "README")
ROTATED = r"(-\d+|\.\d+)?(\.(gz|xz|bz2|zst))?"  # what logrotate(8) makes of a name


@dataclass(frozen=True)
class Remains:
    """What outlives ``remove``. Paths that exist."""

    config: tuple[Path, ...]
    state_dir: Path | None
    logs: tuple[Path, ...]
    changes: tuple[Path, ...]  # to the unit

    def __bool__(self) -> bool:
        return bool(self.config or self.state_dir or self.logs or self.changes)

    def summary(self) -> str:
        """What there is, in one line; nothing where there is nothing."""
        config, log = (paths[0] if paths else None for paths in (self.config, self.logs))
        changes = self.changes[0] if self.changes else None
        found = [(config and config.parent, "configuration"), (self.state_dir, "journal"), (log, "log")]
        found += [(changes, "changes to the unit")]
        return ", ".join(f"the {what} in {where}" for where, what in found if where)

    def lines(self) -> list[str]:
        """What there is, for the operator."""
        journal = f"  {self.state_dir}  (the journal, with updates that nodes may lack, and backups in it)"
        others = [f"  {path}" for path in (*self.config, *self.logs, *self.changes)]
        return [journal, *others] if self.state_dir else others


def find(machine: Machine) -> Remains:
    """What there is of a service that is installed, or was. To be asked before ``remove``, which forgets the options.

    A configuration that cannot be read any more leaves the places of the default.
    """
    log_files = [] if machine.user else [sysv.LOG_FILE]
    try:
        given = installed.options(machine)
        plan = installed.plan(machine, options_file.read(machine.removed_file) if given is None else given)
        state_dir = plan.state_dir
        log_files += [Path(plan.config.log.file)] if plan.config.log.file else []
    except ConfigError:
        state_dir = Path(default_state_dir(Config(), machine.uid, machine.environ))
    config = [machine.config_dir / name for name in CONFIG_FILES]
    logs = [path for file in dict.fromkeys(log_files) for path in _logs(machine, machine.at(file))]
    changes = machine.unit_file.with_name(f"{UNIT}.d")  # what ``systemctl edit`` has written
    return Remains(
        tuple(path for path in config if path.is_file()),
        machine.at(state_dir) if machine.at(state_dir).is_dir() else None,
        tuple(logs),
        (changes,) if changes.is_dir() else (),
    )


def _logs(machine: Machine, path: Path) -> list[Path]:
    """A log file and what logrotate made of it."""
    name = re.compile(re.escape(path.name) + ROTATED)
    if not path.parent.is_dir() or not (machine.user or files.is_safe(path, _service_owner(machine))):
        return []
    found = (entry for entry in path.parent.iterdir() if name.fullmatch(entry.name))
    return sorted(entry for entry in found if stat.S_ISREG(entry.lstat().st_mode))


def _service_owner(machine: Machine) -> Owner:
    found = machine.account(USER)
    return Owner(found.pw_uid, found.pw_gid) if found else Owner()


def purge(machine: Machine, found: Remains) -> list[str]:
    """Delete it all, and the service's user. Returns what stays, in lines.

    :raises StateError: a Spawn runs on the state.
    :raises ControlError: it cannot be deleted.
    """
    state = StateDirectory(str(found.state_dir)) if found.state_dir else None
    if state is not None:
        state.delete()  # first: it may be in use
    try:
        for path in (*found.config, machine.removed_file, *found.logs):
            files.delete(path)
        for path in found.changes:
            shutil.rmtree(path)
    except OSError as error:
        raise ControlError(f"cannot delete {error.filename}: {error.strerror}") from None
    notes = []
    left = state.delete() if state is not None else []  # a log may have been the last thing in it
    if left:
        names = ", ".join(left[:3]) + (", and more" if len(left) > 3 else "")
        notes.append(f"{found.state_dir} stays: what is in it is not Spawn's ({names}).")
    if machine.user:
        return notes
    if found.state_dir is not None and found.state_dir.exists():
        return [*notes, f"User '{USER}' stays as well, since it may own some of that."]
    account.delete(machine)
    return notes
