"""A backup: whole, consistent, made beside the traffic, and never the journal's trouble."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from spawn.errors import JournalError, StateError
from spawn.journal import backup as backup_module
from spawn.journal import copying, schema
from spawn.journal.base import Backup, FileBody, Outcome, Range
from spawn.journal.copying import DatabaseCopy
from spawn.journal.sqlite import SqliteJournal
from tests.support.injection import failing, injected, need_tracing
from tests.support.journals import MIB, JournalUnderTest, replace_calls, until, update

FOREVER = float("inf")


@pytest.fixture
def under(tmp_path: Path) -> Iterator[JournalUnderTest]:
    made = JournalUnderTest("sqlite", tmp_path / "journal")
    yield made
    made.journal.stop(10)
    assert made.broken == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "disk"
    path.mkdir()
    mounting = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", path], capture_output=True)
    if mounting.returncode:
        pytest.skip("a small disk can only be mounted by root")
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


class Restored(JournalUnderTest):
    """A backup that was started as an operator starts it."""

    def __init__(self, path: str) -> None:
        super().__init__("sqlite", Path(path))

    def make(self) -> SqliteJournal:
        return SqliteJournal(str(self.directory), self.max_bytes, restored=True, ballast_bytes=MIB)


def steps_are(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Make steps small, and do something on the hub's behalf before each of them."""
    monkeypatch.setattr(copying, "STEP_ROWS", 20)
    step = DatabaseCopy.step

    def acting(self: DatabaseCopy, db: sqlite3.Connection, upto: int) -> bool:
        act()
        return step(self, db, upto)

    monkeypatch.setattr(DatabaseCopy, "step", acting)


class Gate:
    """Holds a backup back on its thread before one of its steps, until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at_step: int = 3) -> None:
        self._steps, self._at = 0, at_step
        self.reached = threading.Event()
        self.opened = threading.Event()
        self._sync = backup_module.sync_file
        monkeypatch.setattr(copying, "STEP_ROWS", 20)
        monkeypatch.setattr(backup_module, "sync_file", self._pass)

    def _pass(self, path: str) -> None:
        """After each step, on a thread for files: commits go on while the backup waits here."""
        self._sync(path)
        self._steps += 1
        if self._steps == self._at:
            self.reached.set()
            assert self.opened.wait(30)


def begin(under: JournalUnderTest, gate: Gate, directory: str) -> gevent.Greenlet[..., Any]:
    """A backup that has come half way; the greenlet's value is what came of it, an error included."""

    def run() -> Backup | JournalError:
        try:
            return under.journal.backup(directory)
        except JournalError as error:
            return error

    job = gevent.spawn(run)
    until(gate.reached.is_set, "the backup is half way")
    return job


def traces(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in tmp_path.iterdir() if path.name != "journal")


# --- what is in it


def test_a_backup_holds_all_there_is(under: JournalUnderTest, tmp_path: Path) -> None:
    # Given a journal with something of everything
    under.append(50)
    under.journal.append(update(51, under.spooled(b"x" * 300_000)))
    under.journal.append(update(52, None, key=b"k"))
    under.journal.set_position("a", 40)
    under.journal.settle(7, 201)
    under.journal.record("a", 3, 5, Outcome.REFUSED)
    under.journal.note_action("a", 4, 4, "retry", "10.0.0.7")
    assert under.journal.prune(10, FOREVER, 0, 100) == 10
    # When a backup is made, with queued changes that are not durable yet
    under.journal.settle(8, 404)
    made = under.journal.backup(str(tmp_path / "copy"))
    # Then the backup says what it is
    assert (made.path, made.head) == (str(tmp_path / "copy"), 52)
    assert made.size_bytes > 300_000
    # And what it is started with is what was there
    restored = Restored(made.path)
    old, new = under.journal, restored.journal
    assert new.uuid != old.uuid
    assert (new.head, new.tail, new.usage(), new.positions()) == (52, 11, old.usage(), {"a": 40})
    assert [n for n in range(1, 53) if new.fate(n) != old.fate(n)] == []
    assert (new.reference(7), new.reference(8)) == (201, 404)
    assert new.outcomes("a", 0) == [Range(3, 5, Outcome.REFUSED)]
    assert new.entry(4) == old.entry(4), "a refused one is kept"
    for mine, theirs in zip(new.read(10, 100, MIB), old.read(10, 100, MIB), strict=True):
        assert (mine.target, mine.key, mine.time_s) == (theirs.target, theirs.key, theirs.time_s)
        if isinstance(mine.body, FileBody):
            assert Path(mine.body.path).read_bytes() == b"x" * 300_000
            assert str(restored.directory) in mine.body.path
    assert new.append(update(53)) == 53
    restored.journal.stop(10)
    assert restored.broken == []


