"""The benchmark's report: nothing that was not judged looks as if it were met."""

from __future__ import annotations

from bench import report
from bench.machine import Use
from bench.scene import Result, Row, Turn
from bench.verdict import Outcome, Target

ROW = Row("drain", "a backlog", "updates/s", [Target("updates/s", "spawn", "nginx", "requests/s", at_least=0.05)])
QUIET = Use(seconds=5.0, candidate_s=4.9, candidate_core=0.99, other_core=0.5)


def test_a_table_has_every_contestant_even_if_they_are_measured_by_different_figures() -> None:
    turns = {"spawn": [Turn({"updates/s": 5000.0}, QUIET)], "nginx": [Turn({"requests/s": 50_000.0}, QUIET)]}
    lines = list(report.table(Result(ROW, turns)))
    assert [cell.strip() for cell in lines[4].split("|")][1:5] == ["spawn", "5,000", "5,000 – 5,000", "–"]
    assert [cell.strip() for cell in lines[5].split("|")][1:5] == ["nginx", "–", "–", "50,000"]
    assert "* updates/s, spawn / nginx's requests/s: 0.100 (0.100 – 0.100), target ≥ 0.05: **met**" in lines


def test_a_row_that_broke_is_not_judged() -> None:
    result = Result(ROW, broken="3 requests to spawn failed")
    assert report.outcomes(result) == [Outcome.NOT_JUDGED]
    assert "**not judged**: 3 requests to spawn failed" in list(report.table(result))


def test_what_kept_a_candidate_from_more_is_told() -> None:
    assert QUIET.limit == "its core"
    assert Use(seconds=5.0, candidate_s=2.0, candidate_core=0.99).limit == "others on its core"
    assert Use(seconds=5.0, candidate_s=2.0, candidate_core=0.4, other_core=0.99).limit == "nodes and clients"
    assert Use(seconds=5.0, candidate_s=2.0, candidate_core=0.4, other_core=0.4).limit == "waiting"
