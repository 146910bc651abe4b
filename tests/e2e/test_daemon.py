"""``spawnctl start``, ``status`` and ``stop`` where no service is installed: a container, a user's own directory."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import spawn
from spawnctl.pidfile import PidFile
from spawnctl.sysv import render_script
from tests.support.api import session
from tests.support.processes import free_port
from tests.support.spawnctl import environment, spawnctl
from tests.support.waiting import eventually

pytestmark = pytest.mark.skipif(
    os.path.exists("/etc/init.d/spawn") or os.path.exists("/etc/systemd/system/spawn.service"),
    reason="Spawn is installed as a service on this machine",
)

OK, FAILED = "\t\t\t\t\t[  OK  ]\n", "\t\t\t\t\t[FAILED]\n"


@dataclass(frozen=True)
class Place:
    """A directory with a configuration, as somebody keeps it who has no init system."""

    directory: Path
    port: int
    api_port: int

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        return spawnctl(command, cwd=self.directory)

    @property
    def pid_file(self) -> PidFile:
        return PidFile(self.directory / "run" / "spawn.pid")

    @property
    def log(self) -> str:
        return (self.directory / "spawn.log").read_text()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    here = Place(tmp_path, free_port(), free_port())
    config = {
        "host": "127.0.0.1",
        "port": here.port,
        "api": {"port": here.api_port},
        "state-dir": "state",
        "log": {"file": "spawn.log"},
    }
    (tmp_path / "spawn.conf").write_text(json.dumps(config))
    yield here
    pid = here.pid_file.holder()
    if pid:
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: here.pid_file.holder() is None, timeout_s=10, what="the daemon is gone")


def answers(place: Place) -> bool:
    with session() as client:
        return client.get(f"http://127.0.0.1:{place.api_port}/health", timeout=10).status_code == 200


def test_start_status_stop(place: Place) -> None:
    stopped = place.run("status")
    assert (stopped.returncode, stopped.stdout) == (3, "Service is stopped\n")

    started = place.run("start")
    assert (started.returncode, started.stderr) == (0, "")
    assert started.stdout == f"Starting Spawn Sync Service:{OK}"
    assert answers(place), "start returns when the service is ready"

    status = place.run("status")
    assert status.returncode == 0
    first, second, third = status.stdout.splitlines()
    assert first == f"Service (pid  {place.pid_file.holder()}) is running..."
    assert re.fullmatch(rf"version {re.escape(spawn.__version__)}, up \d+ s, journal at update 0", second)
    assert third == "no nodes are configured"

    done = place.run("stop")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"Stopping Spawn Sync Service:{OK}", "")
    assert place.run("status").returncode == 3
    assert "Traceback" not in place.log
    assert (place.directory / "state").is_dir(), "relative paths mean the directory of the file"


def test_a_backup_is_started_in_the_background_once_with_restored(place: Place) -> None:
    # Given a backup in place of the state directory
    assert place.run("start").returncode == 0
    with session() as client:
        made = client.post(f"http://127.0.0.1:{place.api_port}/journal/backup", timeout=30).json()
    assert place.run("stop").returncode == 0
    state = place.directory / "state"
    state.rename(place.directory / "lost")
    shutil.copytree(str(made["data"]["results"][0]["path"]).replace("/state/", "/lost/", 1), state)
    # When it is started without the option, that is refused
    refused = place.run("start")
    assert refused.returncode == 1
    assert "--restored" in refused.stderr.splitlines()[0]
    # With it, it runs, and the next start needs nothing
    started = spawnctl("start", "--restored", cwd=place.directory)
    assert (started.returncode, started.stderr) == (0, "")
    assert answers(place)
    assert "started with --restored" in place.log
    assert place.run("stop").returncode == 0
    assert place.run("start").returncode == 0


def test_messages_of_the_original(place: Place) -> None:
    done = place.run("stop")
    assert (done.returncode, done.stderr) == (1, "Service has already been stopped\n")
    assert done.stdout == f"Stopping Spawn Sync Service:{FAILED}"
    assert place.run("start").returncode == 0
    again = place.run("start")
    assert (again.returncode, again.stderr) == (1, "Service is already running\n")
    assert answers(place), "the first one does not notice"


def test_a_start_that_fails_says_why(place: Place) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", place.port))
        taken.listen()
        done = place.run("start")
    assert (done.returncode, done.stdout) == (1, f"Starting Spawn Sync Service:{FAILED}")
    [line] = done.stderr.splitlines()
    assert str(place.port) in line
    assert place.run("status").returncode == 3


def test_a_faulty_configuration_starts_nothing(place: Place) -> None:
    (place.directory / "spawn.conf").write_text('{"prot": 1, "port": 0}')
    done = place.run("start")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 2
    assert not (place.directory / "run").exists()


def test_a_configuration_broken_later_does_not_hide_the_daemon(place: Place) -> None:
    assert place.run("start").returncode == 0
    (place.directory / "spawn.conf").write_text("{")
    assert place.run("status").returncode == 0
    assert place.run("stop").returncode == 0


def test_after_kill_9_it_is_stopped_and_starts_again(place: Place) -> None:
    assert place.run("start").returncode == 0
    pid = place.pid_file.holder()
    assert pid
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: place.pid_file.holder() is None, timeout_s=10, what="the daemon is gone")
    assert place.run("status").returncode == 3
    assert place.run("start").returncode == 0
    assert place.pid_file.holder() not in (None, pid)


def test_two_starts_at_once_make_one_service(place: Place) -> None:
    command = [sys.executable, "-P", "-m", "spawnctl", "start"]
    env = environment(place.directory)
    starts = [
        subprocess.Popen(command, cwd=place.directory, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    said = [start.communicate(timeout=60)[1].decode() for start in starts]
    assert sorted(start.returncode for start in starts) == [0, 1]
    assert "Service is already running\n" in said
    assert answers(place)


def test_the_sysv_script(place: Place) -> None:
    """The script of ``install`` calls the same commands; under dash where that is /bin/sh."""
    script = place.directory / "spawn.init"
    script.write_text(render_script(sys.executable))
    env = environment(place.directory)

    def run(action: str) -> int:
        command = ["sh", str(script), action]
        return subprocess.run(command, cwd=place.directory, env=env, timeout=60, check=False).returncode

    expected: list[tuple[str, int, Callable[[], bool]]] = [
        ("status", 3, lambda: True),
        ("stop", 0, lambda: True),
        ("reload", 7, lambda: True),
        ("start", 0, lambda: answers(place)),
        ("start", 0, lambda: answers(place)),
        ("status", 0, lambda: True),
        ("restart", 0, lambda: answers(place)),
        ("stop", 0, lambda: place.pid_file.holder() is None),
        ("nonsense", 2, lambda: True),
    ]
    for action, code, holds in expected:
        assert run(action) == code, action
        assert holds(), action
