"""A disk that the journal itself has filled: pruning gets through, and what it frees ends the full state."""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from spawn.errors import JournalBroken, JournalFull
from spawn.journal import pruning
from spawn.journal.database import DiskFull
from spawn.journal.sqlite import BALLAST_BYTES, SqliteJournal
from tests.support.disks import fill
from tests.support.disks import small_disk as small_disk_at
from tests.support.journals import MIB, JournalUnderTest, replace_calls, until, update

INLINE = b"y" * 200_000  # many pages of SQLite's, and no file
FULL = "the disk that holds the journal is full"


class Real(JournalUnderTest):
    """With the ballast that a service has: it is more than the WAL."""

    def make(self) -> SqliteJournal:
        return SqliteJournal(str(self.directory), 1 << 30, clock=lambda: self.now_s)


@pytest.fixture
def under(tmp_path: Path) -> Iterator[JournalUnderTest]:
    made = JournalUnderTest("sqlite", tmp_path / "journal")
    made.journal.set_position("a", 0)
    yield made
    made.journal.stop(10)


@pytest.fixture
def on_small_disk(tmp_path: Path) -> Iterator[JournalUnderTest]:
    with small_disk_at(tmp_path / "disk", 48) as path:
        made = JournalUnderTest("sqlite", path / "journal")
        made.journal.set_position("a", 0)
        yield made
        made.journal.stop(10)


def accepted(under: JournalUnderTest) -> bool:
    try:
        return under.journal.append(update(1)) > 0
    except JournalFull:
        return False


def database(under: JournalUnderTest) -> Any:
    return under.journal._database  # type: ignore[attr-defined]


@pytest.fixture
def on_real_disk(tmp_path: Path) -> Iterator[JournalUnderTest]:
    with small_disk_at(tmp_path / "disk", 144) as path:
        made = Real("sqlite", path / "journal")
        made.journal.set_position("a", 0)
        yield made
        made.journal.stop(10)


def test_pruning_gets_through_on_a_disk_full_of_inline_bodies_and_ends_that(on_real_disk: JournalUnderTest) -> None:
    # Given a disk that the backlog of one node has filled; only the ballast's room is left
    under = on_real_disk
    with pytest.raises(JournalFull, match="disk"):
        for n in range(1_000):
            under.journal.append(update(n, INLINE))
    head = under.journal.head
    assert head > 400
    # When the node has got all of it, and it is pruned as ``Retention`` does
    under.journal.advance("a", head)
    assert under.journal.flush(10)
    gone = 0
    while step := under.journal.prune(head, math.inf, 0, 500):
        gone += step
    # Then nothing of it is left, and updates are taken again by themselves
    assert gone == head
    until(lambda: accepted(under), "updates are taken again")
    assert (under.directory / "ballast").stat().st_size == BALLAST_BYTES
    assert under.broken == []


def test_what_pruning_freed_is_given_back_even_if_it_was_pruned_long_ago(on_small_disk: JournalUnderTest) -> None:
    """The room is in SQLite's list of free pages and in the WAL: the file system does not know of it."""
    under = on_small_disk
    for n in range(150):
        under.journal.append(update(n, INLINE))
    under.journal.advance("a", 150)
    while under.journal.prune(150, math.inf, 0, 500):
        pass
    # When Spawn is stopped, and somebody else takes what the file system has, the ballast's room too
    under.journal.stop(10)
    assert (under.directory / "journal.db").stat().st_size > 8 * MIB, "there is something to give back"
    (under.directory / "ballast").unlink()
    fill(under.directory.parent, leave_bytes=300_000)
    # Then a start finds the room that it needs in the journal's own files
    under.start()
    assert not accepted(under)
    until(lambda: accepted(under), "updates are taken")
    assert (under.directory / "ballast").stat().st_size == MIB


def test_pruning_writes_little_however_much_goes(under: JournalUnderTest) -> None:
    """No zeros over all that goes: on a full disk there is no room for them."""
    under.append(80, body=INLINE)
    under.reopen()  # the WAL is empty
    assert under.journal.prune(80, math.inf, 0, 500) == 80
    assert (under.directory / "journal.db-wal").stat().st_size < MIB


def test_a_step_is_bounded_by_bytes_too(under: JournalUnderTest) -> None:
    under.append(200, body=INLINE)
    fits = pruning.STEP_BYTES // len(INLINE)
    assert under.journal.prune(200, math.inf, 0, 500) in (fits, fits - 1)
    gone = [under.journal.prune(200, math.inf, math.inf, 500) for _ in range(10)]
    assert gone[-1] == 0
    assert under.journal.tail == 201


def test_one_entry_goes_whatever_its_size(under: JournalUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning.Bounds, "size_bytes", 10)
    under.append(3, body=INLINE)
    assert [under.journal.prune(3, math.inf, 0, 500) for _ in range(4)] == [1, 1, 1, 0]


