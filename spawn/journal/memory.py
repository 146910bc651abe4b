"""The journal in memory: for tests, and for ``"durability": "none"``, where a restart forgets every update.

The same contract without a disk: an append is "durable" and published at once, in its caller's greenlet. Bounded by
``max_bytes`` alone, so that should be what the machine can spare. Large bodies stay in their spooled files.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import gevent
from msgspec import structs

from spawn.errors import JournalError, NoBackup, Pruned, StateError
from spawn.journal.accounting import Budget, entry_bytes, path_of, record_bytes
from spawn.journal.base import (
    MAX_ACTIONS,
    Action,
    Backup,
    Entry,
    Fate,
    FileBody,
    NewUpdate,
    Outcome,
    Publish,
    Range,
    Usage,
)
from spawn.journal.outcomes import beyond, gaps_between, lay_over
from spawn.journal.stamps import Stamps, microseconds
from spawn.journal.threads import NativeThreads

log = logging.getLogger("spawn.journal")


@dataclass(slots=True)
class _Record:
    """What outlives the entry."""

    time_s: float
    method: bytes
    path: bytes
    cost: int
    reference: int | None = None


class MemoryJournal:
    """See ``base.Journal``. ``spool_directory`` is made if need be, and emptied at start."""

    def __init__(self, max_bytes: int, spool_directory: str, *, clock: Callable[[], float] = time.time) -> None:
        self._spool = spool_directory
        self._stamps = Stamps(clock)
        self._budget = Budget(max_bytes)
        self._uuid = uuid.uuid4().hex
        self._head = 0
        self._tail = self._records_tail = 1
        self._entries: dict[int, tuple[Entry, int]] = {}  # with its cost
        self._records: dict[int, _Record] = {}
        self._outcomes: dict[str, list[Range]] = {}
        self._actions: list[tuple[int, int, Action]] = []  # first, last, what
        self._positions: dict[str, int] = {}
        self._files = NativeThreads(1)
        self._running = False

    @property
    def uuid(self) -> str:
        return self._uuid

    @property
    def head(self) -> int:
        return self._head

    @property
    def tail(self) -> int:
        return self._tail

    @property
    def records_tail(self) -> int:
        return self._records_tail

    @property
    def broken(self) -> bool:
        return False

    def usage(self) -> Usage:
        return Usage(self._budget.used_bytes, self._budget.max_bytes)

    def answers(self, timeout_s: float) -> bool:
        return True

    def spool_path(self) -> str:
        return self._spool

    # --- life

    def start(self, publish: Publish, on_broken: Callable[[str], None]) -> None:
        self._publish = publish
        try:
            self._files.call(_make_empty, self._spool)
        except OSError as error:
            raise StateError(f"cannot use the spool {self._spool}: {error.strerror}") from None
        self._running = True

    def stop(self, deadline_s: float) -> None:
        self._running = False
        self._files.stop(deadline_s)

    def _check(self) -> None:
        if not self._running:
            raise JournalError("the journal is not running")

    # --- writing

    def append(self, update: NewUpdate, token: object = None) -> int:
        cost, record_cost = entry_bytes(update), record_bytes(update)
        try:
            self._check()
            self._budget.reserve(cost + record_cost)
        except JournalError:
            if isinstance(update.body, FileBody):
                self._files.call(_unlink, [update.body.path])
            raise
        self._head += 1
        time_us = self._stamps.next_us()
        self._stamps.given(time_us)
        time_s = time_us / 1e6
        entry = Entry(
            self._head, time_s, update.method, update.target, update.head, update.body, update.key, reference=None
        )
        self._entries[entry.sequence] = entry, cost
        self._records[entry.sequence] = _Record(time_s, update.method, path_of(update.target), record_cost)
        try:
            self._publish([(entry, token)])
        except Exception:  # as in the durable journal: the update is in the log all the same
            log.exception("an error in Spawn: publishing updates failed")
        return entry.sequence

    def advance(self, consumer: str, position: int) -> None:
        self._check()
        if position > self._head:
            raise ValueError(f"position {position} is beyond the head {self._head}")
        if consumer in self._positions:
            self._positions[consumer] = max(self._positions[consumer], position)

    def settle(self, sequence: int, status: int) -> None:
        self._check()
        if not 1 <= sequence <= self._head:
            raise ValueError(f"there is no update {sequence}")
        record = self._records.get(sequence)
        if record is not None and record.reference is None:
            record.reference = status

    def record(self, consumer: str, first: int, last: int, outcome: Outcome | None) -> None:
        self._check()
        if not 1 <= first <= last <= self._head:
            raise ValueError(f"{first} to {last} is not a range of updates")
        self._outcomes[consumer] = lay_over(self._outcomes.get(consumer, ()), first, last, outcome)

    def note_action(self, consumer: str, first: int, last: int, verb: str, peer: str) -> None:
        self._check()
        if not 1 <= first <= last <= self._head:
            raise ValueError(f"{first} to {last} is not a range of updates")
        if last >= self._records_tail:
            time_s = self._stamps.now_us() / 1e6
            self._actions.append((first, last, Action(time_s, consumer, verb, peer)))
            del self._actions[:-MAX_ACTIONS]

    # --- positions

    def positions(self) -> dict[str, int]:
        self._check()
        return dict(self._positions)

    def durable_position(self, consumer: str) -> int:
        self._check()
        return self._positions.get(consumer, 0)

    def set_position(self, consumer: str, position: int) -> None:
        self._check()
        if not 0 <= position <= self._head:
            raise ValueError(f"position {position} is not between 0 and the head {self._head}")
        self._positions[consumer] = position

    def forget(self, consumer: str) -> None:
        self._check()
        self._positions.pop(consumer, None)

    def wait_durable(self, consumer: str, position: int, timeout_s: float) -> bool:
        until_s = time.monotonic() + timeout_s
        while self.durable_position(consumer) < position:
            if time.monotonic() >= until_s:
                return False
            gevent.sleep(0.01)  # nobody needs this often: what was called is durable at once
        return True

    def flush(self, timeout_s: float) -> bool:
        self._check()
        return True

    # --- reading

    def read(self, after: int, max_entries: int, max_bytes: int) -> list[Entry]:
        self._check()
        if after + 1 < self._tail:
            raise Pruned(f"update {after + 1} is no longer kept")
        found: list[Entry] = []
        for sequence in range(after + 1, min(self._head, after + max_entries) + 1):
            entry = self._current(sequence)
            max_bytes -= len(entry.target) + len(entry.head)
            max_bytes -= len(entry.body) if isinstance(entry.body, bytes) else 0
            if found and max_bytes < 0:
                break
            found.append(entry)
        return found

    def entry(self, sequence: int) -> Entry | None:
        self._check()
        if not 1 <= sequence <= self._head:
            return None
        if sequence not in self._entries:
            raise Pruned(f"update {sequence} is no longer kept")
        return self._current(sequence)

    def _current(self, sequence: int) -> Entry:
        return structs.replace(self._entries[sequence][0], reference=self._records[sequence].reference)

    def reference(self, sequence: int) -> int | None:
        self._check()
        record = self._records.get(sequence)
        return record.reference if record else None

    def fate(self, sequence: int) -> Fate | None:
        self._check()
        if not 1 <= sequence <= self._head:
            return None
        record = self._records.get(sequence)
        if record is None:
            raise Pruned(f"update {sequence} is no longer recorded")
        outcomes = {
            consumer: each.outcome
            for consumer, ranges in self._outcomes.items()
            for each in ranges
            if each.first <= sequence <= each.last
        }
        method, path = record.method.decode("latin-1"), record.path.decode("utf-8", "backslashreplace")
        actions = tuple(action for first, last, action in self._actions if first <= sequence <= last)
        return Fate(sequence, record.time_s, method, path, record.reference, outcomes, actions)

    def outcomes(self, consumer: str, after: int) -> list[Range]:
        self._check()
        return beyond(self._outcomes.get(consumer, ()), max(after, self._records_tail - 1))

    def backup(self, directory: str) -> Backup:
        self._check()
        raise NoBackup('there is nothing to copy: the journal is in memory ("durability": "none")')

    # --- pruning

    def prune(self, entries_upto: int, entries_before_s: float, records_before_s: float, limit: int) -> int:
        self._check()
        before = self._tail, self._records_tail
        files: list[str] = []
        last = self._last_before(self._tail, min(entries_upto, self._head), entries_before_s, limit)
        for gap in gaps_between(self._tail, last, self._ranges()):
            self._delete_entries(*gap, files)
        self._tail = last + 1
        last = self._last_before(self._records_tail, min(self._tail, self._head) - 1, records_before_s, limit)
        self._delete_entries(self._records_tail, last, files)
        for sequence in range(self._records_tail, last + 1):
            self._budget.release(self._records.pop(sequence).cost)
        self._records_tail = last + 1
        for consumer, ranges in self._outcomes.items():
            self._outcomes[consumer] = [each for each in ranges if each.last > last]
        self._actions = [each for each in self._actions if each[1] > last]
        if files:
            self._files.call(_unlink, files)
        return self._tail - before[0] + self._records_tail - before[1]

    def _last_before(self, first: int, last: int, time_s: float, limit: int) -> int:
        """The last of the next ``limit`` sequences that is older than a time; ``first - 1`` when none is."""
        sequence, ages = first, self._stamps.ages(microseconds(time_s))
        while sequence <= min(last, first + limit - 1) and ages.is_old(round(self._records[sequence].time_s * 1e6)):
            sequence += 1
        return sequence - 1

    def _ranges(self) -> Iterator[Range]:
        return (each for ranges in self._outcomes.values() for each in ranges)

    def _delete_entries(self, first: int, last: int, files: list[str]) -> None:
        for sequence in range(first, last + 1):
            entry, cost = self._entries.pop(sequence, (None, 0))
            self._budget.release(cost)
            if entry is not None and isinstance(entry.body, FileBody):
                files.append(entry.body.path)


def _make_empty(path: str) -> None:
    os.makedirs(path, mode=0o700, exist_ok=True)
    _unlink([entry.path for entry in os.scandir(path)])


def _unlink(paths: list[str]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            os.unlink(path)
