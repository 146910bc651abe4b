"""A real fleet over a journal in memory, with workers that only deliver when a test says so, and no health checks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from spawn.config.schema import NodeConfig
from spawn.counters import Counters
from spawn.delivery.answers import ReferenceBoard
from spawn.delivery.changes import Changes
from spawn.delivery.fleet import Fleet
from spawn.delivery.freshness import Freshness
from spawn.delivery.types import NodeChange, PutResult
from spawn.delivery.worker import Worker, WorkerEvents
from spawn.http11.spool import Spool
from spawn.journal.base import Entry, NewUpdate
from spawn.journal.memory import MemoryJournal
from spawn.nodes.health import HealthChecker
from spawn.nodes.node import Node, NodeEvent
from spawn.nodes.registry import Registry
from spawn.state.nodes import NodeStore


class IdleWorker:
    """Stands where a worker stands; remembers what it was told."""

    def __init__(self, node: Node, events: WorkerEvents) -> None:
        self.node = node
        self.events = events
        self.stopped = False
        self.offered: list[int] = []

    def start(self) -> None:
        pass

    def stop(self, deadline_s: float) -> bool:
        self.stopped = True
        return True

    def offer(self, entry: Entry) -> None:
        self.offered.append(entry.sequence)

    def vindicate(self, sequence: int, by_all: bool) -> None: ...

    def wake(self) -> None:
        pass

    def resume(self) -> None:
        pass


class NoChecker:
    """Knows which nodes it would ask."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.poked: list[Node] = []

    def add(self, node: Node) -> None:
        self.nodes.append(node)

    def remove(self, node: Node) -> None:
        self.nodes = [other for other in self.nodes if other is not node]

    def poke(self, node: Node) -> None:
        self.poked.append(node)


class FleetUnderTest:
    def __init__(
        self,
        directory: Path,
        ports: Sequence[int] = (),
        *,
        max_bytes: int = 1 << 20,
        lasts: bool = False,
        updates: int = 0,
    ) -> None:
        """``updates`` are in the journal already."""
        self.now_s = 1_000_000.0
        self.workers: dict[str, IdleWorker] = {}
        self.store = NodeStore(str(directory))
        self.journal = MemoryJournal(max_bytes, str(directory / "spool"), clock=lambda: self.now_s)
        self.registry = Registry(self.store)
        self.freshness = Freshness()
        self.checker = NoChecker()
        counters = Counters()
        self.fleet = Fleet(self.registry, self.journal, self.freshness, self._make_worker, counters)
        self.board = ReferenceBoard(
            self.journal,
            lambda: self.fleet.speakers,
            lambda: Spool(str(directory), 1000, 1000),
            self.fleet.on_disagreement,
            expected_before=lambda sequence: self.fleet.ids_in_sync(),
        )
        self.fleet.attach(self.board, cast(HealthChecker, self.checker))
        self.journal.start(self.fleet.publish, lambda reason: None)
        self.changes = Changes(self.fleet, counters)
        for _ in range(updates):
            self.journal.append(NewUpdate(b"POST", b"/", b"", b""))
        self.fleet.start([NodeConfig(host="h", port=port) for port in ports], journal_lasts=lasts)
        for node in self.registry.nodes:
            self.pass_check(node)

    def _make_worker(self, node: Node, events: WorkerEvents) -> Worker:
        worker = self.workers[node.id] = IdleWorker(node, events)
        return cast(Worker, worker)

    def close(self) -> None:
        self.fleet.stop(1.0)
        self.journal.stop(1.0)

    def node(self, port: int) -> Node:
        return self.registry.find("h", port)[0]

    def worker(self, port: int) -> IdleWorker | None:
        """The running worker of a node."""
        return cast("IdleWorker | None", self.fleet._workers.get(self.node(port).id))

    def pass_check(self, node: Node) -> None:
        node.healthy = True
        self.fleet.on_health(node, NodeEvent.UP)

    def append(self, count: int = 1, body: bytes = b"") -> None:
        for _ in range(count):
            self.journal.append(NewUpdate(b"POST", b"/", b"", body))

    def deliver(self, port: int, upto: int | None = None) -> None:
        """Move a node to ``upto`` (the head), as its worker does."""
        node = self.node(port)
        node.position = self.journal.head if upto is None else upto
        self.journal.advance(node.id, node.position)
        self.workers[node.id].events.advanced(node)

    def outcomes(self, sequence: int) -> dict[int, str]:
        """Port → outcome, where there is one."""
        fate = self.journal.fate(sequence)
        assert fate is not None
        names = {node.id: node.record.port for node in self.registry.nodes}
        return {names[node_id]: outcome.value for node_id, outcome in fate.outcomes.items()}

    def put(self, port: int, position: Any = None, /, **record: Any) -> PutResult:
        return self.changes.put_node("h", port, NodeChange(**record), position, "test")
