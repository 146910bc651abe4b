"""The daemon: detached, and ``start`` tells the truth about it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from spawnctl import daemon
from spawnctl.machine import ControlError
from spawnctl.pidfile import PidFile
from tests.support.processes import clean_environment
from tests.support.waiting import eventually

# A program that starts a daemon the way the command does, and says what came of it.
STARTER = """
import os, sys, time
from pathlib import Path
from spawn.errors import StartError
from spawnctl import daemon
from spawnctl.machine import ControlError
from spawnctl.pidfile import PidFile

directory = Path(sys.argv[1])

def serve(ready):
    {serve}
    return 0

try:
    pid_file = PidFile(directory / "run" / "spawn.pid")
    ours = daemon.Daemon(serve, pid_file, directory / "log" / "log")
    print("ready", daemon.start(ours, {timeout_s}))
except ControlError as error:
    print("failed:", error, error.log_tail)
"""
SERVES = "print('hello'); ready(); time.sleep(60)"

Start = Callable[..., str]


@pytest.fixture
def pid_file(tmp_path: Path) -> PidFile:
    return PidFile(tmp_path / "run" / "spawn.pid")


@pytest.fixture
def start(tmp_path: Path, pid_file: PidFile) -> Iterator[Start]:
    def run(serve: str, timeout_s: float = 20) -> str:
        script = STARTER.format(serve=serve, timeout_s=timeout_s)
        command = [sys.executable, "-c", script, str(tmp_path)]
        env = clean_environment(tmp_path)
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60, check=True)
        assert done.stderr == ""
        return done.stdout.strip()

    yield run
    pid = pid_file.holder()
    if pid:
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: pid_file.holder() is None, timeout_s=10, what="the daemon is gone")


def test_start_returns_when_the_daemon_is_ready_and_stop_when_it_is_gone(start: Start, pid_file: PidFile) -> None:
    word, pid = start(SERVES).split()
    assert word == "ready"
    assert pid_file.holder() == int(pid)
    daemon.stop(pid_file, 10)
    assert pid_file.holder() is None
    assert not psutil.pid_exists(int(pid)) or psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE


def test_the_daemon_is_detached_from_its_user(start: Start, pid_file: PidFile, tmp_path: Path) -> None:
    start(SERVES)
    process = psutil.Process(pid_file.holder())
    assert process.cwd() == "/"
    assert process.terminal() is None
    assert os.getsid(process.pid) != os.getsid(0)
    assert "Umask:\t0027" in Path(f"/proc/{process.pid}/status").read_text()
    assert (tmp_path / "log" / "log").read_text() == "hello\n", "what it prints goes to the log"
    assert pid_file.path.stat().st_mode & 0o777 == 0o644, "anybody may ask for the status"


def test_a_second_start_is_refused(start: Start) -> None:
    start(SERVES)
    assert start(SERVES) == "failed: Service is already running []"


def test_a_daemon_that_was_killed_leaves_no_trouble(start: Start, pid_file: PidFile) -> None:
    pid = int(start(SERVES).split()[1])
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: pid_file.holder() is None, timeout_s=10, what="its lock is gone")
    assert pid_file.path.exists(), "the file is stale now"
    assert start(SERVES).startswith("ready")


def test_a_start_error_reaches_the_user(start: Start, pid_file: PidFile) -> None:
    assert start("raise StartError('port 1 is taken')") == "failed: port 1 is taken []"
    assert pid_file.holder() is None


def test_a_daemon_that_dies_silently_shows_its_last_words(start: Start) -> None:
    said = start("print('out of', 'luck', flush=True); os._exit(9)")
    assert said == "failed: the service ended before it was ready ['out of luck']"


def test_a_daemon_that_is_never_ready_does_not_keep_the_user(start: Start) -> None:
    assert start("time.sleep(60)", timeout_s=1).startswith("failed: the service is not ready after 1 s")


def test_a_place_that_cannot_be_written_is_named(start: Start, tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a file where a directory should be")
    assert start(SERVES).startswith(f"failed: cannot write {tmp_path}/log")


def test_a_daemon_that_does_not_heed_sigterm(start: Start, pid_file: PidFile) -> None:
    start(f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SERVES}")
    with pytest.raises(ControlError, match="has not ended after"):
        daemon.stop(pid_file, 0.3)
    assert pid_file.holder() is not None


def test_a_bug_before_there_is_a_log_reaches_the_user(start: Start, pid_file: PidFile) -> None:
    said = start("raise LookupError('oops')")
    assert said == "failed: the service ended before it was ready: LookupError: oops []"
    assert pid_file.holder() is None
