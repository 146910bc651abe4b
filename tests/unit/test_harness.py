"""The test harness fails what it should: missing programs under CI, dirty output, processes left running."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import Processes, clean_environment, free_port, wait_listening
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]
SLEEPER = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"


def run_pytest(directory: Path, text: str, *options: str, **environment: str) -> tuple[int, str]:
    """Run one test file with the project's conftest, in a session of its own."""
    (directory / "test_inner.py").write_text(text, "utf-8")
    (directory / "pytest.ini").write_text("[pytest]\n", "utf-8")
    fixed = ("-p", "tests.conftest", "-p", "no:cacheprovider", "-rs")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *fixed, *options, str(directory)],
        cwd=directory,
        env=clean_environment(directory, {"PYTHONPATH": str(ROOT), **environment}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


NEEDY = """
import pytest
@pytest.mark.needs("no-such-program")
def test_needy(): pass
"""


def test_a_missing_program_skips_with_its_reason(tmp_path: Path) -> None:
    code, output = run_pytest(tmp_path, NEEDY, CI="")
    assert code == 0
    assert "the program no-such-program is missing" in output


def test_a_missing_program_fails_under_ci(tmp_path: Path) -> None:
    code, output = run_pytest(tmp_path, NEEDY, CI="true")
    assert code == 1
    assert "the program no-such-program is missing" in output


@pytest.mark.parametrize("options", [(), ("-n2",)], ids=["one after the other", "two at a time"])
def test_a_process_that_outlives_the_tests_fails_the_run(tmp_path: Path, options: tuple[str, ...]) -> None:
    leaving = f"import subprocess, sys\ndef test_leaving():\n    subprocess.run([sys.executable, '-c', {SLEEPER!r}])\n"
    code, output = run_pytest(tmp_path, leaving, *options)
    assert "1 passed" in output
    assert output.count("left running: pid") == 1
    assert "import time; time.sleep(60)" in output
    assert code == 1


def test_nothing_is_left_of_tests_two_at_a_time(tmp_path: Path) -> None:
    code, output = run_pytest(tmp_path, "def test_nothing(): pass\n", "-n2")
    assert (code, "left running" in output) == (0, False)


def test_a_failed_test_shows_what_its_processes_printed(tmp_path: Path) -> None:
    failing = """
import sys
def test_failing(processes):
    process = processes.add("talker", [sys.executable, "-c", "print('ha' * 3)"])
    process.start()
    assert process.wait(10) == 1
"""
    code, output = run_pytest(tmp_path, failing)
    assert code == 1
    assert "output of talker" in output
    assert "hahaha" in output


@pytest.mark.parametrize("line", ["Traceback (most recent call last):", "x.py:1: ResourceWarning: unclosed file"])
def test_a_complaint_of_a_clean_process_is_reported(tmp_path: Path, line: str) -> None:
    processes = Processes(tmp_path)
    talker = processes.add("talker", [sys.executable, "-c", f"print({line!r})"], must_be_clean=True)
    talker.start()
    assert talker.wait(10) == 0
    assert processes.close() == [f"talker printed: {line}"]


def test_close_kills_what_runs_even_when_it_is_paused(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    sleeper = processes.add("sleeper", [sys.executable, "-c", "import time; time.sleep(60)"])
    sleeper.start()
    sleeper.pause()
    assert processes.close() == []
    assert not sleeper.alive


def test_waiting_for_a_dead_process_ends_at_once_and_says_why(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    dying = processes.add("dying", [sys.executable, "-c", "raise SystemExit('no way')"])
    dying.start()
    dying.wait(10)
    with pytest.raises(AssertionError, match="no way"):
        wait_listening(free_port(), process=dying)


def test_eventually_tells_what_it_waited_for() -> None:
    with pytest.raises(AssertionError, match=r"not within 0.05 s: the moon \(last seen: 0\)"):
        eventually(lambda: 0, timeout_s=0.05, what="the moon")
