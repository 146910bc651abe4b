"""Which node gets a read: a pure choice among the nodes that may have it.

Round-robin gives the read to the eligible node whose last read is longest ago, ties in priority order. That is the
usual rotation while the set of eligible nodes stands still, and stays fair when it changes with every update. By
priority alone the best eligible node gets everything. With neither, the configuration's order decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

from spawn.config.schema import QueryMode
from spawn.nodes.node import Node, sort_key


def by_priority(nodes: Sequence[Node]) -> list[Node]:
    """Nodes in priority order; equal priorities keep the configuration's order."""
    return sorted(nodes, key=lambda node: sort_key(node.record))


_last_turn = attrgetter("turn")


class Balancer:
    """For round-robin each node knows when it was last chosen."""

    def __init__(self, mode: QueryMode) -> None:
        self.mode = mode
        self._turn = 0

    def choose(self, eligible: Sequence[Node]) -> Node:
        """One of ``eligible`` (configuration order, not empty). Diverged nodes only when there is no other."""
        for node in eligible:
            if node.diverged:
                eligible = [node for node in eligible if not node.diverged] or eligible
                break
        if self.mode.round_robin:
            return self._next_in_turn(eligible)
        if self.mode.by_priority:
            return min(eligible, key=lambda node: sort_key(node.record))
        return eligible[0]

    def _next_in_turn(self, nodes: Sequence[Node]) -> Node:
        chosen = min(nodes, key=_last_turn)
        if not chosen.turn:  # only nodes that never had a turn can share it
            chosen = min(nodes, key=lambda node: (node.turn, sort_key(node.record)))
        self._turn += 1
        chosen.turn = self._turn
        return chosen
