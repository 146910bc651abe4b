"""Files that ``install`` writes: whole or not at all, undone if a later step fails, deleted only if they are ours."""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

MARK = "spawnctl install"  # every file that names its maker has this in it
# Directories that ``install`` may have made, and that nobody misses when nothing is left in them.
OWN_DIRECTORIES = {"spawn", "completions", "bash-completion", "site-functions", "zsh", "man8"}


@dataclass(frozen=True)
class Owner:
    """Whom a file is given to; -1 leaves it as it is."""

    uid: int = -1
    gid: int = -1


NOBODY_ELSE = Owner()


def make_directory(path: Path, undo: contextlib.ExitStack, mode: int = 0o755, owner: Owner = NOBODY_ELSE) -> None:
    """Make a directory, and those on the way to it, unless it is there."""
    if path.is_dir():
        return
    make_directory(path.parent, undo)
    path.mkdir(mode=0o700)
    undo.callback(_remove_if_empty, path)
    os.chown(path, owner.uid, owner.gid)
    path.chmod(mode)


def write(path: Path, text: str, mode: int, undo: contextlib.ExitStack, owner: Owner = NOBODY_ELSE) -> None:
    """Write a new file whole or not at all: a boot in the middle must not find half a script."""
    draft = path.with_name(f".{path.name}.new")
    undo.callback(path.unlink, missing_ok=True)
    try:
        draft.write_text(text, "utf-8")
        os.chown(draft, owner.uid, owner.gid)
        draft.chmod(mode)
        draft.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def create_empty(path: Path, mode: int, owner: Owner, undo: contextlib.ExitStack | None = None) -> None:
    """Make an empty file unless there is one. A link that somebody has put there is not followed."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return
    if undo is not None:
        undo.callback(path.unlink, missing_ok=True)
    try:
        os.fchown(handle, owner.uid, owner.gid)
        os.fchmod(handle, mode)
    finally:
        os.close(handle)


def is_ours(path: Path) -> bool:
    """Whether a file says of itself that ``spawnctl install`` wrote it."""
    try:
        with path.open("rb") as file:
            return MARK.encode() in file.read(512)
    except OSError:
        return False


def delete(path: Path) -> None:
    """Delete a file, and the directories on the way to it that ``install`` may have made and that are empty then."""
    path.unlink(missing_ok=True)
    for parent in path.parents:
        if parent.name not in OWN_DIRECTORIES:
            break
        _remove_if_empty(parent)


def delete_tree(path: Path) -> None:
    """Delete a directory and everything in it, or a file. What is not there is no error, a link is not followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _remove_if_empty(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.rmdir()
