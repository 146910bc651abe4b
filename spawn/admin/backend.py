"""What the admin API needs from the service behind it.

The methods run in the greenlet of a request; they may block that greenlet (never the hub), each for a bounded time.
Hosts arrive normalised (``spawn.config.addresses``), ports and priorities within their ranges.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from spawn.delivery.types import BackupMade, NodeChange, Position, PutResult, QueueChange, QueueStatus, UpdateFate
from spawn.nodes.node import NodeRecord


class AdminBackend(Protocol):
    """The fleet, the journal and the life of the service, as far as an operator may see and change them."""

    def nodes(self, host: str | None = None, port: int | None = None) -> Sequence[NodeRecord]:
        """Matching nodes, in the order in which reads walk them."""

    def put_node(self, host: str, port: int, change: NodeChange, position: Position | None, peer: str) -> PutResult:
        """Create or change the node at ``host:port``; durable on return.

        ``change.host`` and ``change.port`` move it. Raises ``NodeConflict`` when another node is there already, and
        ``PositionConflict`` for a position that the node cannot be put at; nothing has changed then.
        """

    def put_nodes(self, changes: Sequence[tuple[str, int, NodeChange]], peer: str) -> Sequence[PutResult]:
        """As many ``put_node``s, without moves and positions; what they wait for, they wait for together.

        Raises ``StateError`` when they cannot be stored: all of them hold, and are stored later.
        """

    def delete_nodes(self, host: str | None, port: int | None, peer: str) -> int:
        """Remove all matching nodes, durable on return; how many there were."""

    def queues(self, host: str | None = None, port: int | None = None) -> Sequence[QueueStatus]:
        """Matching nodes' places in the journal, in the order of ``nodes``."""

    def set_position(self, host: str, port: int, position: Position, peer: str) -> QueueChange:
        """Put a node at a position, durable on return.

        Raises ``NoSuchNode``, ``PositionConflict``, and ``NotPossibleNow`` when it would be diverged by that, which
        cannot be stored: nothing has changed.
        """

    def resume(self, host: str, port: int, peer: str) -> QueueChange:
        """Let a held node go on, durable on return. Raises ``NoSuchNode``."""

    def skip(self, host: str, port: int, sequence: int, peer: str) -> QueueChange:
        """Take an update out of a node's queue for good, durable on return.

        Raises ``NoSuchNode``, ``NoSuchUpdate``, ``VerbConflict`` when the node is done with it, or has no queue, and
        ``NotPossibleNow`` when it cannot be stored that the node is diverged: nothing has changed.
        """

    def retry(self, host: str, port: int, sequence: int, peer: str) -> QueueChange:
        """Deliver once more what a node refused or skipped, or whose fate on it is unknown.

        Raises ``NoSuchNode``, ``NoSuchUpdate``, ``Pruned``, ``VerbConflict`` (also when the node refused it again),
        ``NotPossibleNow`` and ``StillUnknown``.
        """

    def clear_diverged(self, host: str, port: int, peer: str) -> QueueChange:
        """A node counts as equal to the others again, durable on return. Raises ``NoSuchNode``."""

    def backup(self, peer: str) -> BackupMade:
        """Copy the journal; may take long. Raises ``VerbConflict`` and ``JournalError``."""

    def head(self) -> int:
        """The journal's last sequence."""

    def fate(self, sequence: int) -> UpdateFate | None:
        """None for a sequence that was never given; raises ``Pruned`` for one whose record is gone."""

    def health(self) -> tuple[bool, str]:
        """Whether Spawn is serving, and in a few words why (not): ``starting`` while nothing may be changed yet."""

    def counters(self) -> Mapping[str, int]:
        """Every counter by its name."""
