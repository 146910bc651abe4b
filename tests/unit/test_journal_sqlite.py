"""What only the SQLite backend promises: its thread, its files, damage that is said, and bounded memory."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import pytest

from spawn.errors import JournalDamaged, JournalSlow, StateError
from spawn.journal import bodies, committer, schema
from spawn.journal.base import FileBody, Outcome, Range
from spawn.journal.sqlite import SqliteJournal
from tests.support.journals import MIB, JournalUnderTest, replace_calls, until, update


@pytest.fixture
def under(tmp_path: Path) -> Iterator[JournalUnderTest]:
    made = JournalUnderTest("sqlite", tmp_path / "journal")
    yield made
    made.journal.stop(10)


def database(under: JournalUnderTest) -> Path:
    return under.directory / "journal.db"


def edit(under: JournalUnderTest, *statements: str) -> None:
    """Change the database behind the (stopped) journal's back."""
    under.journal.stop(10)
    connection = sqlite3.connect(database(under))
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def refused(under: JournalUnderTest) -> str:
    """The one line with which a start is refused; and that nothing is left running by it."""
    under.journal.stop(10)
    threads = threading.active_count()
    with pytest.raises(JournalDamaged) as caught:
        under.start()
    under.journal.stop(1)
    assert "\n" not in str(caught.value)
    assert str(under.directory) in str(caught.value)
    assert threading.active_count() <= threads
    return str(caught.value)


# --- threads and files


def test_sqlite_never_runs_on_the_hubs_thread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: set[int] = set()
    connect = schema.connect

    def traced(path: str) -> sqlite3.Connection:
        connection = connect(path)
        connection.set_trace_callback(lambda statement: seen.add(threading.get_ident()))
        return connection

    monkeypatch.setattr(schema, "connect", traced)
    under = JournalUnderTest("sqlite", tmp_path / "journal")
    under.append(40)
    under.journal.set_position("a", 3)
    under.journal.settle(1, 200)
    under.journal.record("a", 1, 1, Outcome.REFUSED)
    under.journal.read(0, 100, MIB)
    under.journal.fate(1)
    under.journal.reference(1)
    under.journal.prune(10, 1e12, 1e12, 10)
    under.reopen().stop(5)
    assert threading.get_ident() not in seen
    assert len(seen) == 2, "one thread in each life"


def test_files_are_the_owners_alone(under: JournalUnderTest) -> None:
    under.journal.append(update(1, under.spooled(b"x" * 300_000)))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in under.directory.rglob("*")}
    assert {name for name in modes if name.startswith("journal.db")} == {"journal.db", "journal.db-wal"}
    assert all(mode in (0o600, 0o700) for mode in modes.values()), modes


def test_a_clean_stop_leaves_no_wal(under: JournalUnderTest) -> None:
    under.append(10)
    under.journal.stop(10)
    assert sorted(path.name for path in under.directory.iterdir()) == [
        "ballast", "bodies", "journal.db", "mark", "spool",
    ]  # fmt: skip


def test_leftover_bodies_are_swept(under: JournalUnderTest) -> None:
    under.journal.append(update(1, under.spooled(b"x" * 300_000)))
    (under.directory / "bodies" / "leftover").write_bytes(b"of a crash before its commit")
    under.reopen()
    (kept,) = (under.directory / "bodies").iterdir()
    ((entry,), _) = under.journal.read(0, 1, 1), None
    assert isinstance(entry.body, FileBody)
    assert entry.body.path == str(kept)


def test_many_concurrent_large_bodies_all_arrive(under: JournalUnderTest) -> None:
    bodies = [under.spooled(bytes([n]) * 300_000, str(n)) for n in range(20)]
    gevent.joinall([gevent.spawn(under.journal.append, update(0, b)) for b in bodies], timeout=30, raise_error=True)
    found = under.journal.read(0, 100, MIB)
    firsts = {Path(e.body.path).read_bytes()[0] for e in found if isinstance(e.body, FileBody)}
    assert firsts == set(range(20))


