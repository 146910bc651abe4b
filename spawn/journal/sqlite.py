"""The embedded durable journal: what the contract says, on SQLite and body files. DESIGN.md explains the whole.

Two threads do all that blocks: ``writer`` owns the database, ``files`` syncs and deletes body files. On the hub live
the head, the tail, the positions and what is queued; entries are never kept in memory once they are published.
At most one read at a time is handed to the database's thread, so a commit waits for one page at most.
"""

from __future__ import annotations

import contextlib
import math
import os
import sqlite3
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import gevent
from gevent.lock import BoundedSemaphore

from spawn.errors import JournalBroken, JournalDamaged, JournalError, JournalFull, JournalSlow, Pruned, StateError
from spawn.journal.accounting import Budget
from spawn.journal.backup import BackupRun
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
from spawn.journal.bodies import Ballast, BodyFiles, make_directory
from spawn.journal.committer import FULL_TEXT, Committer, Waiting
from spawn.journal.database import Database, DiskFull, Stored
from spawn.journal.mark import PERIOD_S, Place
from spawn.journal.notes import NotedAction
from spawn.journal.outcomes import Change, beyond
from spawn.journal.pruning import Bounds, Pruning
from spawn.journal.schema import Opened, damaged
from spawn.journal.stamps import Stamps, microseconds
from spawn.journal.threads import Ended, NativeThreads, to_its_end

PAGE_ENTRIES = 256
PAGE_BYTES = 1 << 20
VERIFY_BYTES = 64 << 20  # of body files checked in one read; the next read goes on from there
BALLAST_BYTES = 32 << 20
FILE_THREADS = 4
DELETE_FILES = 16  # body files per call, so that pruning does not keep the threads from those of updates
NAME = "journal.db"
FLUSH_S = 5.0
BUSY_S = 120.0  # a piece of work that goes on for so long has lost its way; a slow disk has 60 s in other places
LOOK_S = 20.0  # a disk that has not read or written a little by then hangs: whoever waits is told
BACKUP_WAIT_S = 6.0  # longer than an update waits for room: no node is given up because a backup holds pruning off

T = TypeVar("T")


