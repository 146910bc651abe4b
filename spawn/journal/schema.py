"""The SQLite file: its tables, its versions, and the checks it has to pass before anything is built on it.

Every fault found here is one ``JournalDamaged`` line that says what is wrong with which file. The checks are bounded:
a journal of 1,000,000 updates opens in about a second. Small files are checked page by page; in large ones the
structure is (keys, counts, positions), and each entry's checksum when it is read.
"""

from __future__ import annotations

import os
import sqlite3
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from spawn.errors import JournalDamaged, StateError
from spawn.journal.checksums import position_is_intact, record_is_intact
from spawn.journal.mark import Place

APPLICATION_ID = 0x53_50_57_4E  # "SPWN", shown by file(1)
VERSION = 2
BACKUP = "backup"  # key in meta of a copy; its value is the Unix time when it was made
RESTORED = "restored"  # key in meta of a journal that was one; its value is the time (µs) of that start
FULL_CHECK_BYTES = 64 << 20  # quick_check reads every page: about 0.1 s for this many
WAL_PAGES = 4_000  # a checkpoint every 16 MiB: at 1,000 pages it costs a third of the throughput of small updates
WAL_BYTES = WAL_PAGES * 4_096  # what that is, in pages of the usual size
WAL_LIMIT_BYTES = 64 << 20  # one huge transaction may outgrow the above; the file is cut back to this

SETTINGS = f"""
PRAGMA locking_mode = EXCLUSIVE;
PRAGMA journal_size_limit = {WAL_LIMIT_BYTES};
PRAGMA wal_autocheckpoint = {WAL_PAGES};
PRAGMA synchronous = FULL;
PRAGMA secure_delete = FAST;
PRAGMA cell_size_check = ON;
PRAGMA trusted_schema = OFF;
PRAGMA cache_size = -8192;
"""

ACTIONS = """
CREATE TABLE actions (
    number INTEGER PRIMARY KEY,
    time_us INTEGER NOT NULL,
    consumer TEXT NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    verb TEXT NOT NULL,
    peer TEXT NOT NULL
);
"""

TABLES = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE records (
    sequence INTEGER PRIMARY KEY,
    time_us INTEGER NOT NULL,
    method BLOB NOT NULL,
    path BLOB NOT NULL,
    total INTEGER NOT NULL,
    reference INTEGER,
    crc INTEGER
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
CREATE TABLE consumers (id TEXT PRIMARY KEY, position INTEGER NOT NULL, crc INTEGER) WITHOUT ROWID;
CREATE TABLE outcomes (
    consumer TEXT NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    PRIMARY KEY (consumer, first)
) WITHOUT ROWID;
{ACTIONS}
PRAGMA application_id = {APPLICATION_ID};
"""

CHECKSUMS = """
ALTER TABLE records ADD COLUMN crc INTEGER;
ALTER TABLE consumers ADD COLUMN crc INTEGER;
INSERT INTO meta SELECT 'unchecked', coalesce(max(sequence), 0) FROM records;
"""

MIGRATIONS: Mapping[int, str] = {1: ACTIONS + CHECKSUMS}  # version → the statements that lead to the next one


class Opened(NamedTuple):
    """What the journal knows of itself after start."""

    uuid: str
    head: int
    tail: int
    records_tail: int
    time_us: int  # of the newest record
    total: int  # bytes ever appended
    freed: int  # bytes of them that were pruned
    last_action: int  # its number
    commits: int  # those without an update
    restored_us: int  # when it was started as restored, 0: never
    unchecked: int  # up to this update records may have no checksum: they were written by an older version
    positions: dict[str, int]
    files: list[tuple[int, str, int]]  # sequence, name, size of every body file


def damaged(path: str, what: str, remedy: str = "; restore it from a backup, or move it away") -> JournalDamaged:
    """One line; ``what`` may quote what was found in the file. Where it runs, whoever meets it knows the remedy."""
    what = "".join(c if c.isprintable() else "?" for c in " ".join(what.split()))[:300]
    return JournalDamaged(f"the journal {path} is damaged: {what}{remedy}")


def connect(path: str) -> sqlite3.Connection:
    """The one connection. The file is made first, so that it (and with it the WAL) is nobody else's to read."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except IsADirectoryError:
        raise StateError(f"cannot use the journal {path}: it is a directory; move it away") from None
    os.chmod(path, 0o600)
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=1)


