"""Ranges of outcomes against a plain dictionary."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from spawn.journal.base import Outcome, Range
from spawn.journal.notes import Notes
from spawn.journal.outcomes import PINNING, Change, beyond, gaps_between, lay_over

CALLS = st.lists(
    st.tuples(st.integers(1, 20), st.integers(0, 8), st.sampled_from([None, *Outcome])).map(
        lambda call: (call[0], call[0] + call[1], call[2])
    ),
    max_size=12,
)


@given(CALLS)
def test_ranges_say_what_a_dictionary_would(calls: list[tuple[int, int, Outcome | None]]) -> None:
    ranges: list[Range] = []
    model: dict[int, Outcome] = {}
    for first, last, outcome in calls:
        ranges = lay_over(ranges, first, last, outcome)
        for sequence in range(first, last + 1):
            model.pop(sequence, None)
            if outcome:
                model[sequence] = outcome
    assert {n: r.outcome for r in ranges for n in range(r.first, r.last + 1)} == model
    assert all(a.last < b.first for a, b in itertools.pairwise(ranges)), "in order, not overlapping"
    assert all(a.last + 1 < b.first or a.outcome is not b.outcome for a, b in itertools.pairwise(ranges)), (
        "equal neighbours are one"
    )
    pinned = {n for n, outcome in model.items() if outcome in PINNING}
    gaps = [n for first, last in gaps_between(1, 30, ranges) for n in range(first, last + 1)]
    assert gaps == [n for n in range(1, 31) if n not in pinned]


def test_beyond_cuts_ranges_back() -> None:
    ranges = [Range(1, 4, Outcome.REFUSED), Range(6, 9, Outcome.DROPPED)]
    assert beyond(ranges, 0) == ranges
    assert beyond(ranges, 2) == [Range(3, 4, Outcome.REFUSED), Range(6, 9, Outcome.DROPPED)]
    assert beyond(ranges, 6) == [Range(7, 9, Outcome.DROPPED)]
    assert beyond(ranges, 9) == []


def test_a_run_of_equal_outcomes_is_noted_as_one() -> None:
    notes = Notes()
    for sequence in range(1, 1000):
        notes.change(Change("a", sequence, sequence, Outcome.REJECTED))
    assert notes.changes == [Change("a", 1, 999, Outcome.REJECTED)]


def test_notes_that_failed_come_before_later_ones() -> None:
    failed = Notes(positions={"a": 5, "b": 1}, settled={1: 200}, changes=[Change("a", 1, 1, Outcome.REFUSED)])
    later = Notes(positions={"a": None}, settled={1: 500, 2: 404}, changes=[Change("a", 1, 1, None)])
    both = failed.then(later)
    assert (both.positions, both.settled) == ({"a": None, "b": 1}, {1: 200, 2: 404})
    assert both.outcomes(1, {}) == {}
