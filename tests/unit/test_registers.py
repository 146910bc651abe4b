"""The check of fresh reads: correct histories pass, broken ones do not."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.support.registerruns import KINDS, Health, plan
from tests.support.registers import Read, Write, check, check_client_order, count_stale, open_until, with_sequences


def write(
    sequence: int | None, began_s: float, acknowledged_s: float | None, register: str = "r", status: int | None = 200
) -> Write:
    name = f"{register}{sequence}"
    return Write(register, name, "client", began_s, acknowledged_s, sequence, status if acknowledged_s else None)


def read(value: int | None, began_s: float, ended_s: float, behind: int = 0, register: str = "r") -> Read:
    return Read(register, None if value is None else f"{register}{value}", began_s, ended_s, behind)


TWO = [write(1, 0.0, 1.0), write(2, 2.0, 3.0)]


def test_an_empty_history_passes() -> None:
    assert check([], []) == []
    assert check([read(None, 0.0, 1.0)], []) == []


def test_the_newest_acknowledged_value_passes() -> None:
    assert check([read(None, 0.1, 0.2), read(1, 1.1, 1.2), read(2, 3.1, 3.2)], TWO) == []


def test_beside_a_write_old_and_new_pass_in_any_order() -> None:
    assert check([read(2, 2.1, 2.2), read(1, 2.3, 2.4), read(2, 2.5, 2.6), read(1, 2.9, 3.5)], TWO) == []


def test_a_stale_read_is_caught() -> None:
    (fault,) = check([read(1, 3.1, 3.2)], TWO)
    assert fault.startswith("stale read of r: r1 (1) although r2 (2) had been acknowledged 100.0 ms before")
    assert count_stale([fault]) == 1


def test_nothing_at_all_after_an_acknowledged_value_is_stale() -> None:
    assert count_stale(check([read(None, 1.1, 1.2)], TWO)) == 1


def test_a_marked_read_may_be_stale() -> None:
    assert check([read(1, 3.1, 3.2, behind=1)], TWO) == []


def test_a_newer_value_than_the_last_acknowledged_passes() -> None:
    writes = [*TWO, write(3, 4.0, None)]
    assert check([read(3, 4.1, 4.2), read(2, 4.3, 4.4)], writes) == []


def test_older_is_by_sequence_not_by_time() -> None:
    # Given two concurrent writes, the one that was acknowledged first has the higher sequence
    writes = [write(2, 0.0, 1.0), write(1, 0.0, 2.0)]
    assert check([read(2, 3.0, 3.1)], writes) == []
    assert count_stale(check([read(1, 1.1, 1.2)], writes)) == 1


def test_a_202_makes_no_read_stale() -> None:
    accepted = replace(write(2, 2.0, None), status=202)
    assert check([read(2, 3.0, 3.1), read(1, 3.2, 3.3)], [TWO[0], accepted]) == []


def test_an_unanswered_write_is_over_once_a_later_one_of_another_register_is_acknowledged() -> None:
    # Given r2 whose client got nothing, and s3 that was acknowledged: its node has r2 as well
    writes = [write(1, 0.0, 1.0), write(2, 2.0, None), write(3, 3.0, 4.0, register="s")]
    assert open_until(writes) == {1: 1.0, 2: 4.0, 3: 4.0}
    assert check([read(1, 3.9, 4.5)], writes) == []
    assert count_stale(check([read(1, 4.1, 4.5)], writes)) == 1


def test_an_unanswered_write_gets_its_sequence_from_the_logs() -> None:
    lost, kept = write(None, 0.0, None), replace(write(None, 0.0, None), value="kept")
    assert [each.sequence for each in with_sequences([lost, kept, TWO[0]], {"kept": 7, "r1": 9})] == [None, 7, 1]


@pytest.mark.parametrize(
    ("strange", "why"),
    [
        (read(9, 3.1, 3.2), "which nobody wrote"),
        (Read("s", "r1", 3.1, 3.2), "which nobody wrote"),
        (read(2, 1.1, 1.2), "before that was sent"),
    ],
)
def test_a_value_from_nowhere_is_caught_marked_or_not(strange: Read, why: str) -> None:
    for behind in (0, 3):
        assert any(why in fault for fault in check([replace(strange, behind=behind)], TWO))


def test_a_value_that_no_node_has_is_caught() -> None:
    ghost = write(None, 0.0, None)
    assert any("no node has" in fault for fault in check([read(None, 0.0, 0.1), Read("r", "rNone", 0.2, 0.3)], [ghost]))


def test_backward_reads_that_no_write_overlaps_are_caught() -> None:
    faults = check([read(2, 3.1, 3.2), read(1, 3.3, 3.4)], TWO)
    assert any("went backwards from 2 to 1" in fault for fault in faults)


def test_backward_reads_beside_a_write_pass() -> None:
    assert not any("backwards" in fault for fault in check([read(2, 2.5, 3.2), read(1, 3.3, 3.4)], TWO))


def test_clients_in_their_own_order_pass() -> None:
    log = [("r1", 1), ("r2", 2), ("r1", 1), ("r2", 2)]  # with a window seen again
    assert check_client_order(TWO, {"a": log, "b": log[:1]}) == []


def test_a_client_whose_updates_are_journalled_in_another_order_is_caught() -> None:
    swapped = [replace(TWO[0], sequence=2), replace(TWO[1], sequence=1)]
    assert check_client_order(swapped, {}) == ["client: r2 (1) not after r1"]


def test_a_node_that_applies_a_clients_updates_in_another_order_is_caught() -> None:
    (fault,) = check_client_order(TWO, {"a": [("r1", 1), ("r2", 2)], "b": [("r2", 2), ("r1", 1)]})
    assert fault.startswith("b applied the updates of client")


def test_other_clients_may_be_in_between() -> None:
    other = replace(TWO[1], client="other", sequence=1)
    assert check_client_order([replace(TWO[0], sequence=2), other], {"a": [("r2", 1), ("r1", 2)]}) == []


# --- histories of a model


@dataclass
class Model:
    """Spawn's rule in small: one order, a position per node, a floor that rises before the answer is known.

    ``behave`` consumes decisions; each step of it takes one second. ``reads`` tell with which position they were made.
    """

    nodes: int = 2
    now_s: float = 0.0
    floor: int = 0
    journal: list[Write] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    answered: dict[int, tuple[float | None, int | None]] = field(default_factory=dict)
    reads: list[Read] = field(default_factory=list)
    under_way: list[tuple[str, float, int]] = field(default_factory=list)

    def behave(self, decisions: Iterator[int]) -> None:
        self.positions = [0] * self.nodes
        steps = (self._write, self._apply, self._apply, self._answer, self._give_up, self._begin_read, self._end_read)
        for decision in decisions:
            self.now_s += 1.0
            steps[decision % len(steps)](decision // len(steps))

    def _write(self, choice: int) -> None:
        sequence, register = len(self.journal) + 1, "rs"[choice % 2]
        self.journal.append(Write(register, f"v{sequence}", "client", self.now_s, None, sequence))

    def _apply(self, choice: int) -> None:
        node = choice % self.nodes
        self.positions[node] = min(self.positions[node] + 1, len(self.journal))

    def _answer(self, choice: int) -> None:
        due = [n for n in range(1, max(self.positions) + 1) if n not in self.answered]
        if due:
            sequence = due[choice % len(due)]
            self.floor = max(self.floor, sequence)
            self.answered[sequence] = (self.now_s, 200)

    def _give_up(self, choice: int) -> None:
        due = [n for n in range(1, len(self.journal) + 1) if n not in self.answered]
        if due:
            self.answered[due[choice % len(due)]] = (None, 202 if choice % 3 else None)

    def _begin_read(self, choice: int) -> None:
        self.under_way.append(("rs"[choice % 2], self.now_s, self.floor))

    def _end_read(self, choice: int) -> None:
        if self.under_way:
            register, began_s, floor = self.under_way.pop(choice % len(self.under_way))
            position = self.positions[choice % self.nodes]
            value = self._value(register, position)
            self.reads.append(Read(register, value, began_s, self.now_s, max(0, floor - position)))

    def _value(self, register: str, position: int) -> str | None:
        values = [write.value for write in self.journal[:position] if write.register == register]
        return values[-1] if values else None

    def writes(self) -> list[Write]:
        told = [(write, *self.answered.get(write.sequence or 0, (None, None))) for write in self.journal]
        return [replace(write, acknowledged_s=at_s, status=status) for write, at_s, status in told]


def histories() -> st.SearchStrategy[Model]:
    """Decisions come from a seed: lists that hypothesis draws are mostly too short for anything to happen."""

    def make(seed: int, nodes: int, steps: int) -> Model:
        dice = random.Random(seed)
        model = Model(nodes)
        model.behave(dice.randrange(1_000) for _ in range(steps))
        return model

    return st.builds(make, st.integers(0, 2**32), st.integers(1, 3), st.integers(20, 200))


@given(histories())
def test_whatever_a_correct_service_does_passes(model: Model) -> None:
    assert check(model.reads, model.writes()) == []


@given(histories(), st.data())
def test_an_older_value_in_any_read_that_may_not_have_it_is_caught(model: Model, data: st.DataObject) -> None:
    writes = model.writes()
    ends = open_until(writes)

    def older(read: Read) -> list[str | None]:
        done = [w for w in writes if w.register == read.register and ends[w.sequence or 0] < read.began_s]
        return [None, *(write.value for write in done[:-1])] if done else []

    victims = [n for n, read in enumerate(model.reads) if not read.behind and older(read)]
    assume(victims)
    victim = data.draw(st.sampled_from(victims))
    broken = model.reads.copy()
    broken[victim] = replace(broken[victim], value=data.draw(st.sampled_from(older(broken[victim]))))
    assert count_stale(check(broken, writes)) == 1


@given(histories(), st.data())
def test_a_value_that_nobody_wrote_is_caught_anywhere(model: Model, data: st.DataObject) -> None:
    assume(model.reads)
    victim = data.draw(st.integers(0, len(model.reads) - 1))
    broken = model.reads.copy()
    broken[victim] = replace(broken[victim], value="made up")
    assert check(broken, model.writes()) != []


# --- the runs' own parts


def test_a_plan_is_its_seeds_and_begins_with_each_kind_alone() -> None:
    assert plan(7, 30) == plan(7, 30)
    assert plan(7, 30) != plan(8, 30)
    for seed in range(20):
        faults = plan(seed, 30)
        assert {fault.strikes[0].kind for fault in faults[:4]} == set(KINDS)
        for fault in faults:
            struck = [strike.node for strike in fault.strikes if strike.kind != "spawn-kill"]
            assert len(struck) == len(set(struck)), "a node is struck once at a time"
            kinds = [strike.kind for strike in fault.strikes]
            assert kinds.count("spawn-kill") <= 1
            assert not {"spawn-kill", "node-pause"} <= set(kinds)


def test_reads_are_told_apart_by_the_health_of_the_nodes() -> None:
    health = Health(3)
    health._changes += [(10.0, 1), (20.0, 2)]
    reads = [read(None, *span) for span in ((1.0, 2.0), (9.0, 10.5), (12.0, 13.0), (19.0, 21.0), (20.5, 21.0), (5, 25))]
    kept = health.split(reads, least=2)
    assert [(each.began_s, each.ended_s) for each in kept] == [(1.0, 2.0), (20.5, 21.0)]
