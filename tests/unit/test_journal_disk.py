"""A disk that is full or fails: refused, recovered from, or the end; never silence.

The full disk is a real one: a small tmpfs, for root. Without root, SQLite's own page limit has to do.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest

from spawn.errors import JournalBroken, JournalFull
from spawn.journal import committer
from spawn.journal.base import Outcome
from spawn.journal.database import DiskFull
from tests.support.disks import fill
from tests.support.disks import small_disk as small_disk_at
from tests.support.journals import MIB, JournalUnderTest, replace_calls, until, update


@pytest.fixture
def under(tmp_path: Path) -> Iterator[JournalUnderTest]:
    made = JournalUnderTest("sqlite", tmp_path / "journal")
    yield made
    made.journal.stop(10)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk_at(tmp_path / "disk", 12) as path:
        yield path


def test_a_full_disk_refuses_updates_and_still_takes_positions(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    under = JournalUnderTest("sqlite", small_disk / "journal")
    under.append(50)
    under.journal.set_position("a", 0)
    other = fill(small_disk)
    with pytest.raises(JournalFull, match="disk"):
        for n in range(2000):
            under.journal.append(update(n, b"x" * 10_000))
    head = under.journal.head
    until(lambda: not (under.directory / "ballast").exists(), "the ballast is let go")
    under.journal.advance("a", 40)
    under.journal.settle(40, 200)
    assert under.journal.wait_durable("a", 40, 10)
    assert under.journal.prune(20, 1e12, 0, 100) == 20
    with pytest.raises(JournalFull):
        under.journal.append(update(1, b"x"))
    assert len(under.journal.read(20, 10, MIB)) == 10
    other.unlink()

    def accepted() -> bool:
        try:
            return under.journal.append(update(1)) == head + 1
        except JournalFull:
            return False

    until(accepted, "updates are accepted again by themselves")
    assert (under.directory / "ballast").stat().st_size == MIB
    assert under.published == list(range(1, head + 2))
    assert under.reopen().positions() == {"a": 40}
    under.journal.stop(10)
    assert under.broken == []
    said = [record.getMessage() for record in caplog.records if "the disk that holds" in record.getMessage()]
    assert len(said) == 2, "once when it filled up, once when there was room"


def test_a_disk_without_even_the_ballasts_room_is_started_on_but_takes_no_updates(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    under = JournalUnderTest("sqlite", small_disk / "journal")
    under.append(5)
    under.journal.set_position("a", 0)
    under.journal.stop(10)
    (under.directory / "ballast").unlink()
    fill(small_disk, leave_bytes=200_000)
    journal = under.start()
    assert "no update is accepted until there is room" in caplog.text, "nobody has to guess"
    with pytest.raises(JournalFull):
        journal.append(update(1))
    journal.advance("a", 5)
    assert journal.wait_durable("a", 5, 10)
    assert len(journal.read(0, 10, MIB)) == 5
    under.journal.stop(10)


def test_a_disk_that_only_says_it_has_room_is_not_believed(
    under: JournalUnderTest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a disk where the ballast fits, and nothing can be written
    under.append(3)
    under.journal.set_position("a", 0)
    tried = []

    def full(*batch: object) -> None:
        tried.append(batch)
        raise DiskFull("database or disk is full")

    replace_calls(monkeypatch, under.journal, commit=full, touch=full)
    monkeypatch.setattr(committer, "RETRY_S", 0.02)
    with pytest.raises(JournalFull):
        under.journal.append(update(1))
    # When a while passes, with nothing to do and then with a position that waits
    until(lambda: len(tried) > 3, "it is looked for room again and again")
    under.journal.advance("a", 2)
    until(lambda: len(tried) > 8, "the position is tried again and again")
    # Then nothing is accepted, and that was said once
    with pytest.raises(JournalFull):
        under.journal.append(update(1))
    monkeypatch.undo()
    assert under.journal.wait_durable("a", 2, 10), "it was kept"

    def accepted() -> bool:
        try:
            return under.journal.append(update(1)) == 4
        except JournalFull:
            return False

    until(accepted, "updates are accepted again by themselves")
    said = [record.getMessage() for record in caplog.records if "the disk that holds" in record.getMessage()]
    assert len(said) == 2, said


def test_when_sqlite_says_full_the_batch_is_refused_and_nothing_of_it_stays(under: JournalUnderTest) -> None:
    under.append(5)
    under.journal.set_position("a", 0)
    database = under.journal._database  # type: ignore[attr-defined]

    def limit(pages: int) -> None:
        database._connection.execute(f"PRAGMA max_page_count = {pages}").fetchall()

    under.journal._writer.call(limit, 20)  # type: ignore[attr-defined]
    jobs = [gevent.spawn(append_result, under, b"x" * 30_000) for _ in range(600)]  # more than a batch takes
    gevent.joinall(jobs, timeout=30, raise_error=True)
    assert all(job.ready() for job in jobs), "nobody is forgotten"
    refused = [job.value for job in jobs if isinstance(job.value, JournalFull)]
    assert refused
    under.journal.advance("a", 5)
    assert under.journal.wait_durable("a", 5, 10)
    head = under.journal.head
    assert head == 605 - len(refused)
    used = under.journal.usage()
    assert under.reopen().head == head
    assert under.journal.usage() == used
    assert under.broken == []


def append_result(under: JournalUnderTest, body: bytes) -> int | JournalFull:
    try:
        return under.journal.append(update(1, body))
    except JournalFull as error:
        return error


def test_a_commit_of_unknown_outcome_is_the_end(under: JournalUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    under.append(3)
    under.journal.set_position("a", 1)

    def fails(batch: object) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
        raise error

    replace_calls(monkeypatch, under.journal, commit=fails)
    jobs = [gevent.spawn(break_result, under) for _ in range(5)]
    flushing = gevent.spawn(under.journal.wait_durable, "a", 3, 10)
    flushing.link_exception(lambda job: None)
    gevent.joinall([*jobs, flushing], timeout=10)
    assert all(isinstance(job.value, JournalBroken) for job in jobs)
    assert isinstance(flushing.exception, JournalBroken)
    journal = under.journal
    assert journal.broken
    assert (journal.head, under.published) == (3, [1, 2, 3])
    for call in (
        lambda: journal.append(update(1)),
        lambda: journal.read(0, 1, 1),
        lambda: journal.advance("a", 2),
        lambda: journal.settle(1, 200),
        lambda: journal.record("a", 1, 1, Outcome.REFUSED),
        lambda: journal.fate(1),
        lambda: journal.positions(),
        lambda: journal.flush(1),
        lambda: journal.prune(1, 0, 0, 1),
    ):
        with pytest.raises(JournalBroken, match="unknown"):
            call()
    (reason,) = under.broken
    assert "disk I/O error" in reason
    monkeypatch.undo()
    assert under.reopen().head == 3, "recovery decides: here it was not written"


def break_result(under: JournalUnderTest) -> int | JournalBroken:
    try:
        return under.journal.append(update(1))
    except JournalBroken as error:
        return error


def test_a_body_whose_disk_fails_is_the_end_too(under: JournalUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: str, size: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(under.journal._bodies, "adopt", fails)  # type: ignore[attr-defined]
    with pytest.raises(Exception, match="Input/output error"):
        under.journal.append(update(1, under.spooled(b"x" * 300_000)))
    assert under.journal.broken
    assert len(under.broken) == 1
