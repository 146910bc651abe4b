"""Who has given up on which update while no node is known to have applied it.

One node that refuses what the others applied is at fault. All of them refusing the same update is the update's fault:
then it counts against nobody, or three bad requests of one client would put every node on hold. Until one or the other
is known, a node that gave up counts as diverged. The memory is bounded; what falls out of it stays as it was flagged.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection

from spawn.nodes.node import Node

REMEMBERED = 1_024  # updates


class Blame(enum.Enum):
    """Whose fault it is that a node gave an update up, as far as is known."""

    NODE = "node"  # other nodes that could apply it now have not given it up
    OPEN = "open"  # all that could have, of more than one; those that are away, held or behind have not spoken
    UPDATE = "update"  # all nodes have


class Refusals:
    """``expected`` are the ids of all nodes that are to apply updates, ``in_reach`` those that can apply one now."""

    def __init__(
        self,
        expected: Callable[[], Collection[str]],
        in_reach: Callable[[int], Collection[str]],
        node_of: Callable[[str], Node | None],
        vindicated: Callable[[str, int, bool], None],
        differs: Callable[[Node, int], None],
    ) -> None:
        """``vindicated(node_id, sequence, by_all)``; ``differs``: others have applied what all had given up."""
        self._expected = expected
        self._in_reach = in_reach
        self._differs = differs
        self._node_of = node_of
        self._vindicated = vindicated
        self._by: dict[int, set[str]] = {}  # sequence → nodes that gave it up
        self._by_all: dict[int, frozenset[str]] = {}
        self._flagged: dict[str, set[int]] = {}  # node → the only reasons for its being diverged, not confirmed yet

    def note(self, node: Node, sequence: int) -> Blame:
        """A node gives an update up."""
        if sequence in self._by_all:
            return Blame.UPDATE
        who = self._by.setdefault(sequence, set())
        who.add(node.id)
        if len(self._by) > REMEMBERED:
            self.confirm(next(iter(self._by)))
        expected = self._expected()
        if len(who) < 2 or not who.issuperset(self._in_reach(sequence)):
            return Blame.NODE
        if not who.issuperset(expected):
            for node_id in who - {node.id}:
                self._vindicated(node_id, sequence, False)
            return Blame.OPEN
        self._by.pop(sequence, None)
        self._by_all[sequence] = frozenset(who)
        if len(self._by_all) > REMEMBERED:
            del self._by_all[next(iter(self._by_all))]
        for node_id in who:
            self._clear(node_id, sequence)
            self._vindicated(node_id, sequence, True)
        return Blame.UPDATE

    def flag(self, node: Node, sequence: int) -> None:
        """The node goes on without the update: it differs from the others unless they do the same."""
        if not node.diverged or node.id in self._flagged:
            self._flagged.setdefault(node.id, set()).add(sequence)
        node.diverged = True

    def confirm(self, sequence: int) -> int:
        """Some node has applied the update: those that gave it up do differ. How many have gone on without it."""
        gave_up = self._by.pop(sequence, ())
        went_on = sum(self._has_gone_on(node_id, sequence) for node_id in gave_up)
        for node_id in gave_up:
            self._flagged.pop(node_id, None)
        for node_id in self._by_all.pop(sequence, ()):  # an attempt that was under way has succeeded after all
            node = self._node_of(node_id)
            if node is not None and node.position >= sequence:
                self._differs(node, sequence)
        return went_on

    def _has_gone_on(self, node_id: str, sequence: int) -> bool:
        """Not so a node that was held instead."""
        node = self._node_of(node_id)
        return node is not None and (node.position >= sequence or sequence in self._flagged.get(node_id, ()))

    def retract(self, node: Node, sequence: int) -> None:
        """The node may have applied what it had given up; whether it still differs is for the operator to say."""
        self.settle(node)
        self._by.get(sequence, set()).discard(node.id)
        if sequence in self._by_all:
            self._by_all[sequence] -= {node.id}

    def settle(self, node: Node) -> None:
        """The node differs for another reason too, or the operator has spoken: its flag is not ours to clear."""
        self._flagged.pop(node.id, None)

    def forget(self, node: Node) -> None:
        """The node is told its place, or is no more."""
        self.settle(node)
        for who in self._by.values():
            who.discard(node.id)

    def _clear(self, node_id: str, sequence: int) -> None:
        reasons = self._flagged.get(node_id)
        if reasons is None or sequence not in reasons:
            return
        reasons.discard(sequence)
        if not reasons:
            del self._flagged[node_id]
            node = self._node_of(node_id)
            if node is not None:
                node.diverged = False
