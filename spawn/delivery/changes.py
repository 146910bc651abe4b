"""What operators change: nodes, and the position of a node's queue. One change at a time, each logged with its author.

A change is complete when its call returns: a delivery in flight has ended, the journal knows the position, the node is
stored. So an operator who has put a node in maintenance may copy its data right away.
"""

from __future__ import annotations

import logging

import gevent
import msgspec
from msgspec import UNSET

from spawn.delivery.fleet import OUT_OF_SYNC, Fleet, counted
from spawn.delivery.types import NodeChange, NodeConflict, NoSuchNode, Position, PositionConflict, PutResult
from spawn.journal.base import Outcome
from spawn.nodes.node import Node, NodeEvent, NodeRecord

log = logging.getLogger("spawn.changes")

OUT_OF_SYNC_NOTE = f"the node is {OUT_OF_SYNC}"


class Changes:
    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._registry = fleet.registry
        self._journal = fleet.journal
        self._one_at_a_time = fleet.changing

    def put_node(self, host: str, port: int, change: NodeChange, position: Position | None, peer: str) -> PutResult:
        """Create or change the node at ``host:port``. Raises ``NodeConflict`` and ``PositionConflict``."""
        with self._one_at_a_time:
            found = self._registry.find(host, port)
            before = found[0].record if found else NodeRecord(host=host, port=port)
            after = _merge(before, change)
            if (not found or after.authority != before.authority) and self._registry.find(after.host, after.port):
                raise NodeConflict(f"there is already a node at {after.authority}")
            if position is not None:
                self._checked(position)
            node = found[0] if found else self._create(after, peer)
            if found:
                self._change(node, after, peer)
            if position is not None:
                self._place(node, position, peer)
            self._registry.save()
            return PutResult(created=not found, record=node.record, note=OUT_OF_SYNC_NOTE if node.out_of_sync else "")

    def delete_nodes(self, host: str | None, port: int | None, peer: str) -> int:
        """Delete the nodes that match; returns how many there were."""
        with self._one_at_a_time:
            nodes = self._registry.find(host, port)
            for node in nodes:
                self._registry.remove(node)
                log.warning(
                    "node %s is deleted by %s%s", node.name, peer, self._left_behind(node) if node.record.active else ""
                )
            self._fleet.refresh()  # clients that wait for these nodes need not wait for what follows
            gevent.joinall([gevent.spawn(self._fleet.leave, node) for node in nodes])
            self._registry.save()
            for node in nodes:
                self._journal.forget(node.id)
            return len(nodes)

    def set_position(self, host: str, port: int, position: Position, peer: str) -> Node:
        """Say where a node's data stands. Raises ``NoSuchNode`` and ``PositionConflict``."""
        with self._one_at_a_time:
            found = self._registry.find(host, port)
            if not found:
                raise NoSuchNode(f"there is no node at {host}:{port}")
            self._checked(position)
            self._place(found[0], position, peer)
            self._registry.save()
            return found[0]

    # -- steps

    def _create(self, record: NodeRecord, peer: str) -> Node:
        log.info("node %s: created by %s", record.authority, peer)
        return self._fleet.join(record)

    def _change(self, node: Node, after: NodeRecord, peer: str) -> None:
        before, node.record = node.record, after
        if before == after:
            return
        log.info("node %s is changed by %s: %s", before.authority, peer, _difference(before, after))
        if before.active and not after.active:
            self._deactivate(node)
        elif after.active and not before.active:
            self._activate(node)
        elif after.active:
            if before.authority != after.authority:
                node.healthy = False
                self._fleet.on_health(node, NodeEvent.FAIL)  # nothing is known of what is there now
                self._fleet.checker.poke(node)
            if before.maintenance != after.maintenance:
                self._set_maintenance(node)
        self._fleet.refresh()

    def _deactivate(self, node: Node) -> None:
        node.apply(NodeEvent.DEACTIVATE)
        node.held = False
        self._fleet.leave(node)
        node.attempts, node.last_error = 0, ""
        if self._journal.head > node.position:
            self._journal.record(node.id, node.position + 1, self._journal.head, Outcome.DROPPED)
            log.warning("node %s is inactive%s", node.name, self._left_behind(node))

    def _left_behind(self, node: Node) -> str:
        behind = self._journal.head - node.position
        return f"; {counted(behind)} that it had not got are dropped" if behind else ""

    def _activate(self, node: Node) -> None:
        missed = self._journal.head - node.position
        if missed and not node.out_of_sync:
            node.out_of_sync = True
            log.warning("node %s was inactive, missed %s and is %s", node.name, counted(missed), OUT_OF_SYNC)
        self._fleet.enter(node, doubtful=0)

    def _set_maintenance(self, node: Node) -> None:
        entering = node.record.maintenance
        node.apply(NodeEvent.ENTER_MAINTENANCE if entering else NodeEvent.LEAVE_MAINTENANCE)
        self._fleet.reconcile(node)
        if not entering:
            self._fleet.checker.poke(node)

    def _checked(self, position: Position) -> int:
        head, oldest = self._journal.head, self._journal.tail - 1
        number = head if position == "head" else position
        if number > head:
            raise PositionConflict(f"position {number} is beyond the journal's head, {head}")
        if number < oldest:
            raise PositionConflict(f"position {number} is no longer retained; the oldest possible one is {oldest}")
        return number

    def _place(self, node: Node, position: Position, peer: str) -> None:
        self._fleet.stop_worker(node)
        try:
            number = self._checked(position)
        except PositionConflict:  # pruned while the worker took its time to stop
            self._fleet.reconcile(node)
            raise
        before, in_sync = node.position, node.record.active and not node.out_of_sync
        if number > before and in_sync:
            self._journal.record(node.id, before + 1, number, Outcome.SKIPPED)
        if number < self._journal.head:
            self._journal.record(node.id, number + 1, self._journal.head, None)  # it gets these, maybe again
        self._fleet.refusals.forget(node)
        node.held = node.in_doubt = node.out_of_sync = False  # from now on nothing behind the position is pruned
        self._fleet.set_position(node, number)
        node.attempts, node.last_error = 0, ""
        node.diverged = in_sync and number > before  # else it is as the operator says; what was refused is settled
        node.refused = 0 if not node.diverged else node.refused
        log.warning("node %s is put from position %d to %d by %s", node.name, before, number, peer)
        if number < self._journal.tail - 1:  # a step of pruning that was under way has taken it
            node.out_of_sync = True
            self._fleet.reconcile(node)
            raise PositionConflict(f"position {number} has just ceased to be retained")
        self._fleet.behind(node)
        self._fleet.reconcile(node)


def _merge(record: NodeRecord, change: NodeChange) -> NodeRecord:
    given = {name: value for name, value in msgspec.structs.asdict(change).items() if value is not UNSET}
    return msgspec.structs.replace(record, **given)


def _difference(before: NodeRecord, after: NodeRecord) -> str:
    changed = [
        f"{name} {_shown(getattr(before, name))} → {_shown(getattr(after, name))}"
        for name in before.__struct_fields__
        if getattr(before, name) != getattr(after, name)
    ]
    return ", ".join(changed)


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
