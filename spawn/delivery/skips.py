"""Which updates an operator has taken out of a node's queue, ahead of its position.

The journal has them (as outcomes beyond the position), durably; this is what is asked before every delivery and every
vote, so it is in memory, as ranges, and costs nothing while there are none.
"""

from __future__ import annotations

from spawn.journal.base import Journal, Outcome, Range
from spawn.journal.outcomes import lay_over
from spawn.nodes.node import Node


class Skips:
    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._ahead: dict[str, list[Range]] = {}

    def load(self, node: Node) -> None:
        """What the journal says, instead of what was known."""
        self.put(node, self.recorded(node, node.position))

    def recorded(self, node: Node, after: int) -> list[Range]:
        """What the journal says of the updates after that one."""
        return [each for each in self._journal.outcomes(node.id, after) if each.outcome is Outcome.SKIPPED]

    def add(self, node: Node, sequence: int) -> None:
        """Known at once, so that no worker sends it; the caller records it."""
        ahead = [each for each in self._ahead.get(node.id, ()) if each.last > node.position]
        self.put(node, lay_over(ahead, sequence, sequence, Outcome.SKIPPED))

    def have(self, node: Node, sequence: int) -> bool:
        ahead = self._ahead.get(node.id)
        return ahead is not None and any(each.first <= sequence <= each.last for each in ahead)

    def forget(self, node: Node) -> None:
        self._ahead.pop(node.id, None)

    def put(self, node: Node, ahead: list[Range]) -> None:
        """These and no others."""
        if ahead:
            self._ahead[node.id] = ahead
        else:
            self._ahead.pop(node.id, None)
