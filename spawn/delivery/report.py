"""What operators are shown of queues and updates: read-only views over the fleet and the journal."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import gevent

from spawn.delivery.fleet import Fleet
from spawn.delivery.texts import counted
from spawn.delivery.types import ActionTaken, NodeFate, QueueStatus, UpdateFate, UpdateStatus
from spawn.errors import JournalSlow, Pruned
from spawn.journal.base import Fate, Outcome
from spawn.nodes.node import Node, NodeState

_STATUS_OF = {
    Outcome.REFUSED: UpdateStatus.REFUSED,
    Outcome.SKIPPED: UpdateStatus.SKIPPED,
    Outcome.REJECTED: UpdateStatus.REJECTED,
    Outcome.DROPPED: UpdateStatus.DROPPED,
    Outcome.UNKNOWN: UpdateStatus.UNKNOWN,
}

AGE_S = 2.0  # how long it may take to find out how old a backlog is
AGE_PAUSE_S = 30.0  # when it took longer, nobody waits for it again for so long


OUT_OF_SYNC = "out-of-sync"  # beside the states of the table: healthy, and without a place in the order
STATES = (*(state.value for state in NodeState), OUT_OF_SYNC)  # that a queue may be shown in


class Report:
    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._journal = fleet.journal
        self._look_from_s = 0.0  # monotonic

    def queue(self, node: Node) -> QueueStatus:
        """How a node stands; an inactive one has no backlog, since nothing accumulates for it."""
        backlog = self._journal.head - node.position if node.record.active else 0
        return QueueStatus(
            host=node.record.host,
            port=node.record.port,
            state=shown_state(node),
            position=node.position,
            backlog=backlog,
            backlog_seconds=self._age_of(node.position + 1) if backlog else 0.0,
            attempts=0 if node.out_of_sync else node.attempts,  # it has no update at hand any more
            last_error=node.slow or node.last_error,
            refused=node.refused,
            held=node.held,
            diverged=node.diverged,
            out_of_sync=node.out_of_sync,
        )

    def fate(self, sequence: int) -> UpdateFate | None:
        """None for a sequence that was never given; raises ``Pruned`` when the record is gone."""
        fate = self._journal.fate(sequence)
        if fate is None:
            return None
        nodes = tuple(
            NodeFate(
                host=node.record.host, port=node.record.port, status=_status(node, fate), actions=_actions(node, fate)
            )
            for node in self._fleet.registry.nodes
        )
        return UpdateFate(
            sequence=sequence,
            time=datetime.fromtimestamp(fate.time_s, UTC),
            method=fate.method,
            path=fate.path,
            reference=fate.reference,
            nodes=nodes,
        )

    def _age_of(self, sequence: int) -> float:
        """0 also where it cannot be told now: a row is shown all the same when the journal's disk hangs."""
        if time.monotonic() < self._look_from_s:
            return 0.0
        try:
            with gevent.Timeout(AGE_S, JournalSlow("the journal's disk hangs")):
                fate = self._journal.fate(sequence)
        except Pruned:
            return 0.0
        except JournalSlow:
            self._look_from_s = time.monotonic() + AGE_PAUSE_S
            return 0.0
        return round(max(0.0, time.time() - fate.time_s), 3) if fate is not None else 0.0


def shown_state(node: Node) -> str:
    """A node out of sync is no nearer to serving for being healthy, so it must not look as if it caught up."""
    healthy = node.state in (NodeState.CATCHING_UP, NodeState.SERVING)
    return OUT_OF_SYNC if node.out_of_sync and healthy else node.state.value


def _actions(node: Node, fate: Fate) -> tuple[ActionTaken, ...]:
    return tuple(
        ActionTaken(time=datetime.fromtimestamp(action.time_s, UTC), verb=action.verb, by=action.peer)
        for action in fate.actions
        if action.consumer == node.id
    )


def _status(node: Node, fate: Fate) -> UpdateStatus:
    outcome = fate.outcomes.get(node.id)
    if outcome is not None:
        return _STATUS_OF[outcome]
    if fate.reference is not None and fate.reference >= 500:
        return UpdateStatus.REJECTED
    if node.position >= fate.sequence:
        return UpdateStatus.APPLIED
    if node.state is NodeState.INACTIVE:
        return UpdateStatus.DROPPED
    if node.out_of_sync:
        return UpdateStatus.OUT_OF_SYNC
    if node.in_doubt and node.position + 1 == fate.sequence:
        return UpdateStatus.UNKNOWN
    return UpdateStatus.PENDING


def unsettled(fleet: Fleet) -> dict[str, str]:
    """Active nodes that have not, or not surely, applied every update; by name, with the reason."""
    head = fleet.journal.head
    found = {}
    for node in fleet.registry.nodes:
        reasons = []
        if node.out_of_sync:
            reasons.append("is out of sync")
        elif node.position < head:
            reasons.append(f"has still to get {counted(head - node.position)}")
        if node.refused:
            reasons.append(f"was given {counted(node.refused)} in vain")
        if node.diverged:
            reasons.append("differs from the others")
        if reasons and node.record.active:
            found[node.name] = " and ".join(reasons)
    return found


def backlog(fleet: Fleet) -> dict[str, int]:
    """Updates that each active node has yet to get, by name."""
    head = fleet.journal.head
    return {node.name: head - node.position for node in fleet.registry.nodes if node.record.active}
