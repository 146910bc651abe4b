"""Whether the log file and the state directory of a configuration could be made, without making anything.

A *fault* stands in anybody's way. That this user may not write somewhere is a warning only: the service is often
another user's. What was free a moment ago may be taken at the start, so the service looks for itself again.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from spawn.config import Config


@dataclass(frozen=True)
class Found:
    """Finished lines."""

    faults: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def look(config: Config, made: str = "") -> Found:
    """Look at the places that the configuration names; those of the defaults depend on who runs the service.

    :param made: a directory that will be there, whether it is or not.
    """
    faults: list[str] = []
    warnings: list[str] = []
    if config.log.file and os.path.dirname(config.log.file) != made:
        _look_at_file("log.file", config.log.file, faults, warnings)
    if config.state_dir:
        _look_at_directory("state-dir", config.state_dir, faults, warnings)
    return Found(tuple(faults), tuple(warnings))


def _look_at_file(key: str, path: str, faults: list[str], warnings: list[str]) -> None:
    parent = os.path.dirname(path)
    if os.path.isdir(path):
        faults.append(f"{key}: {path} is a directory, not a file")
    elif not os.path.isdir(parent) and _hidden(parent):
        warnings.append(f"{key}: this user (uid {os.geteuid()}) cannot see whether {parent} exists")
    elif not os.path.isdir(parent):
        faults.append(f"{key}: {path} cannot be made: {parent} is no directory, make it first")
    elif not os.access(path if os.path.lexists(path) else parent, os.W_OK):
        warnings.append(f"{key}: this user (uid {os.geteuid()}) may not write {path}")


def _look_at_directory(key: str, path: str, faults: list[str], warnings: list[str]) -> None:
    """The nearest thing on the way that exists decides: what is below it is made at the start."""
    there = path
    while not os.path.lexists(there) and not _hidden(there) and there != os.path.dirname(there):
        there = os.path.dirname(there)
    if os.path.lexists(there) and not os.path.isdir(there):
        faults.append(f"{key}: {path} cannot be used: {there} is not a directory")
    elif there == path and os.path.isdir(path) and os.stat(path).st_mode & stat.S_ISVTX:
        faults.append(f"{key}: {path} is shared by all users: name a directory of Spawn's own")
    elif not os.access(there, os.W_OK | os.X_OK):
        warnings.append(f"{key}: this user (uid {os.geteuid()}) may not write {there}")


def _hidden(path: str) -> bool:
    """Whether this user may not even look."""
    try:
        os.lstat(path)
    except PermissionError:
        return True
    except OSError:
        return False
    return False
