"""The state directory: one service's place on disk, locked for as long as it runs.

It holds credentials (headers of updates), so it is the owner's alone: 0700. The lock is ``flock`` on a file that stays,
so it ends with the process however that ends; the pid in the file is only there for the message.

    <state-dir>/lock         locked and written by ``open``
    <state-dir>/nodes.json   see ``spawn.state.nodes``
    <state-dir>/journal/     the journal's own directory, its spool inside: bodies move in by rename
    <state-dir>/backups/     see ``spawn.service.backup``
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import pwd
import shutil
import stat

from spawn.errors import StateError

log = logging.getLogger("spawn.state")

# The last is what a file system of its own has.
_BEFORE_STATE = {"lock", ".probe", "spawn.log", "spawn.pid", "spawn.lock", "lost+found"}
_STATE = {"nodes.json", "journal"}
_LOG = "spawn.log"  # where a daemon writes it that is not root's, and what becomes of it
# The last is held until then.
_ALL = ("nodes.json", "nodes.json.new", "journal", "backups", ".probe", "spawn.pid", "spawn.lock", "lock")


class StateDirectory:
    """``open`` and ``close`` do short blocking calls: they belong before and after serving."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self._lock: int | None = None

    @property
    def journal_path(self) -> str:
        return os.path.join(self.path, "journal")

    @property
    def spool_path(self) -> str:
        """Where large bodies are spooled; equals the journal's ``spool_path()``, which makes and empties it."""
        return os.path.join(self.journal_path, "spool")

    def open(self) -> None:
        """Make, tighten, check, lock. Raises ``StateError``, one line that says what to do; nothing is held then."""
        try:
            os.makedirs(self.path, mode=0o700, exist_ok=True)
            self._tighten()
            self._lock = self._locked()
            self._check_writable()
        except OSError as error:
            self.close()
            raise StateError(self._explain(error)) from None
        except StateError:
            self.close()
            raise

    def require(self) -> None:
        """For what only makes sense where there is a state: a mistyped path must not be made. Raises ``StateError``."""
        if not os.path.isdir(self.path):
            raise StateError(
                f"there is nothing to start as restored: the state directory {self.path} does not exist; give the one "
                "that holds the backup with --state-dir"
            )

    def holds_others(self) -> bool:
        """Whether something is in it that is not Spawn's, and no state either."""
        return os.path.isdir(self.path) and not self._is_ours()

    def delete(self) -> list[str]:
        """Delete what is Spawn's, and the directory itself if that was all. Returns the names of what stays.

        A directory without a state in it is only removed when it is empty, however a configuration came to name it.
        Raises ``StateError``: a Spawn runs on it, or it cannot be deleted.
        """
        where = os.path.realpath(self.path)
        try:
            if self._is_state(where):
                self._delete_state(where)
            left = sorted(os.listdir(where))
            if not left:
                os.rmdir(where)
                if where != self.path:
                    os.unlink(self.path)
            return left
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StateError(self._explain(error)) from None

    def _is_state(self, where: str) -> bool:
        begun = ("nodes.json", "journal/journal.db", "journal/mark")
        return _is_file(os.path.join(where, "lock")) and any(_is_file(os.path.join(where, name)) for name in begun)

    def _delete_state(self, where: str) -> None:
        lock = self._locked()
        try:
            logs = [name for name in os.listdir(where) if name.startswith(_LOG)]
            for path in (os.path.join(where, name) for name in (*logs, *_ALL)):
                if os.path.isdir(path) and not os.path.islink(path):
                    shutil.rmtree(path)
                elif os.path.lexists(path):
                    os.unlink(path)
        finally:
            os.close(lock)

    def close(self) -> None:
        """Give the lock up; may be called twice."""
        lock, self._lock = self._lock, None
        if lock is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(lock, 0)
            os.close(lock)

    def _tighten(self) -> None:
        """Only what is Spawn's or nobody's yet: closing somebody else's directory would break other programs."""
        mode = stat.S_IMODE(os.stat(self.path).st_mode)
        if not mode & 0o077:
            return
        if mode & stat.S_ISVTX or not self._is_ours():
            why = "is shared by all users" if mode & stat.S_ISVTX else "holds what is not Spawn's"
            raise StateError(
                f"state directory {self.path} {why} and is open to others ({mode:04o}): give Spawn one of its own, "
                f"such as --state-dir={os.path.join(self.path, 'spawn')}"
            )
        os.chmod(self.path, 0o700)
        log.warning("state directory %s was open to others (%04o), now it is 0700", self.path, mode)

    def _is_ours(self) -> bool:
        """Empty but for what may be there before the first start, or with a state in it, or a backup of one."""
        names = set(os.listdir(self.path))
        is_backup = names <= _BEFORE_STATE | _STATE and os.path.exists(os.path.join(self.journal_path, "journal.db"))
        return names <= _BEFORE_STATE or ("lock" in names and bool(names & _STATE)) or is_backup

    def _locked(self) -> int:
        descriptor = os.open(os.path.join(self.path, "lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        except BlockingIOError:
            owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise StateError(
                f"state directory {self.path} is in use by another Spawn (pid {owner or 'unknown'}): "
                "stop it first, or give this one its own with --state-dir"
            ) from None
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _check_writable(self) -> None:
        """A file can be made, filled and removed, and is owned like what is there."""
        path = os.path.join(self.path, ".probe")
        descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(descriptor, bytes(4096), 0)
            self._check_owner(os.fstat(descriptor).st_uid)
        finally:
            os.close(descriptor)
            os.unlink(path)

    def _check_owner(self, ours: int) -> None:
        """Root may write anybody's state, and would leave files in it that its owner's service cannot read.

        :param ours: whose our files are; on a file system of another machine that need not be our own id.
        """
        theirs = os.fstat(self._lock).st_uid if self._lock is not None else ours
        if theirs != ours:
            name = user_name(theirs)
            raise StateError(
                f"state directory {self.path} is that of user {name}: run Spawn as that user "
                f"('runuser -u {name} -- spawnctl …'), or give this one the directory with chown -R"
            )

    def _explain(self, error: OSError) -> str:
        code, where = error.errno, f"state directory {self.path}"
        if code in (errno.EACCES, errno.EPERM):
            return f"{where} cannot be written by this user (uid {os.geteuid()}): change its owner, or use --state-dir"
        if code == errno.EROFS:
            return f"{where} is on a read-only file system: give another one with --state-dir"
        if code in (errno.ENOSPC, errno.EDQUOT):
            return f"{where} cannot be used, its disk is full: make room, or give another one with --state-dir"
        if code in (errno.ENOTDIR, errno.EEXIST):
            return f"{where} is not a directory: give another one with --state-dir"
        at = f"{error.filename}: " if error.filename not in (None, self.path) else ""
        return f"{where} cannot be used: {at}{error.strerror or error}"


def _is_file(path: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def user_name(uid: int) -> str:
    """For a message; the number where there is no such user."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
