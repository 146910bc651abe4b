"""Plans of the kill loop: the seed decides all, every moment occurs, every fault is ended."""

from __future__ import annotations

import pytest

from tests.support.faults import FAULTS, LEAST_KILLS, NEEDS_SPAWN, Deed, Moment, Plan, Verb, make_plan

SEEDS = range(12)


def deeds_of(plan: Plan) -> list[Deed]:
    return [*(deed for step in plan.steps for deed in (*step.deeds, *step.gap_deeds)), *plan.last_deeds]


def test_the_seed_decides_all() -> None:
    assert make_plan(7) == make_plan(7)
    assert make_plan(7) != make_plan(8)


@pytest.mark.parametrize("kills", [LEAST_KILLS, 20, 50])
@pytest.mark.parametrize("seed", SEEDS)
def test_every_moment_occurs_and_the_kills_are_as_many_as_asked_for(seed: int, kills: int) -> None:
    moments = [step.moment for step in make_plan(seed, kills).steps]
    assert set(moments) == set(Moment)
    assert sum(moment is not Moment.CLEAN for moment in moments) == kills
    assert moments[0] is not Moment.RECOVERY


@pytest.mark.parametrize("seed", SEEDS)
def test_faults_of_a_node_begin_and_end_in_turn_and_none_is_left(seed: int) -> None:
    trouble: dict[int, Verb] = {}
    for deed in deeds_of(make_plan(seed)):
        if deed.verb in FAULTS:
            assert deed.node not in trouble
            trouble[deed.node] = deed.verb
        else:
            assert FAULTS[trouble.pop(deed.node)] is deed.verb
    assert trouble == {}


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_asked_of_a_dead_spawn(seed: int) -> None:
    for step in make_plan(seed).steps:
        assert not any(deed.verb in NEEDS_SPAWN for deed in step.gap_deeds)
        if step.moment is Moment.RECOVERY:
            assert step.deeds == (), "it is not ready"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_kill_during_catch_up_follows_a_return(seed: int) -> None:
    for step in make_plan(seed).steps:
        if step.moment is Moment.CATCH_UP:
            assert step.deeds[-1].verb in FAULTS.values()


def test_all_kinds_of_faults_are_drawn() -> None:
    assert {deed.verb for seed in range(100) for deed in deeds_of(make_plan(seed))} == set(Verb)
