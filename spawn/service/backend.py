"""What the admin API is given: the fleet's views and changes behind the one interface it asks for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from spawn.counters import Counters
from spawn.delivery.changes import Changes
from spawn.delivery.fleet import Fleet
from spawn.delivery.report import Report
from spawn.delivery.types import (
    BackupMade,
    NodeChange,
    Position,
    PutResult,
    QueueChange,
    QueueStatus,
    UpdateFate,
    VerbConflict,
)
from spawn.journal.base import Backup
from spawn.nodes.balance import Balancer, by_priority
from spawn.nodes.node import Node, NodeRecord

log = logging.getLogger("spawn.changes")


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
        backup: Callable[[], Backup],
    ) -> None:
        """``backup`` copies the journal, and blocks its greenlet as long as that takes."""
        self._fleet = fleet
        self._changes = changes
        self._report = report
        self._balancer = balancer
        self._counters = counters
        self._health = health
        self._backup = backup
        self._backing_up = False

    def nodes(self, host: str | None = None, port: int | None = None) -> Sequence[NodeRecord]:
        return [node.record for node in self._find(host, port)]

    def put_node(self, host: str, port: int, change: NodeChange, position: Position | None, peer: str) -> PutResult:
        return self._changes.put_node(host, port, change, position, peer)

    def put_nodes(self, changes: Sequence[tuple[str, int, NodeChange]], peer: str) -> Sequence[PutResult]:
        return self._changes.put_nodes(changes, peer)

    def delete_nodes(self, host: str | None, port: int | None, peer: str) -> int:
        return self._changes.delete_nodes(host, port, peer)

    def queues(self, host: str | None = None, port: int | None = None) -> Sequence[QueueStatus]:
        return [self._report.queue(node) for node in self._find(host, port)]

    def set_position(self, host: str, port: int, position: Position, peer: str) -> QueueChange:
        return self._changed(*self._changes.set_position(host, port, position, peer))

    def resume(self, host: str, port: int, peer: str) -> QueueChange:
        return self._changed(*self._changes.resume(host, port, peer))

    def skip(self, host: str, port: int, sequence: int, peer: str) -> QueueChange:
        return self._changed(*self._changes.skip(host, port, sequence, peer))

    def retry(self, host: str, port: int, sequence: int, peer: str) -> QueueChange:
        return self._changed(*self._changes.retry(host, port, sequence, peer))

    def clear_diverged(self, host: str, port: int, peer: str) -> QueueChange:
        return self._changed(*self._changes.clear_diverged(host, port, peer))

    def backup(self, peer: str) -> BackupMade:
        """One at a time; nothing else waits for it."""
        if self._backing_up:
            raise VerbConflict("a backup is being made")
        self._backing_up = True
        try:
            made = self._backup()
        finally:
            self._backing_up = False
        self._counters.add("operator.backup")
        log.info("the journal up to update %d was copied to %s by %s", made.head, made.path, peer)
        return BackupMade(path=made.path, head=made.head, size_bytes=made.size_bytes)

    def head(self) -> int:
        return self._fleet.journal.head

    def fate(self, sequence: int) -> UpdateFate | None:
        return self._report.fate(sequence)

    def health(self) -> tuple[bool, str]:
        return self._health()

    def counters(self) -> Mapping[str, int]:
        return self._counters.snapshot()

    def _changed(self, node: Node, note: str) -> QueueChange:
        return QueueChange(self._report.queue(node), note)

    def _find(self, host: str | None, port: int | None) -> list[Node]:
        found = self._fleet.registry.find(host, port)
        return by_priority(found) if self._balancer.mode.by_priority else found
