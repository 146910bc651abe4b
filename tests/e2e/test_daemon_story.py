"""Where no init system runs it: started by hand, killed, started again, reloaded, and nothing acknowledged is lost.

The story that ``tests/e2e/machines`` tells of systemd and SysV init, of the daemon that ``spawnctl start`` makes.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from spawnctl.pidfile import PidFile
from tests.support import history
from tests.support.api import AdminApi
from tests.support.cluster import LoggingNode
from tests.support.load import Load
from tests.support.processes import Processes, free_port
from tests.support.spawnctl import spawnctl
from tests.support.waiting import eventually

INSTALLED = os.path.exists("/etc/init.d/spawn") or os.path.exists("/etc/systemd/system/spawn.service")
pytestmark = pytest.mark.skipif(INSTALLED, reason="Spawn is installed as a service on this machine")


@dataclass
class Here:
    """A directory with a configuration, and the nodes that it names."""

    directory: Path
    processes: Processes
    port: int = field(default_factory=free_port)
    api_port: int = field(default_factory=free_port)
    nodes: list[LoggingNode] = field(default_factory=list)

    @property
    def api(self) -> AdminApi:
        return AdminApi(self.api_port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        return PidFile(self.directory / "run" / "spawn.pid").holder()

    def add_node(self) -> None:
        self.nodes.append(LoggingNode(self.processes, f"node{len(self.nodes)}").start())
        config = {
            "host": "127.0.0.1",
            "port": self.port,
            "api": {"port": self.api_port},
            "state-dir": "state",
            "log": {"file": "spawn.log"},
            "health-check": {"seconds": 1, "url": "/info", "regexp": "^version:[0-9]+$"},
            "nodes": [{"host": "127.0.0.1", "port": node.port} for node in self.nodes],
        }
        (self.directory / "spawn.conf").write_text(json.dumps(config), "utf-8")

    def run(self, command: str) -> tuple[int, str]:
        done = spawnctl(command, cwd=self.directory)
        return done.returncode, done.stdout + done.stderr

    def kill(self, which: int) -> None:
        pid = self.pid
        assert pid is not None
        os.kill(pid, which)

    @property
    def log(self) -> str:
        return (self.directory / "spawn.log").read_text("utf-8")


@pytest.fixture
def here(tmp_path: Path, processes: Processes) -> Iterator[Here]:
    place = Here(tmp_path, processes)
    place.add_node()
    place.add_node()
    yield place
    if place.pid is not None:
        place.kill(signal.SIGKILL)
        eventually(lambda: place.pid is None, timeout_s=10, what="the daemon is gone")


def test_the_story_of_a_daemon(here: Here) -> None:
    # It is started, and serves when the command returns
    assert here.run("start")[0] == 0
    assert here.api.healthy()
    first = here.pid
    # Killed under load it is stopped, until it is started again
    with Load(here.url, total=300, stubborn=True) as load:
        load.wait_acknowledged(100)
        here.kill(signal.SIGKILL)
        eventually(lambda: here.pid is None, timeout_s=10, what="it is gone")
        assert here.run("status") == (3, "Service is stopped\n")
        assert here.run("start")[0] == 0
        load.join()
    assert load.failures, "the kill came too late to be a test"
    assert here.pid not in (None, first)
    # Nothing that was acknowledged is lost, and the order is one
    here.api.wait_settled(60)
    logs = {node.name: node.applied() for node in here.nodes}
    assert history.check(logs, load.attempted, load.acknowledged, history.Tolerance(spawn_kills=1)) == []
    # It takes up a node of a changed file without a restart
    before = here.pid
    here.add_node()
    here.kill(signal.SIGHUP)
    eventually(lambda: len(here.api.nodes()) == 3, timeout_s=20, what="three nodes")
    assert here.pid == before
    # Its status shows the nodes: the new one has missed what is in the journal
    code, shown = here.run("status")
    assert code == 0
    rows = {line.split()[0]: line.split()[1:] for line in shown.splitlines()[3:]}
    names = [f"127.0.0.1:{node.port}" for node in here.nodes]
    assert [rows[name] for name in names[:2]] == [["serving", "0"]] * 2
    assert rows[names[2]][0] == "out-of-sync"
    # Its log is rotated
    (here.directory / "spawn.log").rename(here.directory / "spawn.log.1")
    here.kill(signal.SIGUSR1)
    eventually((here.directory / "spawn.log").exists, timeout_s=10, what="a new log file")
    # It is stopped, and says that it was told to in the new file
    code, said = here.run("stop")
    assert code == 0, said
    assert "told to stop" in here.log
    assert here.run("status") == (3, "Service is stopped\n")


def test_a_start_that_fails_on_what_is_damaged_says_what(here: Here) -> None:
    (here.directory / "state").mkdir(mode=0o700)
    (here.directory / "state" / "nodes.json").write_text("{broken", "utf-8")
    code, said = here.run("start")
    assert code == 1
    assert "nodes.json" in said
    assert here.run("status")[0] == 3
