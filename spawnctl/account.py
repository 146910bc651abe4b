"""The user that the machine's service runs as: made by ``install``, deleted by ``remove --purge`` if that made it."""

from __future__ import annotations

import contextlib
import grp
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from spawn.errors import ConfigError
from spawnctl import files
from spawnctl.files import Owner
from spawnctl.machine import COMMAND_TIMEOUT_S, NOT_FOUND, STATE_DIR, USER, ControlError, Machine

COMMENT = "Spawn Sync Service"  # how an account that we made is told from one that was there
SHELL = "/usr/sbin/nologin"
PATH = "/usr/bin:/bin"
IN_USE, IN_USE_S = 8, 10.0  # userdel(8): what it ends with while processes run as this user
TRIAL_S = 60.0
NO_BUS = "Failed to connect to bus"
TRIAL_FAULTS = 2  # the exit code of a trial that ran and found something
ELSEWHERE = "install Spawn where every user may read it, in a virtual environment in /opt/spawn for example"


def ensure(machine: Machine, undo: contextlib.ExitStack) -> Owner:
    """Make the service's user unless there is one. Raises ``ControlError``."""
    if machine.account(USER) is None:
        if group_id(USER) is not None:
            raise ControlError(
                f"there is a group '{USER}' without a user of that name: make the user, or delete the group"
            )
        words = ["--system", "--user-group", "--no-create-home", "--home-dir", str(STATE_DIR), "--shell", SHELL]
        with files.uninterrupted():
            machine.command("useradd", *words, "--comment", COMMENT, USER)
            undo.callback(_delete, machine)
    return owner(machine)


def owner(machine: Machine) -> Owner:
    """The ids of the service's user. Raises ``ControlError`` where there is none."""
    found = machine.account(USER)
    if found is None:
        raise ControlError(f"the service's user '{USER}' does not exist: 'spawnctl remove', then 'spawnctl install'")
    return Owner(found.pw_uid, found.pw_gid)


def log_owner(machine: Machine) -> Owner:
    """The same, with the group of those who may read logs where the machine has one."""
    return Owner(owner(machine).uid, group_id("adm") or owner(machine).gid)


def group_id(name: str) -> int | None:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def delete(machine: Machine) -> bool:
    """Delete the service's user, if ``install`` made it. Raises ``ControlError``."""
    found = machine.account(USER)
    if found is None or found.pw_gecos.split(",")[0] != COMMENT:
        return False
    _delete(machine)
    return True


def _delete(machine: Machine) -> None:
    """What still runs as this user, a trial or a service that is ending, is given a little time."""
    deadline = time.monotonic() + IN_USE_S
    while True:
        done = machine.run(("userdel", USER), COMMAND_TIMEOUT_S)
        if done.returncode == 0:
            return
        if done.returncode != IN_USE or time.monotonic() > deadline:
            said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise ControlError(f"userdel {USER}: {said[0]}")
        time.sleep(0.1)


def try_out(machine: Machine, options: Sequence[str], sandbox: Sequence[str] = ()) -> None:
    """See that the service's user can run this interpreter, import Spawn and read the configuration.

    :param sandbox: settings of the unit, so that it is seen from within; empty where systemd does not run.
    :raises ControlError: it cannot run it, with where to put Spawn.
    :raises ConfigError: it can, and finds faults.
    """
    words = [machine.python, "-P", "-m", "spawnctl.trial", *options]
    settings = [f"--property={setting}" for setting in sandbox]
    inside = ["systemd-run", "--quiet", "--wait", "--pipe", "--collect", "--service-type=exec", *settings, *words]
    outside = ["runuser", "-u", USER, "--", "env", "-i", f"PATH={PATH}", f"HOME={STATE_DIR}", *words]
    tried = machine.run(inside if sandbox else outside, TRIAL_S)
    if sandbox and (tried.returncode == NOT_FOUND or NO_BUS in tried.stderr):  # which systemd itself can do without
        tried = machine.run(outside, TRIAL_S)
    if tried.returncode == 0:
        return
    said = [line for line in tried.stderr.splitlines() if line.strip()] or [f"exit code {tried.returncode}"]
    if tried.returncode == TRIAL_FAULTS:
        raise ConfigError([f"{line} (asked as the service's user '{USER}')" for line in said])
    python = shlex.quote(str(Path(machine.python)))
    raise ControlError(f"the service's user '{USER}' cannot run {python}: {ELSEWHERE}", said[-1:])
