"""What pruning does to the tables: one step, bounded by rows and by bytes, in the caller's transaction.

``spare_lost_bodies`` is for a journal that goes on without its end: that may have held a pruning, whose rows are back
and whose body files are gone.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from spawn.journal import schema
from spawn.journal.accounting import RECORD_BYTES
from spawn.journal.base import Outcome, Range
from spawn.journal.outcomes import PINNING, gaps_between
from spawn.journal.stamps import Ages

STEP_BYTES = 16 << 20  # of inline bodies per step: a commit may wait for it, and the writer walks all of their pages

# A bound in bytes that does not read the bodies: their lengths are in the rows' heads.
BEYOND_BYTES = """
SELECT min(sequence) FROM (
    SELECT sequence, sum(length(target) + length(head) + coalesce(length(body), 0))
        OVER (ORDER BY sequence ROWS UNBOUNDED PRECEDING) AS size
    FROM entries WHERE sequence BETWEEN ? AND ?
) WHERE size > ?
"""
OLDER = (
    "SELECT max(sequence) FROM records WHERE sequence BETWEEN ? AND ?"
    " AND (time_us < ? OR time_us > ? AND time_us < ?)"  # as Ages.is_old
)
RECORDS_SIZE = (
    f"SELECT total(length(method) + length(path) + {RECORD_BYTES}) FROM records WHERE sequence BETWEEN ? AND ?"
)
ENTRIES_SIZE = "SELECT total(cost) FROM entries WHERE sequence BETWEEN ? AND ?"
ENTRIES_FILES = "SELECT file FROM entries WHERE sequence BETWEEN ? AND ? AND file IS NOT NULL"


class Bounds(NamedTuple):
    """What one step may take: see ``Journal.prune``."""

    upto: int
    entries: Ages
    records: Ages
    head: int
    rows: int
    size_bytes: int = STEP_BYTES

    @property
    def half(self) -> Bounds:
        return self._replace(rows=max(1, self.rows // 2), size_bytes=self.size_bytes // 2)


@dataclass(slots=True)
class Pruning:
    """What one step did."""

    tail: int
    records_tail: int
    gone: int = 0
    freed: int = 0
    files: list[str] = field(default_factory=list)


def prune(db: sqlite3.Connection, before: Pruning, bounds: Bounds) -> Pruning:
    """Entries from the tail on, then records before it."""
    step = Pruning(before.tail, before.records_tail)
    last = _last(db, step.tail, min(bounds.upto, bounds.head), bounds.entries, bounds)
    if last is not None:
        _prune_entries(db, step, last)
    last = _last(db, step.records_tail, min(step.tail, bounds.head) - 1, bounds.records, bounds)
    if last is not None:
        _prune_records(db, step, last)
    if step.gone:
        _note(db, step)
    return step


def _last(db: sqlite3.Connection, first: int, last: int, ages: Ages, bounds: Bounds) -> int | None:
    """The last of the next sequences that is old; times never run backwards. At least one, if any."""
    found: int | None = schema.scalar(db, OLDER, first, min(last, first + bounds.rows - 1), *ages)
    if found is None:
        return None
    beyond: int | None = schema.scalar(db, BEYOND_BYTES, first, found, bounds.size_bytes)
    return found if beyond is None else max(first, beyond - 1)


def _prune_entries(db: sqlite3.Connection, step: Pruning, last: int) -> None:
    for gap in gaps_between(step.tail, last, _pinned(db, step.tail, last)):
        _delete_entries(db, step, gap)
    step.gone += last - step.tail + 1
    step.tail = last + 1


def _pinned(db: sqlite3.Connection, first: int, last: int) -> list[Range]:
    rows = db.execute("SELECT first, last, outcome FROM outcomes WHERE first <= ? AND last >= ?", (last, first))
    return [Range(a, b, Outcome(o)) for a, b, o in rows.fetchall() if Outcome(o) in PINNING]


def _prune_records(db: sqlite3.Connection, step: Pruning, last: int) -> None:
    reach = (step.records_tail, last)
    _delete_entries(db, step, reach)
    step.freed += int(schema.scalar(db, RECORDS_SIZE, *reach))
    db.execute("DELETE FROM records WHERE sequence BETWEEN ? AND ?", reach)
    db.execute("DELETE FROM outcomes WHERE last <= ?", (last,))
    db.execute("DELETE FROM actions WHERE last <= ?", (last,))
    step.gone += last - step.records_tail + 1
    step.records_tail = last + 1


def _delete_entries(db: sqlite3.Connection, step: Pruning, reach: tuple[int, int]) -> None:
    step.freed += int(schema.scalar(db, ENTRIES_SIZE, *reach))
    step.files += [name for (name,) in db.execute(ENTRIES_FILES, reach)]
    db.execute("DELETE FROM entries WHERE sequence BETWEEN ? AND ?", reach)


def _note(db: sqlite3.Connection, step: Pruning) -> None:
    db.execute("UPDATE meta SET value = ? WHERE key = 'tail'", (step.tail,))
    db.execute("UPDATE meta SET value = value + ? WHERE key = 'freed'", (step.freed,))


def spare_lost_bodies(
    db: sqlite3.Connection, before: Pruning, files: Iterable[tuple[int, str, int]], lost: set[int]
) -> Pruning:
    """Take leading entries whose body files are ``lost`` for pruned, with all that is before the last of them.

    Files are deleted in the order of their entries, so a pruning leaves no hole, but for what was kept for a node.
    ``files``: sequence, name, size of every body. Nothing is changed when others are lost as well.
    """
    step = Pruning(before.tail, before.records_tail)
    kept = _pinned(db, 1, max(lost))
    gone: list[int] = []
    for sequence, _, _ in sorted(files):
        if sequence in lost:
            gone.append(sequence)
        elif not any(first <= sequence <= last for first, last, _ in kept):
            break
    if len(gone) < len(lost):
        return step
    if gone[-1] >= step.tail:
        _prune_entries(db, step, gone[-1])
    for sequence in gone:  # those that were kept as well
        _delete_entries(db, step, (sequence, sequence))
    _note(db, step)
    return step
