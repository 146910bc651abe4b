"""Nothing acknowledged is lost: a process is killed in the middle of appends, again and again."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

from spawn.journal.base import FileBody
from tests.support.journals import JournalUnderTest, update
from tests.support.journalwriter import LARGE

ROUNDS = 6
SEED = 20_251


def run_and_kill(directory: Path, first: int, lines: int) -> list[str]:
    """What the writer had been promised by the time it was dead."""
    command = [sys.executable, "-m", "tests.support.journalwriter", str(directory), str(first)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as child:
        assert child.stdout is not None
        promised = [child.stdout.readline() for _ in range(lines)]
        child.kill()
        promised += child.stdout.readlines()
    assert child.returncode == -9, promised[-3:]
    return [line.rstrip("\n") for line in promised if line.endswith("\n")]


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    directory = tmp_path / "journal"
    acknowledged: dict[int, int] = {}
    position, first, uuids = 0, 0, set()
    for _ in range(ROUNDS):
        for line in run_and_kill(directory, first, chance.randrange(100, 900)):
            what, *numbers = line.split()
            if what == "append":
                acknowledged[int(numbers[0])] = int(numbers[1])
            else:
                position = int(numbers[0])
        first = max(acknowledged.values()) + 1_000  # numbers are never used twice
        under = JournalUnderTest("sqlite", directory, 1 << 30)
        check(under, acknowledged, position)
        uuids.add(under.journal.uuid)
        under.journal.stop(10)
    assert len(uuids) == 1
    assert len(acknowledged) > 100


def check(under: JournalUnderTest, acknowledged: dict[int, int], position: int) -> None:
    found = under.journal.read(0, 1_000_000, 1 << 30)
    assert [entry.sequence for entry in found] == list(range(1, under.journal.head + 1)), "no gap"
    files = set()
    for entry in found:
        n = acknowledged.get(entry.sequence)
        if n is not None:
            assert entry.target == update(n).target
        if isinstance(entry.body, FileBody):
            assert Path(entry.body.path).read_bytes() == LARGE
            files.add(Path(entry.body.path))
    assert under.journal.head >= max(acknowledged)
    assert position <= under.journal.positions()["node"] <= under.journal.head
    assert set((under.directory / "bodies").iterdir()) == files, "leftovers are swept"
    assert not list((under.directory / "spool").iterdir())
