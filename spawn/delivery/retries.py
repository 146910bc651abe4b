"""Retries: an operator has an update delivered once more that a node refused or skipped, or whose fate is unknown.

A retry is out of order and says so. The node's worker carries it out between two deliveries, so that the node never
has two updates in hand. Before it is sent, the fate is recorded as unknown, durably: a crash amid it is no lie.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

from gevent.event import AsyncResult

from spawn.counters import Counters
from spawn.delivery.answers import ReferenceBoard
from spawn.delivery.attempt import Sender
from spawn.delivery.outgoing import effective_method
from spawn.delivery.policy import AnswerClass, classify
from spawn.delivery.types import NotPossibleNow, StillUnknown, VerbConflict
from spawn.errors import JournalDamaged, JournalFull, JournalSlow, NotSent, Pruned, SpawnError, Unknown
from spawn.http11.client import Answer
from spawn.http11.outgoing import BodyUnreadable
from spawn.journal.base import Entry, Fate, Journal, Outcome
from spawn.nodes.node import Node

log = logging.getLogger("spawn.delivery")

RETRIES = 16  # that wait for one node
FLUSH_S = 10.0
OPEN_FATES = frozenset({Outcome.REFUSED, Outcome.SKIPPED, Outcome.UNKNOWN})

End: TypeAlias = "AsyncResult[SpawnError | None]"  # what to raise; None: the node has taken it


def check(node: Node, fate: Fate) -> None:
    """Raises ``VerbConflict`` where a retry makes no sense."""
    sequence = fate.sequence
    if sequence > node.position:
        raise VerbConflict(f"node {node.name} is at {node.position} and has not got as far as update {sequence}")
    if fate.reference is not None and fate.reference >= 500:
        raise VerbConflict(f"update {sequence} was rejected: its client was told that it failed, so no node gets it")
    outcome = fate.outcomes.get(node.id)
    if outcome is None:
        raise VerbConflict(f"update {sequence} is applied on node {node.name}")
    if outcome not in OPEN_FATES:
        raise VerbConflict(f"update {sequence} is {outcome.value} on node {node.name}")


class Retries:
    """Those of one worker. ``retracts``: the node has not given the update up after all; ``differs``: it has applied
    what the others turned down; ``changed``: the node has to be stored."""

    def __init__(
        self,
        node: Node,
        journal: Journal,
        board: ReferenceBoard,
        sender: Sender,
        counters: Counters,
        *,
        retracts: Callable[[Node, int], None],
        differs: Callable[[Node], None],
        changed: Callable[[Node], None],
    ) -> None:
        self._node = node
        self._journal = journal
        self._board = board
        self._sender = sender
        self._counters = counters
        self._retracts = retracts
        self._differs = differs
        self._changed = changed
        self._asked: deque[tuple[int, End]] = deque()  # the first one may be in hand
        self._closed = False

    def __bool__(self) -> bool:
        """Whether there is one to carry out."""
        return bool(self._asked)

    def ask(self, sequence: int) -> End:
        """Raises ``VerbConflict`` for a second one of the same, ``NotPossibleNow`` when too many wait."""
        if self._closed:
            raise NotPossibleNow(f"deliveries to node {self._node.name} are being stopped")
        if any(waiting == sequence for waiting, _ in self._asked):
            raise VerbConflict(f"a retry of update {sequence} on node {self._node.name} is under way")
        if len(self._asked) >= RETRIES:
            raise NotPossibleNow(f"{RETRIES} retries wait for node {self._node.name} already")
        end: End = AsyncResult()
        self._asked.append((sequence, end))
        return end

    def carry_out(self) -> None:
        """All that wait; between two deliveries. Raises ``JournalError`` when the journal has ended."""
        while self._asked and not self._closed:
            sequence, end = self._asked[0]
            try:
                error = self._retry(sequence)
            except (Pruned, JournalDamaged, JournalSlow) as gone:  # before it was sent
                error = gone
            except BaseException:
                end.set(StillUnknown(f"the retry of update {sequence} was cut short; GET /updates/{sequence} tells"))
                self._asked.popleft()
                raise
            self._asked.popleft()
            end.set(error)
            self._sender.await_carrier()

    def close(self) -> None:
        """The worker stops: one in hand may finish, the others are not begun."""
        self._closed = True

    def leave(self) -> None:
        """The worker has stopped."""
        self._closed = True
        while self._asked:
            sequence, end = self._asked.popleft()
            log.warning("node %s: update %d is not sent again as asked: deliveries stop", self._node.name, sequence)
            end.set(NotPossibleNow(f"deliveries to node {self._node.name} were stopped before the retry"))

    # -- one retry

    def _retry(self, sequence: int) -> SpawnError | None:
        fate, entry = self._journal.fate(sequence), self._journal.entry(sequence)
        assert fate is not None  # it was there when it was asked for
        assert entry is not None
        try:
            check(self._node, fate)
        except VerbConflict as error:  # things have changed since it was asked for
            return error
        before = fate.outcomes[self._node.id]
        if not self._declare(sequence):
            self._record(sequence, before)
            return NotPossibleNow("the journal's disk is full or too slow to say first what is going to be sent")
        self._counters.add("delivery.retried")
        try:
            answer = self._sender.send(entry, effective_method(entry))
        except (NotSent, BodyUnreadable) as error:
            self._record(sequence, before)
            return NotPossibleNow(f"update {sequence} could not be sent: {error}")
        except Unknown as error:
            self._no_longer(sequence, before)
            log.warning("node %s gave no answer to the retry of update %d (%s)", self._node.name, sequence, error)
            return StillUnknown(f"node {self._node.name} gave no answer to update {sequence}: {error}")
        if answer.head.status == 504:  # whoever stands before the node has sent it
            self._sender.carry(answer, None)
            self._no_longer(sequence, before)
            return StillUnknown(f"node {self._node.name} answered 504; whether it has update {sequence} is not known")
        return self._judge(entry, before, answer)

    def _declare(self, sequence: int) -> bool:
        """Say durably that it is about to be sent."""
        self._record(sequence, Outcome.UNKNOWN)
        try:
            return self._journal.flush(FLUSH_S)
        except JournalFull:
            return False

    def _judge(self, entry: Entry, before: Outcome, answer: Answer) -> SpawnError | None:
        node, status = self._node, answer.head.status
        reference = self._board.reference_of(entry)
        good = classify(status) is AnswerClass.GOOD
        if not good and (reference is None or classify(reference) is not classify(status)):
            self._sender.carry(answer, None)
            self._record(entry.sequence, before)
            log.warning("node %s answers the retry of update %d with %d", node.name, entry.sequence, status)
            return VerbConflict(f"node {node.name} answered {status}; update {entry.sequence} stays {before.value}")
        self._no_longer(entry.sequence, before)
        self._record(entry.sequence, None)
        spool = self._board.offer(node.id, entry, answer.head, repeat=True) if reference is None else None
        self._sender.carry(answer, spool)
        log.info("node %s has taken update %d after all (%d), out of order", node.name, entry.sequence, status)
        if good and reference is not None and classify(reference) is not AnswerClass.GOOD:
            log.error("node %s differs from the others: they turned update %d down", node.name, entry.sequence)
            self._differs(node)
        return None

    def _no_longer(self, sequence: int, before: Outcome) -> None:
        """The update is not one that this node refused any more."""
        self._retracts(self._node, sequence)
        if before is Outcome.REFUSED:
            self._node.refused = max(0, self._node.refused - 1)
            self._changed(self._node)

    def _record(self, sequence: int, outcome: Outcome | None) -> None:
        self._journal.record(self._node.id, sequence, sequence, outcome)
