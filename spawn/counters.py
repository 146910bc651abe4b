"""Counters of everything that is worth seeing and too frequent to log.

One instance per service is handed down to whoever counts. Names are dotted and stable, since the API shows them.
"""

from __future__ import annotations

from collections import defaultdict


class Counters:
    """A flat map of name to count. Only ever used on the hub's thread, hence no lock."""

    def __init__(self) -> None:
        self._counts: defaultdict[str, int] = defaultdict(int)

    def add(self, name: str, amount: int = 1) -> None:
        self._counts[name] += amount

    def value(self, name: str) -> int:
        return self._counts.get(name, 0)

    def snapshot(self) -> dict[str, int]:
        """A copy, sorted by name."""
        return dict(sorted(self._counts.items()))
