"""The pid file: only a living process that holds the lock counts, and nobody names a process of somebody else's."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from spawnctl import daemon
from spawnctl.machine import ControlError
from spawnctl.pidfile import PidFile, pid_path

SOMEBODY = 54_321


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
    with pytest.raises(ControlError, match="Service has already been stopped"):
        daemon.stop(PidFile(path), 1)


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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can write another user's pid file")
def test_a_pid_file_of_another_user_does_not_name_our_processes(tmp_path: Path) -> None:
    """Who asks may be root, and would send the signal."""
    path = tmp_path / "spawn.pid"
    path.write_text(f"{os.getpid()}\n")
    os.chown(path, SOMEBODY, SOMEBODY)
    with path.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ControlError, match=f"names process {os.getpid()}, which is user root's: it is left alone"):
            PidFile(path).holder()


def test_a_pid_file_that_cannot_be_read_is_not_taken_for_none(tmp_path: Path) -> None:
    (tmp_path / "spawn.pid").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ControlError, match=r"spawn\.pid cannot be read"):
        PidFile(tmp_path / "spawn.pid").holder()


def test_what_holds_the_lock_cannot_change_the_file(tmp_path: Path) -> None:
    """A daemon that gave up root keeps what it has open."""
    pid_file = PidFile(tmp_path / "spawn.pid")
    before = set(os.listdir("/proc/self/fd"))
    assert pid_file.acquire()
    [kept] = set(os.listdir("/proc/self/fd")) - before
    with pytest.raises(OSError):
        os.write(int(kept), b"1\n")
    pid_file.release()


def test_a_stale_file_is_discarded_and_a_held_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "spawn.pid"
    path.write_text("1\n")
    PidFile(path).discard()
    assert not path.exists()
    mine = PidFile(path)
    assert mine.acquire()
    PidFile(path).discard()
    assert path.exists()
    mine.release()
