"""Spawn and its nodes as real processes: what most end-to-end tests start with."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support import history, loggingnode
from tests.support.api import AdminApi, session
from tests.support.processes import ManagedProcess, Processes, clean_environment, free_port, wait_listening
from tests.support.waiting import eventually

Settings = Mapping[str, Any]  # as in the configuration file
SPAWNCTL = (sys.executable, "-m", "spawnctl.cli")


def spawn_environment(home: Path) -> dict[str, str]:
    """For spawnctl: every warning is shown, so that the check of its output sees it."""
    root = Path(__file__).parents[2]
    return clean_environment(home, {"PYTHONWARNINGS": "default", "PYTHONPATH": str(root)})


class LoggingNode:
    """A ``loggingnode`` process; a restart keeps its port and its log."""

    def __init__(self, processes: Processes, name: str, *options: str) -> None:
        self.name = name
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_path = processes.directory / f"{name}.log"
        command = [
            sys.executable,
            loggingnode.__file__,
            "--port",
            str(self.port),
            "--log",
            str(self.log_path),
            *options,
        ]
        self.process = processes.add(name, command, must_be_clean=True)

    def start(self) -> LoggingNode:
        self.process.start()
        wait_listening(self.port, process=self.process)
        return self

    def kill(self) -> None:
        self.process.kill()

    def applied(self) -> list[history.Applied]:
        return history.read_log(self.log_path)

    def records(self) -> list[dict[str, Any]]:
        """The log's lines of applied updates, with all that the node kept of them."""
        whole, _, _ = self.log_path.read_text("utf-8").rpartition("\n")
        return [record for line in whole.splitlines() if (record := json.loads(line))["event"] == "applied"]

    def busy(self) -> int:
        """How many requests wait for their ``delay`` now."""
        with session() as client:
            return int(client.get(f"{self.url}/busy", timeout=10).text)

    def reads(self) -> dict[int, int]:
        """Reads of items that this life of the node has had, by how many updates it had applied by then."""
        with session() as client:
            found = client.get(f"{self.url}/reads", timeout=10).json()
        return {int(applied): reads for applied, reads in found.items()}

    def items(self) -> dict[str, str]:
        """What the application holds, asked directly."""
        with session() as client:
            found = client.get(f"{self.url}/items", timeout=10).json()
        assert isinstance(found, dict)
        return found


class Spawn:
    """A ``spawnctl`` process with a configuration file of its own."""

    def __init__(
        self, processes: Processes, node_ports: Sequence[int], settings: Settings | None = None, *, name: str = "spawn"
    ) -> None:
        """``settings`` replace top-level keys of a configuration that suits most tests."""
        self.directory = processes.directory
        self.port, api_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.api = AdminApi(api_port)
        self.state_dir = self.directory / f"{name}-state"
        self.config_path = self.directory / f"{name}.conf"
        self.config: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": self.port,
            "api": {"host": "127.0.0.1", "port": api_port},
            "query-mode": {"round-robin": True, "by-priority": False},
            "health-check": {"seconds": 1, "url": "/info", "regexp": "^version:[0-9]+$"},
            "state-dir": str(self.state_dir),
            "nodes": [{"host": "127.0.0.1", "port": port, "active": True} for port in node_ports],
        } | dict(settings or {})
        self.write_config()
        self.process: ManagedProcess = processes.add(
            name,
            [*SPAWNCTL, f"--config={self.config_path}"],
            environment=spawn_environment(self.directory),
            must_be_clean=True,
        )

    def write_config(self, settings: Settings | None = None) -> None:
        """Replace top-level keys of the file; the process learns of it by a restart or ``hang_up``."""
        self.config |= dict(settings or {})
        self.config_path.write_text(json.dumps(self.config, indent=2), "utf-8")

    def start(self, *, wait: bool = True) -> Spawn:
        self.process.start()
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self, timeout_s: float = 20.0) -> None:
        def ready() -> bool:
            assert self.process.alive, f"spawnctl ended with {self.process.exit_code}:\n{self.process.tail()}"
            return self.api.healthy()

        eventually(ready, timeout_s=timeout_s, what="Spawn serves")

    def kill(self) -> None:
        self.process.kill()

    def stop(self, timeout_s: float = 35.0, how: signal.Signals = signal.SIGTERM) -> int:
        return self.process.stop(timeout_s, how)

    def hang_up(self) -> None:
        self.process.send(signal.SIGHUP)

    def wait_output(self, has: Callable[[str], bool], *, what: str, timeout_s: float = 10.0) -> str:
        """Until ``has`` of the new output holds; returns all output."""
        eventually(lambda: has(self.process.output()), timeout_s=timeout_s, what=what)
        return self.process.output()


class Cluster:
    """Nodes and a Spawn in front of them."""

    def __init__(self, processes: Processes, *node_options: Sequence[str], settings: Settings | None = None) -> None:
        """One node for each of ``node_options`` (three plain ones when none are given)."""
        given = node_options or ((), (), ())
        self.nodes = [LoggingNode(processes, f"node{n}", *options) for n, options in enumerate(given, start=1)]
        self.spawn = Spawn(processes, [node.port for node in self.nodes], settings)

    def start(self) -> Cluster:
        for node in self.nodes:
            node.start()
        self.spawn.start()
        self.spawn.api.wait_settled(20)
        return self

    def logs(self) -> dict[str, list[history.Applied]]:
        return {node.name: node.applied() for node in self.nodes}
