"""The fuzz targets: their seeds hold, and a minute of fuzzing in all finds nothing else.

``make fuzz`` goes on for as long as it is told.
"""

from __future__ import annotations

import ast
import base64
import os
import re
from pathlib import Path

import pytest

from tests.fuzz.campaign import TARGETS, NoFuzzer, Report, fuzz, load, replay

# What an answer is passed on through there only looks like what compiled code knows.
FUZZED = [pytest.param(name, marks=[pytest.mark.patches_source] if name == "answer" else []) for name in TARGETS]
SECONDS = {"request": 30, "answer": 20, "chunks": 10}  # in proportion to what there is to reach


def run(target: str, seconds: int, kept: Path) -> Report:
    """Fuzz; skip where there is no fuzzer, which under ``CI=true`` is a failure."""
    try:
        return fuzz(target, seconds, kept)
    except NoFuzzer as missing:
        if os.environ.get("CI") == "true":
            pytest.fail(str(missing), pytrace=False)
        pytest.skip(str(missing))


@pytest.mark.parametrize("target", FUZZED)
def test_the_seeds_hold(target: str) -> None:
    for seed in load(target).SEEDS:
        load(target).check(seed)


@pytest.mark.parametrize("target", TARGETS)
def test_the_first_line_states_the_invariant(target: str) -> None:
    source = Path(str(load(target).__file__)).read_text("utf-8")
    assert source.startswith('"""')
    assert str(ast.get_docstring(ast.parse(source))).partition("\n")[0].endswith(".")


@pytest.mark.parametrize("target", FUZZED)
def test_fuzzing_finds_nothing(target: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    report = run(target, SECONDS[target], tmp_path)
    with capfd.disabled():
        print(f"\n{report}")
    assert report.status == 0, report.explain()
    assert report.executions > len(load(target).SEEDS), "it did not fuzz"
    assert report.coverage > 0, "the codec was not instrumented"


def test_a_finding_is_told_with_how_to_see_it_again(tmp_path: Path) -> None:
    report = run("planted", 60, tmp_path)
    assert report.status != 0
    assert report.found is not None
    told = report.explain()
    assert "AssertionError: there it is" in told
    assert repr(report.found) in told
    pasted = re.search(r"<<END\n(.*)\nEND\n  make fuzz TARGET=planted REPLAY=found.bin", told, re.DOTALL)
    assert pasted
    assert base64.b64decode(pasted[1]) == report.found
    assert "there it is" in replay("planted", report.found)
