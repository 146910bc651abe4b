"""Files that ``install`` writes: whole or not at all, undone if a later step fails, deleted only if they are ours."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MARK = "spawnctl install"  # every file that names its maker has this in it,
HEAD_BYTES = 2048  # somewhere near its beginning
# Directories that ``install`` may have made, and that nobody misses when nothing is left in them.
OWN_DIRECTORIES = {"spawn", "completions", "bash-completion", "site-functions", "zsh", "man8"}


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """For a step that is made undoable when it is done: what would end us in between waits."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP, signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclass(frozen=True)
class Owner:
    """Whom a file is given to; -1 leaves it as it is."""

    uid: int = -1
    gid: int = -1


UNCHANGED = Owner()


def make_directory(path: Path, undo: contextlib.ExitStack, mode: int = 0o755, owner: Owner = UNCHANGED) -> None:
    """Make a directory, and those on the way to it, unless it is there."""
    if path.is_dir():
        return
    make_directory(path.parent, undo)
    with uninterrupted():
        path.mkdir(mode=0o700)
        undo.callback(_remove_if_empty, path)
    os.chown(path, owner.uid, owner.gid)
    path.chmod(mode)


def write(path: Path, text: str, mode: int, undo: contextlib.ExitStack, owner: Owner = UNCHANGED) -> None:
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
    with uninterrupted():
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


def give_file(path: Path, mode: int, owner: Owner, undo: contextlib.ExitStack | None = None) -> None:
    """Give a file of root's to somebody else, if it is one and there."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return
    try:
        found = os.fstat(handle)
        if stat.S_ISREG(found.st_mode) and found.st_uid == 0 and owner.uid > 0:
            os.fchown(handle, owner.uid, owner.gid)
            os.fchmod(handle, mode)
            if undo is not None:
                undo.callback(os.chown, path, 0, 0)
    finally:
        os.close(handle)


def give(directory: Path, owner: Owner, undo: contextlib.ExitStack) -> None:
    """Give a directory of root's, and everything in it, to somebody else. Links are given, not what they name."""
    undo.callback(_give, directory, Owner(0, 0))
    _give(directory, owner)


def _give(directory: Path, owner: Owner) -> None:
    for where, directories, names in os.walk(directory, topdown=False):
        for name in (*directories, *names):
            os.chown(os.path.join(where, name), owner.uid, owner.gid, follow_symlinks=False)
    os.chown(directory, owner.uid, owner.gid)
    directory.chmod(0o700)


def is_safe(path: Path, owner: Owner) -> bool:
    """Whether that user cannot change which file is meant: root must not act on what a link of somebody's names."""
    real = Path(os.path.realpath(path.parent))
    return _is_safe_way(path.parent, owner) and (real == path.parent or _is_safe_way(real, owner))


def _is_safe_way(directory: Path, owner: Owner) -> bool:
    """All directories on the way are root's. In those on the way that everybody may write the sticky bit is enough."""
    for step in (directory, *directory.parents):
        found = step.lstat()
        mode = found.st_mode
        shared = mode & stat.S_IWOTH and (step == directory or not mode & stat.S_ISVTX)
        by_group = mode & stat.S_IWGRP and found.st_gid == owner.gid
        if found.st_uid != 0 or (not stat.S_ISLNK(mode) and (shared or by_group)):
            return False
    return True


def is_ours(path: Path) -> bool:
    """Whether a file says of itself that ``spawnctl install`` wrote it."""
    try:
        with path.open("rb") as file:
            return MARK.encode() in file.read(HEAD_BYTES)
    except OSError:
        return False


def delete(path: Path) -> None:
    """Delete a file, and the directories on the way to it that ``install`` may have made and that are empty then."""
    path.unlink(missing_ok=True)
    for parent in path.parents:
        if parent.name not in OWN_DIRECTORIES:
            break
        _remove_if_empty(parent)


def _remove_if_empty(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.rmdir()
