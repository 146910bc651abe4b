"""Who is at fault when updates are given up."""

from __future__ import annotations

import pytest

from spawn.delivery import refusals as refusals_module
from spawn.delivery.refusals import Blame, Refusals
from spawn.nodes.node import Node, NodeRecord


class Given:
    def __init__(self, *names: str) -> None:
        self.nodes = {name: Node(id=name, record=NodeRecord(host=name, port=1)) for name in names}
        self.away: set[str] = set()
        self.told: list[tuple[str, int, bool]] = []
        self.refusals = Refusals(
            lambda: set(self.nodes),
            lambda sequence: set(self.nodes) - self.away,
            self.nodes.get,
            lambda node_id, sequence, by_all: self.told.append((node_id, sequence, by_all)),
            lambda node, sequence: setattr(node, "diverged", True),
        )

    def gives_up(self, name: str, sequence: int) -> Blame:
        blame = self.refusals.note(self.nodes[name], sequence)
        if blame is not Blame.UPDATE:
            self.refusals.flag(self.nodes[name], sequence)
        return blame

    @property
    def diverged(self) -> set[str]:
        return {name for name, node in self.nodes.items() if node.diverged}


def test_what_all_give_up_counts_against_nobody() -> None:
    given = Given("a", "b", "c")
    assert [given.gives_up(name, 7) for name in "ab"] == [Blame.NODE, Blame.NODE]
    assert given.diverged == {"a", "b"}
    assert given.gives_up("c", 7) is Blame.UPDATE
    assert given.diverged == set()
    assert sorted(given.told) == [("a", 7, True), ("b", 7, True), ("c", 7, True)]


def test_while_a_node_is_away_the_others_go_on_and_stay_flagged_until_it_has_spoken() -> None:
    given = Given("a", "b", "c")
    given.away = {"c"}
    assert given.gives_up("a", 7) is Blame.NODE
    assert given.gives_up("b", 7) is Blame.OPEN
    assert given.told == [("a", 7, False)]
    assert given.gives_up("a", 7) is Blame.OPEN  # it may be held there
    assert given.diverged == {"a", "b"}
    given.away = set()
    assert given.gives_up("c", 7) is Blame.UPDATE
    assert given.diverged == set()


def test_what_the_absent_node_applies_the_others_lack() -> None:
    given = Given("a", "b", "c")
    given.away = {"c"}
    given.gives_up("a", 7)
    given.gives_up("b", 7)
    assert given.refusals.confirm(7) == 2  # by c
    given.away = set()
    for name in "abc":
        given.gives_up(name, 8)
    assert given.diverged == {"a", "b"}


def test_a_node_that_is_held_at_an_update_does_not_lack_it_yet() -> None:
    given = Given("a", "b", "c")
    given.gives_up("a", 7)
    given.refusals.note(given.nodes["b"], 7)
    assert given.refusals.confirm(7) == 1  # by c
    assert given.refusals.confirm(7) == 0


def test_a_difference_that_is_known_for_sure_is_not_cleared() -> None:
    given = Given("a", "b")
    given.gives_up("a", 7)
    given.refusals.settle(given.nodes["a"])  # it refused another update that b has applied
    given.gives_up("b", 7)
    assert given.diverged == {"a"}


def test_what_somebody_has_applied_counts_for_good() -> None:
    given = Given("a", "b")
    given.gives_up("a", 7)
    given.refusals.confirm(7)  # by b
    given.gives_up("a", 8)
    given.gives_up("b", 8)
    assert given.diverged == {"a"}


def test_a_node_that_was_diverged_before_stays_so() -> None:
    given = Given("a", "b")
    given.nodes["a"].diverged = True
    given.gives_up("a", 7)
    given.gives_up("b", 7)
    assert given.diverged == {"a"}


def test_the_only_node_is_not_all_of_them() -> None:
    assert Given("a").gives_up("a", 7) is Blame.NODE


def test_an_attempt_that_was_under_way_and_succeeds_after_all_leaves_the_others_diverged() -> None:
    given = Given("a", "b")
    given.gives_up("a", 7)
    given.gives_up("b", 7)
    given.nodes["b"].position = 7  # b has gone on, a applies it
    given.refusals.confirm(7)
    assert given.diverged == {"b"}


def test_the_memory_is_bounded_and_what_falls_out_stays_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals_module, "REMEMBERED", 3)
    given = Given("a", "b")
    for sequence in range(1, 6):
        given.gives_up("a", sequence)
    for sequence in range(1, 6):
        given.gives_up("b", sequence)
    assert given.diverged >= {"a"}