class SqliteJournal:
    """See ``base.Journal``. ``directory`` is made if need be and belongs to this journal alone.

    ``restored``: what lies there comes from a backup. It starts with a new ``uuid``; without this, a backup does not
    start at all.
    """

    def __init__(
        self, directory: str, max_bytes: int, *,
        restored: bool = False, clock: Callable[[], float] = time.time, ballast_bytes: int = BALLAST_BYTES,
    ) -> None:  # fmt: skip
        self._directory = directory
        self._restored = restored
        self._path = os.path.join(directory, NAME)
        self._bodies = BodyFiles(directory)
        self._ballast = Ballast(os.path.join(directory, "ballast"), ballast_bytes)
        self._budget = Budget(max_bytes)
        self._database = Database(self._path, self._bodies)
        self._writer = NativeThreads(1)
        self._files = NativeThreads(FILE_THREADS)
        self._reading = BoundedSemaphore(1)
        self._stamps = Stamps(clock)
        self._committer = Committer(
            self._database, self._writer, self._files, self._bodies, self._ballast, self._budget, self._stamps
        )
        self._uuid = ""
        self._last_action = 0  # number of the newest one
        self._tail = self._records_tail = 1
        self._positions: dict[str, int] = {}
        self._backup: BackupRun | None = None  # that is under way
        self._restored_us = 0  # what was in a restored journal is as old as that start, at most
        self._deleting = BoundedSemaphore(1)  # body files of one step at a time, in the order of their entries
        self._running = False
        self._marking: gevent.Greenlet[..., None]

    # --- what it is

    @property
    def uuid(self) -> str:
        return self._uuid

    @property
    def head(self) -> int:
        return self._committer.head

    @property
    def tail(self) -> int:
        return self._tail

    @property
    def records_tail(self) -> int:
        return self._records_tail

    @property
    def broken(self) -> bool:
        return bool(self._committer.broken_reason)

    def usage(self) -> Usage:
        return Usage(self._budget.used_bytes, self._budget.max_bytes)

    def answers(self, timeout_s: float) -> bool:
        """No piece of work takes as long as ``BUSY_S``, but for opening an old or large journal."""
        return self._writer.answer(timeout_s, BUSY_S if self._running else math.inf)

    def spool_path(self) -> str:
        return self._bodies.spool

    # --- life

    def start(self, publish: Publish, on_broken: Callable[[str], None]) -> None:
        """Open, check and recover. Raises ``JournalDamaged`` or ``StateError``, both one line; nothing runs then."""
        try:
            if self._restored and not os.path.exists(self._path):
                raise StateError(f"there is nothing to start as restored: the journal {self._path} does not exist")
            self._files.call(make_directory, self._directory)
            opened = self._writer.call(self._database.open, self._restored, self._stamps.now_us())
            has_room = self._files.call(self._ballast.take, 0)
        except BaseException as error:
            self._end_threads(5)
            if isinstance(error, OSError):
                raise StateError(f"cannot use the journal in {self._directory}: {error.strerror or error}") from None
            raise
        self._load(opened)
        self._committer.start(publish, on_broken, opened.head, opened.total, opened.positions, not has_room)
        self._running = True
        self._marking = gevent.spawn(self._keep_mark)

    def _keep_mark(self) -> None:
        """Note how far the journal has come, after each commit but not more often than every ``PERIOD_S``."""
        committer, marked = self._committer, None
        while not committer.broken_reason:
            committed, place = committer.committed, self._place()
            if place == marked:
                committed.wait()
                continue
            self._files.call(self._database.mark.write, place)
            marked = place
            gevent.sleep(PERIOD_S)

    def _place(self) -> Place:
        return Place(self._uuid, self._committer.head, self._committer.commits)

    def _load(self, opened: Opened) -> None:
        self._uuid = opened.uuid
        self._tail, self._records_tail = opened.tail, opened.records_tail
        self._positions = dict(opened.positions)
        self._restored_us = opened.restored_us
        self._stamps.load(opened.time_us)
        self._last_action = opened.last_action
        self._committer.commits = opened.commits
        self._budget.load(opened.total - opened.freed)

    def stop(self, deadline_s: float) -> None:
        """Make durable what is queued, then close. May be called twice."""
        if not self._running:
            return
        self._running = False
        until_s = time.monotonic() + deadline_s
        if self._backup is not None:
            self._backup.over.wait(deadline_s / 2)  # it sees that we stop, and removes what it made
        stopped = self._committer.stop(deadline_s)
        self._marking.kill(block=False)
        if stopped:
            if not self.broken:
                self._files.call(self._database.mark.write, self._place())
            with contextlib.suppress(Ended), gevent.Timeout(max(0.1, until_s - time.monotonic()), Ended):
                self._writer.call(self._database.close)
        self._end_threads(max(0.1, until_s - time.monotonic()))

    def _end_threads(self, deadline_s: float) -> None:
        self._files.stop(deadline_s)
        self._writer.stop(deadline_s)

    def _check(self) -> None:
        if self._committer.broken_reason:
            raise JournalBroken(self._committer.broken_reason)
        if not self._running:
            raise JournalError("the journal is not running")

    # --- writing

    def append(self, update: NewUpdate, token: object = None) -> int:
        waiting = Waiting(update, token)
        try:
            self._check()
            if self._committer.disk_full:
                raise JournalFull(FULL_TEXT)
            self._budget.reserve(waiting.cost)
        except JournalError:
            if isinstance(update.body, FileBody) and self._running:
                self._files.call(self._bodies.drop, update.body.path)
            raise
        return self._committer.append(waiting)

    def advance(self, consumer: str, position: int) -> None:
        self._check()
        if position > self.head:
            raise ValueError(f"position {position} is beyond the head {self.head}")
        known = self._positions.get(consumer)
        if known is not None and position > known:
            self._positions[consumer] = self._committer.notes.positions[consumer] = position
            self._committer.wake()

    def settle(self, sequence: int, status: int) -> None:
        self._check()
        if not 1 <= sequence <= self.head:
            raise ValueError(f"there is no update {sequence}")
        if sequence >= self._records_tail:
            self._committer.notes.settle(sequence, status)
            self._committer.wake()

    def record(self, consumer: str, first: int, last: int, outcome: Outcome | None) -> None:
        self._check()
        if not 1 <= first <= last <= self.head:
            raise ValueError(f"{first} to {last} is not a range of updates")
        self._committer.notes.change(Change(consumer, first, last, outcome))
        self._committer.wake()

    def note_action(self, consumer: str, first: int, last: int, verb: str, peer: str) -> None:
        self._check()
        if not 1 <= first <= last <= self.head:
            raise ValueError(f"{first} to {last} is not a range of updates")
        if last >= self._records_tail:
            self._last_action += 1
            action = Action(self._stamps.now_us() / 1e6, consumer, verb, peer)
            self._committer.notes.act(NotedAction(self._last_action, first, last, action))
            self._committer.wake()

    # --- positions

    def positions(self) -> dict[str, int]:
        self._check()
        return dict(self._positions)

    def durable_position(self, consumer: str) -> int:
        self._check()
        return self._committer.durable.get(consumer, 0)

    def set_position(self, consumer: str, position: int) -> None:
        self._check()
        if not 0 <= position <= self.head:
            raise ValueError(f"position {position} is not between 0 and the head {self.head}")
        self._positions[consumer] = self._committer.notes.positions[consumer] = position
        self._await_durable()

    def forget(self, consumer: str) -> None:
        self._check()
        if self._positions.pop(consumer, None) is not None:
            self._committer.notes.positions[consumer] = None
            self._await_durable()

    def _await_durable(self) -> None:
        if not self._committer.wait_for_notes(LOOK_S):
            raise _hangs()

    def wait_durable(self, consumer: str, position: int, timeout_s: float) -> bool:
        until_s = time.monotonic() + timeout_s
        while self.durable_position(consumer) < position:
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                return False
            if consumer in self._committer.notes.positions:
                self._committer.hurry()
            self._committer.committed.wait(left_s)
        return True

    def flush(self, timeout_s: float) -> bool:
        self._check()
        return self._committer.wait_for_notes(timeout_s)

    # --- reading

    def _look(self, function: Callable[..., T], *args: object) -> T:
        """One look into the database. Raises ``JournalSlow``: the look goes on, and nobody hears of it."""
        with gevent.Timeout(LOOK_S, _hangs()), self._reading:
            return self._writer.call(function, *args)

    def read(self, after: int, max_entries: int, max_bytes: int) -> list[Entry]:
        found: list[Entry] = []
        while True:
            self._check()
            if after + 1 < self._tail:
                if found:
                    return found
                raise Pruned(f"update {after + 1} is no longer kept")
            upto = min(self.head, after + min(max_entries - len(found), PAGE_ENTRIES))
            if after >= upto:
                return found
            try:
                page = self._page(after, upto, min(max_bytes, PAGE_BYTES), at_least=0 if found else 1)
            except JournalDamaged:
                if not found:
                    raise
                return found  # what is before the damage
            if not page and found:
                return found
            found += [self._current(stored.entry) for stored in page]
            after += len(page)
            max_bytes -= sum(_inline(stored.entry) for stored in page)

    def _page(self, after: int, upto: int, max_bytes: int, at_least: int) -> list[Stored]:
        page = self._look(self._database.page, after, upto, max_bytes, at_least)
        if len(page) < at_least and after + 1 >= self._tail:
            raise damaged(self._path, f"update {after + 1} is missing", remedy="")
        return self._with_intact_bodies(page)

    def _with_intact_bodies(self, page: list[Stored]) -> list[Stored]:
        """Verify body files; cuts the page before a damaged one, and when that was a lot of work."""
        read_bytes = 0
        for count, (entry, file) in enumerate(page, 1):
            if file is None:
                continue
            try:
                self._files.call(self._bodies.verify, *file)
            except JournalDamaged:
                if count > 1:
                    return page[: count - 1]
                if self._look(self._database.entry, entry.sequence) is None:
                    raise Pruned(f"update {entry.sequence} is no longer kept") from None
                raise
            read_bytes += file.size
            if read_bytes >= VERIFY_BYTES:
                return page[:count]
        return page

    def entry(self, sequence: int) -> Entry | None:
        self._check()
        if not 1 <= sequence <= self.head:
            return None
        stored = self._look(self._database.entry, sequence)
        if stored is not None:
            return self._current(self._with_intact_bodies([stored])[0].entry)
        if sequence >= self._tail:
            raise damaged(self._path, f"update {sequence} is missing", remedy="")
        raise Pruned(f"update {sequence} is no longer kept")

    def reference(self, sequence: int) -> int | None:
        self._check()
        queued = self._queued_reference(sequence)
        if not 1 <= sequence <= self.head:
            return None
        stored = self._look(self._database.reference, sequence)
        return queued if stored is None else stored

    def fate(self, sequence: int) -> Fate | None:
        self._check()
        if not 1 <= sequence <= self.head:
            return None
        queued, flying, notes = self._queued_reference(sequence), self._committer.in_flight, self._committer.notes
        row = self._look(self._database.fate, sequence)
        if row is None:
            raise Pruned(f"update {sequence} is no longer recorded")
        outcomes = notes.outcomes(sequence, flying.outcomes(sequence, row.ranges))
        reference = queued if row.reference is None else row.reference
        method, path = row.method.decode("latin-1"), row.path.decode("utf-8", "backslashreplace")
        actions = row.actions | flying.actions_on(sequence) | notes.actions_on(sequence)
        in_order = tuple(actions[number] for number in sorted(actions))[-MAX_ACTIONS:]
        return Fate(sequence, row.time_us / 1e6, method, path, reference, outcomes, in_order)

    def outcomes(self, consumer: str, after: int) -> list[Range]:
        self._check()
        flying, notes = self._committer.in_flight, self._committer.notes  # before the look into the database
        stored = self._look(self._database.ranges, consumer, after)
        known = notes.ranges(consumer, flying.ranges(consumer, stored))
        return beyond(known, max(after, self._records_tail - 1))

    def _queued_reference(self, sequence: int) -> int | None:
        """Taken before a look into the database, so that a commit in between is not missed."""
        committer = self._committer
        return committer.in_flight.settled.get(sequence, committer.notes.settled.get(sequence))

    def _current(self, entry: Entry) -> Entry:
        """With the reference that is queued and not in the row yet."""
        reference = None if entry.reference is not None else self._queued_reference(entry.sequence)
        if reference is None:
            return entry
        return Entry(
            entry.sequence, entry.time_s, entry.method, entry.target, entry.head, entry.body, entry.key, reference
        )

    # --- backup

    def backup(self, directory: str) -> Backup:
        self._check()
        if self._backup is not None:
            raise JournalError("a backup is under way: wait until it is complete")
        run = self._backup = BackupRun(
            directory, self._database, self._path, self._bodies, self._writer, self._files, self._reading,
            lambda: self.head, self._check_for_backup,
        )  # fmt: skip
        return to_its_end(partial(self._make_backup, run))

    def _make_backup(self, run: BackupRun) -> Backup:
        try:
            with contextlib.suppress(JournalFull):  # else it is a copy of what was durable before
                self._committer.wait_for_notes(FLUSH_S)
            return run.make()
        finally:
            self._backup = None
            run.over.set()

    def _check_for_backup(self) -> None:
        self._check()
        if self._committer.disk_full:
            raise JournalError("no backup is made while the disk that holds the journal is full")

    # --- pruning

    def prune(self, entries_upto: int, entries_before_s: float, records_before_s: float, limit: int) -> int | None:
        self._check()
        if self._backup is not None:  # by its end nodes may have been given other places
            self._backup.over.wait(BACKUP_WAIT_S)
            return None
        entries_us, records_us = microseconds(entries_before_s), microseconds(records_before_s)
        if entries_us <= self._restored_us:
            entries_upto = 0
        ages = self._stamps.ages(entries_us), self._stamps.ages(records_us)
        bounds = Bounds(entries_upto, *ages, self.head, limit)
        done: tuple[int, gevent.Greenlet[..., None]] | None = self._committer.run(partial(self._prune, bounds))
        if done is None:
            return None
        gone, deleting = done
        deleting.join()
        return gone

    def _prune(self, bounds: Bounds) -> tuple[int, gevent.Greenlet[..., None]] | None:
        """On the committer's greenlet: between two commits, and not cut in half when the caller is killed."""
        with self._reading:  # so that no reader misses an entry before the tail has moved
            if self._backup is not None:
                return None  # it began after we were asked
            step = self._prune_as_it_fits(Pruning(self._tail, self._records_tail), bounds)
            self._tail, self._records_tail = step.tail, step.records_tail
        self._budget.release(step.freed)
        return step.gone, gevent.spawn(self._delete_bodies, step.files)  # no commit waits for that

    def _delete_bodies(self, names: list[str]) -> None:
        with self._deleting:
            while names and self._running:  # what is left at a stop is swept at the next start
                self._files.call(self._bodies.delete, names[:DELETE_FILES])
                names = names[DELETE_FILES:]

    def _prune_as_it_fits(self, before: Pruning, bounds: Bounds) -> Pruning:
        """Where the disk is full: with the ballast gone, in ever smaller steps."""
        while True:
            try:
                return self._writer.call(self._database.prune, before, bounds)
            except DiskFull:
                self._committer.met_full_disk()
                if bounds.rows == 1:
                    raise JournalFull(FULL_TEXT) from None
                bounds = bounds.half
            except sqlite3.Error as error:
                self._committer.fail(f"pruning the journal failed, its outcome is unknown: {error}")
                raise JournalBroken(self._committer.broken_reason) from None


def _hangs() -> JournalSlow:
    return JournalSlow(f"the disk that holds the journal has not finished anything for {LOOK_S:g} s")


def _inline(entry: Entry) -> int:
    return len(entry.target) + len(entry.head) + (len(entry.body) if isinstance(entry.body, bytes) else 0)
