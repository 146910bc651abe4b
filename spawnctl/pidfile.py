"""The pid file of a daemon: which process it is, told so that it cannot be mistaken.

A pid file counts only while its writer holds a lock (flock) on it. The kernel drops the lock with the process, so a
file that outlived ``kill -9`` is recognised as stale, and the pid in a locked file is that of the process which locked
it: it cannot have been reused. python-daemon brings a pid lock of its own that knows neither.

A daemon that root has started and that became another user keeps the lock, but not the means to change the file: root
sends signals to the process that is named in it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Mapping
from pathlib import Path

from spawn.state.directory import user_name
from spawnctl.machine import ControlError

LOCK_TRIES = 20  # of 50 ms: somebody who asks for the status holds a shared lock for an instant
TRY_S = 0.05
MODE = 0o644  # everybody may ask for the status


def pid_path(environ: Mapping[str, str], uid: int, state_dir: Path) -> Path:
    """Where the pid file is: a directory that a reboot empties, as long as there is one."""
    if os.path.isabs(environ.get("RUNTIME_DIRECTORY", "")):  # the name that systemd gives it, too
        return Path(environ["RUNTIME_DIRECTORY"]) / "spawn.pid"
    if uid == 0:
        return Path("/run/spawn/spawn.pid")
    if os.path.isabs(environ.get("XDG_RUNTIME_DIR", "")):
        return Path(environ["XDG_RUNTIME_DIR"]) / "spawn" / "spawn.pid"
    return state_dir / "spawn.pid"


class PidFile:
    """A pid file that is locked for as long as its process lives."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._held: int | None = None

    def acquire(self) -> bool:
        """Lock the file and write our pid into it; False when another process has it."""
        for _ in range(LOCK_TRIES):
            handle = os.open(self.path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, MODE)
            if _lock(handle, fcntl.LOCK_EX) and self._is_still(handle):
                self._write()
                self._held = handle
                return True
            os.close(handle)
            time.sleep(TRY_S)
        return False

    def _is_still(self, handle: int) -> bool:
        """Whether the path names the file that we locked: its last owner may have unlinked it in between."""
        try:
            there, here = os.stat(self.path, follow_symlinks=False), os.fstat(handle)
        except FileNotFoundError:
            return False
        return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)

    def _write(self) -> None:
        """By another handle than the one that is kept: that can only be read."""
        handle = os.open(self.path, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fchmod(handle, MODE)  # whatever the umask
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        finally:
            os.close(handle)

    def release(self) -> None:
        """Remove the file, then drop the lock, so that nobody ever finds it unlocked and whole."""
        if self._held is None:
            return
        with contextlib.suppress(OSError):
            os.unlink(self.path)  # not ours to remove after a change of user: see discard()
        os.close(self._held)
        self._held = None

    def discard(self) -> None:
        """Remove a file that nobody holds: what a daemon left behind that could not remove it, or was killed."""
        try:
            handle = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return
        try:
            if _lock(handle, fcntl.LOCK_EX) and self._is_still(handle):
                with contextlib.suppress(OSError):
                    os.unlink(self.path)
        finally:
            os.close(handle)

    def holder(self) -> int | None:
        """The pid of the process that holds the lock now; None when nobody does.

        :raises ControlError: that cannot be told: it is another user's, or names another user's process.
        """
        for _ in range(LOCK_TRIES):
            try:
                handle = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except (FileNotFoundError, NotADirectoryError):
                return None
            except OSError as error:
                raise ControlError(f"pid file {self.path} cannot be read: {error.strerror}") from None
            try:
                if _lock(handle, fcntl.LOCK_SH):
                    return None
                text = os.pread(handle, 32, 0).strip()
                owner = os.fstat(handle).st_uid
            finally:
                os.close(handle)
            if text.isdigit():
                self._check(int(text), owner)
                return int(text)
            time.sleep(TRY_S)  # locked, but its pid is not written yet
        return None

    def _check(self, pid: int, owner: int) -> None:
        """Whoever may write the file can name any process: it has to be one of the same user's. Root may name any."""
        try:
            process = os.stat(f"/proc/{pid}").st_uid
        except OSError:
            return
        if owner not in (0, process):
            raise ControlError(
                f"pid file {self.path} of user {user_name(owner)} names process {pid}, "
                f"which is user {user_name(process)}'s: it is left alone"
            )


def _lock(handle: int, how: int) -> bool:
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
