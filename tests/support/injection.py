"""A disk that fails, or is slow: ``strace`` makes chosen system calls of a running process do so.

It is attached while the process serves, so that start-up is untouched, and detached to end the fault. Calls can be
limited to those on certain files. While it is attached every system call of the process stops twice: keep it short.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.processes import clean_environment
from tests.support.waiting import eventually


def need_tracing(directory: Path) -> None:
    """Skip where a process may not be traced; a failure under ``CI=true``."""
    program = shutil.which("strace")
    why = "the program strace is missing ('make test-deps' installs it)"
    if program is not None:
        tried = subprocess.run([program, "-o", directory / "strace.try", "true"], capture_output=True, text=True)
        if tried.returncode == 0:
            return
        why = f"a process may not be traced here: {tried.stderr.strip()}"
    if os.environ.get("CI") == "true":
        pytest.fail(why, pytrace=False)
    pytest.skip(why)


@contextmanager
def failing(pid: int, calls: str, error: str, directory: Path, *paths: Path, when: str = "1+") -> Iterator[None]:
    """Let ``calls`` (as ``pwrite64,fdatasync``) of a process fail with ``error`` (as ``EIO``) inside the block.

    ``paths``: only on these files, which must exist. ``when``: which of them, as strace understands it. The process may
    end meanwhile.
    """
    with _injecting(pid, calls, f"error={error}:when={when}", directory, paths):
        yield


@contextmanager
def slow(pid: int, calls: str, delay_s: float, directory: Path, *paths: Path) -> Iterator[None]:
    """Let each of ``calls`` of a process begin ``delay_s`` late inside the block; what it asks for is not done before.

    ``paths`` as for ``failing``. A process that is sent SIGKILL meanwhile is gone only behind the block.
    """
    what = f"delay_enter={round(delay_s * 1e6)}"
    with _injecting(pid, calls, what, directory, paths, end=signal.SIGKILL):  # it heeds no other while it delays
        yield


@contextmanager
def _injecting(
    pid: int, calls: str, what: str, directory: Path, paths: Sequence[Path], end: signal.Signals = signal.SIGTERM
) -> Iterator[None]:
    command = ["strace", "-f", "-q", "-p", str(pid), "-o", str(directory / "strace.out"), "-e", f"trace={calls}"]
    command += ["-e", f"inject={calls}:{what}"]
    for path in paths:
        command += ["-P", str(path)]
    with (directory / "strace.err").open("ab") as errors:
        tracer = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stderr=errors, env=clean_environment(directory), start_new_session=True
        )
    try:
        eventually(lambda: _traced(pid, tracer), timeout_s=10, what=f"strace has attached itself to {pid}")
        yield
    finally:
        tracer.send_signal(end)  # it lets go of the process, which runs on
        tracer.wait(10)


def _traced(pid: int, tracer: subprocess.Popen[bytes]) -> bool:
    """Whether every thread of the process is held by the tracer."""
    assert tracer.poll() is None, f"strace ended with {tracer.returncode}"
    tasks = list(Path(f"/proc/{pid}/task").iterdir())
    return all(f"TracerPid:\t{tracer.pid}\n" in (task / "status").read_text("ascii") for task in tasks)


def injected(directory: Path) -> int:
    """How many calls were made to fail so far."""
    return (directory / "strace.out").read_text("utf-8", "replace").count("(INJECTED)")