def prepare(
    connection: sqlite3.Connection, path: str, migrations: Mapping[int, str] = MIGRATIONS,
    on_new: Callable[[], None] = lambda: None,
) -> None:  # fmt: skip
    """Set up, create or migrate; ``on_new`` may keep a journal from being created, by raising.

    Raises ``JournalDamaged``, ``sqlite3.Error``.
    """
    connection.executescript(SETTINGS)
    if scalar(connection, "SELECT count(*) FROM sqlite_schema") == 0:
        on_new()
        create(connection, f"INSERT INTO meta VALUES ('uuid', '{uuid.uuid4().hex}'), ('tail', 1), ('freed', 0);", "WAL")
        return
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    if scalar(connection, "PRAGMA application_id") != APPLICATION_ID:
        raise damaged(path, "it is some other program's database")
    migrate(connection, path, VERSION, migrations)
    if os.path.getsize(path) <= FULL_CHECK_BYTES:
        _check_pages(connection, path)


def create(connection: sqlite3.Connection, contents: str = "", journal_mode: str = "OFF") -> None:
    """Make the tables of the present version in an empty file."""
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # only heard before the first table
    connection.execute(f"PRAGMA journal_mode = {journal_mode}").fetchall()
    _in_transaction(connection, TABLES + contents, VERSION)


def backup_time(connection: sqlite3.Connection) -> float | None:
    """When this was made as a backup; None for a journal that is none."""
    made_s: float | None = scalar(connection, "SELECT value FROM meta WHERE key = ?", BACKUP)
    return made_s


def refuse_backup(connection: sqlite3.Connection, path: str) -> None:
    """Two journals must not go on under one identity. Raises ``StateError``."""
    made_s = backup_time(connection)
    if made_s is not None:
        made = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(made_s))
        raise StateError(
            f"the journal {path} is a backup of {made}: start it once with --restored, which gives it an identity of "
            "its own and makes all nodes out of sync until each is told its position"
        )


def renew(connection: sqlite3.Connection, now_us: int) -> str:
    """Make it another journal with the same contents, from now on; returns its uuid."""
    new = uuid.uuid4().hex
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("DELETE FROM meta WHERE key = ?", (BACKUP,))
    connection.execute("UPDATE meta SET value = ? WHERE key = 'uuid'", (new,))
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (RESTORED, now_us))
    connection.execute("COMMIT")
    return new


def migrate(connection: sqlite3.Connection, path: str, target: int, migrations: Mapping[int, str]) -> None:
    """Lead an older journal to version ``target``, a step per transaction. A newer one is refused."""
    version = scalar(connection, "PRAGMA user_version")
    if version > target:
        raise JournalDamaged(
            f"the journal {path} was written by a newer Spawn (its version is {version}, this one knows {target}): "
            "install that Spawn again"
        )
    for step in range(version, target):
        if step not in migrations:
            raise damaged(path, f"its version {version} was never written by Spawn")
        _in_transaction(connection, migrations[step], step + 1)


def _in_transaction(connection: sqlite3.Connection, statements: str, version: int) -> None:
    try:
        connection.executescript(f"BEGIN IMMEDIATE; {statements} PRAGMA user_version = {version}; COMMIT;")
    except sqlite3.Error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def scalar(connection: sqlite3.Connection, statement: str, *values: object) -> Any:
    row = connection.execute(statement, values).fetchone()
    return row[0] if row else None


