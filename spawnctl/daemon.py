"""The background process where no service manager runs Spawn: start and stop.

``start`` forks before anything else (python-daemon ends the process that opens its context) and waits for the word of
the daemon on a pipe, so that the user's shell learns whether the service is ready, and if not, why.

Invariant: nothing here imports gevent; a hub that was touched before the fork aborts the daemon.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from daemon import DaemonContext

from spawn.errors import StartError
from spawnctl import foreground, privileges
from spawnctl.machine import NEED_ROOT, ControlError
from spawnctl.pidfile import PidFile
from spawnctl.privileges import Identity

UMASK = 0o027
TAIL_BYTES = 16_384
TAIL_LINES = 10
READY = b"ready"
POLL_S = 0.05

Serve = Callable[[Callable[[], None]], int]


@dataclass(frozen=True)
class Daemon:
    """What becomes a daemon.

    ``serve`` runs the service and returns the exit code; it raises ``StartError`` when it cannot start, and calls what
    it is given when it is ready. ``log_file`` is an absolute path; what the daemon prints goes there as well.
    """

    serve: Serve
    pid_file: PidFile
    log_file: Path
    identity: Identity | None = None  # None: it stays who it is


def start(daemon: Daemon, timeout_s: float) -> int:
    """Start the daemon and return its pid once it is ready.

    :raises ControlError: it is not ready, with the reason.
    """
    if daemon.pid_file.holder() is not None:
        raise ControlError("Service is already running")
    try:
        _make_public(daemon.pid_file.path.parent)
        if daemon.identity is None:
            daemon.log_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(_open_log(daemon.log_file))
    except OSError as error:
        raise ControlError(f"cannot write {error.filename}: {error.strerror}") from None
    log_start = _size(daemon.log_file)
    ours, daemons = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(ours)
        _live_as_daemon(daemon, daemons)
    os.close(daemons)
    os.waitpid(child, 0)  # ends at once: python-daemon forks from it
    word = _hear(ours, timeout_s)
    if word == READY:
        return daemon.pid_file.holder() or 0
    if word:
        raise ControlError(word.decode(errors="replace"))
    reason = "the service ended before it was ready"
    if word is None:
        reason = f"the service is not ready after {timeout_s:.0f} s; it is still trying"
    raise ControlError(reason, _tail(daemon.log_file, log_start))


def _make_public(directory: Path) -> None:
    """Unless it is there: others may look for the pid file, whatever the umask is."""
    if not directory.is_dir():
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        directory.chmod(0o755)


def _open_log(path: Path) -> int:
    """For appending; closed to others like the log files that the service makes itself."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY, 0o640)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


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


def _tail(path: Path, start: int) -> list[str]:
    """The last lines that were logged since the start began. Never waits, should somebody have put a pipe there."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return []
    try:
        begin = max(start, os.fstat(handle).st_size - TAIL_BYTES)
        return os.pread(handle, TAIL_BYTES, begin).decode(errors="replace").splitlines()[-TAIL_LINES:]
    except OSError:
        return []
    finally:
        os.close(handle)


def _live_as_daemon(daemon: Daemon, pipe: int) -> NoReturn:
    """Become a daemon and serve. Never returns: this process is a copy of the user's command."""
    code = 1
    try:
        DaemonContext(
            detach_process=True,  # its own guess is wrong where the parent is pid 1, as in a container
            umask=UMASK,
            working_directory="/",
            files_preserve=[pipe],
            signal_map={},  # the service sets its own
        ).open()
        code = _serve_locked(daemon, pipe)
    except BaseException:  # noqa: BLE001 (the last frame of this process: what is left is a bug, and goes to the log)
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _serve_locked(daemon: Daemon, pipe: int) -> int:
    """Serve under the lock, and tell the waiting parent once: ready, or the reason why not."""

    def say(word: bytes) -> None:
        nonlocal pipe
        if pipe >= 0:
            with contextlib.suppress(OSError):  # the user may have interrupted the waiting command
                os.write(pipe, word)
            os.close(pipe)
            pipe = -1

    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    foreground.hold_later_signals()  # who has read the pid may send them
    try:
        if not daemon.pid_file.acquire():
            say(b"Service is already running")
            return 1
        if daemon.identity is not None:
            privileges.become(daemon.identity)
        _print_to(daemon.log_file)
        return daemon.serve(lambda: say(READY))
    except (StartError, OSError) as error:
        say(str(error).encode())
        logging.getLogger("spawn.service").critical("the service did not start: %s", error)
        return 1
    except Exception as error:  # a bug; before there is a log nobody but the parent can be told
        say(f"the service ended before it was ready: {type(error).__name__}: {error}".encode())
        raise
    finally:
        daemon.pid_file.release()


def _print_to(log_file: Path) -> None:
    """What is printed goes to the log. Raises ``StartError``."""
    try:
        handle = _open_log(log_file)
    except OSError as error:
        raise StartError(f"log file {log_file} cannot be opened: {(error.strerror or '').lower()}") from None
    for stream in (sys.stdout, sys.stderr):
        os.dup2(handle, stream.fileno())
    os.close(handle)


def stop(pid_file: PidFile, timeout_s: float) -> None:
    """Ask the daemon to end, and wait until it has.

    :raises ControlError: none runs, it is not ours to stop, or it goes on after ``timeout_s``.
    """
    pid = send(pid_file, signal.SIGTERM)
    if pid is None:
        pid_file.discard()
        raise ControlError("Service has already been stopped")
    deadline = time.monotonic() + timeout_s
    while pid_file.holder() == pid:
        if time.monotonic() > deadline:
            raise ControlError(f"the service (pid {pid}) has not ended after {timeout_s:.0f} s")
        time.sleep(POLL_S)
    pid_file.discard()


def send(pid_file: PidFile, which: signal.Signals) -> int | None:
    """Send a signal to the daemon, and to nobody else; its pid, or None when none runs.

    :raises ControlError: it is not ours, or nothing is known of it.
    """
    pid = pid_file.holder()
    if pid is None:
        return None
    process = _handle_of(pid)
    try:
        if pid_file.holder() != pid:  # from here on the handle is that process, whoever gets its number
            return None
        if process is None:
            os.kill(pid, which)
        else:
            signal.pidfd_send_signal(process, which)
    except PermissionError:
        raise ControlError(NEED_ROOT) from None
    except ProcessLookupError:
        return None
    finally:
        if process is not None:
            os.close(process)
    return pid


def _handle_of(pid: int) -> int | None:
    """A process by a number that nobody else can get. None before Linux 5.3, and where a container forbids it."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None
