"""What is started as restored, and what has no journal in it any more."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest

from spawn.errors import JournalDamaged
from spawn.journal.base import Outcome
from spawn.journal.mark import PERIOD_S
from spawn.journal.sqlite import SqliteJournal
from tests.support.journals import MIB, JournalUnderTest, until, update

DAY_S = 86_400.0


class Restored(JournalUnderTest):
    """Started as restored once, and then as anything else."""

    def __init__(self, path: Path, now_s: float = 1_000_000.0) -> None:
        self.restored, self.start_s = True, now_s
        super().__init__("sqlite", path)

    def make(self) -> SqliteJournal:
        if self.restored:
            self.now_s = self.start_s
        restored, self.restored = self.restored, False
        return SqliteJournal(
            str(self.directory), self.max_bytes, restored=restored, clock=lambda: self.now_s, ballast_bytes=MIB
        )


@pytest.fixture
def under(tmp_path: Path) -> Iterator[JournalUnderTest]:
    made = JournalUnderTest("sqlite", tmp_path / "journal")
    yield made
    made.journal.stop(10)


def test_what_was_in_a_restored_journal_is_kept_as_if_it_had_come_then(under: JournalUnderTest, tmp_path: Path) -> None:
    """A backup is older than what is kept, as a rule; its nodes have yet to be told their positions."""
    under.append(5)
    made = under.journal.backup(str(tmp_path / "copy"))
    # Given a backup that is started ten days later, and again after an hour
    again = Restored(Path(made.path), now_s=under.now_s + 10 * DAY_S)
    again.now_s += 3_600
    again.reopen()
    # When all is pruned that is older than a day, then it is kept
    assert again.journal.prune(5, again.now_s - DAY_S, again.now_s - DAY_S, 500) == 0
    assert again.journal.tail == 1
    # And it goes a day after the start, or when no node may need it
    again.now_s += DAY_S
    assert again.journal.prune(2, math.inf, 0, 500) == 2
    assert again.journal.prune(5, again.now_s - DAY_S, 0, 500) == 3
    again.journal.stop(10)


def large(under: JournalUnderTest, count: int) -> None:
    first = under.journal.head + 1
    for n in range(first, first + count):
        under.journal.append(update(n, under.spooled(b"x" * 300_000, f"upload{n}")))


def with_older_end(under: JournalUnderTest, older: Path) -> Path:
    """The journal as it is on the disk, but with a database of before: the end of the WAL is lost."""
    gevent.sleep(4 * PERIOD_S)  # for the mark
    copy = older.with_name("lost")
    shutil.copytree(under.directory, copy)
    for name in ("journal.db", "journal.db-wal"):
        shutil.copy(older / name, copy / name)
    return copy


def test_a_lost_end_that_held_a_pruning_can_be_started_as_restored(
    under: JournalUnderTest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Given large updates, one kept for an operator, that were pruned, which is in the lost end of the WAL
    under.journal.set_position("n", 0)
    large(under, 2)
    under.append(1)
    large(under, 3)
    under.journal.record("n", 2, 2, Outcome.REFUSED)
    under.journal.advance("n", 6)
    assert under.journal.flush(10)
    older = shutil.copytree(under.directory, tmp_path / "older")
    assert under.journal.prune(4, math.inf, 0, 500) == 4
    under.append(3)
    lost = with_older_end(under, older)
    # When it is started, it is refused, and the way that is named leads on
    with pytest.raises(JournalDamaged, match="--restored"):
        JournalUnderTest("sqlite", lost)
    again = Restored(lost)
    # Then what was pruned is pruned, said once, and all else is there
    assert (again.journal.tail, again.journal.head) == (5, 6)
    assert [entry.sequence for entry in again.journal.read(4, 10, MIB)] == [5, 6]
    kept = again.journal.entry(2)
    assert kept is not None
    (said,) = [record.getMessage() for record in caplog.records if "taken for pruned" in record.getMessage()]
    assert said == "the bodies of 2 updates up to 4 are gone: these are taken for pruned, the journal begins at 5"
    used = again.journal.usage()
    again.reopen()
    assert (again.journal.tail, again.journal.usage()) == (5, used)
    again.journal.prune(6, math.inf, math.inf, 500)
    assert again.journal.usage().used_bytes < 1_000
    again.journal.stop(10)


@pytest.mark.parametrize("hole", [2, 3])
def test_a_body_that_is_gone_from_the_middle_is_no_pruning(under: JournalUnderTest, hole: int) -> None:
    large(under, 3)
    under.append(1)
    (name,) = [os.path.basename(entry.body.path) for entry in under.journal.read(hole - 1, 1, MIB)]  # type: ignore[union-attr]
    under.journal.stop(10)
    (under.directory / "bodies" / name).unlink()
    for _ in range(2):
        with pytest.raises(JournalDamaged, match=f"of update {hole} is missing"):
            Restored(under.directory)


@pytest.mark.parametrize("restored", [False, True])
def test_an_empty_database_is_not_taken_for_a_new_journal(under: JournalUnderTest, restored: bool) -> None:
    # Given a journal whose database has become empty; only the mark tells
    under.append(5)
    mark = under.directory / "mark"
    until(lambda: mark.exists() and " 5 " in mark.read_text(), "the mark follows")
    under.journal.stop(10)
    (under.directory / "journal.db").write_bytes(b"")
    # When it is started, then it is refused, each time
    for _ in range(2):
        with pytest.raises(JournalDamaged, match="missing or empty, and update 5 was durable"):
            (Restored if restored else lambda path: JournalUnderTest("sqlite", path))(under.directory)


def test_nothing_is_made_of_an_empty_database_that_shall_be_restored(tmp_path: Path) -> None:
    (tmp_path / "journal.db").write_bytes(b"")
    for _ in range(2):
        with pytest.raises(JournalDamaged, match="nothing to start as restored"):
            Restored(tmp_path)


def test_a_log_without_its_database_is_kept(under: JournalUnderTest, tmp_path: Path) -> None:
    under.append(5)
    wal = tmp_path / "alone" / "journal.db-wal"
    wal.parent.mkdir()
    shutil.copy(under.directory / "journal.db-wal", wal)
    for _ in range(2):
        with pytest.raises(JournalDamaged, match="-wal is there"):
            JournalUnderTest("sqlite", wal.parent)
    assert wal.stat().st_size
