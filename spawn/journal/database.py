"""What is done with the database, on its one thread: transactions, pages of entries, giving room back.

Python's ``sqlite3`` gives the GIL away in every statement and has to get it back from a busy hub, so the number of
statements counts: a batch of any size is at most one INSERT per table, one UPDATE for all references and one for all
positions. Their texts are few and fixed (a batch is padded with empty rows to a power of two), so that SQLite compiles
each of them once.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeVar

import msgspec

from spawn.errors import JournalDamaged, JournalError, JournalFull
from spawn.journal import schema
from spawn.journal.accounting import entry_bytes, path_of, record_bytes
from spawn.journal.base import MAX_ACTIONS, Action, Body, Entry, FileBody, NewUpdate, Outcome, Range
from spawn.journal.bodies import BodyFiles, StoredFile
from spawn.journal.checksums import of_position, of_record, of_reference, record_is_intact
from spawn.journal.mark import Mark
from spawn.journal.notes import NotedAction
from spawn.journal.outcomes import Change, lay_over
from spawn.journal.page import SELECT_PAGE, Row, rows_in
from spawn.journal.pruning import Bounds, Pruning, prune, spare_lost_bodies

T = TypeVar("T")

log = logging.getLogger("spawn.journal")

VACUUM_PAGES = 128  # given back to the file system per pruning step, once a quarter of the file is free
FULL_VACUUM_PAGES = (512, 16)  # while the disk is full; the smaller number where the other does not fit into the WAL
VACUUM_FROM_PAGES = 2_048  # less than that is not worth the trouble

RECORD_COLUMNS, ENTRY_COLUMNS = 6, 11
STATUS_BITS = 10  # a reference comes packed with its checksum; SQLite has no exclusive-or
SETTLE = (
    f"UPDATE records SET reference = j.value & {(1 << STATUS_BITS) - 1},"
    f" crc = (crc | (j.value >> {STATUS_BITS})) - (crc & (j.value >> {STATUS_BITS})) FROM json_each(?) AS j"
    " WHERE records.sequence = CAST(j.key AS INTEGER) AND records.reference IS NULL"
)
MOVE = (
    "INSERT OR REPLACE INTO consumers (id, position, crc)"
    " SELECT key, json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?)"
)
COUNT = "INSERT OR REPLACE INTO meta VALUES ('commits', ?)"
ACT = "INSERT OR REPLACE INTO actions VALUES (?, ?, ?, ?, ?, ?, ?)"
FORGET_ACTIONS = (
    "DELETE FROM actions WHERE number IN (SELECT number FROM actions ORDER BY number DESC"
    f" LIMIT -1 OFFSET {MAX_ACTIONS})"
)
FORGET = "DELETE FROM consumers WHERE id IN (SELECT value FROM json_each(?))"


class DiskFull(JournalFull):
    """SQLite found no room; the transaction was rolled back, nothing of it is in the file."""


@dataclass(slots=True)
class Batch:
    """One transaction. Sequences follow from ``first`` in the order of ``updates``."""

    first: int
    time_us: int
    total: int  # bytes ever appended before this batch
    updates: list[tuple[NewUpdate, StoredFile | None]] = field(default_factory=list)
    positions: dict[str, int | None] = field(default_factory=dict)
    settled: dict[int, int] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    actions: list[NotedAction] = field(default_factory=list)
    commits: int = 0  # the number of this one, when it has no update (those have sequences)


class Stored(NamedTuple):
    """An entry as read, with what is needed to verify its body file."""

    entry: Entry
    file: StoredFile | None


class FateRow(NamedTuple):
    time_us: int
    method: bytes
    path: bytes
    reference: int | None
    ranges: dict[str, Outcome]
    actions: dict[int, Action]  # by number


class Database:
    """All methods run on one and the same thread."""

    def __init__(self, path: str, bodies: BodyFiles) -> None:
        self._path = path
        self._bodies = bodies
        self._unchecked = 0
        self.mark = Mark(os.path.join(os.path.dirname(path), "mark"))
        self.on_settled: Callable[[Iterable[int]], None] | None = None  # told which records a commit has changed
        self._connection: sqlite3.Connection | None = None

    @property
    def _db(self) -> sqlite3.Connection:
        if self._connection is None:  # somebody asked just before it stopped
            raise JournalError("the journal is not running")
        return self._connection

    def open(self, restored: bool = False, now_us: int = 0) -> schema.Opened:
        """Open, create, check; sweeps leftovers. Raises ``JournalDamaged``, ``StateError``, ``OSError``."""
        try:
            self._refuse_lone_wal()
            db = self._connection = schema.connect(self._path)
            self._bodies.make()
            schema.prepare(db, self._path, on_new=partial(self._refuse_nothing, restored))
            if not restored:
                schema.refuse_backup(db, self._path)
            opened = schema.inspect(db, self._path)
            self._unchecked = opened.unchecked
            if not restored:
                schema.check_mark(self._path, opened, self.mark.read())  # before bodies of what is lost are swept
            if restored:
                opened = self._without_lost_bodies(opened)
            self._bodies.reconcile(opened.files)
            self._bodies.empty_spool()
            if restored:  # last: what fails can be tried again
                opened = opened._replace(uuid=schema.renew(db, now_us), restored_us=now_us)
        except sqlite3.DatabaseError as error:
            self.discard()
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise JournalDamaged(f"the journal {self._path} is in use by another program: {error}") from None
            raise schema.damaged(self._path, str(error)) from None
        except (TypeError, ValueError) as fault:  # what was read is not even of its kind; also text that is no UTF-8
            self.discard()
            raise schema.damaged(self._path, f"it holds a value that makes no sense ({fault})") from None
        except BaseException:
            self.discard()
            raise
        return opened

    def _refuse_lone_wal(self) -> None:
        """SQLite would throw it away."""
        if self.wal_bytes() and not (os.path.exists(self._path) and os.path.getsize(self._path)):
            raise schema.damaged(self._path, f"it is missing or empty, but {self._path}-wal is there")

    def _refuse_nothing(self, restored: bool) -> None:
        """There are no tables: no new journal is made where there was one. Raises ``JournalDamaged``."""
        mark, missing = self.mark.read(), ""
        if self._bodies.any():
            missing = f"but {self._bodies.bodies} holds bodies of it"
        elif mark is not None and mark.head:
            missing = f"and update {mark.head} was durable"
        elif restored:
            missing = "so there is nothing to start as restored"
        if missing:
            raise schema.damaged(self._path, f"it is missing or empty, {missing}")

    def _without_lost_bodies(self, opened: schema.Opened) -> schema.Opened:
        """A lost end may have held a pruning: its rows are back, and its body files are gone. A backup has them all."""
        lost = self._bodies.missing(opened.files)
        if not lost or schema.backup_time(self._db) is not None:
            return opened
        with self._transaction() as db:
            step = spare_lost_bodies(db, Pruning(opened.tail, opened.records_tail), opened.files, lost)
        if step.tail > opened.tail:
            log.warning(
                "the bodies of %d updates up to %d are gone: these are taken for pruned, the journal begins at %d",
                len(lost), max(lost), step.tail,
            )  # fmt: skip
        return schema.inspect(self._db, self._path)

    def discard(self) -> None:
        """Let the connection go without ceremony."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def close(self) -> None:
        """Write the WAL back into the database and close; may be called twice."""
        db = self._connection
        if db is not None:
            with contextlib.suppress(sqlite3.Error):  # a full disk: the WAL stays, the next start reads it
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self.discard()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Raises ``DiskFull`` after a rollback; any other error leaves the outcome unknown."""
        db = self._db
        try:
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")
        except sqlite3.Error as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_FULL:
                raise
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise DiskFull(str(error)) from None

    # --- writing

    def commit(self, batch: Batch) -> None:
        """Write a batch, durable on return. Raises ``DiskFull``, else ``sqlite3.Error`` for an unknown outcome."""
        records, entries = rows_of(batch)
        with self._transaction() as db:
            if batch.updates:
                table = "records (sequence, time_us, method, path, total, crc)"
                db.execute(insert(table, RECORD_COLUMNS, records), records)
                db.execute(insert("entries", ENTRY_COLUMNS, entries), entries)
            if batch.settled:
                db.execute(SETTLE, (json.dumps(packed(batch.settled)),))
            if batch.commits:
                db.execute(COUNT, (batch.commits,))
            for change in batch.changes:
                self._apply(db, change)
            if batch.actions:
                for number, first, last, did in batch.actions:
                    db.execute(ACT, (number, round(did.time_s * 1e6), did.consumer, first, last, did.verb, did.peer))
                db.execute(FORGET_ACTIONS)
            moved = {c: (at, of_position(c, at)) for c, at in batch.positions.items() if at is not None}
            if moved:
                db.execute(MOVE, (json.dumps(moved),))
            if len(moved) < len(batch.positions):
                db.execute(FORGET, (json.dumps([c for c, at in batch.positions.items() if at is None]),))
        if self.on_settled is not None:
            self.on_settled(batch.settled)

    def touch(self) -> None:
        """A commit that changes nothing: whether there is room for one. Errors as ``commit``."""
        with self._transaction() as db:
            db.execute("UPDATE meta SET value = value WHERE key = 'freed'")

    @staticmethod
    def _apply(db: sqlite3.Connection, change: Change) -> None:
        """Lay one outcome over what is there; the neighbours come along so that equal ranges join."""
        touched = (change.consumer, change.last + 1, change.first - 1)
        where = "FROM outcomes WHERE consumer = ? AND first <= ? AND last >= ?"
        rows = db.execute(f"SELECT first, last, outcome {where}", touched).fetchall()
        after = lay_over((Range(a, b, Outcome(o)) for a, b, o in rows), change.first, change.last, change.outcome)
        if rows:
            db.execute(f"DELETE {where}", touched)
        for first, last, outcome in after:
            db.execute("INSERT INTO outcomes VALUES (?, ?, ?, ?)", (change.consumer, first, last, outcome.value))

    def run(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """Something that leaves the journal as it is."""
        return job(self._db)

    # --- reading

    def page(self, after: int, upto: int, max_bytes: int, at_least: int) -> list[Stored]:
        """Entries ``after + 1 … upto`` within ``max_bytes``, ``at_least`` so many. Raises ``JournalDamaged``.

        Ends before a damaged one, if that is not the first, and before a gap: an entry that was pruned meanwhile or is
        lost, the caller knows which.
        """
        with self._reading():
            packed: str = schema.scalar(self._db, SELECT_PAGE, after, upto, at_least, max_bytes)
            rows = rows_in(packed)
        found: list[Stored] = []
        for place, row in enumerate(rows, after + 1):
            if row.sequence != place:
                break
            try:
                found.append(self._stored(row))
            except JournalDamaged:
                if not found:
                    raise
                break
        return found

    def entry(self, sequence: int) -> Stored | None:
        """One entry, wherever it is."""
        found = self.page(sequence - 1, sequence, 0, 1)
        return found[0] if found else None

    def _stored(self, row: Row) -> Stored:
        method, target, head = bytes.fromhex(row.method), bytes.fromhex(row.target), bytes.fromhex(row.head)
        inline = None if row.body is None else bytes.fromhex(row.body)
        key = None if row.key is None else bytes.fromhex(row.key)
        record = (row.record_crc, row.reference, row.sequence, row.time_us, row.total, method, path_of(target))
        if checksum(row.sequence, method, target, head, inline, key) != row.crc or not record_is_intact(
            self._unchecked, *record
        ):
            raise schema.damaged(self._path, f"update {row.sequence} is not what was written", remedy="")
        body: Body = inline
        file = None
        if row.file is not None:
            file = StoredFile(row.file, row.file_size or 0, row.file_crc or 0)
            body = FileBody(self._bodies.path(file.name), file.size)
        entry = Entry(row.sequence, row.time_us / 1e6, method, target, head, body, key, row.reference)
        return Stored(entry, file)

    def reference(self, sequence: int) -> int | None:
        with self._reading():
            row = self._record(sequence)
        return None if row is None else row[3]

    def fate(self, sequence: int) -> FateRow | None:
        with self._reading():
            row = self._record(sequence)
            outcomes = self._db.execute(
                "SELECT consumer, outcome FROM outcomes WHERE first <= ? AND last >= ?", (sequence, sequence)
            ).fetchall()
            actions = self._db.execute(
                "SELECT number, time_us, consumer, verb, peer FROM actions WHERE first <= ? AND last >= ?",
                (sequence, sequence),
            ).fetchall()
        if row is None:
            return None
        time_us, method, path, reference = row
        return FateRow(
            time_us, method, path, reference,
            {consumer: self._outcome(what) for consumer, what in outcomes},
            {number: Action(us / 1e6, consumer, verb, peer) for number, us, consumer, verb, peer in actions},
        )  # fmt: skip

    def _record(self, sequence: int) -> tuple[int, bytes, bytes, int | None] | None:
        """Time, method, path, reference of one record. Raises ``JournalDamaged``."""
        row = self._db.execute(
            "SELECT crc, reference, sequence, time_us, total, method, path FROM records WHERE sequence = ?", (sequence,)
        ).fetchone()
        if row is None:
            return None
        if not record_is_intact(self._unchecked, *row):
            raise schema.damaged(self._path, f"the record of update {sequence} is not what was written")
        _, reference, _, time_us, _, method, path = row
        return time_us, method, path, reference

    def _outcome(self, word: str) -> Outcome:
        try:
            return Outcome(word)
        except ValueError:
            raise schema.damaged(self._path, f"there is no outcome {word!r}") from None

    def ranges(self, consumer: str, after: int) -> list[Range]:
        """The outcomes of one consumer that reach beyond ``after``."""
        with self._reading():
            rows = self._db.execute(
                "SELECT first, last, outcome FROM outcomes WHERE consumer = ? AND last > ? ORDER BY first",
                (consumer, after),
            ).fetchall()
            return [Range(first, last, self._outcome(what)) for first, last, what in rows]

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.DatabaseError, msgspec.MsgspecError, TypeError, ValueError) as error:
            raise schema.damaged(self._path, str(error)) from None

    # --- pruning, and the room it makes

    def prune(self, before: Pruning, bounds: Bounds) -> Pruning:
        """One step; see ``Journal.prune``. Errors as ``commit``."""
        with self._transaction() as db:
            step = prune(db, before, bounds)
        free, pages = self._pages("freelist_count"), self._pages("page_count")
        if free > max(VACUUM_FROM_PAGES, pages // 4):
            self._vacuum(VACUUM_PAGES)
        return step

    def give_back(self, wanted_bytes: int) -> bool:
        """Return some free pages to the file system, and the WAL's room; False when there are not enough of them.

        For a full disk. Raises ``sqlite3.Error`` for an unknown outcome.
        """
        wal, free = self.wal_bytes(), self._pages("freelist_count")
        more = wal - schema.WAL_BYTES  # than it will soon take again
        if not (wal or free) or max(0, more) + free * self._pages("page_size") < wanted_bytes:
            return False
        self.checkpoint("TRUNCATE")  # first: what follows needs room in the WAL
        if free and any(self._vacuum(pages) for pages in FULL_VACUUM_PAGES):
            self.checkpoint("TRUNCATE")
        return (self.wal_bytes(), self._pages("freelist_count")) != (wal, free)

    def checkpoint(self, mode: str) -> None:
        """Write the WAL back, as far as the disk has room for it. Raises ``sqlite3.Error`` for any other failure."""
        try:
            self._db.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
        except sqlite3.OperationalError as error:
            _accept_if_full(error)

    def _vacuum(self, pages: int) -> bool:
        """Whether there was room for it."""
        try:
            self._db.executescript(f"PRAGMA incremental_vacuum({pages})")  # execute() would do one page
        except sqlite3.OperationalError as error:
            _accept_if_full(error)
            return False
        return True

    def _pages(self, what: str) -> int:
        return int(schema.scalar(self._db, f"PRAGMA {what}"))

    def wal_bytes(self) -> int:
        """On any thread."""
        try:
            return os.stat(self._path + "-wal").st_size
        except OSError:
            return 0


def _accept_if_full(error: sqlite3.OperationalError) -> None:
    """No room for it now: SQLite has left everything as it was. After any other error nobody knows."""
    if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY):
        raise error


def checksum(sequence: int, method: bytes, target: bytes, head: bytes, body: bytes | None, key: bytes | None) -> int:
    """CRC-32 over an entry's bytes and its place: against bit rot that SQLite does not see."""
    crc = sequence & 0xFFFFFFFF
    for part in (method, target, head, body or b"", key or b""):
        crc = zlib.crc32(part, crc)
    return crc


