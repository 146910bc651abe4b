"""When giving an update up is put off, because nothing at all is answered."""

from __future__ import annotations

import math

import pytest

from spawn.delivery.outage import Patience

OUTAGE_S = 3600.0


def after(limit: int, step_s: float = 10.0) -> tuple[Patience, float]:
    """One round of tries, in vain; and what time it is then."""
    patience, now_s = Patience(limit, 0.0), 0.0
    for tries in range(1, limit + 1):
        now_s += step_s
        patience.tried(tries, now_s)
    return patience, now_s


@pytest.mark.parametrize("limit", [1, 2, 3, 20])
def test_while_nothing_is_heard_there_is_another_round_and_another(limit: int) -> None:
    patience, now_s = after(limit)
    while now_s < OUTAGE_S - 1:
        assert patience.lasts(-math.inf, OUTAGE_S, now_s)
        now_s += 200.0
    assert not patience.lasts(-math.inf, OUTAGE_S, OUTAGE_S)


def test_what_was_heard_at_the_end_of_the_tries_ends_the_patience() -> None:
    patience, now_s = after(20)
    assert not patience.lasts(now_s - 1.0, OUTAGE_S, now_s)


def test_what_was_heard_as_it_began_says_nothing() -> None:
    """Nodes go down one after the other."""
    patience, now_s = after(20)
    assert patience.lasts(50.0, OUTAGE_S, now_s)
    assert not Patience(20, 0.0).lasts(-math.inf, 0.0, now_s)


def test_a_node_that_returns_first_leaves_the_others_a_round() -> None:
    patience, now_s = after(20)
    assert patience.lasts(-math.inf, OUTAGE_S, now_s)
    patience.tried(9, now_s + 90.0)
    assert patience.lasts(now_s + 50.0, OUTAGE_S, now_s + 90.0)  # heard of before half of the new round
