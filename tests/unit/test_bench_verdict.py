"""The benchmark's judgement: ratios are of pairs, a median decides, and rounds that disagree are not judged."""

from __future__ import annotations

import pytest

from bench import verdict
from bench.verdict import Judgement, Outcome, Series, Spread, Target, exit_code

RATE = "requests/s"


def judge(target: Target, series: Series, **strangers: float) -> Judgement:
    return verdict.judge(target, series, {name: [strangers.get(name, 0.0)] for name in series})


def rates(**series: list[float]) -> dict[str, dict[str, list[float]]]:
    return {name: {RATE: values} for name, values in series.items()}


def test_a_ratio_is_of_the_values_of_one_round_and_the_median_of_the_ratios_counts() -> None:
    series = rates(spawn=[36.0, 30.0, 33.0], nginx=[100.0, 125.0, 110.0])
    judgement = judge(Target(RATE, "spawn", "nginx", at_least=0.3), series)
    assert judgement.figure == Spread(pytest.approx(0.3), pytest.approx(0.24), pytest.approx(0.36))
    assert judgement.outcome is Outcome.MET


@pytest.mark.parametrize(("value", "outcome"), [(29.9, Outcome.MISSED), (30.0, Outcome.MET), (30.1, Outcome.MET)])
def test_a_lower_bound_is_met_at_the_bound(value: float, outcome: Outcome) -> None:
    target = Target(RATE, "spawn", "nginx", at_least=0.299 + 0.001)
    assert judge(target, rates(spawn=[value], nginx=[100.0])).outcome is outcome


@pytest.mark.parametrize(("value", "outcome"), [(2.9, Outcome.MET), (3.0, Outcome.MET), (3.1, Outcome.MISSED)])
def test_an_upper_bound_is_met_at_the_bound(value: float, outcome: Outcome) -> None:
    target = Target("p99 ms", "spawn", "nginx", at_most=3)
    series = {"spawn": {"p99 ms": [value]}, "nginx": {"p99 ms": [1.0]}}
    assert judge(target, series).outcome is outcome


def test_a_figure_can_be_judged_by_itself_and_beside_another_metric() -> None:
    series = {"spawn": {"KiB": [10.0], "updates/s": [50.0]}, "nginx": {RATE: [1000.0]}}
    assert judge(Target("KiB", "spawn", at_most=30), series).figure.median == 10
    drain = judge(Target("updates/s", "spawn", "nginx", RATE, at_least=0.05), series)
    assert (drain.figure.median, drain.outcome) == (0.05, Outcome.MET)


@pytest.mark.parametrize("busy", ["spawn", "nginx"])
def test_rounds_of_either_that_disagree_by_more_than_thirty_percent_are_not_judged(busy: str) -> None:
    steady = {"spawn": [100.0, 100.0], "nginx": [100.0, 100.0], "haproxy": [1.0, 100.0]}
    target = Target(RATE, "spawn", "nginx", at_least=0.3)
    assert judge(target, rates(**steady | {busy: [100.0, 130.0]})).outcome is Outcome.MET
    judgement = judge(target, rates(**steady | {busy: [100.0, 131.0]}))
    assert judgement.outcome is Outcome.NOT_JUDGED
    assert judgement.reason == f"rounds of {busy} disagree by 31%; 2 of 2 meet it"


def test_rounds_in_which_one_did_nothing_disagree() -> None:
    judgement = judge(Target(RATE, "spawn", at_least=1), rates(spawn=[0.0, 5.0]))
    assert judgement.outcome is Outcome.NOT_JUDGED


@pytest.mark.parametrize("starved", ["spawn", "nginx"])
def test_rounds_that_agree_are_not_judged_where_strangers_had_the_machine(starved: str) -> None:
    series = rates(spawn=[100.0, 100.0], nginx=[100.0, 100.0])
    target = Target(RATE, "spawn", "nginx", at_least=0.3)
    assert judge(target, series, **{starved: 0.25}, haproxy=0.9).outcome is Outcome.MET
    judgement = judge(target, series, **{starved: 0.26})
    assert judgement.outcome is Outcome.NOT_JUDGED
    assert judgement.reason == f"strangers took 26% during {starved}'s turns"
    alone = judge(Target(RATE, starved, at_least=50), series, **{starved: 0.26})
    assert alone.outcome is Outcome.MET, "a figure that has no peer, such as memory, does not need a quiet machine"


def test_a_missed_target_outweighs_one_that_is_not_judged() -> None:
    met, missed, unknown = Outcome.MET, Outcome.MISSED, Outcome.NOT_JUDGED
    assert [exit_code(o) for o in ([met], [met, missed, unknown], [met, unknown])] == [0, 1, 2]