def _check_pages(connection: sqlite3.Connection, path: str) -> None:
    found = scalar(connection, "PRAGMA quick_check(1)")
    if found != "ok":
        raise damaged(path, " ".join(str(found).split()))


def inspect(connection: sqlite3.Connection, path: str) -> Opened:
    """Read and cross-check what start needs to know. Raises ``JournalDamaged``, ``sqlite3.Error``."""
    meta = dict(connection.execute("SELECT key, value FROM meta").fetchall())
    if not {"uuid", "tail", "freed"} <= meta.keys():
        raise damaged(path, "it has no identity")
    last = connection.execute("SELECT sequence, time_us, total FROM records ORDER BY sequence DESC LIMIT 1").fetchone()
    head, time_us, total = last or (0, 0, 0)
    first = scalar(connection, "SELECT min(sequence) FROM records") or 1
    opened = Opened(
        uuid=meta["uuid"],
        head=head,
        tail=meta["tail"],
        records_tail=first,
        time_us=time_us,
        total=total,
        freed=meta["freed"],
        last_action=scalar(connection, "SELECT max(number) FROM actions") or 0,
        commits=meta.get("commits", 0),
        restored_us=meta.get(RESTORED, 0),
        unchecked=meta.get("unchecked", 0),
        positions=dict(connection.execute("SELECT id, position FROM consumers").fetchall()),
        files=connection.execute("SELECT sequence, file, file_size FROM entries WHERE file IS NOT NULL").fetchall(),
    )
    _check_structure(connection, path, opened)
    return opened


def _check_structure(connection: sqlite3.Connection, path: str, opened: Opened) -> None:
    """No gap among the records, entries where they should be, no position beyond the head."""
    head, tail = opened.head, opened.tail
    count = scalar(connection, "SELECT count(*) FROM records")
    if count != (head - opened.records_tail + 1 if head else 0):
        raise damaged(path, f"records are missing between {opened.records_tail} and {head}")
    if not opened.records_tail <= tail <= head + 1:
        raise damaged(path, f"its first entry {tail} is outside of its records {opened.records_tail} to {head}")
    reach = connection.execute(
        "SELECT min(sequence), max(sequence) FROM entries WHERE sequence >= ?", (tail,)
    ).fetchone()
    if reach != ((tail, head) if tail <= head else (None, None)):
        raise damaged(path, f"entries are missing between {tail} and {head}")
    for consumer, position in opened.positions.items():
        if not 0 <= position <= head:
            raise damaged(path, f"the end is missing: {consumer} is at {position}, and the last update is {head}")
    _check_rows(connection, path, opened.unchecked)


def _check_rows(connection: sqlite3.Connection, path: str, unchecked: int) -> None:
    """The checksums of the positions, and of the newest record: all that follows is counted on from it."""
    for consumer, position, crc in connection.execute("SELECT id, position, crc FROM consumers"):
        if not position_is_intact(unchecked, crc, consumer, position):
            raise damaged(path, f"the position of {consumer} is not what was written")
    last = connection.execute(
        "SELECT crc, reference, sequence, time_us, total, method, path FROM records ORDER BY sequence DESC LIMIT 1"
    ).fetchone()
    if last and not record_is_intact(unchecked, *last):
        raise damaged(path, f"the record of update {last[2]} is not what was written")


def check_mark(path: str, opened: Opened, mark: Place | None) -> None:
    """What was durable once must still be there. Raises ``JournalDamaged``."""
    if mark is None or mark.uuid != opened.uuid:
        return
    if opened.head < mark.head or opened.commits < mark.commits:
        what = f"update {mark.head} was durable, and the last one is {opened.head}"
        if opened.head >= mark.head:
            what = "the last positions of the nodes are not there"
        raise JournalDamaged(
            f"the journal {path} is damaged: its end is missing ({what}); restore it from a backup, or start with "
            "--restored to go on with what is left, all nodes out of sync"
        )
