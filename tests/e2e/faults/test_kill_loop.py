"""The kill loop: Spawn is killed twenty times, its nodes die, freeze and rest, and all promises about updates hold.

``SPAWN_FAULT_SEED`` repeats a run; without it every run has a plan of its own. The seed is printed, and it is the first
thing that a failure says.
"""

from __future__ import annotations

import os
import random

import pytest

from tests.support.faults import FAULTS, Moment, Plan, make_plan
from tests.support.killloop import ONE_MORE, KillReport, run_kill_loop
from tests.support.processes import Processes
from tests.support.repeats import Reason

KILLS = 20


def fault_seed() -> int:
    return int(os.environ.get("SPAWN_FAULT_SEED") or random.randrange(1_000_000_000))


def assert_worth_its_time(report: KillReport) -> None:
    """A loop that disturbed nobody proves nothing."""
    assert report.acknowledged >= 200, f"{report}: too few updates for a test"
    assert report.repeats[Reason.WINDOW], f"{report}: no kill left anything in doubt"
    assert report.unanswered, f"{report}: no client noticed anything"
    for moment in Moment:
        assert any(f"({moment.value})" in what for what in report.injected), (
            f"{report}: nothing happened {moment.value}"
        )
    for fault in FAULTS:
        assert report.injected[f"node {fault.value}"], f"{report}: no node was {fault.value}"


@pytest.mark.timeout(300)
def test_no_promise_is_broken_while_everything_is_killed(processes: Processes) -> None:
    seed = fault_seed()
    print(f"SPAWN_FAULT_SEED={seed} repeats this plan")

    # When everything goes wrong that the plan of this seed has
    report = run_kill_loop(processes, make_plan(seed, KILLS), say=lambda line: print(line, flush=True))
    print(report)

    # Then nothing acknowledged is lost, the order is one, every repeat has its reason, and no node differs
    assert report.faults == [], "\n".join([f"SPAWN_FAULT_SEED={seed}", str(report), *report.faults[:20]])
    assert (report.lost, report.invented, report.reordered, report.repeats[Reason.UNEXPLAINED]) == (0, 0, 0, 0)
    assert_worth_its_time(report)


def test_what_the_plan_has_missed_is_made_up_for(processes: Processes) -> None:
    report = run_kill_loop(processes, Plan(1, 1, 2.0, (ONE_MORE,), ()))
    assert report.faults == [], "\n".join([str(report), *report.faults])
    assert_worth_its_time(report)
