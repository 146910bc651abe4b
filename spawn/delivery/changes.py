"""What operators change: nodes, and their queues. One change at a time, each logged with its author.

A change is complete when its call returns: a delivery in flight has ended, the journal knows the position, the node is
stored. So an operator who has put a node in maintenance may copy its data right away. What is done to a queue is noted
in the journal with the updates it concerns.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import gevent
import msgspec
from msgspec import UNSET

from spawn.counters import Counters
from spawn.delivery import retries
from spawn.delivery.fleet import Fleet
from spawn.delivery.texts import counted, out_of_sync, what_a_move_means
from spawn.delivery.types import (
    NodeChange,
    NodeConflict,
    NoSuchNode,
    NoSuchUpdate,
    NotPossibleNow,
    Position,
    PositionConflict,
    PutResult,
    VerbConflict,
)
from spawn.errors import JournalFull, StateError
from spawn.journal.base import Outcome, Range
from spawn.nodes.node import Node, NodeEvent, NodeRecord

log = logging.getLogger("spawn.changes")

NOT_RETAINED = "is no longer retained: copy the data of another node, and put this one at that one's position"
FLUSH_S = 10.0
RETRY_WAIT_S = 10.0  # a retry that takes longer goes on behind its answer


class Changes:
    def __init__(self, fleet: Fleet, counters: Counters) -> None:
        self._fleet = fleet
        self._registry = fleet.registry
        self._journal = fleet.journal
        self._counters = counters
        self._one_at_a_time = fleet.changing

    def put_node(self, host: str, port: int, change: NodeChange, position: Position | None, peer: str) -> PutResult:
        """Create or change the node at ``host:port``. Raises ``NodeConflict`` and ``PositionConflict``."""
        with self._one_at_a_time:
            result, flush = self._put(host, port, change, position, peer)
            self._keep(flush)
            return result

    def put_nodes(self, changes: Sequence[tuple[str, int, NodeChange]], peer: str) -> list[PutResult]:
        """Many at once; their deliveries in flight end at the same time. Raises as ``put_node``."""
        with self._one_at_a_time:
            stopping = [
                node
                for host, port, change in changes
                for node in self._registry.find(host, port)
                if change.active is False or change.maintenance is True
            ]
            gevent.joinall([gevent.spawn(self._fleet.stop_worker, node) for node in stopping])
            try:
                done = [self._put(host, port, change, None, peer) for host, port, change in changes]
            finally:
                for node in stopping:  # an earlier one has failed
                    self._fleet.reconcile(node)
            self._keep(any(flush for _, flush in done))
            return [result for result, _ in done]

    def delete_nodes(self, host: str | None, port: int | None, peer: str) -> int:
        """Delete the nodes that match; returns how many there were."""
        with self._one_at_a_time:
            nodes = self._registry.find(host, port)
            if not nodes:
                return 0
            for node in nodes:
                self._registry.remove(node)
                log.warning(
                    "node %s is deleted by %s%s", node.name, peer, self._left_behind(node) if node.record.active else ""
                )
            self._fleet.refresh()  # clients that wait for these nodes need not wait for what follows
            gevent.joinall([gevent.spawn(self._fleet.leave, node) for node in nodes])
            for node in nodes:
                self._fleet.forget(node)
            self._fleet.store()
            for node in nodes:
                self._journal.forget(node.id)
            return len(nodes)

    # -- what is done to a queue; each returns the node and, where there is something to say, a note

    def set_position(self, host: str, port: int, position: Position, peer: str) -> tuple[Node, str]:
        """Say where a node's data stands. Raises ``NoSuchNode`` and ``PositionConflict``."""
        with self._one_at_a_time:
            node = self._node(host, port)
            self._checked(position)
            note = self._place(node, position, peer)
            self._keep(True)
            return node, note

    def resume(self, host: str, port: int, peer: str) -> tuple[Node, str]:
        """Let a held node try again at once. Raises ``NoSuchNode``."""
        with self._one_at_a_time:
            node = self._node(host, port)
            if not node.held:
                but = f", but {out_of_sync(node.record)}" if node.out_of_sync else ": nothing has changed"
                return node, f"the node is not held{but}"
            log.warning("node %s is to go on at update %d, resumed by %s", node.name, node.position + 1, peer)
            self._fleet.resume(node)
            self._note(node, node.position + 1, node.position + 1, "resume", peer)
            self._fleet.refresh()
            self._make_durable()
            self._fleet.store()
            if not self._fleet.may_deliver(node):
                return node, f"the node is no longer held, and goes on when it gets updates again ({_state(node)})"
            return node, ""

    def skip(self, host: str, port: int, sequence: int, peer: str) -> tuple[Node, str]:
        """This node never gets that update. Raises ``NoSuchNode``, ``NoSuchUpdate``, ``VerbConflict``."""
        with self._one_at_a_time:
            node = self._node(host, port)
            self._check_skip(node, sequence)
            if self._fleet.skips.have(node, sequence):
                return node, f"update {sequence} was taken out of the queue before"
            if sequence > node.position + 1:
                self._store_as_diverged(node, "the update stays in the queue")
                if sequence > node.position + 1:  # else its worker has come that far meanwhile
                    self._skip(node, sequence, peer)
                    return node, ""
            self._fleet.stop_worker(node)
            try:
                if node.position >= sequence:
                    self._fleet.flag()  # it may have been stored as diverged above
                    raise VerbConflict(f"update {sequence} has just been {self._became(node, sequence)}")
                self._store_as_diverged(node, "the update stays in the queue")
                node.held = False  # the next one is tried at once; how many were refused in a row is not forgotten
                self._skip(node, sequence, peer)
            finally:
                self._fleet.reconcile(node)
            return node, ""

    def retry(self, host: str, port: int, sequence: int, peer: str) -> tuple[Node, str]:
        """Deliver once more what the node refused or skipped, or whose fate on it is unknown.

        Raises ``NoSuchNode``, ``NoSuchUpdate``, ``Pruned``, ``VerbConflict``, ``NotPossibleNow``, ``StillUnknown``.
        """
        with self._one_at_a_time:
            node = self._node(host, port)
            fate = self._journal.fate(sequence)
            if fate is None:
                raise NoSuchUpdate(f"no update has the sequence {sequence}")
            if not node.out_of_sync:  # else nothing of what its position says counts
                retries.check(node, fate)
            if not self._fleet.may_deliver(node):
                raise VerbConflict(f"the node gets no deliveries ({_state(node)})")
            self._journal.entry(sequence)
            asked = self._fleet.retry(node, sequence)
            log.warning("node %s is given update %d once more, out of order, by %s", node.name, sequence, peer)
            self._note(node, sequence, sequence, "retry", peer)
        if not asked.wait(RETRY_WAIT_S) and not asked.ready():
            return node, f"the retry is under way; GET /updates/{sequence} tells what becomes of it"
        error = asked.get()
        if error is not None:
            raise error
        return node, ""

    def clear_diverged(self, host: str, port: int, peer: str) -> tuple[Node, str]:
        """The operator has seen to it that the node has what the others have. Raises ``NoSuchNode``."""
        with self._one_at_a_time:
            node = self._node(host, port)
            was_diverged = node.diverged
            if not (was_diverged or node.refused):
                return node, "the node is not diverged: nothing has changed"
            log.warning("node %s counts as equal to the others again, says %s", node.name, peer)
            node.diverged, node.refused = False, 0
            self._fleet.refusals.settle(node)
            self._note(node, 1, node.position, "clear-diverged", peer)
            self._fleet.refresh()
            self._make_durable()
            self._fleet.store()
            return node, "" if was_diverged else "the node is not diverged; what it refused is no longer counted"

    def _check_skip(self, node: Node, sequence: int) -> None:
        fate = self._journal.fate(sequence) if sequence > node.position else None
        if sequence > self._journal.head:
            raise NoSuchUpdate(f"no update has the sequence {sequence}")
        if not node.record.active or node.out_of_sync:
            raise VerbConflict(f"the node has no queue ({_state(node)})")
        if sequence <= node.position:
            raise VerbConflict(f"the node is at {node.position} and done with update {sequence}")
        if fate is not None and fate.reference is not None and fate.reference >= 500:
            raise VerbConflict(
                f"update {sequence} was rejected: its client was told that it failed, so no node gets it"
            )

    def _skip(self, node: Node, sequence: int, peer: str) -> None:
        """The node is stored as diverged."""
        log.warning("node %s is not given update %d, which it lacks from now on, by %s", node.name, sequence, peer)
        self._fleet.skips.add(node, sequence)  # first, and without a switch since the position was looked at
        self._journal.record(node.id, sequence, sequence, Outcome.SKIPPED)
        self._note(node, sequence, sequence, "skip", peer)
        self._fleet.mark_diverged(node)  # and a client that waits for this node alone is answered
        self._make_durable()
        self._fleet.store()

    def _store_as_diverged(self, node: Node, otherwise: str) -> None:
        """Before what makes the node differ: a crash must not leave that without the flag.

        The caller goes on to set it without a switch. Raises ``NotPossibleNow``: nothing has changed.
        """
        try:
            self._registry.save(diverged=node)
        except StateError as error:
            raise NotPossibleNow(f"{otherwise}, since Spawn {error}") from None

    def _became(self, node: Node, sequence: int) -> str:
        fate = self._journal.fate(sequence)
        outcome = fate.outcomes.get(node.id) if fate is not None else None
        return "applied" if outcome is None else f"done with here: {outcome.value}"

    def _note(self, node: Node, first: int, last: int, verb: str, peer: str) -> None:
        """Remember with the updates, where there are such, who did what."""
        self._counters.add(f"operator.{verb}")
        if first <= last <= self._journal.head:
            self._journal.note_action(node.id, first, last, verb, peer)

    def _make_durable(self) -> None:
        try:
            durable = self._journal.flush(FLUSH_S)
        except JournalFull:
            durable = False
        if not durable:
            raise NotPossibleNow("it is done, but a crash would forget it: the journal's disk is full or too slow")

    def _keep(self, flush: bool) -> None:
        """Make durable what was changed; ``flush``: positions too, also of nodes whose deliveries were stopped."""
        try:
            if flush:
                self._make_durable()
        finally:
            self._fleet.store()

    # -- steps

    def _put(
        self, host: str, port: int, change: NodeChange, position: Position | None, peer: str
    ) -> tuple[PutResult, bool]:
        """Not stored yet. Also whether the journal has to be made durable: positions have changed, or stand still."""
        found = self._registry.find(host, port)
        before = found[0].record if found else NodeRecord(host=host, port=port)
        after = _merge(before, change)
        if (not found or after.authority != before.authority) and self._registry.find(after.host, after.port):
            raise NodeConflict(f"there is already a node at {after.authority}")
        if position is not None:
            self._checked(position)
        was_out_of_sync, note = bool(found) and found[0].out_of_sync, ""
        node = found[0] if found else self._create(after, peer)
        try:
            stopped = bool(found) and self._change(node, after, peer)
            if position is not None:
                self._fleet.flag()  # the change is stored also when there is no place for the node
                note = self._place(node, position, peer)
        finally:
            if node.out_of_sync and not was_out_of_sync:
                self._say_out_of_sync(node, created=not found)
        note = f"the node is {out_of_sync(node.record)}" if node.out_of_sync else note
        return PutResult(created=not found, record=node.record, note=note), stopped or position is not None

    def _say_out_of_sync(self, node: Node, created: bool) -> None:
        """Once the change is over: until then it may be given a place."""
        missed = counted(self._journal.head - node.position)
        why = "is added and" if created else f"was inactive, missed {missed} and"
        log.warning("node %s %s is %s", node.name, why, out_of_sync(node.record))

    def _node(self, host: str, port: int) -> Node:
        found = self._registry.find(host, port)
        if not found:
            raise NoSuchNode(f"there is no node {NodeRecord(host=host, port=port).authority}")
        return found[0]

    def _create(self, record: NodeRecord, peer: str) -> Node:
        log.info("node %s: created by %s", record.authority, peer)
        return self._fleet.join(record, silent=True)

    def _change(self, node: Node, after: NodeRecord, peer: str) -> bool:
        """Whether deliveries to the node were stopped by it."""
        before = node.record
        if before == after:
            return False
        log.info("node %s is changed by %s: %s", before.authority, peer, _difference(before, after))
        delivered, moved = self._fleet.may_deliver(node), before.authority != after.authority
        if moved:
            self._fleet.stop_worker(node)  # what the old address has in hand, it still answers for
        node.record = after
        if before.active and not after.active:
            self._deactivate(node)
        elif after.active and not before.active:
            self._activate(node)
        elif after.active:
            if moved:
                node.healthy = False
                self._fleet.on_health(node, NodeEvent.FAIL)  # nothing is known of what is there now
                self._fleet.checker.poke(node)
            if before.maintenance != after.maintenance:
                self._set_maintenance(node)
            elif moved:
                self._fleet.reconcile(node)
        self._fleet.refresh()
        return delivered and not self._fleet.may_deliver(node)

    def _deactivate(self, node: Node) -> None:
        node.apply(NodeEvent.DEACTIVATE)
        node.held = node.resend = False
        node.in_row.clear()
        self._fleet.leave(node)
        node.attempts, node.last_error = 0, ""
        if self._journal.head > node.position:
            self._journal.record(node.id, node.position + 1, self._journal.head, Outcome.DROPPED)
            log.warning("node %s is inactive%s", node.name, self._left_behind(node))

    def _left_behind(self, node: Node) -> str:
        behind = self._journal.head - node.position
        return f"; {counted(behind)} that it had not got are dropped" if behind else ""

    def _activate(self, node: Node) -> None:
        if self._journal.head > node.position:
            node.out_of_sync = True
        self._fleet.enter(node)

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
            raise PositionConflict(f"position {number} {NOT_RETAINED}; the oldest possible one is {oldest}")
        return number

    def _place(self, node: Node, position: Position, peer: str) -> str:
        """Put the node there; returns the note."""
        self._fleet.stop_worker(node)
        try:
            number = self._checked(position)  # again: the worker may have taken its time to stop
            ahead = self._fleet.skips.recorded(node, max(node.position, number))  # may fail, and nothing has changed
            lacks = node.record.active and not node.out_of_sync and number > node.position
            if lacks:
                self._store_as_diverged(node, "the position is as it was")
                self._fleet.mark_diverged(node)  # before its position says that it has what it lacks
            return self._move(node, number, lacks, ahead, peer)
        finally:
            self._fleet.reconcile(node)

    def _move(self, node: Node, number: int, lacks: bool, ahead: list[Range], peer: str) -> str:
        """To another position; what was wrong with the node is forgotten once it is there. Returns the note."""
        before = node.position
        said, note = what_a_move_means(node, number, lacks, peer)
        self._record_move(node, number, lacks, ahead)
        self._note(node, min(before, number) + 1, max(before, number), "position", peer)
        self._fleet.refusals.forget(node)
        self._fleet.set_position(node, number)
        self._fleet.skips.put(node, ahead)
        node.held = node.in_doubt = node.resend = node.out_of_sync = False  # from now on the rest is not pruned
        node.in_row.clear()
        node.attempts = node.doubt_until = 0
        node.last_error = ""
        node.diverged = lacks  # else it is as the operator says; what was refused is settled
        node.refused = node.refused if lacks else 0
        if said:
            log.warning("node %s %s", node.name, said)
        self._fleet.set_position(node, number)  # again: it comes after a step of pruning that was under way
        if number < self._journal.tail - 1:
            node.out_of_sync = True
            raise PositionConflict(f"position {number} has just ceased to be retained: copy the data of another node")
        self._fleet.behind(node)
        return note

    def _record_move(self, node: Node, number: int, lacks: bool, ahead: list[Range]) -> None:
        """What becomes of the updates between the two positions, and of those beyond."""
        journal = self._journal
        if lacks:
            journal.record(node.id, node.position + 1, number, Outcome.SKIPPED)
        if number < journal.head:
            journal.record(node.id, number + 1, journal.head, None)  # it gets these, maybe again
        for each in ahead:  # but not what was taken out of its queue
            journal.record(node.id, each.first, each.last, Outcome.SKIPPED)


def _state(node: Node) -> str:
    return f"it is {out_of_sync(node.record) if node.out_of_sync else node.state.value}"


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