def test_a_step_that_does_not_fit_is_tried_in_smaller_ones_and_the_full_disk_is_said_once(
    under: JournalUnderTest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a disk that has room for a step of 5 rows
    under.append(20)
    prune, rows = database(under).prune, []

    def narrow(before: pruning.Pruning, bounds: pruning.Bounds) -> pruning.Pruning:
        rows.append(bounds.rows)
        if bounds.rows > 5:
            raise DiskFull("database or disk is full")
        done: pruning.Pruning = prune(before, bounds)
        return done

    replace_calls(monkeypatch, under.journal, prune=narrow)
    # When pruning is the first to find it full, then it gets through
    assert under.journal.prune(20, math.inf, 0, 40) == 5
    assert rows == [40, 20, 10, 5]
    with pytest.raises(JournalFull, match="disk"):
        under.journal.append(update(1))
    assert [record.getMessage() for record in caplog.records if FULL in record.getMessage()] == [
        f"{FULL}: no update is accepted until there is room; reads and deliveries go on"
    ]
    until(lambda: accepted(under), "updates are accepted again")


def test_a_body_that_arrives_while_others_are_refused_is_refused_too(
    under: JournalUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody may wait for ever: a file takes a while to be deleted, and another comes in meanwhile."""
    adopt, delete, commit = under.journal._bodies.adopt, under.journal._bodies.delete, database(under).commit  # type: ignore[attr-defined]

    def slow_second(path: str, size: int) -> Any:
        if path.endswith("two"):
            time.sleep(0.09)
        return adopt(path, size)

    def slow_delete(names: Any) -> None:
        time.sleep(0.1)
        delete(names)

    def full(batch: Any) -> None:
        time.sleep(0.05)
        if batch.updates:
            raise DiskFull("database or disk is full")
        commit(batch)

    monkeypatch.setattr(under.journal._bodies, "adopt", slow_second)  # type: ignore[attr-defined]
    monkeypatch.setattr(under.journal._bodies, "delete", slow_delete)  # type: ignore[attr-defined]
    replace_calls(monkeypatch, under.journal, commit=full)

    def result(name: str) -> str:
        try:
            return str(under.journal.append(update(1, under.spooled(b"x" * 300_000, name))))
        except JournalFull:
            return "full"

    jobs = [gevent.spawn(result, name) for name in ("one", "two")]
    gevent.joinall(jobs, timeout=5)
    assert [job.value for job in jobs] == ["full", "full"]
    until(lambda: not list((under.directory / "bodies").iterdir()), "nothing of them is left")
    assert under.journal.usage().used_bytes == 0


def test_no_commit_waits_while_body_files_are_deleted(under: JournalUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a disk that takes its time to delete
    for n in range(3):
        under.journal.append(update(n, under.spooled(b"x" * 300_000, f"upload{n}")))
    delete = under.journal._bodies.delete  # type: ignore[attr-defined]
    deleting: list[object] = []

    def slow(names: Any) -> None:
        deleting.append(names)
        time.sleep(1.0)
        delete(names)

    monkeypatch.setattr(under.journal._bodies, "delete", slow)  # type: ignore[attr-defined]
    # When a large part is pruned
    job = gevent.spawn(under.journal.prune, 3, math.inf, 0, 500)
    until(lambda: deleting, "files are being deleted")
    # Then an update is accepted meanwhile; and pruning ends with the files
    assert under.journal.append(update(9)) == 4
    assert not job.ready()
    assert job.get(timeout=10) == 3
    assert list((under.directory / "bodies").iterdir()) == []


class Failing:
    """A connection whose scripts fail."""

    def __init__(self, connection: sqlite3.Connection, code: int) -> None:
        self._connection = connection
        self._code = code

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def executescript(self, script: str) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = self._code
        raise error


@pytest.mark.parametrize(
    ("code", "breaks"),
    [(sqlite3.SQLITE_FULL, False), (sqlite3.SQLITE_BUSY, False), (sqlite3.SQLITE_IOERR_FSYNC, True)],
)
def test_a_sync_that_fails_as_room_is_given_back_is_the_end(
    under: JournalUnderTest, monkeypatch: pytest.MonkeyPatch, code: int, breaks: bool
) -> None:
    under.append(200, body=b"x" * 100_000)
    monkeypatch.setattr(database(under), "_connection", Failing(database(under)._connection, code))
    outcome = caught(lambda: [under.journal.prune(200, math.inf, 0, 500) for _ in range(3)])
    assert isinstance(outcome, JournalBroken) == breaks
    assert under.journal.broken == breaks
    monkeypatch.undo()


def caught(call: Callable[[], object]) -> object:
    try:
        return call()
    except JournalBroken as error:
        return error
