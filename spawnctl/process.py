"""The background process where no init system looks after Spawn: pid file, daemon, start, stop.

Strategy: a pid file counts only while its writer holds a lock (flock) on it. The kernel drops the lock with the
process, so a file that outlived ``kill -9`` is recognised as stale, and the pid in a locked file is that of the
process which locked it: it cannot have been reused. python-daemon brings a pid lock of its own that knows neither.

``start_daemon`` forks before anything else (python-daemon ends the process that opens its context) and waits for the
word of the daemon on a pipe, so that the user's shell learns whether the service is ready, and if not, why.

Invariant: nothing here imports gevent; a hub that was touched before the fork aborts the daemon.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, NoReturn

from daemon import DaemonContext

from spawn.errors import SpawnError, StartError

UMASK = 0o027
LOCK_TRIES = 20  # of 50 ms: somebody who asks for the status holds a shared lock for an instant
TAIL_BYTES = 16_384
TAIL_LINES = 10
READY = b"ready"


class DaemonError(SpawnError):
    """The background process could not be started or stopped; ``log_tail`` holds the last lines of its log."""

    def __init__(self, message: str, log_tail: list[str] | None = None) -> None:
        super().__init__(message)
        self.log_tail = log_tail or []


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
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            if _lock(handle, fcntl.LOCK_EX) and self._is_still(handle):
                os.fchmod(handle, 0o644)  # whatever the umask: everybody may ask for the status
                os.ftruncate(handle, 0)
                os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
                self._held = handle
                return True
            os.close(handle)
            time.sleep(0.05)
        return False

    def _is_still(self, handle: int) -> bool:
        """Whether the path names the file that we locked: its last owner may have unlinked it in between."""
        try:
            there, here = os.stat(self.path, follow_symlinks=False), os.fstat(handle)
        except FileNotFoundError:
            return False
        return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)

    def release(self) -> None:
        """Remove the file, then drop the lock, so that nobody ever finds it unlocked and whole."""
        if self._held is None:
            return
        with contextlib.suppress(OSError):
            os.unlink(self.path)
        os.close(self._held)
        self._held = None

    def holder(self) -> int | None:
        """The pid of the process that holds the lock now; None when nobody does."""
        for _ in range(LOCK_TRIES):
            try:
                handle = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError:
                return None
            try:
                if _lock(handle, fcntl.LOCK_SH):
                    return None
                text = os.pread(handle, 32, 0).strip()
            finally:
                os.close(handle)
            if text.isdigit():
                return int(text)
            time.sleep(0.05)  # locked, but its pid is not written yet
        return None


def _lock(handle: int, how: int) -> bool:
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def start_daemon(
    serve: Callable[[Callable[[], None]], int], pid_file: PidFile, log_file: Path, timeout_s: float
) -> int:
    """Run ``serve`` in a daemon and return its pid once it has called the function it is given.

    :param serve: runs the service and returns the exit code; it raises StartError when it cannot start.
    :param log_file: an absolute path; what the daemon prints goes there as well.
    :raises DaemonError: it is not ready, with the reason.
    """
    holder = pid_file.holder()
    if holder is not None:
        raise DaemonError("Service is already running")
    try:
        pid_file.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        log_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        log = _open_log(log_file)
    except OSError as error:
        raise DaemonError(f"cannot write {error.filename}: {error.strerror}") from None
    with log:
        log_start = log.seek(0, os.SEEK_END)
        ours, daemons = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            os.close(ours)
            _live_as_daemon(serve, pid_file, log, daemons)
        os.close(daemons)
        os.waitpid(child, 0)  # ends at once: python-daemon forks from it
        word = _hear(ours, timeout_s)
        if word == READY:
            return pid_file.holder() or 0
        if word:
            raise DaemonError(word.decode(errors="replace"))
        reason = "the service ended before it was ready"
        if word is None:
            reason = f"the service is not ready after {timeout_s:.0f} s; it is still trying"
        raise DaemonError(reason, _tail(log, log_start))


def _open_log(path: Path) -> IO[bytes]:
    """For appending and reading; closed to others like the log files that the service makes itself."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY
    return open(os.open(path, flags, 0o640), "a+b", buffering=0)


def _hear(pipe: int, timeout_s: float) -> bytes | None:
    """Everything the daemon says until it closes the pipe; None when it said nothing in time."""
    deadline = time.monotonic() + timeout_s
    said = b""
    try:
        while True:
            readable, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
            if not readable:
                return None
            piece = os.read(pipe, 4096)
            if not piece:
                return said
            said += piece
    finally:
        os.close(pipe)


def _tail(log: IO[bytes], start: int) -> list[str]:
    """The last lines that were logged since the start began."""
    end = log.seek(0, os.SEEK_END)
    log.seek(max(start, end - TAIL_BYTES))
    return log.read(TAIL_BYTES).decode(errors="replace").splitlines()[-TAIL_LINES:]


def _live_as_daemon(
    serve: Callable[[Callable[[], None]], int], pid_file: PidFile, log: IO[bytes], pipe: int
) -> NoReturn:
    """Become a daemon and serve. Never returns: this process is a copy of the user's command."""
    code = 1
    try:
        DaemonContext(
            detach_process=True,  # its own guess is wrong where the parent is pid 1, as in a container
            umask=UMASK,
            working_directory="/",
            files_preserve=[pipe, log],
            stdout=log,
            stderr=log,
            signal_map={},  # the service sets its own
        ).open()
        code = _serve_locked(serve, pid_file, pipe)
    except BaseException:  # noqa: BLE001 (the last frame of this process: what is left is a bug, and goes to the log)
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _serve_locked(serve: Callable[[Callable[[], None]], int], pid_file: PidFile, pipe: int) -> int:
    """Serve under the lock, and tell the waiting parent once: ready, or the reason why not."""

    def say(word: bytes) -> None:
        nonlocal pipe
        if pipe >= 0:
            with contextlib.suppress(OSError):  # the user may have interrupted the waiting command
                os.write(pipe, word)
            os.close(pipe)
            pipe = -1

    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        if not pid_file.acquire():
            say(b"Service is already running")
            return 1
        return serve(lambda: say(READY))
    except (StartError, OSError) as error:
        say(str(error).encode())
        logging.getLogger("spawn.service").critical("the service did not start: %s", error)
        return 1
    finally:
        pid_file.release()


def stop_daemon(pid_file: PidFile, timeout_s: float) -> None:
    """Ask the daemon to end, and wait until it has.

    :raises DaemonError: none runs, it is not ours to stop, or it goes on after ``timeout_s``.
    """
    pid = pid_file.holder()
    if pid is None:
        raise DaemonError("Service has already been stopped")
    try:
        os.kill(pid, signal.SIGTERM)
    except PermissionError:
        raise DaemonError("You must have root user privileges. Possibly using 'sudo' command should help") from None
    except ProcessLookupError:
        return
    deadline = time.monotonic() + timeout_s
    while pid_file.holder() == pid:
        if time.monotonic() > deadline:
            raise DaemonError(f"the service (pid {pid}) has not ended after {timeout_s:.0f} s")
        time.sleep(0.05)
