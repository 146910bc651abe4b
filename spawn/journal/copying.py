"""The rows of a backup, copied step by step on the database's own thread.

The copy is a database of its own that is attached only while a step runs: between two steps nothing of it hangs on the
journal's connection, so no commit ever meets an error of the backup's disk. A step only reads the journal, and takes a
bounded number of rows and bytes, because a commit may wait for it.

Rows do not change once they are written, but for references. Those that are settled after their record was copied are
remembered, and carried over by the next step. What may change in any way (positions, outcomes, actions) is taken whole
by the last step, in one transaction, and cut back to the last update that is in the copy.

Nothing here syncs: the copy has neither a rollback journal nor ``synchronous``, and is worth nothing until it is whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator

from spawn.journal import schema
from spawn.journal.checksums import of_position

STEP_ROWS = 1_024
STEP_BYTES = 2 << 20

# Lengths are known without reading a row's overflow pages. At least one row, however long it is.
BOUND = """
SELECT coalesce(max(sequence), :upto) FROM (
    SELECT sequence, row_number() OVER places AS place, sum(size) OVER places AS size
    FROM (SELECT sequence, {size} AS size FROM main.{table}
        WHERE sequence > :after AND sequence <= :upto ORDER BY sequence LIMIT :rows)
    WINDOW places AS (ORDER BY sequence ROWS UNBOUNDED PRECEDING)
) WHERE size <= :bytes OR place = 1
"""
BOUND_OF = {
    "records": BOUND.format(table="records", size="64 + length(path)"),
    "entries": BOUND.format(table="entries", size="64 + length(target) + length(head) + coalesce(length(body), 0)"),
}
COPY = "INSERT INTO copy.{0} SELECT * FROM main.{0} WHERE sequence > ? AND sequence <= ?"
FILES = (
    "SELECT json_group_array(json_array(file, file_size)) FROM main.entries INDEXED BY entries_in_files"
    " WHERE file IS NOT NULL AND sequence > ? AND sequence <= ?"
)
SETTLED = (
    "UPDATE copy.records SET (reference, crc) = (SELECT reference, crc FROM main.records AS new"
    " WHERE new.sequence = records.sequence) WHERE sequence IN (SELECT value FROM json_each(?))"
)
REST = (
    "INSERT INTO copy.outcomes SELECT consumer, first, min(last, :upto), outcome FROM main.outcomes"
    " WHERE first <= :upto",
    "INSERT INTO copy.actions SELECT number, time_us, consumer, first, min(last, :upto), verb, peer FROM main.actions"
    " WHERE first <= :upto",
    f"INSERT INTO copy.meta SELECT key, value FROM main.meta WHERE key <> '{schema.BACKUP}'",
    f"INSERT INTO copy.meta VALUES ('{schema.BACKUP}', :time_s)",
)


class DatabaseCopy:
    """A copy in the making. ``create`` runs anywhere, all else on the database's thread."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._upto = {"records": 0, "entries": 0}  # the last sequence that was copied
        self._late: set[int] = set()  # records that were settled after they had been copied

    def create(self) -> None:
        """Make the file, with empty tables. Raises ``OSError``, ``sqlite3.Error``."""
        os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        connection = sqlite3.connect(self.path, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode = OFF").fetchall()
            connection.execute("PRAGMA synchronous = OFF")
            schema.create(connection)
        finally:
            connection.close()

    def settled(self, sequences: Iterable[int]) -> None:
        """These got their references by a commit."""
        self._late.update(sequence for sequence in sequences if sequence <= self._upto["records"])

    def step(self, db: sqlite3.Connection, upto: int) -> bool:
        """Copy the next rows up to a sequence; False when all of them are there."""
        table = "entries" if self._upto["entries"] < upto else "records"
        if self._upto[table] >= upto:
            return False
        with self._attached(db):
            self._carry_over(db)
            self._copy(db, table, self._bound(db, table, upto))
        return True

    def finish(self, db: sqlite3.Connection, time_s: float) -> int:
        """The last step: as many of the rest as fit, and all that is not a log. Returns the last update in the copy."""
        with self._attached(db):
            self._carry_over(db)
            head = schema.scalar(db, "SELECT max(sequence) FROM main.records") or 0
            upto = min(self._bound(db, table, head) for table in BOUND_OF)
            for table in BOUND_OF:
                self._copy(db, table, upto)
            for statement in REST:
                db.execute(statement, {"upto": upto, "time_s": time_s})
            self._copy_positions(db, upto)
        return upto

    def _copy_positions(self, db: sqlite3.Connection, upto: int) -> None:
        for consumer, position, crc in db.execute("SELECT id, position, crc FROM main.consumers").fetchall():
            row = (consumer, position, crc) if position <= upto else (consumer, upto, of_position(consumer, upto))
            db.execute("INSERT INTO copy.consumers (id, position, crc) VALUES (?, ?, ?)", row)

    def _bound(self, db: sqlite3.Connection, table: str, upto: int) -> int:
        values = {"after": self._upto[table], "upto": upto, "rows": STEP_ROWS, "bytes": STEP_BYTES}
        found: int = db.execute(BOUND_OF[table], values).fetchone()[0]
        return found

    def _copy(self, db: sqlite3.Connection, table: str, upto: int) -> None:
        db.execute(COPY.format(table), (self._upto[table], upto))
        self._upto[table] = upto

    def _carry_over(self, db: sqlite3.Connection) -> None:
        if self._late:
            db.execute(SETTLED, (json.dumps(list(self._late)),))
            self._late.clear()

    @contextlib.contextmanager
    def _attached(self, db: sqlite3.Connection) -> Iterator[None]:
        """One transaction that writes to the copy only; afterwards nothing is left of it on the connection."""
        db.execute("ATTACH DATABASE ? AS copy", (self.path,))
        try:
            db.execute("PRAGMA copy.journal_mode = OFF").fetchall()
            db.execute("PRAGMA copy.synchronous = OFF")
            db.execute("BEGIN")
            yield
            db.execute("COMMIT")
        finally:
            if db.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    db.execute("ROLLBACK")
            db.execute("DETACH DATABASE copy")


def files_between(db: sqlite3.Connection, after: int, upto: int) -> list[tuple[str, int]]:
    """Name and size of the body files of ``after + 1 … upto``, pinned ones included. One row: see ``SELECT_PAGE``."""
    packed: str = schema.scalar(db, FILES, after, upto)
    return [(name, size) for name, size in json.loads(packed)]
