"""The misbehaving nodes of ``badnode`` as a test handles them: one process for all, each switched by itself."""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support import history
from tests.support.processes import Processes, clean_environment, free_port, wait_listening


@dataclass(frozen=True, slots=True)
class Seen:
    """An attempt that a node treated badly."""

    mode: str
    target: str
    sequence: int
    key: str


class BadNode:
    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.port = free_port()
        self.stem = directory / name
        self.log_path = self.stem.with_suffix(".log")

    def behave(self, **modes: str) -> None:
        """From now on ``listener``, ``health``, ``read`` and ``update`` are treated so; well where nothing is said."""
        temporary = self.stem.with_suffix(".mode-new")
        temporary.write_text(json.dumps(modes), "utf-8")
        os.replace(temporary, self.stem.with_suffix(".mode"))

    def seen(self) -> list[Seen]:
        """The attempts treated badly so far."""
        whole, _, _ = self.stem.with_suffix(".seen").read_text("utf-8").rpartition("\n")
        return [Seen(**json.loads(line)) for line in whole.splitlines()]

    def keys(self) -> dict[int, set[str]]:
        """Of those attempts: sequence → the keys they came with."""
        found: defaultdict[int, set[str]] = defaultdict(set)
        for seen in self.seen():
            found[seen.sequence].add(seen.key)
        return found

    def applied(self) -> list[history.Applied]:
        return history.read_log(self.log_path)


class BadNodes:
    """All of them, in one process; well until they are told to be something else."""

    def __init__(self, processes: Processes, names: Sequence[str]) -> None:
        self.nodes = [BadNode(name, processes.directory) for name in names]
        command = [sys.executable, "-m", "tests.support.badnode", *(f"{node.port}:{node.stem}" for node in self.nodes)]
        environment = clean_environment(processes.directory, {"PYTHONPATH": str(Path(__file__).parents[2])})
        self.process = processes.add("badnodes", command, environment=environment, must_be_clean=True)

    def start(self) -> BadNodes:
        self.process.start()
        for node in self.nodes:
            wait_listening(node.port, process=self.process)
        return self

    def __getitem__(self, name: str) -> BadNode:
        return next(node for node in self.nodes if node.name == name)
