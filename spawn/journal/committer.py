"""The committer: the one greenlet that writes. It collects what waits, commits it, publishes it, wakes the waiting.

Whatever has gathered while the last commit ran is the next batch, so batches grow with the load and a single client
waits for one commit only. Small changes alone are let gather for ``LINGER_S``. Only this greenlet moves the head.

A disk without room is a state, not an end: appends are refused, the ballast goes, and small changes are tried again
until they fit; the state is left once the ballast could be taken back. Any other failure ends the journal.
"""

from __future__ import annotations

import errno
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import gevent
from gevent.event import AsyncResult, Event

from spawn.errors import JournalBroken, JournalError, JournalFull, JournalSlow
from spawn.journal.accounting import Budget, entry_bytes, inline_bytes, record_bytes
from spawn.journal.base import Entry, FileBody, NewUpdate, Publish
from spawn.journal.bodies import Ballast, BodyFiles, StoredFile
from spawn.journal.database import Batch, Database, DiskFull
from spawn.journal.notes import Notes
from spawn.journal.schema import WAL_BYTES
from spawn.journal.stamps import Stamps
from spawn.journal.threads import NativeThreads
from spawn.latch import Latch

log = logging.getLogger("spawn.journal")

LINGER_S = 0.025  # half of what the contract allows for positions
RETRY_S = 1.0  # between attempts while the disk is full
LOOK_S = 0.5  # at most, of each of them, is spent on giving room back
BATCH_ENTRIES = 512
BATCH_BYTES = 8 << 20
SLOW_S = 5.0  # a write that takes so long is worth a line in the log
COMMIT_S = 60.0  # after this a client is told that the outcome is unknown,
JOB_S = 120.0
BODY_BYTES_PER_S = 1 << 20  # later where it sent a large body
FULL_TEXT = "the disk that holds the journal is full: no update is accepted until there is room"


class Waiting:
    """An update on its way into the log."""

    __slots__ = ("_ended", "_failure", "_sequence", "cost", "file", "token", "update")

    def __init__(self, update: NewUpdate, token: Any) -> None:
        self.update = update
        self.token = token
        self.file: StoredFile | None = None
        self.cost = entry_bytes(update) + record_bytes(update)
        self._sequence = 0
        self._failure: JournalError | None = None
        self._ended = Latch()

    @property
    def has_ended(self) -> bool:
        return self._ended.is_open

    def written(self, sequence: int) -> None:
        self._sequence = sequence
        self._ended.open()

    def failed(self, failure: JournalError) -> None:
        self._failure = failure
        self._ended.open()

    def wait(self, timeout_s: float) -> int:
        """Its sequence, 0 when it has none within ``timeout_s``. Raises what it has failed of."""
        self._ended.wait(timeout_s)
        if self._failure is not None:
            raise self._failure
        return self._sequence


