"""The soak: rounds of the kill loop, of the check of fresh reads and of the other faults, until the time is up.

Run: ``python -m tests.support.soak [--minutes M] [--seed N] [--only kill|reads|others] [--directory D]``. The others
are the tests of the fault suite about disk, network and backlog, and the models with new examples. Each round has the
seed after that of the round before, so ``--seed``, ``--only`` and ``--minutes 0`` repeat one. A round in which a
promise was broken keeps its directory (what the processes printed, the logs of the nodes, Spawn's state), and the exit
status is 1. Ctrl-C ends the round at hand and shows the figures so far.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from xml.etree import ElementTree

from tests.support.faults import make_plan
from tests.support.killloop import KillReport, run_kill_loop
from tests.support.processes import Processes
from tests.support.registerruns import HistoryReport, run_history
from tests.support.repeats import Reason

KILL, READS, OTHERS = "kill", "reads", "others"
ROUNDS = (KILL, READS, KILL, READS, OTHERS)
FAULT_SUITE = "tests/e2e/faults"
OWN_ROUNDS = ("test_kill_loop.py", "test_fresh_reads.py")  # of the fault suite: the other kinds of rounds do that
MODELS = ("tests/contract/test_journal_model.py", "tests/contract/test_fleet_model.py")
OTHERS_S = 600.0  # how long a round of others may take
LAST_WISHES_S = 60.0  # and how long its tests may take to end what they have started
READS_ROUND_S = 30.0
MARKED_LIMIT = 0.01  # of the reads that were made while two nodes were healthy
SHOWN_FAULTS = 10


@dataclass(slots=True)
class Figures:
    """The sums over all rounds."""

    rounds: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    acknowledged: int = 0
    unanswered: int = 0
    injected: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    invented: int = 0
    reordered: int = 0
    repeats: Counter[Reason] = field(default_factory=Counter)
    overwritten: int = 0
    reads: int = 0
    failed_reads: int = 0
    stale: int = 0
    marked: int = 0
    calm_reads: int = 0  # while two nodes were healthy
    calm_marked: int = 0
    other_tests: Counter[str] = field(default_factory=Counter)  # by how they ended
    faults: int = 0  # sentences about what was broken, of any kind
    failed_rounds: list[str] = field(default_factory=list)

    def add_kill(self, report: KillReport) -> None:
        self.sent += report.sent
        self.acknowledged += report.acknowledged
        self.unanswered += report.unanswered
        self.injected.update(report.injected)
        self.lost += report.lost
        self.invented += report.invented
        self.reordered += report.reordered
        self.repeats.update(report.repeats)
        self.overwritten += report.overwritten
        self.faults += len(report.faults)

    def add_reads(self, report: HistoryReport) -> None:
        self.sent += report.sent
        self.acknowledged += report.acknowledged + report.accepted
        self.unanswered += report.unknown
        self.injected.update(f"reads: {kind}" for kind in Counter(report.injected).elements())
        self.reads += report.reads
        self.failed_reads += report.failed_reads
        self.stale += report.stale
        self.marked += report.marked
        self.calm_reads += report.reads_while_two_healthy
        self.calm_marked += report.marked_while_two_healthy
        self.faults += len(report.faults)

    def add_others(self, ended: Counter[str], faults: Sequence[str]) -> None:
        self.other_tests.update(ended)
        self.faults += len(faults)

    @property
    def marked_share(self) -> float:
        return self.calm_marked / max(1, self.calm_reads)

    @property
    def good(self) -> bool:
        broken = self.lost + self.invented + self.reordered + self.stale + self.repeats[Reason.UNEXPLAINED]
        return not (broken or self.faults or self.failed_rounds or self.marked_share > MARKED_LIMIT)

    def rows(self) -> Iterable[tuple[str, str]]:
        yield "rounds", count_text(self.rounds)
        yield "updates sent", f"{self.sent:,}"
        yield "  acknowledged", f"{self.acknowledged:,}"
        yield "  without an answer", f"{self.unanswered:,}"
        yield "faults injected", f"{self.injected.total():,}"
        for kind, count in sorted(self.injected.items()):
            yield f"  {kind}", f"{count:,}"
        yield "lost", str(self.lost)
        yield "invented", str(self.invented)
        yield "reordered", str(self.reordered)
        yield "repeated", f"{self.repeats.total():,}"
        for reason in Reason:
            yield f"  {reason.value}", f"{self.repeats[reason]:,}"
        yield "overwritten by a paused node's late work", str(self.overwritten)
        yield "reads", f"{self.reads:,}"
        yield "  stale", str(self.stale)
        yield "  marked Spawn-Behind", f"{self.marked:,} ({self.marked / max(1, self.reads):.2%})"
        yield "  the same, two nodes healthy", f"{self.calm_marked:,} ({self.marked_share:.2%})"
        yield "  failed", f"{self.failed_reads:,}"
        yield "other tests of the fault suite", count_text(self.other_tests)
        yield "sentences about what was broken", str(self.faults)

    def __str__(self) -> str:
        rows = list(self.rows())
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def count_text(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())) or "0"


class Soak:
    """``say`` gets lines as they come."""

    def __init__(self, directory: Path, seed: int, only: str | None, say: Callable[[str], None]) -> None:
        self.figures = Figures()
        self._directory = directory
        self._seed = seed
        self._kinds = (only,) if only else ROUNDS
        self._say = say

    def run(self, minutes: float) -> None:
        """At least one round; none is begun after the time is up."""
        until_s = time.monotonic() + minutes * 60
        number = 0
        while number == 0 or time.monotonic() < until_s:
            self._round(self._kinds[number % len(self._kinds)], self._seed + number)
            number += 1

    def _round(self, kind: str, seed: int) -> None:
        directory = self._directory / f"{kind}-{seed}"
        directory.mkdir(parents=True)
        processes = Processes(directory)
        began_s = time.monotonic()
        faults: list[str] = []
        summary = f"seed {seed}: broken off"
        try:
            faults, summary = {KILL: self._kill, READS: self._reads, OTHERS: self._others}[kind](processes, seed)
        except AssertionError as error:
            faults = [str(error)]
        finally:  # Ctrl-C too
            faults = [*faults, *processes.close()]
        self.figures.rounds[kind] += 1
        self._say(f"round {self.figures.rounds.total()} ({kind}, {time.monotonic() - began_s:.0f} s) {summary}")
        self._conclude(kind, seed, directory, faults)

    def _conclude(self, kind: str, seed: int, directory: Path, faults: list[str]) -> None:
        if not faults:
            shutil.rmtree(directory, ignore_errors=True)
            return
        again = f"make soak MINUTES=0 SEED={seed} ARGS=--only={kind}"
        self.figures.failed_rounds.append(f"{directory} is kept; again: {again}")
        for fault in faults[:SHOWN_FAULTS]:
            self._say(f"  FAULT {fault}")
        self._say(f"  {len(faults)} fault(s); {self.figures.failed_rounds[-1]}")

    def _kill(self, processes: Processes, seed: int) -> tuple[list[str], str]:
        report = run_kill_loop(processes, make_plan(seed), say=lambda line: None)
        self.figures.add_kill(report)
        return report.faults, str(report)

    def _reads(self, processes: Processes, seed: int) -> tuple[list[str], str]:
        report = run_history(processes, seed, READS_ROUND_S)
        self.figures.add_reads(report)
        return report.faults, (
            f"seed {seed}: {report.sent} sent, {report.acknowledged} acknowledged, {report.reads} reads, "
            f"{report.stale} stale, {report.marked} marked"
        )

    def _others(self, processes: Processes, seed: int) -> tuple[list[str], str]:
        directory = processes.directory
        report = directory / "report.xml"
        options = ("-q", "-p", "no:cacheprovider", f"--basetemp={directory / 'tests'}", f"--junit-xml={report}")
        own = [f"--ignore={FAULT_SUITE}/{name}" for name in OWN_ROUNDS]
        command = [sys.executable, "-m", "pytest", *options, *own, f"--hypothesis-seed={seed}", FAULT_SUITE, *MODELS]
        with open(directory / "pytest.out", "w", encoding="utf-8") as output:
            code = run_to_its_end(command, output, OTHERS_S)
        ended, faults = read_outcomes(report)
        if code != 0 and not faults:
            faults = [f"pytest ended with {code}"]
        self.figures.add_others(ended, faults)
        return faults, f"seed {seed}: {count_text(ended)}"


def run_to_its_end(command: Sequence[str], output: IO[str], timeout_s: float) -> int:
    """The exit code. Tests are never killed at once: they have processes of their own, and end them.

    They are a process group of their own, so that Ctrl-C reaches them once, through us: a second one would cut short
    what the first has begun. What we start in the background may have been told to ignore it, which they would inherit.
    """
    command = ["env", "--default-signal=INT", *command]
    process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, process_group=0)
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(timeout_s)
    finally:  # Ctrl-C too
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(LAST_WISHES_S)
        if process.poll() is None:
            process.kill()
    return process.wait()


def read_outcomes(report: Path) -> tuple[Counter[str], list[str]]:
    """How tests ended, by pytest's JUnit report, and a line for each that did not pass."""
    ended: Counter[str] = Counter()
    faults: list[str] = []
    if not report.exists():
        return ended, faults
    for test in ElementTree.parse(report).iter("testcase"):
        bad = [part for part in test if part.tag in ("failure", "error")]
        word = bad[0].tag if bad else "skipped" if test.find("skipped") is not None else "passed"
        ended[word] += 1
        faults += [f"{test.get('classname')}::{test.get('name')}: {part.get('message')}" for part in bad]
    return ended, faults


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak", description="Spawn under fire, round after round.")
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=None, help="of the first round; default: at random")
    parser.add_argument("--only", choices=(KILL, READS, OTHERS), default=None, help="one kind of rounds")
    parser.add_argument("--directory", type=Path, default=None, help="for the rounds; default: a temporary one")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.randrange(1_000_000_000)
    directory = options.directory or Path(tempfile.mkdtemp(prefix="spawn-soak-"))
    print(f"the first seed is {seed}, rounds are in {directory}", flush=True)
    soak = Soak(directory, seed, options.only, lambda line: print(line, flush=True))
    try:
        soak.run(options.minutes)
    except KeyboardInterrupt:
        print("\nended by Ctrl-C", flush=True)
    return conclude(soak.figures, directory)


def conclude(figures: Figures, directory: Path) -> int:
    print(f"\n{figures}")
    for failed in figures.failed_rounds:
        print(failed)
    if not figures.failed_rounds:
        shutil.rmtree(directory, ignore_errors=True)
    if not figures.rounds:
        print("no round came to its end", flush=True)
    else:
        print("every promise held" if figures.good else "A PROMISE WAS BROKEN", flush=True)
    return 0 if figures.good else 1


if __name__ == "__main__":
    sys.exit(main())
