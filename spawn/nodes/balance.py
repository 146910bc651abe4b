"""Which node gets a read: a pure choice among the nodes that may have it.

Round-robin gives the read to the eligible node whose last read is longest ago, ties in priority order. That is the
usual rotation while the set of eligible nodes stands still, and stays fair when it changes with every update. By
priority alone the best eligible node gets everything. With neither, the configuration's order decides.
"""

from __future__ import annotations

from collections.abc import Sequence

from spawn.config.schema import QueryMode
from spawn.nodes.node import Node, sort_key


def by_priority(nodes: Sequence[Node]) -> list[Node]:
    """Nodes in priority order; equal priorities keep the configuration's order."""
    return sorted(nodes, key=lambda node: sort_key(node.record))


REMEMBERED = 4_096  # turns of nodes, those of deleted ones included


class Balancer:
    """Remembers, for round-robin, when each node was last chosen."""

    def __init__(self, mode: QueryMode) -> None:
        self.mode = mode
        self._turn = 0
        self._last_turn: dict[str, int] = {}

    def choose(self, eligible: Sequence[Node]) -> Node:
        """One of ``eligible`` (configuration order, not empty). Diverged nodes only when there is no other."""
        clean = [node for node in eligible if not node.diverged] or eligible
        if len(clean) == 1:
            return clean[0]
        if self.mode.round_robin:
            return self._next_in_turn(clean)
        if self.mode.by_priority:
            return min(clean, key=lambda node: sort_key(node.record))
        return clean[0]

    def _next_in_turn(self, nodes: Sequence[Node]) -> Node:
        last_turn = self._last_turn
        chosen = min(nodes, key=lambda node: (last_turn.get(node.id, 0), sort_key(node.record)))
        self._turn += 1
        if len(last_turn) > REMEMBERED:
            last_turn.clear()  # mostly nodes that are no more
        last_turn[chosen.id] = self._turn
        return chosen
