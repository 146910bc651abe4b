"""Running a command as at a terminal: with a pseudo terminal for its input and output, and as its controlling one."""

from __future__ import annotations

import contextlib
import errno
import os
import pty
import select
import subprocess
import time
from collections.abc import Sequence


def run_on_terminal(command: Sequence[str], *, typed: str = "", timeout_s: float = 60) -> tuple[int, str]:
    """The exit code and all that was shown, with what the terminal echoed of ``typed``.

    What is typed is there before anybody asks. Returns when the command has ended, not when the last process that has
    the terminal has: a daemon that keeps it does not hold up the test.
    """
    ours, theirs = pty.openpty()
    try:
        # setsid makes the terminal the controlling one, so that /dev/tty is it too
        process = subprocess.Popen(["setsid", "--wait", "--ctty", *command], stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        os.write(ours, typed.encode())
        shown = _watch(process, ours, time.monotonic() + timeout_s)
        if process.poll() is None:  # asked before the terminal hangs up on it
            process.kill()
            process.wait()
            raise AssertionError(f"{' '.join(command)} did not end within {timeout_s:g} s, and showed:\n{shown}")
    finally:
        os.close(ours)
    return process.returncode, shown


def _watch(process: subprocess.Popen[bytes], terminal: int, deadline: float) -> str:
    """What is shown until the process ends or the deadline has passed; line ends as in a pipe."""
    shown = b""
    while time.monotonic() < deadline:
        ended = process.poll() is not None  # asked before the last look, so that nothing is missed
        readable, _, _ = select.select([terminal], [], [], 0 if ended else 0.05)
        piece = _read(terminal) if readable else b""
        shown += piece
        if ended and not piece:
            break
        if readable and not piece:  # everybody has closed it
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
    return shown.decode("utf-8", "replace").replace("\r\n", "\n")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65_536)
    except OSError as error:
        if error.errno == errno.EIO:  # how Linux says that nobody has the other side open
            return b""
        raise
