"""The soak's sums and its verdict: anything broken is a failure, and a round that failed is kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import soak
from tests.support.killloop import KillReport
from tests.support.processes import Processes
from tests.support.registerruns import HistoryReport
from tests.support.repeats import Reason
from tests.support.soak import KILL, Figures, Soak, conclude, read_outcomes


def kill_report(**changed: object) -> KillReport:
    report = KillReport(seed=7, sent=10, acknowledged=8, unanswered=2, injected=Counter({"node killed": 3}))
    report.repeats[Reason.WINDOW] += 4
    for name, value in changed.items():
        setattr(report, name, value)
    return report


def reads_report(*, stale: int = 0, marked: int = 0, faults: list[str] | None = None) -> HistoryReport:
    return HistoryReport(7, 10, 7, 1, 2, 1_000, 3, marked, 1_000, marked, stale, {"node-kill": 2}, faults or [])


def test_rounds_of_both_kinds_are_summed() -> None:
    figures = Figures()
    figures.add_kill(kill_report())
    figures.add_reads(reads_report(marked=5))
    assert (figures.sent, figures.acknowledged, figures.unanswered) == (20, 16, 4)
    assert (figures.reads, figures.marked, figures.repeats[Reason.WINDOW]) == (1_000, 5, 4)
    assert figures.injected == {"node killed": 3, "reads: node-kill": 2}
    assert figures.good
    assert "0.50%" in str(figures)


@pytest.mark.parametrize(
    "changed",
    [{"lost": 1}, {"invented": 1}, {"reordered": 1}, {"faults": ["x"]}, {"repeats": Counter({Reason.UNEXPLAINED: 1})}],
)
def test_whatever_the_kill_loop_finds_is_a_failure(changed: dict[str, object]) -> None:
    figures = Figures()
    figures.add_kill(kill_report(**changed))
    assert not figures.good


@pytest.mark.parametrize("report", [reads_report(stale=1), reads_report(marked=11), reads_report(faults=["x"])])
def test_whatever_the_readers_find_is_a_failure(report: HistoryReport) -> None:
    figures = Figures()
    figures.add_reads(report)
    assert not figures.good


REPORT = """<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite name="pytest" errors="1" failures="1" skipped="1" tests="4" time="9.9">
<testcase classname="tests.e2e.faults.test_disk_clock" name="test_a"><system-out>ERROR x</system-out></testcase>
<testcase classname="tests.e2e.faults.test_disk_full" name="test_b"><skipped message="needs root" /></testcase>
<testcase classname="tests.e2e.faults.test_disk_damage" name="test_c"><failure message="silent">...</failure>
</testcase>
<testcase classname="tests.e2e.faults.test_backlog" name="test_d"><error message="left running">...</error>
</testcase></testsuite></testsuites>
"""


def test_how_the_other_tests_ended_is_read_off_their_report(tmp_path: Path) -> None:
    (tmp_path / "report.xml").write_text(REPORT)
    ended, faults = read_outcomes(tmp_path / "report.xml")
    assert ended == {"passed": 1, "skipped": 1, "failure": 1, "error": 1}
    assert faults == [
        "tests.e2e.faults.test_disk_damage::test_c: silent",
        "tests.e2e.faults.test_backlog::test_d: left running",
    ]
    assert read_outcomes(tmp_path / "none.xml") == ({}, [])


def test_tests_that_take_too_long_are_asked_to_end_so_that_they_end_what_they_started(tmp_path: Path) -> None:
    script = "trap 'kill $!; echo asked; exit 3' INT; sleep 60 & wait"
    with open(tmp_path / "output", "w+", encoding="utf-8") as output:
        code = soak.run_to_its_end(["sh", "-c", script], output, timeout_s=1.0)
        output.seek(0)
        assert (code, output.read()) == (3, "asked\n")


def test_a_round_of_others_that_fails_is_a_failure() -> None:
    figures = Figures()
    figures.add_others(Counter({"passed": 30}), [])
    assert figures.good
    figures.add_others(Counter({"passed": 29, "failure": 1}), ["test_c: silent"])
    assert not figures.good
    assert "1 failure, 59 passed" in str(figures)


def run_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loop: Callable[..., KillReport]) -> tuple[int, list[str]]:
    monkeypatch.setattr(soak, "run_kill_loop", loop)
    said: list[str] = []
    made = Soak(tmp_path / "rounds", 7, KILL, said.append)
    made.run(0)
    return conclude(made.figures, tmp_path / "rounds"), said


def test_a_good_round_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, said = run_one(tmp_path, monkeypatch, lambda *_, **__: kill_report())
    assert (code, len(said)) == (0, 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ["faults", "broken off"])
def test_a_bad_round_is_kept_and_says_how_to_repeat_it(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loop(processes: Processes, *_: object, **__: object) -> KillReport:
        (processes.directory / "spawn.out").write_text("what it printed")
        if how == "faults":
            return kill_report(faults=["node1 lacks one"])
        raise AssertionError("node1 lacks one")

    code, said = run_one(tmp_path, monkeypatch, loop)
    assert code == 1
    assert (tmp_path / "rounds" / "kill-7" / "spawn.out").exists()
    assert any("FAULT node1 lacks one" in line for line in said)
    assert any("make soak MINUTES=0 SEED=7 ARGS=--only=kill" in line for line in said)