def test_a_spooled_file_of_another_size_is_refused_and_nothing_written(under: JournalUnderTest) -> None:
    spooled = under.spooled(b"x" * 300_000)
    with pytest.raises(Exception, match="instead of 400000"):
        under.journal.append(update(1, FileBody(spooled.path, 400_000)))
    assert (under.journal.head, under.journal.usage().used_bytes) == (0, 0)
    assert not Path(spooled.path).exists()


def test_memory_does_not_grow_with_the_backlog(under: JournalUnderTest) -> None:
    under.on_publish = lambda batch: under.batches.clear()

    def append_some(count: int) -> None:
        for _ in range(count):
            under.journal.append(update(1, b"x" * 2000))

    gevent.joinall([gevent.spawn(append_some, 5) for _ in range(200)], timeout=60, raise_error=True)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    gevent.joinall([gevent.spawn(append_some, 95) for _ in range(200)], timeout=60, raise_error=True)
    position = 0
    while page := under.journal.read(position, 256, MIB):
        position = page[-1].sequence
    del page
    after, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert position == 20_000
    assert after - before < 3 * MIB, "20,000 entries of 2 KB are 40 MB"
    assert peak - before < 16 * MIB


def test_a_reader_of_a_backlog_does_not_keep_appends_waiting(under: JournalUnderTest) -> None:
    under.append(3000)
    reading = gevent.spawn(lambda: [under.journal.read(0, 3000, 100 * MIB) for _ in range(5)])
    before = under.journal.head
    while not reading.ready():
        under.journal.append(update(1))
    assert under.journal.head - before > 10, "pages and commits take turns"


