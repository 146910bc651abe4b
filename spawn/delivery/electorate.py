"""Whose answer to an update counts for how much, as the reference board asks it: views over the fleet's nodes."""

from __future__ import annotations

from spawn.delivery.fleet import Fleet


class Electorate:
    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def suspects(self) -> frozenset[str]:
        """Ids of the nodes whose answers say little about the update: they are held or diverged."""
        return frozenset(node.id for node in self._fleet.registry.nodes if node.held or node.diverged)

    def speakers_before(self, sequence: int) -> frozenset[str]:
        """Ids of the nodes that may speak and are to get that update, or have it in hand."""
        return self._fleet.speakers & self._before(sequence)

    def present_before(self, sequence: int) -> frozenset[str]:
        """Ids of the nodes, not held ones, that are there and are to get that update, or have it in hand."""
        held = {node.id for node in self._fleet.registry.nodes if node.held}
        return (self._fleet.present() - held) & self._before(sequence)

    def expected_before(self, sequence: int) -> frozenset[str]:
        """Ids of the nodes that are to get that update some day, or have it in hand."""
        return self._fleet.ids_in_sync() & self._before(sequence)

    def _before(self, sequence: int) -> frozenset[str]:
        skips = self._fleet.skips
        nodes = self._fleet.registry.nodes
        return frozenset(node.id for node in nodes if node.position < sequence and not skips.have(node, sequence))