def test_a_backup_is_the_same_kind_of_file_for_the_owner_alone(under: JournalUnderTest, tmp_path: Path) -> None:
    under.journal.append(update(1, under.spooled(b"x" * 300_000)))
    made = Path(under.journal.backup(str(tmp_path / "copy")).path)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [made, *made.rglob("*")]}
    assert {name for name in modes if len(name) < 32} == {"copy", "bodies", "journal.db"}
    assert all(mode in (0o600, 0o700) for mode in modes.values()), modes
    under.journal.stop(10)
    described = []
    for path in (made, under.directory):
        connection = sqlite3.connect(path / "journal.db")
        pragmas = [
            schema.scalar(connection, f"PRAGMA {what}") for what in ("application_id", "user_version", "auto_vacuum")
        ]
        described.append((pragmas, connection.execute("SELECT sql FROM sqlite_schema ORDER BY name").fetchall()))
        connection.close()
    assert described[0] == described[1]


def test_a_backup_of_an_empty_journal_is_one(under: JournalUnderTest, tmp_path: Path) -> None:
    made = under.journal.backup(str(tmp_path / "copy"))
    assert made.head == 0
    restored = Restored(made.path)
    assert restored.journal.append(update(1)) == 1
    restored.journal.stop(10)


def test_bodies_are_copied_where_they_cannot_be_linked(
    under: JournalUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(source: str, target: str) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", cannot)
    monkeypatch.setattr(backup_module, "PIECE_BYTES", 100_000)
    content = bytes(range(256)) * 2000
    under.journal.append(update(1, under.spooled(content)))
    made = under.journal.backup(str(tmp_path / "copy"))
    (body,) = (tmp_path / "copy" / "bodies").iterdir()
    assert body.read_bytes() == content
    assert (stat.S_IMODE(body.stat().st_mode), body.stat().st_nlink) == (0o600, 1)
    assert made.size_bytes > len(content)


def test_a_linked_body_outlives_its_entry(under: JournalUnderTest, tmp_path: Path) -> None:
    under.journal.append(update(1, under.spooled(b"x" * 300_000)))
    made = under.journal.backup(str(tmp_path / "copy"))
    assert under.journal.prune(1, FOREVER, 0, 10) == 1
    assert not list((under.directory / "bodies").iterdir())
    restored = Restored(made.path)
    (entry,) = restored.journal.read(0, 10, MIB)
    assert isinstance(entry.body, FileBody)
    assert Path(entry.body.path).read_bytes() == b"x" * 300_000
    restored.journal.stop(10)


# --- beside the traffic


def test_a_backup_beside_32_appenders_is_consistent_and_ends(
    under: JournalUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given 32 appenders whose updates get references and whose consumer moves on
    monkeypatch.setattr(copying, "STEP_ROWS", 100)
    under.append(1000)
    under.journal.set_position("a", 0)
    over = False

    def go_on() -> None:
        while not over:
            sequence = under.journal.append(update(1, b"x" * 500))
            under.journal.settle(sequence, 200)
            under.journal.advance("a", sequence - 20)
            under.journal.record("b", sequence, sequence, Outcome.REJECTED)

    appenders = [gevent.spawn(go_on) for _ in range(32)]
    # When a backup is made
    made = under.journal.backup(str(tmp_path / "copy"))
    head = under.journal.head
    over = True
    gevent.joinall(appenders, timeout=30, raise_error=True)
    # Then it ended although the log went on, and everything in it fits together
    assert 1000 < made.head <= head
    restored = Restored(made.path)
    journal = restored.journal
    entries = journal.read(0, 1_000_000, 1 << 30)
    assert [entry.sequence for entry in entries] == list(range(1, made.head + 1))
    assert journal.positions()["a"] <= made.head
    assert [each for each in journal.outcomes("b", 0) if each.last > made.head] == []
    # And every update whose reference was durable when the copy was taken has it (those at the very end may lack it)
    missing = [entry.sequence for entry in entries if entry.sequence > 1000 and entry.reference is None]
    assert missing == [] or min(missing) > made.head - 200
    journal.stop(10)


def test_appends_do_not_wait_for_a_backup(
    under: JournalUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    under.append(100)
    gate = Gate(monkeypatch)
    job = begin(under, gate, str(tmp_path / "copy"))
    assert under.journal.append(update(101)) == 101
    under.journal.advance("a", 1)
    assert under.journal.flush(10)
    assert len(under.journal.read(0, 10, MIB)) == 10
    assert not job.ready()
    gate.opened.set()
    assert job.get(timeout=30).head == 101


def test_what_is_settled_during_a_backup_is_in_it(
    under: JournalUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a backup that has copied all entries and some records: 100 entries are 5 steps
    under.append(100)
    under.journal.settle(2, 200)
    assert under.journal.flush(5)
    gate = Gate(monkeypatch, at_step=8)
    job = begin(under, gate, str(tmp_path / "copy"))
    # When references of both kinds are settled, and everything else changes
    for sequence, status in ((1, 201), (2, 500), (60, 404), (100, 303)):
        under.journal.settle(sequence, status)
    under.journal.record("a", 1, 9, Outcome.SKIPPED)
    under.journal.note_action("a", 1, 9, "skip", "10.0.0.7")
    under.journal.set_position("a", 9)
    assert under.journal.flush(5)
    gate.opened.set()
    # Then the backup has it all
    restored = Restored(job.get(timeout=30).path)
    assert [restored.journal.reference(n) for n in (1, 2, 60, 99, 100)] == [201, 200, 404, None, 303]
    fate = restored.journal.fate(9)
    assert fate is not None
    assert (fate.outcomes, [action.verb for action in fate.actions]) == ({"a": Outcome.SKIPPED}, ["skip"])
    assert restored.journal.positions() == {"a": 9}
    restored.journal.stop(10)


def test_a_backup_that_is_outrun_is_cut_at_its_last_update(
    under: JournalUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a log that grows faster than it is copied
    under.append(100)
    under.journal.set_position("a", 0)
    monkeypatch.setattr(copying, "STEP_ROWS", 20)
    monkeypatch.setattr(backup_module, "ROUNDS", 2)
    monkeypatch.setattr(backup_module, "REST_ENTRIES", 0)
    follow = backup_module.BackupRun._follow_the_head

    def outrun(self: backup_module.BackupRun) -> None:
        follow(self)
        under.append(100)
        under.journal.advance("a", 190)
        under.journal.advance("a", 200)
        under.journal.record("a", 90, 200, Outcome.UNKNOWN)
        assert under.journal.flush(10)

    monkeypatch.setattr(backup_module.BackupRun, "_follow_the_head", outrun)
    # When it is copied
    made = under.journal.backup(str(tmp_path / "copy"))
    # Then the copy ends one step later, and nothing in it is beyond its end
    assert made.head == 120
    restored = Restored(made.path)
    assert (restored.journal.head, restored.journal.positions()) == (120, {"a": 120})
    assert restored.journal.outcomes("a", 0) == [Range(90, 120, Outcome.UNKNOWN)]
    assert restored.journal.usage().used_bytes < under.journal.usage().used_bytes
    restored.journal.stop(10)


def test_pruning_waits_for_a_backup(under: JournalUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    under.append(100)
    gate = Gate(monkeypatch)
    job = begin(under, gate, str(tmp_path / "copy"))
    pruning = gevent.spawn(under.journal.prune, 100, FOREVER, FOREVER, 1000)
    gevent.sleep(0.05)
    assert not pruning.ready()
    gate.opened.set()
    made = job.get(timeout=30)
    assert pruning.get(timeout=30) is None, "whoever asked has to look anew"
    assert under.journal.prune(100, FOREVER, FOREVER, 1000) == 199
    restored = Restored(made.path)
    assert len(restored.journal.read(0, 1000, MIB)) == 100
    restored.journal.stop(10)


def test_pruning_that_was_asked_for_before_a_backup_began_does_not_run_in_it(
    under: JournalUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given pruning that waits behind a commit
    under.append(100)
    monkeypatch.setattr(copying, "STEP_ROWS", 20)
    release = threading.Event()
    database = under.journal._database  # type: ignore[attr-defined]
    commit = database.commit

    def slow(batch: object) -> None:
        assert release.wait(30)
        commit(batch)

    replace_calls(monkeypatch, under.journal, commit=slow)
    appending = gevent.spawn(under.journal.append, update(101))
    gevent.sleep(0.02)
    pruning = gevent.spawn(under.journal.prune, 100, FOREVER, FOREVER, 1000)
    gevent.sleep(0)
    # When a backup begins, whose first step waits behind that commit too
    job = gevent.spawn(under.journal.backup, str(tmp_path / "copy"))
    until(under.journal._reading.locked, "the first step waits")  # type: ignore[attr-defined]
    release.set()
    # Then all of it is in the backup, and pruning waits to be asked for anew: nodes may have other places by now
    restored = Restored(job.get(timeout=30).path)
    assert len(restored.journal.read(0, 1000, MIB)) in (100, 101)
    restored.journal.stop(10)
    appending.get(timeout=30)
    assert pruning.get(timeout=30) is None
    assert (under.journal.prune(100, FOREVER, FOREVER, 1000) or 0) > 100


def test_only_one_backup_at_a_time(under: JournalUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    under.append(100)
    gate = Gate(monkeypatch)
    job = begin(under, gate, str(tmp_path / "copy"))
    with pytest.raises(JournalError, match="a backup is under way"):
        under.journal.backup(str(tmp_path / "other"))
    gate.opened.set()
    job.get(timeout=30)
    assert under.journal.backup(str(tmp_path / "other")).head == 100


def test_a_backup_outlives_the_greenlet_that_asked_for_it(
    under: JournalUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    under.append(100)
    gate = Gate(monkeypatch)
    begin(under, gate, str(tmp_path / "copy")).kill()
    gate.opened.set()
    until((tmp_path / "copy").exists, "the backup is complete")


# --- when it fails


def assert_goes_on(under: JournalUnderTest) -> None:
    """The journal has not noticed anything."""
    head = under.journal.head
    assert under.journal.append(update(1)) == head + 1
    under.journal.settle(head + 1, 200)
    assert under.journal.flush(10)
    assert under.journal.prune(1, FOREVER, 0, 1) in (0, 1)
    assert (under.directory / "ballast").exists(), "no state of a full disk"
    assert not under.journal.broken


def refusal(under: JournalUnderTest, directory: Path) -> str:
    """The one line of a backup that fails."""
    with pytest.raises(JournalError) as caught:
        under.journal.backup(str(directory))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_place_that_cannot_be_used_is_said(under: JournalUnderTest, tmp_path: Path) -> None:
    under.append(3)
    (tmp_path / "file").write_text("")
    assert "Not a directory" in refusal(under, tmp_path / "file" / "copy")
    assert "No such file" in refusal(under, tmp_path / "missing" / "copy")
    (tmp_path / "taken").mkdir()
    assert "already" in refusal(under, tmp_path / "taken")
    assert traces(tmp_path) == ["file", "taken"]
    assert_goes_on(under)


def test_a_disk_without_room_is_not_even_begun_to_be_filled(
    under: JournalUnderTest, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    under.append(60, body=b"x" * 100_000)
    assert under.journal.flush(5)
    under.reopen()  # all of it is in the database file
    begun = []
    monkeypatch.setattr(DatabaseCopy, "create", lambda self: begun.append(1))
    said = refusal(under, small_disk / "copy")
    assert "bytes on a disk that has" in said
    assert (begun, list(small_disk.iterdir())) == ([], [])
    assert_goes_on(under)


def test_a_disk_that_fills_up_in_the_middle_ends_the_backup_and_nothing_else(
    under: JournalUnderTest, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a backup that does not fit, whatever statvfs said
    under.append(60, body=b"x" * 100_000)
    monkeypatch.setattr(backup_module.BackupRun, "_look_for_room", lambda self: None)
    over: list[int] = []

    def go_on(times: int) -> None:
        while len(over) < times:
            under.journal.append(update(1))

    for times in (1, 2, 3):
        # When it is made, beside appends
        appenders = [gevent.spawn(go_on, times) for _ in range(4)]
        said = refusal(under, small_disk / "copy")
        over.append(times)
        gevent.joinall(appenders, timeout=30, raise_error=True)
        # Then it says so in one line, is gone, and the journal goes on
        assert "full" in said or "No space left" in said
        assert list(small_disk.iterdir()) == []
        assert_goes_on(under)
    assert under.journal.backup(str(under.directory.parent / "elsewhere")).head == under.journal.head


def test_bodies_that_do_not_fit_end_the_backup_and_nothing_else(
    under: JournalUnderTest, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup_module.BackupRun, "_look_for_room", lambda self: None)
    under.journal.append(update(1, under.spooled(b"x" * 6_000_000)))
    assert "No space left" in refusal(under, small_disk / "copy")
    monkeypatch.undo()
    assert "bytes on a disk that has" in refusal(under, small_disk / "copy"), "it is seen before, too"
    assert list(small_disk.iterdir()) == []
    assert_goes_on(under)


@pytest.mark.parametrize("what", ["step", "finish"])
def test_an_error_of_the_copys_disk_is_never_one_of_the_journals(
    under: JournalUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The error is raised with the copy attached and half written."""
    under.append(100)
    carry_over = DatabaseCopy._carry_over
    calls = []

    def fails(self: DatabaseCopy, db: sqlite3.Connection) -> None:
        carry_over(self, db)
        calls.append(what)
        if len(calls) == (2 if what == "step" else 3):
            db.execute("INSERT INTO copy.meta VALUES ('half', 1)")
            raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(DatabaseCopy, "_carry_over", fails)
    assert "disk I/O error" in refusal(under, tmp_path / "copy")
    assert traces(tmp_path) == []
    assert_goes_on(under)
    assert under.journal.backup(str(tmp_path / "copy")).head == 101


def test_a_body_that_is_gone_is_said(under: JournalUnderTest, tmp_path: Path) -> None:
    under.journal.append(update(1, under.spooled(b"x" * 300_000)))
    (body,) = (under.directory / "bodies").iterdir()
    hidden = body.rename(tmp_path / "hidden")
    assert "No such file" in refusal(under, tmp_path / "copy")
    hidden.rename(body)
    assert traces(tmp_path) == []
    assert_goes_on(under)


def test_a_stop_ends_a_backup_cleanly(under: JournalUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    under.append(100)
    gate = Gate(monkeypatch)
    job = begin(under, gate, str(tmp_path / "copy"))
    gevent.spawn_later(0.05, gate.opened.set)
    journal = under.journal
    journal.stop(10)
    assert job.ready()
    assert "not running" in str(job.value)
    assert traces(tmp_path) == []
    for threads in (journal._files, journal._writer):  # type: ignore[attr-defined]
        assert threads._pool is None, "none comes to life again"
    assert under.start().head == 100


CHILD = """
import os, sys, gevent
from spawn.errors import JournalError
from spawn.journal import backup, copying
from spawn.journal.sqlite import SqliteJournal
from tests.support.journals import update
copying.STEP_ROWS = 20
sync = backup.sync_file
steps = 0
def held(path):
    global steps
    sync(path)
    steps += 1
    if steps == 8:
        os.write(1, b"half way\\n")
        os.read(0, 1)
backup.sync_file = held
journal = SqliteJournal(sys.argv[1], 1 << 30, ballast_bytes=1 << 20)
journal.start(lambda batch: None, lambda reason: os._exit(3))
gevent.joinall([gevent.spawn(journal.append, update(n)) for n in range(200)], raise_error=True)
try:
    journal.backup(sys.argv[2])
except JournalError as error:
    os.write(1, f"failed: {error}\\n".encode())
journal.append(update(1))
journal.settle(1, 200)
journal.flush(10)
os.write(1, b"goes on\\n")
journal.backup(sys.argv[2])
journal.stop(10)
os.write(1, b"complete\\n")
"""


@pytest.fixture
def child(under: JournalUnderTest, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process in the middle of a backup of ``under``'s directory; a byte on its standard input lets it go on."""
    under.journal.stop(10)
    shutil.rmtree(under.directory)
    command = [sys.executable, "-c", CHILD, str(under.directory), str(tmp_path / "copy")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=0, cwd=Path(__file__).parents[2]
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half way\n"
        yield process
        process.kill()


def test_kill_9_in_a_backup_does_the_journal_no_harm(
    under: JournalUnderTest, tmp_path: Path, child: subprocess.Popen[str]
) -> None:
    child.kill()
    child.wait(10)
    assert traces(tmp_path) == ["copy.partial"], "nobody takes it for a backup"
    journal = under.start()
    assert len(journal.read(0, 1000, MIB)) == journal.head == 200
    shutil.rmtree(tmp_path / "copy.partial")
    assert journal.backup(str(tmp_path / "copy")).head == 200


def test_a_disk_that_fails_under_a_backup_does_not_fail_the_journal(
    under: JournalUnderTest, tmp_path: Path, child: subprocess.Popen[str]
) -> None:
    """EIO from the system calls themselves, with the copy attached: the next commits must not meet it again."""
    need_tracing(tmp_path)
    assert child.stdin is not None
    assert child.stdout is not None
    with failing(child.pid, "pwrite64", "EIO", tmp_path, tmp_path / "copy.partial" / "journal.db"):
        child.stdin.write("x")
        said = child.stdout.readline()
    assert said.startswith("failed: the backup in "), said
    assert "I/O error" in said
    assert injected(tmp_path) > 0
    assert [child.stdout.readline() for _ in range(2)] == ["goes on\n", "complete\n"]
    assert child.wait(30) == 0
    restored = Restored(str(tmp_path / "copy"))
    assert restored.journal.head == 201
    restored.journal.stop(10)


# --- restored


def test_a_backup_is_not_started_as_if_nothing_had_happened(under: JournalUnderTest, tmp_path: Path) -> None:
    under.append(3)
    made = under.journal.backup(str(tmp_path / "copy"))
    journal = SqliteJournal(made.path, MIB, ballast_bytes=0)
    with pytest.raises(StateError, match=r"is a backup of 20.*--restored") as caught:
        journal.start(lambda batch: None, lambda reason: None)
    assert "\n" not in str(caught.value)
    journal.stop(1)


def test_restored_takes_the_mark_away_and_gives_a_new_uuid_each_time(under: JournalUnderTest, tmp_path: Path) -> None:
    under.append(3)
    made = under.journal.backup(str(tmp_path / "copy"))
    uuids = {under.journal.uuid}
    for _ in range(2):
        restored = Restored(made.path)
        uuids.add(restored.journal.uuid)
        restored.journal.stop(10)
    assert len(uuids) == 3
    plain = JournalUnderTest("sqlite", Path(made.path))
    assert plain.journal.uuid in uuids
    plain.journal.stop(10)


def test_any_journal_can_be_restored_but_none_is_made_by_it(under: JournalUnderTest, tmp_path: Path) -> None:
    uuid = under.journal.uuid
    under.journal.stop(10)
    restored = Restored(str(under.directory))
    assert restored.journal.uuid != uuid
    restored.journal.stop(10)
    nothing = SqliteJournal(str(tmp_path / "nothing"), MIB, restored=True)
    with pytest.raises(StateError, match="does not exist"):
        nothing.start(lambda batch: None, lambda reason: None)
    assert traces(tmp_path) == []


def test_a_restored_journal_that_does_not_pass_its_checks_keeps_its_mark(
    under: JournalUnderTest, tmp_path: Path
) -> None:
    under.journal.append(update(1, under.spooled(b"x" * 300_000)))
    made = under.journal.backup(str(tmp_path / "copy"))
    (body,) = (tmp_path / "copy" / "bodies").iterdir()
    hidden = body.rename(tmp_path / "hidden")
    with pytest.raises(JournalError, match="is missing"):
        Restored(made.path)
    hidden.rename(body)
    with pytest.raises(StateError, match="--restored"):
        JournalUnderTest("sqlite", Path(made.path))
    Restored(made.path).journal.stop(10)