def test_what_is_committed_while_a_fate_is_looked_up_is_shown_once(
    under: JournalUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lookup waits behind the commit, so it finds in the database what it knew as queued."""
    under.append(1)
    release = threading.Event()
    commit = under.journal._database.commit  # type: ignore[attr-defined]

    def slow(batch: object) -> None:
        assert release.wait(30)
        commit(batch)

    replace_calls(monkeypatch, under.journal, commit=slow)
    under.journal.note_action("a", 1, 1, "retry", "10.0.0.7")
    under.journal.record("a", 1, 1, Outcome.REFUSED)
    until(lambda: under.journal._committer.in_flight.actions, "the commit is under way")  # type: ignore[attr-defined]
    looking = [gevent.spawn(under.journal.fate, 1), gevent.spawn(under.journal.outcomes, "a", 0)]
    gevent.sleep(0.02)
    release.set()
    fate, outcomes = (job.get(timeout=30) for job in looking)
    assert [action.verb for action in fate.actions] == ["retry"]
    assert outcomes == [Range(1, 1, Outcome.REFUSED)]


def test_actions_do_not_outlive_their_records_in_the_file(under: JournalUnderTest) -> None:
    under.append(3)
    under.journal.note_action("a", 1, 2, "skip", "10.0.0.7")
    under.journal.note_action("a", 3, 3, "skip", "10.0.0.7")
    under.journal.prune(3, 1e12, 1e12, 10)
    under.journal.stop(10)
    connection = sqlite3.connect(database(under))
    assert connection.execute("SELECT first FROM actions").fetchall() == [(3,)]
    connection.close()


def test_space_is_given_back_when_much_is_pruned(under: JournalUnderTest) -> None:
    under.append(300, body=b"x" * 100_000)
    under.journal.stop(10)
    size = database(under).stat().st_size
    under.start()
    for _ in range(100):
        under.journal.prune(300, 1e12, 0, 5)
    under.journal.stop(10)
    assert database(under).stat().st_size < size * 0.7


def test_a_large_journal_starts_quickly_because_it_is_not_read_whole(under: JournalUnderTest) -> None:
    under.append(10)
    plan = []
    under.journal.stop(10)
    connection = sqlite3.connect(database(under))
    for statement in (
        "SELECT sequence, file, file_size FROM entries WHERE file IS NOT NULL",
        "SELECT min(sequence), max(sequence) FROM entries WHERE sequence >= 1",
    ):
        plan += [row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + statement)]
    connection.close()
    assert "COVERING INDEX entries_in_files" in plan[0]
    assert plan[1].startswith("SEARCH entries USING INTEGER PRIMARY KEY")


# --- damage


def test_garbage_is_not_a_journal(under: JournalUnderTest) -> None:
    under.journal.stop(10)
    database(under).write_bytes(b"garbage " * 4000)
    assert "not a database" in refused(under)


def test_a_truncated_database_is_refused(under: JournalUnderTest) -> None:
    under.append(500)
    under.journal.stop(10)
    data = database(under).read_bytes()
    database(under).write_bytes(data[: len(data) // 2])
    assert "damaged" in refused(under)


def test_a_damaged_page_is_refused(under: JournalUnderTest) -> None:
    under.append(500)
    under.journal.stop(10)
    data = bytearray(database(under).read_bytes())
    for page in range(2, len(data) // 4096):
        data[page * 4096 : page * 4096 + 8] = b"\xff" * 8
    database(under).write_bytes(data)
    assert "damaged" in refused(under)


def test_a_flipped_bit_in_an_entry_is_said_when_it_is_read(under: JournalUnderTest) -> None:
    under.append(3, body=b"precious content")
    under.journal.stop(10)
    data = database(under).read_bytes()
    assert data.count(b"precious content") == 3
    database(under).write_bytes(data.replace(b"precious content", b"precious contenu", 1))
    under.start()
    with pytest.raises(JournalDamaged, match=r"update \d is not what was written"):
        for before in range(3):
            under.journal.read(before, 1, MIB)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DELETE FROM records WHERE sequence = 5", "records are missing between 1 and 10"),
        ("DELETE FROM entries WHERE sequence = 1", "entries are missing between 1 and 10"),
        ("DELETE FROM entries WHERE sequence = 10", "entries are missing between 1 and 10"),
        ("UPDATE meta SET value = 12 WHERE key = 'tail'", "first entry 12 is outside"),
        ("DELETE FROM meta WHERE key = 'uuid'", "no identity"),
        ("UPDATE consumers SET position = 11", "a is at 11, and the last update is 10"),
        ("DROP TABLE outcomes", "no such table"),
    ],
)
def test_a_structure_that_does_not_fit_is_refused(under: JournalUnderTest, statement: str, said: str) -> None:
    under.append(10)
    under.journal.set_position("a", 10)
    under.journal.record("a", 1, 1, Outcome.REFUSED)
    edit(under, statement)
    if "outcomes" in statement:
        under.start()  # seen by the first call that needs it
        with pytest.raises(JournalDamaged, match=said):
            under.journal.fate(1)
    else:
        assert said in refused(under)


def test_an_entry_that_is_missing_inside_is_said_and_not_skipped(under: JournalUnderTest) -> None:
    under.append(10)
    edit(under, "DELETE FROM entries WHERE sequence = 5")
    journal = under.start()
    assert [e.sequence for e in journal.read(0, 10, MIB)] == [1, 2, 3, 4]
    for call in (lambda: journal.read(4, 10, MIB), lambda: journal.entry(5)):
        with pytest.raises(JournalDamaged, match="update 5 is missing"):
            call()


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(b"short")])
def test_a_body_file_that_is_missing_or_short_is_refused(
    under: JournalUnderTest, harm: Callable[[Path], object]
) -> None:
    under.journal.append(update(1, under.spooled(b"x" * 300_000)))
    under.journal.stop(10)
    (path,) = (under.directory / "bodies").iterdir()
    harm(path)
    said = refused(under)
    assert str(path) in said
    assert "of update 1" in said


def test_a_flipped_bit_in_a_body_file_is_said_when_it_is_read(under: JournalUnderTest) -> None:
    under.journal.append(update(1, under.spooled(b"x" * 300_000)))
    under.journal.stop(10)
    (path,) = (under.directory / "bodies").iterdir()
    path.write_bytes(b"y" + path.read_bytes()[1:])
    under.start()
    with pytest.raises(JournalDamaged, match="is not what was written"):
        under.journal.read(0, 1, MIB)


def test_what_is_before_the_damage_can_be_read(under: JournalUnderTest) -> None:
    under.append(6)
    under.journal.append(update(7, under.spooled(b"x" * 300_000)))
    under.append(1)
    edit(under, "UPDATE entries SET body = x'00' WHERE sequence = 4")
    (path,) = (under.directory / "bodies").iterdir()
    journal = under.start()
    assert [entry.sequence for entry in journal.read(0, 100, MIB)] == [1, 2, 3]
    with pytest.raises(JournalDamaged, match=r"update 4 is not what was written$"):
        journal.read(3, 100, MIB)
    # Also where a body file was damaged while its journal ran
    path.write_bytes(b"y" + path.read_bytes()[1:])
    assert [entry.sequence for entry in journal.read(4, 100, MIB)] == [5, 6]
    for call in (lambda: journal.read(6, 100, MIB), lambda: journal.entry(7)):
        with pytest.raises(JournalDamaged, match="is not what was written"):
            call()
    assert [entry.sequence for entry in journal.read(7, 100, MIB)] == [8]


def test_a_body_is_durable_before_the_update_that_names_it(
    under: JournalUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its content, then its name, then the commit: in every other order a power failure leaves an update without it."""
    done: list[str] = []
    commit = under.journal._database.commit  # type: ignore[attr-defined]

    def noting(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object) -> object:
            result = real(*args)
            done.append(name)
            return result

        return call

    monkeypatch.setattr(os, "fsync", noting("content", os.fsync))
    monkeypatch.setattr(os, "rename", noting("rename", os.rename))
    monkeypatch.setattr(bodies, "sync_directory", noting("name", bodies.sync_directory))
    replace_calls(monkeypatch, under.journal, commit=noting("commit", commit))
    under.journal.append(update(1, under.spooled(b"x" * 300_000)))
    assert [each for each in done if each != "content"] == ["rename", "name", "commit"]
    assert done[0] == "content"


def test_bodies_without_their_database_are_not_swept(under: JournalUnderTest) -> None:
    under.journal.append(update(1, under.spooled(b"x" * 300_000)))
    under.journal.stop(10)
    database(under).unlink()
    assert "holds bodies" in refused(under)
    assert len(list((under.directory / "bodies").iterdir())) == 1


# --- versions


def test_a_newer_journal_is_refused(under: JournalUnderTest) -> None:
    edit(under, "PRAGMA user_version = 7")
    assert f"its version is 7, this one knows {schema.VERSION}" in refused(under)


def test_another_programs_database_is_refused(under: JournalUnderTest) -> None:
    edit(under, "PRAGMA application_id = 0")
    assert "some other program's" in refused(under)


def test_an_older_journal_is_led_to_the_present_one_step_at_a_time() -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("PRAGMA user_version = 3")
    steps = {3: "CREATE TABLE t (a);", 4: "INSERT INTO t VALUES (1);"}
    schema.migrate(connection, "journal.db", 5, steps)
    assert connection.execute("SELECT a FROM t").fetchall() == [(1,)]
    assert schema.scalar(connection, "PRAGMA user_version") == 5
    with pytest.raises(sqlite3.Error):
        schema.migrate(connection, "journal.db", 6, {5: "INSERT INTO t VALUES (2); nonsense;"})
    assert connection.execute("SELECT a FROM t").fetchall() == [(1,)], "a failed step changes nothing"
    with pytest.raises(JournalDamaged):
        schema.migrate(connection, "journal.db", 7, {})
    connection.close()


TABLES_OF_VERSION_1 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE records (
    sequence INTEGER PRIMARY KEY,
    time_us INTEGER NOT NULL,
    method BLOB NOT NULL,
    path BLOB NOT NULL,
    total INTEGER NOT NULL,
    reference INTEGER
);
CREATE TABLE entries (
    sequence INTEGER PRIMARY KEY,
    method BLOB NOT NULL,
    target BLOB NOT NULL,
    head BLOB NOT NULL,
    body BLOB,
    key BLOB,
    file TEXT,
    file_size INTEGER,
    file_crc INTEGER,
    cost INTEGER NOT NULL,
    crc INTEGER NOT NULL
);
CREATE INDEX entries_in_files ON entries (file, file_size) WHERE file IS NOT NULL;
CREATE TABLE consumers (id TEXT PRIMARY KEY, position INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE outcomes (
    consumer TEXT NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    PRIMARY KEY (consumer, first)
) WITHOUT ROWID;
PRAGMA application_id = 1397774158;
"""


def turn_into_version_1(path: Path) -> None:
    """The same contents in a file as version 1 made it."""
    old = sqlite3.connect(path.with_name("old.db"), isolation_level=None)
    old.executescript("PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL;" + TABLES_OF_VERSION_1)
    old.execute("PRAGMA user_version = 1")
    old.execute("ATTACH ? AS new", (str(path),))
    for table in ("meta", "records", "entries", "consumers", "outcomes"):
        columns = ", ".join(row[1] for row in old.execute(f"PRAGMA main.table_info({table})"))
        old.execute(f"INSERT INTO main.{table} SELECT {columns} FROM new.{table}")
    old.execute("DETACH new")
    old.close()
    path.with_name("old.db").rename(path)


def test_a_journal_of_version_1_is_led_to_the_present_one_with_everything_in_place(under: JournalUnderTest) -> None:
    # Given a journal as version 1 left it
    under.append(5)
    under.journal.append(update(6, under.spooled(b"x" * 300_000)))
    under.journal.set_position("a", 3)
    under.journal.settle(2, 201)
    under.journal.record("a", 3, 4, Outcome.REFUSED)
    uuid, usage, entries = under.journal.uuid, under.journal.usage(), under.journal.read(0, 10, MIB)
    under.journal.stop(10)
    turn_into_version_1(database(under))
    # When it is opened
    journal = under.start()
    # Then all of it is there
    assert (journal.uuid, journal.usage(), journal.read(0, 10, MIB)) == (uuid, usage, entries)
    assert (journal.positions(), journal.reference(2)) == ({"a": 3}, 201)
    assert journal.outcomes("a", 0) == [Range(3, 4, Outcome.REFUSED)]
    # And what version 2 added works, now and after the next start
    journal.note_action("a", 3, 3, "retry", "10.0.0.7")
    journal = under.reopen()
    fate = journal.fate(3)
    assert fate is not None
    assert [action.verb for action in fate.actions] == ["retry"]
    assert journal.append(update(7)) == 7


# --- places that cannot be used


def test_a_second_journal_on_the_same_file_is_refused(under: JournalUnderTest) -> None:
    spooled = under.spooled(b"on its way")
    second = SqliteJournal(str(under.directory), MIB, ballast_bytes=0)
    with pytest.raises(JournalDamaged, match="in use by another program"):
        second.start(lambda batch: None, lambda reason: None)
    second.stop(1)
    assert Path(spooled.path).exists(), "the spool belongs to the first one"


def test_a_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    journal = SqliteJournal(str(tmp_path / "file" / "journal"), MIB)
    with pytest.raises(StateError, match="cannot make"):
        journal.start(lambda batch: None, lambda reason: None)
    shutil.rmtree(tmp_path)


def test_nobody_waits_for_ever_for_a_disk_that_is_slow(
    under: JournalUnderTest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(committer, "SLOW_S", 0.05)
    monkeypatch.setattr(committer, "COMMIT_S", 0.2)
    release = threading.Event()
    commit = under.journal._database.commit  # type: ignore[attr-defined]

    def stuck(batch: object) -> None:
        release.wait(20)
        commit(batch)

    # Given a disk that does not finish a write
    with monkeypatch.context() as slow:
        replace_calls(slow, under.journal, commit=stuck)
        with pytest.raises(JournalSlow, match="has not finished a write"):
            under.journal.append(update(1))
    assert "has not finished a write for 0.05 s" in caplog.text
    # When it does after all, then the update is in the log and goes its way
    release.set()
    until(lambda: under.journal.head == 1, "it is committed")
    assert under.journal.append(update(2)) == 2
    assert under.published == [1, 2]
    assert [record.levelname for record in caplog.records].count("ERROR") == 1
    assert "has finished its write" in caplog.text


def test_stop_gives_up_at_its_deadline(under: JournalUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    commit = under.journal._database.commit  # type: ignore[attr-defined]

    def stuck(batch: object) -> None:
        release.wait(20)
        commit(batch)

    replace_calls(monkeypatch, under.journal, commit=stuck)
    waiting = gevent.spawn(under.journal.append, update(1))
    waiting.link_exception(lambda job: None)
    gevent.sleep(0)
    under.journal.stop(0.2)
    until(waiting.ready, "the appender was told")
    release.set()
    assert "stopped before" in str(waiting.exception)
