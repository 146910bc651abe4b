"""Outcomes as ranges of sequences per consumer: pure arithmetic, shared by the backends.

The ranges of one consumer never overlap and are kept in order. An operator who drops 100,000 updates from a queue
makes one range, not 100,000 rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from spawn.journal.base import Outcome, Range

PINNING = frozenset({Outcome.REFUSED, Outcome.SKIPPED, Outcome.UNKNOWN})  # kept for the operator to look at and retry


class Change(NamedTuple):
    """One call of ``Journal.record``."""

    consumer: str
    first: int
    last: int
    outcome: Outcome | None


def lay_over(ranges: Iterable[Range], first: int, last: int, outcome: Outcome | None) -> list[Range]:
    """The ranges after ``first … last`` got this outcome: older ones are cut back, equal neighbours joined."""
    kept: list[Range] = []
    for old in ranges:
        if old.last < first or old.first > last:
            kept.append(old)
            continue
        if old.first < first:
            kept.append(old._replace(last=first - 1))
        if old.last > last:
            kept.append(old._replace(first=last + 1))
    if outcome is not None:
        kept.append(Range(first, last, outcome))
    return _joined(sorted(kept))


def _joined(ranges: list[Range]) -> list[Range]:
    joined: list[Range] = []
    for each in ranges:
        if joined and joined[-1].outcome is each.outcome and joined[-1].last + 1 == each.first:
            joined[-1] = joined[-1]._replace(last=each.last)
        else:
            joined.append(each)
    return joined


def beyond(ranges: Iterable[Range], after: int) -> list[Range]:
    """The ranges cut back to what lies beyond ``after``."""
    return [each._replace(first=max(each.first, after + 1)) for each in ranges if each.last > after]


def gaps_between(first: int, last: int, ranges: Iterable[Range]) -> list[tuple[int, int]]:
    """The parts of ``first … last`` that no pinning range covers, in order."""
    gaps: list[tuple[int, int]] = []
    start = first
    for pinned in sorted((r for r in ranges if r.outcome in PINNING), key=lambda r: r.first):
        if pinned.first > start:
            gaps.append((start, min(pinned.first - 1, last)))
        start = max(start, pinned.last + 1)
        if start > last:
            return gaps
    gaps.append((start, last))
    return gaps
