"""Spawn as a service of a machine that really boots: installed from the wheel, with nodes that run here.

It uses the machine's own programs only, as an operator would; what it asserts is what every service command promises.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from collections.abc import Mapping
from typing import Any

import requests

from tests.support import history
from tests.support.api import AdminApi, session
from tests.support.cluster import LoggingNode
from tests.support.load import Load
from tests.support.machines import Machine
from tests.support.processes import Processes, free_port
from tests.support.waiting import eventually

SPAWNCTL = "/opt/spawn/bin/spawnctl"
CONFIG = "/etc/spawn/spawn.conf"
READY_S = 30.0
# Everything on a machine that may change at any time without anybody's doing. The files with a dash are what useradd
# and userdel keep of the last version of another.
RESTLESS = (
    r"/var/log/journal\b|/run/log\b|/var/log/(wtmp|btmp|lastlog|faillog)$",
    r"/var/lib/systemd\b|/run/systemd\b|/run/(utmp|udev|dbus|lock|user|mount|initctl|sendsigs|console-setup|credentials)",
    r"/run/(crond|booted|runlevel|motd|shm|host|initramfs|rpc_pipefs)|/(run|etc/init.d/\.depend)$|/etc/\.pwd\.lock$",
    r"/etc/(passwd|shadow|group|gshadow|subuid|subgid)-$|/etc/mtab$|/var/lib/(dbus|logrotate|urandom|initscripts)\b",
    r".*/__pycache__\b|/root/",
)


def install_wheel(machine: Machine) -> None:
    """From the wheel of this source into the virtual environment that has the rest."""
    pip = ("/opt/spawn/bin/pip", "install", "--quiet", "--disable-pip-version-check", "--no-index")
    machine.run(*pip, "--find-links=/wheels", "spawn-sync")


def spawnctl(
    machine: Machine, *words: str, user: str | None = None, tty: bool = False
) -> subprocess.CompletedProcess[str]:
    done = machine.run(SPAWNCTL, *words, user=user, tty=tty, check=False, timeout_s=150)
    print(f"{machine.kind}$ spawnctl {' '.join(words)}  # {done.returncode}\n{done.stdout}{done.stderr}", end="")
    return done


def succeeds(machine: Machine, *words: str) -> str:
    """A service command that works says so in its first line, and says nothing on standard error."""
    done = spawnctl(machine, *words)
    assert (done.returncode, done.stderr) == (0, ""), f"spawnctl {words}: {done}"
    assert re.match(r".*\[ *OK *\]$", done.stdout.splitlines()[0])
    return done.stdout


def fails(machine: Machine, *words: str, user: str | None = None) -> str:
    """One that does not work says so, gives its reason in one line on standard error, and ends with 1."""
    done = spawnctl(machine, *words, user=user)
    assert done.returncode == 1, f"spawnctl {words}: {done}"
    assert re.match(r".*\[ *FAILED *\]$", done.stdout)
    assert len(done.stderr.splitlines()) == 1
    return done.stderr


def running_pid(machine: Machine) -> int | None:
    """What ``status`` says: exit code 0 with a pid, or 3 without one."""
    done = spawnctl(machine, "status")
    assert done.returncode in (0, 3), str(done)
    found = re.search(r"pid\s+(\d+)", done.stdout)
    assert (found is not None) == (done.returncode == 0), str(done)
    return int(found[1]) if found else None


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Paths that came, went or are different."""
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))


class Service:
    """Spawn on one machine, in front of nodes of ours; the machine shares our network."""

    def __init__(self, machine: Machine, processes: Processes, nodes: int = 2) -> None:
        self.machine = machine
        self.port, api_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.api = AdminApi(api_port)
        self._processes = processes
        self._numbers = itertools.count(1)
        self.nodes = [self.new_node() for _ in range(nodes)]
        self.options = ["--host=127.0.0.1", f"--port={self.port}", f"--api-port={api_port}", f"--config={CONFIG}"]

    def new_node(self) -> LoggingNode:
        return LoggingNode(self._processes, f"node{next(self._numbers)}").start()

    def write_config(self, **more: Any) -> None:
        """With the nodes that there are now."""
        rows = [{"host": "127.0.0.1", "port": node.port} for node in self.nodes]
        check = {"seconds": 1, "url": "/info", "regexp": "^version:[0-9]+$"}
        self.machine.put(CONFIG, json.dumps({"health-check": check, "nodes": rows} | more, indent=2))

    def install(self, *options: str) -> Service:
        """From nothing to a service that does not run yet."""
        install_wheel(self.machine)
        self.write_config()
        succeeds(self.machine, "install", *self.options, *options)
        return self

    def start(self) -> Service:
        succeeds(self.machine, "start")
        assert self.api.healthy(), "start returns when the service is ready"
        self.api.wait_settled(READY_S)
        return self

    @property
    def pid(self) -> int | None:
        return running_pid(self.machine)

    def wait_serving(self, *, other_than: int | None = None) -> int:
        """Until it serves, in another process than that; returns the machine's pid of its process."""
        self.wait_pid(other_than=other_than)
        eventually(self.api.healthy, timeout_s=READY_S, what=f"it serves\n{self.log()}")
        self.api.wait_settled(READY_S)
        return self.wait_pid(other_than=other_than)

    def wait_pid(self, *, other_than: int | None = None) -> int:
        found: list[int | None] = []

        def runs() -> bool:
            found[:] = [self.pid]
            return found[0] not in (None, other_than)

        eventually(runs, timeout_s=READY_S, every_s=0.2, what=f"the service runs\n{self.log()}")
        assert found[0] is not None
        return found[0]

    def put(self, name: str, value: str) -> requests.Response:
        with session() as client:
            return client.put(f"{self.url}/items/{name}", data=value, timeout=30)

    def check_history(self, load: Load, *, kills: int = 0) -> None:
        """Everything that was acknowledged is on every node, in one order."""
        self.api.wait_settled(60)
        logs = {node.name: node.applied() for node in self.nodes}
        tolerance = history.Tolerance(spawn_kills=kills)
        assert history.check(logs, load.attempted, load.acknowledged, tolerance) == []
        items = [node.items() for node in self.nodes]
        assert all(held == items[0] for held in items)

    def log(self) -> str:
        """What the service has logged, wherever that goes; for messages of failed tests."""
        journal, files = "journalctl --unit=spawn --no-pager --lines=30", "/var/log/spawn.log /var/log/spawn/*"
        return self.machine.run("sh", "-c", f"{journal} 2>&1 || tail -n 30 {files} 2>&1", check=False).stdout