class Committer:
    """Life: ``start``, then ``append``/``notes``/``run``, then ``stop``."""

    def __init__(
        self, database: Database, writer: NativeThreads, files: NativeThreads, bodies: BodyFiles,
        ballast: Ballast, budget: Budget, stamps: Stamps,
    ) -> None:  # fmt: skip
        self._database = database
        self._writer = writer
        self._files = files
        self._bodies = bodies
        self._ballast = ballast
        self._budget = budget
        self._stamps = stamps
        self._appends: deque[Waiting] = deque()
        self._jobs: deque[tuple[Callable[[], Any], AsyncResult[Any]]] = deque()
        self._queued = Event()  # something is to be done
        self._urgent = Event()  # and it should not linger
        self._greenlet: gevent.Greenlet[..., Any] | None = None
        self._stopping = False
        self._arriving = 0  # updates whose body file is being moved in
        self._taken: list[Waiting] = []  # the updates of the batch in flight
        self._total = 0
        self._behind = False  # small changes did not fit on the disk and still wait
        self._said_slow = False
        self._looked_at_s = 0.0  # monotonic time of the last look for room
        self._wal_bytes = 0  # the most that it took since the disk is full
        self.head = 0
        self.commits = 0  # without an update: what the head does not count
        self.notes = Notes()
        self.in_flight = Notes()
        self.durable: dict[str, int] = {}
        self.committed = Event()  # set, and replaced, at each commit
        self.disk_full = False
        self.broken_reason = ""

    def start(
        self, publish: Publish, on_broken: Callable[[str], None], head: int, total: int,
        positions: dict[str, int], disk_full: bool,
    ) -> None:  # fmt: skip
        self._publish, self._on_broken = publish, on_broken
        self.head, self._total = head, total
        self.durable = dict(positions)
        self.disk_full = disk_full
        if disk_full:
            log.error("%s; reads and deliveries go on", FULL_TEXT)
        self._greenlet = gevent.spawn(self._run)

    def stop(self, deadline_s: float) -> bool:
        """Commit what is queued and end; False when the deadline passed first."""
        self._stopping = True
        self.hurry()
        greenlet = self._greenlet
        if greenlet is None:
            return True
        greenlet.join(deadline_s)
        if greenlet.ready():
            return True
        greenlet.kill(block=False)
        self.abandon("the journal was stopped before this was durable")
        return False

    # --- what the journal's calls do

    def append(self, waiting: Waiting) -> int:
        """Queue an update whose room is reserved; wait for its sequence."""
        body = waiting.update.body
        if isinstance(body, FileBody):
            self._arriving += 1
            gevent.spawn(self._take_in, waiting, body)  # its own greenlet: ours may be killed while it waits
        else:
            self._enqueue(waiting)
        return self._await(waiting)

    def _await(self, waiting: Waiting) -> int:
        """Wait for a disk that is slow, but not for ever; the update may get into the log all the same."""
        body = waiting.update.body
        body_s = body.size / BODY_BYTES_PER_S if isinstance(body, FileBody) else 0.0
        limit_s = COMMIT_S + body_s
        for wait_s in (SLOW_S + body_s, COMMIT_S - SLOW_S):
            sequence = waiting.wait(wait_s)
            if sequence:
                return sequence
            self._say_slow(limit_s)
        raise JournalSlow(f"the disk that holds the journal has not finished a write for {limit_s:.0f} s")

    def _say_slow(self, limit_s: float) -> None:
        if not self._said_slow:
            self._said_slow = True
            log.error(
                "the disk that holds the journal has not finished a write for %g s: clients of updates wait for it, "
                "%.0f s at most",
                SLOW_S,
                limit_s,
            )

    def run(self, job: Callable[[], Any]) -> Any:
        """Run something between two commits, after what is queued now; for changes that must not be cut in half."""
        done: AsyncResult[Any] = AsyncResult()
        self._jobs.append((job, done))
        self.hurry()
        done.wait(JOB_S)
        if not done.ready():  # it is done later, and nobody hears of it
            raise JournalSlow(f"the disk that holds the journal has not finished a write for {JOB_S:.0f} s")
        return done.get()

    def wake(self) -> None:
        """Small changes were queued."""
        self._queued.set()

    def hurry(self) -> None:
        self._queued.set()
        self._urgent.set()

    def wait_for_notes(self, timeout_s: float | None) -> bool:
        """Until what is queued now is durable. Raises ``JournalFull`` when the disk was full even for this."""
        notes = self.notes or self.in_flight
        if not notes:
            return True
        done: AsyncResult[None] = AsyncResult()
        notes.waiters.append(done)
        self.hurry()
        done.wait(timeout_s)
        if not done.ready():
            return False
        done.get()  # raises what went wrong
        return True

    def _take_in(self, waiting: Waiting, body: FileBody) -> None:
        try:
            waiting.file = self._files.call(self._bodies.adopt, body.path, body.size)
        except Exception as error:  # noqa: BLE001 — the client waits for an answer, whatever it was
            self._budget.release(waiting.cost)
            self._files.call(self._bodies.drop, body.path)
            waiting.failed(self._refusal(error))
        else:
            self._enqueue(waiting)
        finally:
            self._arriving -= 1
            self.hurry()

    def _refusal(self, error: Exception) -> JournalError:
        """What a body file that could not be taken in means. Nothing was recorded, so this update is not in doubt."""
        code = error.errno if isinstance(error, OSError) else None
        if code in (errno.ENOSPC, errno.EDQUOT):
            return JournalFull(FULL_TEXT)
        if code in (errno.EIO, errno.EROFS):  # the next commit would not fare better
            self.fail(f"the journal's disk fails: {error}")
        return JournalError(f"a body could not be moved into the journal: {error}")

    def _enqueue(self, waiting: Waiting) -> None:
        if self.broken_reason:
            waiting.failed(JournalBroken(self.broken_reason))
            return
        if self.disk_full:  # since it was taken in
            self._refuse([waiting])
            return
        self._appends.append(waiting)
        self.hurry()

    # --- the greenlet

    def _run(self) -> None:
        while self._next() and not self.broken_reason:
            has_job = bool(self._jobs)  # one that comes during the commit waits for what is queued before it
            self._commit(self._take())
            if has_job and not self.broken_reason:
                self._do(*self._jobs.popleft())

    def _next(self) -> bool:
        """Wait for work; False when all is done and the journal stops."""
        self._look_for_room()
        while not (self._appends or self.notes or self._jobs):
            if self._stopping and not self._arriving:
                return False
            self._queued.wait(RETRY_S if self.disk_full else None)
            self._queued.clear()
            self._look_for_room()
        if not (self._appends or self._jobs):
            self._urgent.wait(LINGER_S)
        self._urgent.clear()
        return True

    def _take(self) -> list[Waiting]:
        taken: list[Waiting] = []
        size = 0
        while self._appends and len(taken) < BATCH_ENTRIES and size < BATCH_BYTES:
            waiting = self._appends.popleft()
            size += inline_bytes(waiting.update)
            taken.append(waiting)
        self.in_flight, self.notes = self.notes, Notes()
        self._taken = taken
        return taken

    def _commit(self, taken: list[Waiting]) -> None:
        if not (taken or self.in_flight):
            return
        batch = self._batch(taken)
        try:
            self._write(batch)
        except DiskFull:
            self._on_disk_full(taken)
        except Exception as error:  # noqa: BLE001 — whatever it was, nobody knows what is on the disk now
            self.fail(f"a commit of the journal failed, its outcome is unknown: {error}")
        else:
            self._committed(batch, taken)

    def _batch(self, taken: list[Waiting]) -> Batch:
        notes = self.in_flight
        updates = [(waiting.update, waiting.file) for waiting in taken]
        commits = self.commits + 1 if notes.has_changes and not taken else 0
        return Batch(
            self.head + 1, self._stamps.next_us(), self._total, updates,
            notes.positions, notes.settled, notes.changes, notes.actions, commits,
        )  # fmt: skip

    def _write(self, batch: Batch) -> None:
        if batch.updates or self.in_flight.has_changes:
            self._writer.call(self._database.commit, batch)

    def _committed(self, batch: Batch, taken: list[Waiting]) -> None:
        """The commit is durable: the only place where the head moves and entries become known."""
        notes, self.in_flight = self.in_flight, Notes()
        self._behind = False
        if self._said_slow:
            self._said_slow = False
            log.warning("the disk that holds the journal has finished its write; updates go on")
        self.commits = batch.commits or self.commits
        for consumer, position in batch.positions.items():
            if position is None:
                self.durable.pop(consumer, None)
            else:
                self.durable[consumer] = position
        if taken:
            self._publish_all(batch, taken)
        for waiter in notes.waiters:
            waiter.set(None)
        committed, self.committed = self.committed, Event()
        committed.set()

    def _publish_all(self, batch: Batch, taken: list[Waiting]) -> None:
        self._stamps.given(batch.time_us)
        self._total += sum(waiting.cost for waiting in taken)
        self.head = batch.first + len(taken) - 1
        time_s = batch.time_us / 1e6
        entries = [self._entry(sequence, time_s, waiting) for sequence, waiting in enumerate(taken, batch.first)]
        try:
            self._publish([(entry, waiting.token) for entry, waiting in zip(entries, taken, strict=True)])
        except Exception:  # the updates are in the log, readers find them there; the clients must get an answer
            log.exception("an error in Spawn: publishing updates failed")
        self._taken = []
        for entry, waiting in zip(entries, taken, strict=True):
            waiting.written(entry.sequence)

    def _entry(self, sequence: int, time_s: float, waiting: Waiting) -> Entry:
        update, file = waiting.update, waiting.file
        body = FileBody(self._bodies.path(file.name), file.size) if file else update.body
        return Entry(sequence, time_s, update.method, update.target, update.head, body, update.key, None)

    def _do(self, job: Callable[[], Any], done: AsyncResult[Any]) -> None:
        try:
            if self._behind:
                raise JournalFull(FULL_TEXT)
            done.set(job())
        except Exception as error:  # noqa: BLE001 — raised again where it is waited for
            done.set_exception(error)

    # --- when it goes wrong

    def fail(self, reason: str) -> None:
        """Outcome unknown: everybody who waits is told, and nothing is accepted any more."""
        if not self.broken_reason:
            self.abandon(reason)
            self._on_broken(reason)

    def abandon(self, reason: str) -> None:
        """Tell everybody who waits that nothing more will come."""
        self.broken_reason = reason
        updates = [waiting for waiting in (*self._taken, *self._appends) if not waiting.has_ended]
        others = [*self.in_flight.waiters, *self.notes.waiters, *(done for _, done in self._jobs)]
        self._appends.clear()
        self._jobs.clear()
        for update in updates:
            update.failed(JournalBroken(reason))
        for result in others:
            result.set_exception(JournalBroken(reason))
        self.committed.set()

    def _on_disk_full(self, taken: list[Waiting]) -> None:
        """Refuse the appends; with the ballast gone, try the small changes alone."""
        refused = [*taken, *self._appends]
        self._appends.clear()  # before anything below lets others run: what comes now is refused as it comes
        self._taken = []
        self.met_full_disk()
        self._refuse(refused)
        batch = self._batch([])
        try:
            self._write(batch)
        except DiskFull:
            self._keep_for_later()
        except Exception as error:  # noqa: BLE001 — whatever it was, nobody knows what is on the disk now
            self.fail(f"a commit of the journal failed, its outcome is unknown: {error}")
        else:
            self._committed(batch, [])

    def met_full_disk(self) -> None:
        """From now on updates are refused, until there is room. The ballast goes, for what is tried next."""
        if not self.disk_full:
            log.error("%s; reads and deliveries go on", FULL_TEXT)
        self.disk_full = True
        self._looked_at_s = time.monotonic()
        self._files.call(self._ballast.let_go)

    def _refuse(self, refused: list[Waiting]) -> None:
        for waiting in refused:
            self._budget.release(waiting.cost)
            waiting.failed(JournalFull(FULL_TEXT))
        names = [waiting.file.name for waiting in refused if waiting.file]
        if names:
            self._files.call(self._bodies.delete, names)

    def _keep_for_later(self) -> None:
        """Not even the small changes fit: whoever waits for them is told, and they are tried again."""
        notes, self.in_flight = self.in_flight, Notes()
        for waiter in notes.waiters:
            waiter.set_exception(JournalFull(FULL_TEXT))
        notes.waiters = []
        self._behind = True
        if self._stopping:
            log.error("the disk is full: the last positions are lost, some updates will be delivered again")
            return
        self.notes = notes.then(self.notes)
        gevent.sleep(RETRY_S)

    def _look_for_room(self) -> None:
        """Leave the full state once the ballast fits again with something to spare, and a commit too."""
        if not self.disk_full or time.monotonic() < self._looked_at_s + RETRY_S:
            return
        self._looked_at_s = time.monotonic()
        if self._behind:  # what is in the WAL may be written back where it belongs: then there is room in the WAL
            self._on_writer(self._database.checkpoint, "PASSIVE")
        elif self._take_ballast() and self._can_write():
            self.disk_full, self._wal_bytes = False, 0
            log.warning("the disk that holds the journal has room again: updates are accepted")

    def _take_ballast(self) -> bool:
        """What pruning freed is in the database: it has to be given back before the ballast fits."""
        until_s = time.monotonic() + LOOK_S
        while True:
            wal = self._files.call(self._database.wal_bytes)
            self._wal_bytes = max(self._wal_bytes, min(wal, WAL_BYTES))  # and it will take that again
            margin = self._ballast.margin_bytes + self._wal_bytes - wal
            if self._files.call(self._ballast.take, margin):
                return True
            lacking = self._files.call(self._ballast.lacking_bytes, margin)
            if time.monotonic() >= until_s or not self._on_writer(self._database.give_back, lacking):
                return False

    def _can_write(self) -> bool:
        """What the file system says of its room need not be so (a quota, a broken disk)."""
        if self._on_writer(self._database.touch) is not False:
            return not self.broken_reason
        self._files.call(self._ballast.let_go)
        return False

    def _on_writer(self, call: Callable[..., Any], *args: object) -> Any:
        """False when there was no room for it; any other failure ends the journal."""
        try:
            return self._writer.call(call, *args)
        except DiskFull:
            return False
        except Exception as error:  # noqa: BLE001 — whatever it was, nobody knows what is on the disk now
            self.fail(f"a commit of the journal failed, its outcome is unknown: {error}")
            return False
