"""The pid file of a daemon: which process it is, told so that it cannot be mistaken.

Beside the pid the file says when that process was started, and in which boot. The kernel tells the same of a process
that lives, so a file that outlived ``kill -9`` or a reboot is recognised as stale, and a pid that was used again is not
taken for ours. A lock (flock) that the daemon holds for as long as it lives makes that there is one only. It is on
a file of its own that others cannot open, since whoever may read a file may lock it.

Nobody is believed about the processes of somebody else: who asks may be root, and sends a signal. A daemon that root
has started and that became another user keeps the lock, but nothing that it could change the pid file with.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Mapping
from pathlib import Path

from spawn.state.directory import user_name
from spawnctl.machine import ControlError

MODE = 0o644  # everybody may ask for the status
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
ENDED = ("Z", "X")  # of proc(5): a process that nobody has waited for yet
FILE_BYTES = 256


def pid_path(environ: Mapping[str, str], uid: int, state_dir: Path) -> Path:
    """Where the pid file is: of root in a directory that a reboot empties, of others with the state it is about."""
    if os.path.isabs(environ.get("SPAWN_RUNTIME_DIRECTORY", "")):
        return Path(environ["SPAWN_RUNTIME_DIRECTORY"]) / "spawn.pid"
    return Path("/run/spawn/spawn.pid") if uid == 0 else state_dir / "spawn.pid"


class PidFile:
    """A pid file, and the lock that its process holds for as long as it lives."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock_path = path.with_suffix(".lock")
        self._held: int | None = None

    def acquire(self) -> bool:
        """Take the lock and write our pid; False when another process has it."""
        held = self._locked()
        if held is None:
            return False
        draft = self.path.with_suffix(".new")
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, MODE)
        try:
            os.fchmod(handle, MODE)  # whatever the umask
            pid = os.getpid()
            os.write(handle, f"{pid}\n{_started(pid)} {_boot()}\n".encode())
        finally:
            os.close(handle)
        draft.replace(self.path)
        self._held = held
        return True

    def _locked(self) -> int | None:
        """A handle of the locked file; None when somebody else has the lock."""
        while True:
            handle = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                here, there = os.fstat(handle), os.stat(self._lock_path, follow_symlinks=False)
                if (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino):
                    return handle
            except BlockingIOError:
                os.close(handle)
                return None
            except FileNotFoundError:
                pass  # its last owner has unlinked it in between
            os.close(handle)

    def release(self) -> None:
        """Remove the files, then drop the lock. After a change of user they are not ours to remove: see discard()."""
        held, self._held = self._held, None
        if held is not None:
            self._remove()
            os.close(held)

    def discard(self) -> None:
        """Remove what a daemon left behind that could not remove it, or was killed."""
        with contextlib.suppress(OSError):
            held = self._locked()
            if held is not None:
                self._remove()
                os.close(held)

    def _remove(self) -> None:
        for path in (self.path, self._lock_path):
            with contextlib.suppress(OSError):
                path.unlink()

    def holder(self) -> int | None:
        """The pid of the process that has it; None when there is none.

        :raises ControlError: that cannot be told, or the file names another user's process.
        """
        try:
            handle = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise ControlError(f"pid file {self.path} cannot be read: {error.strerror}") from None
        try:
            text, owner = os.read(handle, FILE_BYTES).decode("ascii", "replace"), os.fstat(handle).st_uid
        except OSError as error:
            raise ControlError(f"pid file {self.path} cannot be read: {error.strerror}") from None
        finally:
            os.close(handle)
        words = text.split()
        if len(words) != 3 or not (words[0].isdigit() and words[1].isdigit()) or words[2] != _boot():
            return None
        pid = int(words[0])
        if not self._lives(pid, int(words[1])):
            return None
        self._check(pid, owner)
        return pid

    def _lives(self, pid: int, started: int) -> bool:
        try:
            return _started(pid) == started
        except ProcessLookupError:
            pass
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except (PermissionError, OverflowError):
            pass
        raise ControlError(f"process {pid}, which {self.path} names, is not shown in /proc: nothing is known of it")

    def _check(self, pid: int, owner: int) -> None:
        """Whoever may write the file can name any process: it has to be one of the same user's. Root may name any."""
        try:
            process = os.stat(f"/proc/{pid}").st_uid
        except OSError:
            return  # it has ended since we looked
        if owner not in (0, process):
            raise ControlError(
                f"pid file {self.path} of user {user_name(owner)} names process {pid}, "
                f"which is user {user_name(process)}'s: it is left alone"
            )


def _started(pid: int) -> int:
    """When a process was started, in ticks since the boot, by proc(5); 0 for one that has ended.

    :raises ProcessLookupError: it is not shown.
    """
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
        return 0 if after_name[0] in ENDED else int(after_name[19])
    except (OSError, ValueError, IndexError):
        raise ProcessLookupError(pid) from None


def _boot() -> str:
    """Which boot this is, in one word."""
    try:
        return BOOT_ID.read_text("ascii").strip() or "-"
    except OSError:
        return "-"
