"""The pid file: only a living process that holds the lock counts, and nobody names a process of somebody else's."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from spawnctl import daemon
from spawnctl.machine import ControlError
from spawnctl.pidfile import PidFile, pid_path

SOMEBODY = 54_321
HOLDER = """
import sys
from pathlib import Path
from spawnctl.pidfile import PidFile
assert PidFile(Path(sys.argv[1])).acquire()
print("held", flush=True)
sys.stdin.read()
"""


def holding(path: Path) -> subprocess.Popen[str]:
    """A process that has the pid file."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_where_the_pid_file_is() -> None:
    state = Path("/s")
    assert pid_path({}, 0, state) == Path("/run/spawn/spawn.pid")
    assert pid_path({"XDG_RUNTIME_DIR": "/run/user/7"}, 7, state) == Path("/s/spawn.pid"), (
        "a logout does not take it away"
    )
    assert pid_path({"RUNTIME_DIRECTORY": "/r"}, 0, state) == Path("/run/spawn/spawn.pid"), "that is somebody else's"
    assert pid_path({"SPAWN_RUNTIME_DIRECTORY": "/r"}, 0, state) == Path("/r/spawn.pid")


def test_a_pid_file_counts_while_its_process_lives(tmp_path: Path) -> None:
    path = tmp_path / "spawn.pid"
    mine, other = PidFile(path), PidFile(path)
    assert other.holder() is None
    assert mine.acquire()
    assert other.holder() == os.getpid()
    assert path.read_text().splitlines()[0] == str(os.getpid()), "the first line is the pid (LSB)"
    assert not other.acquire(), "two processes never have it"
    mine.release()
    assert other.holder() is None
    assert os.listdir(tmp_path) == []


def test_what_kill_9_leaves_is_stale_and_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "spawn.pid"
    process = holding(path)
    assert PidFile(path).holder() == process.pid
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert PidFile(path).holder() is None, "also while nobody has waited for it: it is a zombie"
    end(process)
    assert path.exists()
    with pytest.raises(ControlError, match="Service has already been stopped"):
        daemon.stop(PidFile(path), 1)
    assert os.listdir(tmp_path) == [], "and nothing is left of it"


def test_a_pid_that_is_used_again_is_not_ours(tmp_path: Path) -> None:
    """The same number, started at another time, or before the machine was booted."""
    path = tmp_path / "spawn.pid"
    mine = PidFile(path)
    assert mine.acquire()
    pid, started, boot = path.read_text().split()
    mine.release()
    for text in (f"{pid}\n{int(started) - 1} {boot}\n", f"{pid}\n{started} another-boot\n", f"{pid}\n", "1\n"):
        path.write_text(text)
        assert PidFile(path).holder() is None, text
        assert daemon.send(PidFile(path), signal.SIGKILL) is None, "and gets no signal"
    path.write_text(f"{pid}\n{started} {boot}\n")
    assert PidFile(path).holder() == os.getpid()


@pytest.mark.parametrize("content", ["", "x", "-1", "1 2", "9" * 40, "1\n2 3 4\n", "\0" * 300])
def test_a_damaged_pid_file_is_nobodys(tmp_path: Path, content: str) -> None:
    path = tmp_path / "spawn.pid"
    path.write_text(content)
    assert PidFile(path).holder() is None
    fresh = PidFile(path)
    assert fresh.acquire(), "and is taken over"
    assert PidFile(path).holder() == os.getpid()
    fresh.release()


def test_a_link_in_place_of_the_files_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in ("spawn.pid", "spawn.new"):
        (tmp_path / name).symlink_to(victim)
    mine = PidFile(tmp_path / "spawn.pid")
    with pytest.raises(ControlError, match=r"spawn\.pid cannot be read"):
        mine.holder()
    assert mine.acquire()
    mine.release()
    (tmp_path / "spawn.lock").symlink_to(victim)
    with pytest.raises(OSError):
        mine.acquire()
    assert victim.read_text() == "precious"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be somebody else")
def test_nobody_else_can_take_the_lock(tmp_path: Path) -> None:
    """Who could would keep the service from starting."""
    tmp_path.chmod(0o755)
    mine = PidFile(tmp_path / "spawn.pid")
    assert mine.acquire()
    assert (tmp_path / "spawn.pid").stat().st_mode & 0o777 == 0o644, "anybody may ask for the status"
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir() if path.suffix != ".pid"}
    assert modes == {"spawn.lock": 0o600}
    with (tmp_path / "spawn.pid").open() as read:
        fcntl.flock(read, fcntl.LOCK_EX)  # whoever may read the file may do this
        assert PidFile(tmp_path / "spawn.pid").holder() == os.getpid()
        mine.release()
        assert mine.acquire()
    mine.release()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can write another user's pid file")
def test_a_pid_file_of_another_user_does_not_name_our_processes(tmp_path: Path) -> None:
    """Who asks may be root, and would send the signal."""
    path = tmp_path / "spawn.pid"
    mine = PidFile(path)
    assert mine.acquire()
    os.chown(path, SOMEBODY, SOMEBODY)
    with pytest.raises(ControlError, match=f"names process {os.getpid()}, which is user root's: it is left alone"):
        PidFile(path).holder()
    mine.release()


def test_files_that_are_held_are_not_discarded(tmp_path: Path) -> None:
    path = tmp_path / "spawn.pid"
    mine = PidFile(path)
    assert mine.acquire()
    PidFile(path).discard()
    assert path.exists()
    mine.release()


def test_a_kernel_without_handles_of_processes_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(pid: int) -> int:
        raise OSError(38, "Function not implemented")

    path = tmp_path / "spawn.pid"
    process = holding(path)
    monkeypatch.setattr(os, "pidfd_open", missing)
    assert daemon.send(PidFile(path), signal.SIGTERM) == process.pid
    assert process.wait(20) == -signal.SIGTERM
    end(process)
    assert daemon.send(PidFile(path), signal.SIGTERM) is None
