"""What the admin API is given: the fleet's views and changes behind the one interface it asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from spawn.counters import Counters
from spawn.delivery.changes import Changes
from spawn.delivery.fleet import Fleet
from spawn.delivery.report import Report
from spawn.delivery.types import NodeChange, Position, PutResult, QueueStatus, UpdateFate
from spawn.nodes.balance import Balancer, by_priority
from spawn.nodes.node import Node, NodeRecord


class Backend:
    """Satisfies ``spawn.admin.backend.AdminBackend``."""

    def __init__(
        self,
        fleet: Fleet,
        changes: Changes,
        report: Report,
        balancer: Balancer,
        counters: Counters,
        health: Callable[[], tuple[bool, str]],
    ) -> None:
        self._fleet = fleet
        self._changes = changes
        self._report = report
        self._balancer = balancer
        self._counters = counters
        self._health = health

    def nodes(self, host: str | None = None, port: int | None = None) -> Sequence[NodeRecord]:
        return [node.record for node in self._find(host, port)]

    def put_node(self, host: str, port: int, change: NodeChange, position: Position | None, peer: str) -> PutResult:
        return self._changes.put_node(host, port, change, position, peer)

    def delete_nodes(self, host: str | None, port: int | None, peer: str) -> int:
        return self._changes.delete_nodes(host, port, peer)

    def queues(self, host: str | None = None, port: int | None = None) -> Sequence[QueueStatus]:
        return [self._report.queue(node) for node in self._find(host, port)]

    def set_position(self, host: str, port: int, position: Position, peer: str) -> QueueStatus:
        return self._report.queue(self._changes.set_position(host, port, position, peer))

    def head(self) -> int:
        return self._fleet.journal.head

    def fate(self, sequence: int) -> UpdateFate | None:
        return self._report.fate(sequence)

    def health(self) -> tuple[bool, str]:
        return self._health()

    def counters(self) -> Mapping[str, int]:
        return self._counters.snapshot()

    def _find(self, host: str | None, port: int | None) -> list[Node]:
        found = self._fleet.registry.find(host, port)
        return by_priority(found) if self._balancer.mode.by_priority else found