def insert(table: str, columns: int, values: list[Any]) -> str:
    """An INSERT of all values in one statement; pads them to the next power of two of rows, which it leaves out."""
    rows = len(values) // columns
    padded = 1 << (rows - 1).bit_length()
    values.extend([None] * ((padded - rows) * columns))
    row = f"({', '.join('?' * columns)})"
    if padded == 1:
        return f"INSERT INTO {table} VALUES {row}"
    return f"INSERT INTO {table} SELECT * FROM (VALUES {', '.join([row] * padded)}) WHERE column1 IS NOT NULL"


def packed(settled: dict[int, int]) -> dict[int, int]:
    """References with their checksums, as ``SETTLE`` takes them."""
    return {n: of_reference(n, status) << STATUS_BITS | status for n, status in settled.items()}


def rows_of(batch: Batch) -> tuple[list[Any], list[Any]]:
    """The flat values of both INSERTs."""
    records: list[Any] = []
    entries: list[Any] = []
    total = batch.total
    for sequence, (update, file) in enumerate(batch.updates, batch.first):
        cost = entry_bytes(update)
        total += cost + record_bytes(update)
        path = path_of(update.target)
        record_crc = of_record(sequence, batch.time_us, total, update.method, path)
        records += (sequence, batch.time_us, update.method, path, total, record_crc)
        inline = update.body if isinstance(update.body, bytes) else None
        crc = checksum(sequence, update.method, update.target, update.head, inline, update.key)
        entries += (sequence, update.method, update.target, update.head, inline, update.key)
        entries += (*(file or (None, None, None)), cost, crc)
    return records, entries
