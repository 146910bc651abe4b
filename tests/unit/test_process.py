"""The pid file and the daemon: only a living process that holds the lock counts, and ``start`` tells the truth."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from spawnctl.process import DaemonError, PidFile, pid_path, stop_daemon
from tests.support.processes import clean_environment
from tests.support.waiting import eventually

# A program that starts a daemon the way the command does, and says what came of it.
STARTER = """
import os, sys, time
from pathlib import Path
from spawn.errors import StartError
from spawnctl.process import DaemonError, PidFile, start_daemon

directory = Path(sys.argv[1])

def serve(ready):
    {serve}
    return 0

try:
    pid_file = PidFile(directory / "run" / "spawn.pid")
    print("ready", start_daemon(serve, pid_file, directory / "log" / "log", {timeout_s}))
except DaemonError as error:
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


def test_where_the_pid_file_is() -> None:
    state = Path("/s")
    assert pid_path({}, 0, state) == Path("/run/spawn/spawn.pid")
    assert pid_path({"XDG_RUNTIME_DIR": "/run/user/7"}, 7, state) == Path("/run/user/7/spawn/spawn.pid")
    assert pid_path({"XDG_RUNTIME_DIR": "relative"}, 7, state) == Path("/s/spawn.pid")
    assert pid_path({"RUNTIME_DIRECTORY": "/r"}, 0, state) == Path("/r/spawn.pid")


def test_a_pid_file_counts_while_its_process_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "spawn.pid"
    mine, other = PidFile(path), PidFile(path)
    assert other.holder() is None
    assert mine.acquire()
    assert other.holder() == os.getpid()
    assert not other.acquire(), "two processes never have it"
    mine.release()
    assert other.holder() is None
    assert not path.exists()


def test_a_file_with_the_pid_of_another_process_is_stale(tmp_path: Path) -> None:
    path = tmp_path / "spawn.pid"
    path.write_text("1\n")  # pid 1 lives, but it never locked this
    assert PidFile(path).holder() is None
    with pytest.raises(DaemonError, match="Service has already been stopped"):
        stop_daemon(PidFile(path), 1)


@pytest.mark.parametrize("content", ["", "x", "-1", "1 2", "9" * 40])
def test_a_damaged_pid_file_is_nobodys(tmp_path: Path, content: str) -> None:
    path = tmp_path / "spawn.pid"
    path.write_text(content)
    assert PidFile(path).holder() is None
    fresh = PidFile(path)
    assert fresh.acquire(), "and is taken over"
    assert path.read_text() == f"{os.getpid()}\n"
    fresh.release()


def test_a_link_in_place_of_the_pid_file_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "spawn.pid").symlink_to(victim)
    with pytest.raises(OSError):
        PidFile(tmp_path / "spawn.pid").acquire()
    assert victim.read_text() == "precious"


def test_start_returns_when_the_daemon_is_ready_and_stop_when_it_is_gone(start: Start, pid_file: PidFile) -> None:
    word, pid = start(SERVES).split()
    assert word == "ready"
    assert pid_file.holder() == int(pid)
    stop_daemon(pid_file, 10)
    assert pid_file.holder() is None
    assert not psutil.pid_exists(int(pid)) or psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE


def test_the_daemon_is_detached_from_its_user(start: Start, pid_file: PidFile, tmp_path: Path) -> None:
    start(SERVES)
    daemon = psutil.Process(pid_file.holder())
    assert daemon.cwd() == "/"
    assert daemon.terminal() is None
    assert os.getsid(daemon.pid) != os.getsid(0)
    assert "Umask:\t0027" in Path(f"/proc/{daemon.pid}/status").read_text()
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
    with pytest.raises(DaemonError, match="has not ended after"):
        stop_daemon(pid_file, 0.3)
    assert pid_file.holder() is not None
