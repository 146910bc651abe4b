"""SysV init (Debian's family): the script that ``install`` writes, and its place in the order of the boot.

The script calls ``spawnctl``, which makes the daemon; the options of ``install`` are in a file of their own, because
both need them. ``update-rc.d`` enables the script where it is; else the links are made by hand.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Sequence
from pathlib import Path

from spawnctl import files, options_file
from spawnctl.machine import NOT_FOUND, ControlError, Machine, filled

LOG_FILE = Path("/var/log/spawn.log")
RUN_DIRECTORY = Path("/run/spawn")
NAME = "spawn"
UPDATE_RC_D = "update-rc.d"
# The original's places in the boot order: after what it needs, and down before that goes away.
LINKS = [f"etc/rc{level}.d/S87spawn" for level in (2, 3, 4, 5)] + [f"etc/rc{level}.d/K17spawn" for level in (0, 1, 6)]


def install(machine: Machine, options: Sequence[str], undo: contextlib.ExitStack) -> None:
    """Write script and options and enable the service. Raises ``ControlError`` or ``OSError``."""
    files.write(machine.options_file, options_file.text(options), 0o644, undo)
    undo.callback(_disable, machine)
    files.write(machine.script, render_script(machine.python), 0o755, undo)
    enabled = machine.run((UPDATE_RC_D, NAME, "defaults"), 60.0)
    if enabled.returncode == NOT_FOUND:
        return _link(machine)
    if enabled.returncode != 0:
        said = enabled.stderr.strip().splitlines() or [f"exit code {enabled.returncode}"]
        raise ControlError(f"{UPDATE_RC_D}: {said[0]}")
    return None


def render_script(python: str) -> str:
    return filled("spawn.sysv", {"@PYTHON@": shlex.quote(python)})


def _link(machine: Machine) -> None:
    for link in (machine.root / name for name in LINKS):
        if link.parent.is_dir() and not link.is_symlink():
            link.symlink_to("../init.d/spawn")


def _disable(machine: Machine) -> None:
    machine.script.unlink(missing_ok=True)  # update-rc.d does not take a service out whose script is there
    machine.run((UPDATE_RC_D, NAME, "remove"), 60.0)
    for name in LINKS:
        (machine.root / name).unlink(missing_ok=True)


def remove(machine: Machine) -> None:
    """Take the service out of the boot and delete its files."""
    _disable(machine)
    machine.options_file.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # the daemon's, until the next boot
        machine.at(RUN_DIRECTORY).rmdir()
