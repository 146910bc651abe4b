"""Bodies on their way through: in memory while small, in a file when they grow, behind one object.

A spool has one writer and any number of readers; readers may follow a writer that is not done. Strategy: ``_tail`` is
the part of the body that is in memory and ``_on_disk`` says where it begins. A small body is all tail. A larger one is
moved to the file in steps, and a step's bytes stay in the tail until the disk has them, so that a reader finds every
byte in one of the two places at any time.

Invariants:

* ``write`` returns only when less than ``FLUSH_BYTES`` are waiting for the disk, so memory is bounded whatever the
  sizes; and what waits is within the budget, so it is bounded over all spools.
* No file is touched on the hub's thread. A file descriptor is closed under the lock that every use of it takes, so
  a greenlet that is killed while a thread works for it can never make that thread write to another one's file.
* What was taken from the budget goes back: when the body moves to the disk, or at ``discard``.
* Whoever makes a spool calls ``discard`` in the end, on every path; it may be called twice and at any time.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import sys
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from gevent.event import Event
from gevent.lock import BoundedSemaphore

from spawn.errors import AnswerCut, SpawnError
from spawn.http11.threads import in_thread

FLUSH_BYTES = 65_536  # smaller writes to the disk cost more in thread switches than in bytes
PIECE_BYTES = 65_536  # what a writer brings at a time
LEAST_PIECE_BYTES = 4_096
IN_HAND_BYTES = 4_194_304  # of all writers together, unless they are so many that each has only its least piece
WRITES_AT_ONCE = 16  # to the disk; a few more than there are threads for them, so that none of those waits
STALL_S = 300.0  # a reader gives up on a writer that neither writes nor ends for this long


class SpoolFull(SpawnError):
    """The body does not fit: ``disk`` tells whether the disk said so (else it was ``limit_bytes``)."""

    def __init__(self, message: str, *, disk: bool) -> None:
        super().__init__(message)
        self.disk = disk


class SpoolClosed(SpawnError):
    """Written to after it was ended, failed or discarded; its reader may simply have gone."""


@dataclass(frozen=True, slots=True)
class SpooledFile:
    """A body in a file that has a new owner."""

    path: str
    size: int


class DiskFile:
    """A file that is only used in threads, one at a time; ``close`` waits for the use at hand.

    Opened at the first use: so the object exists, and can be closed, before anything is on the disk.
    """

    def __init__(self, path: str, flags: int) -> None:
        self.path = path
        self._flags = flags | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = -1
        self._closed = False
        self._lock = threading.Lock()

    def read_at(self, offset: int, limit_bytes: int) -> bytes:
        with self._lock:
            return os.pread(self._descriptor(), limit_bytes, offset)

    def write_at(self, offset: int, data: bytes) -> None:
        view = memoryview(data)
        with self._lock:
            fd = self._descriptor()
            while view:
                written = os.pwrite(fd, view, offset)
                offset += written
                view = view[written:]

    def close(self, unlink: bool = False) -> None:
        with self._lock:
            self._closed = True
            if self._fd >= 0:
                fd, self._fd = self._fd, -1
                os.close(fd)
        if unlink:
            # Never opened, moved away by a new owner, or out of reach: then it is swept with others at the next start.
            with contextlib.suppress(OSError):
                os.unlink(self.path)

    def _descriptor(self) -> int:
        if self._closed:
            raise OSError(errno.EBADF, "closed while somebody waited for it", self.path)
        if self._fd < 0:
            self._fd = os.open(self.path, self._flags, 0o600)  # bodies may hold credentials
        return self._fd


class MemoryBudget:
    """How many bytes all spools together may keep in memory, and how much their writers may have in hand."""

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self.used_bytes = 0
        self.writers = 0
        self.disk_turns = BoundedSemaphore(WRITES_AT_ONCE)

    @property
    def piece_bytes(self) -> int:
        """How much a writer should bring at a time. All of them may have to wait for the disk with it."""
        return max(LEAST_PIECE_BYTES, min(PIECE_BYTES, IN_HAND_BYTES // max(1, self.writers)))

    def take(self, count: int) -> bool:
        """Reserve ``count`` bytes; False (and nothing reserved) when they are not there."""
        if self.used_bytes + count > self.total_bytes:
            return False
        self.used_bytes += count
        return True

    def give(self, count: int) -> None:
        self.used_bytes -= count


class Spool:
    """One body. ``limit_bytes`` bounds its size, ``memory_bytes`` how much of it may stay in memory."""

    # What a small body never changes is not set for each of them.
    size = 0  # bytes accepted so far
    complete = False
    failed = ""  # why the body will never be complete
    _budgeted = 0
    _tail: bytearray | bytes = b""
    _on_disk = 0
    _file: DiskFile | None = None
    _released = False
    _discarded = False
    _waiters: tuple[Event, ...] = ()
    _disk_lock: BoundedSemaphore  # made with the file

    def __init__(self, directory: str, memory_bytes: int, limit_bytes: int, budget: MemoryBudget | None = None) -> None:
        budget = budget or MemoryBudget(sys.maxsize)
        budget.writers += 1
        self._directory = directory
        self._memory_bytes = memory_bytes
        self._limit_bytes = limit_bytes
        self._budget = budget

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.discard()

    @property
    def content(self) -> bytes | None:
        """The body so far when all of it is in memory, else None."""
        if self._file is not None:
            return None
        return self._tail if isinstance(self._tail, bytes) else bytes(self._tail)

    @property
    def piece_bytes(self) -> int:
        """How much to write at a time."""
        return self._budget.piece_bytes

    @property
    def path(self) -> str | None:
        """Where the body's file is, or None while the body is in memory. All of it is there once it is complete."""
        return None if self._file is None else self._file.path

    def write(self, data: bytes) -> None:
        """Add to the body; ``data`` is kept, not copied. Raises ``SpoolFull`` (it has failed then), ``SpoolClosed``."""
        self._check_open()
        if self.size + len(data) > self._limit_bytes:
            self.fail("larger than allowed")
            raise SpoolFull(f"the body is larger than {self._limit_bytes} bytes", disk=False)
        if self._file is None and not self._fits(len(data)):
            self._file = DiskFile(self._new_path(), os.O_RDWR | os.O_CREAT | os.O_EXCL)
            self._disk_lock = BoundedSemaphore(1)
        if not self._tail:
            self._tail = data
        elif isinstance(self._tail, bytes):
            self._tail = bytearray().join((self._tail, data))
        else:
            self._tail += data
        self.size += len(data)
        self._wake()
        if self._file is not None and (len(self._tail) >= FLUSH_BYTES or not self._reserve(len(data))):
            self._flush(self._file)

    def close_write(self) -> None:
        """The body is complete. Raises like ``write``. Calling it again does nothing."""
        if self.complete:
            return
        self._check_open()
        if self._file is not None:
            self._flush(self._file)
        if self._file is None and not isinstance(self._tail, bytes):
            self._tail = bytes(self._tail)  # so that nobody who wants the content makes a copy of its own
        self.complete = True
        self._budget.writers -= 1
        self._wake()

    def fail(self, reason: str) -> None:
        """The body will never be complete: readers get ``AnswerCut`` once they have read what is there."""
        if not self.complete and not self.failed:
            self.failed = reason
            self._budget.writers -= 1
            self._wake()

    def take(self) -> bytes | SpooledFile:
        """The complete body, for a new owner: a file is not deleted by ``discard`` any more.

        Where the new owner may still refuse it, use ``content`` and ``path``, and ``release_file`` once it is his.
        """
        content = self.content
        return SpooledFile(self.release_file(), self.size) if content is None else content

    def release_file(self) -> str:
        """Hand the file to a new owner and return its path; readers of it find no more."""
        file = self._file
        if file is None or not self.complete:
            raise ValueError("only a complete body that is in a file can be handed over")
        self._released = True
        in_thread(file.close)
        return file.path

    def reader(self, stall_timeout_s: float = STALL_S) -> SpoolReader:
        """A reader from the start. It waits at most ``stall_timeout_s`` for the writer at a time."""
        return SpoolReader(self, stall_timeout_s)

    def wait_ready(self, at_least_bytes: int, timeout_s: float) -> None:
        """Wait until the body is complete, has failed, or is this long; or until time is up."""
        deadline_s = time.monotonic() + timeout_s
        while not (self.complete or self.failed or self.size >= at_least_bytes):
            if not self._wait(deadline_s - time.monotonic()):
                return

    def discard(self) -> None:
        """Give back memory and delete the file (unless released). A write or read that is under way fails cleanly."""
        self.fail("discarded")
        if self._discarded:
            return
        self._discarded = True
        if self._budgeted:
            self._give_back()
        self._tail = b""
        if self._file is not None and not self._released:
            in_thread(self._file.close, True)

    # What readers use.

    def _read_at(self, offset: int, limit_bytes: int) -> bytes:
        """What is there at ``offset``; ``b""`` when nothing is there yet."""
        if self._discarded:
            raise AnswerCut("the body was discarded")
        if offset >= self._on_disk:
            start = offset - self._on_disk
            return bytes(self._tail[start : start + limit_bytes])
        assert self._file is not None
        try:
            data = in_thread(self._file.read_at, offset, min(limit_bytes, self._on_disk - offset))
        except OSError as error:
            raise AnswerCut(f"the spooled body cannot be read: {error.strerror}") from None
        if not data:
            raise AnswerCut("the spooled body was cut short on the disk")
        return data

    def _wait(self, timeout_s: float) -> bool:
        """Wait for the writer to do anything; False when time ran out."""
        event = Event()
        self._waiters += (event,)
        try:
            return timeout_s > 0 and bool(event.wait(timeout_s))
        finally:
            self._waiters = tuple(waiter for waiter in self._waiters if waiter is not event)

    # The writer's side.

    def _check_open(self) -> None:
        if self.complete or self.failed:
            raise SpoolClosed(f"the body was ended: {self.failed or 'complete'}")

    def _fits(self, count: int) -> bool:
        """Whether ``count`` more bytes may stay in memory for good; if so, they are reserved."""
        return self.size + count <= self._memory_bytes and self._reserve(count)

    def _reserve(self, count: int) -> bool:
        if not self._budget.take(count):
            return False
        self._budgeted += count
        return True

    def _give_back(self) -> None:
        self._budget.give(self._budgeted)
        self._budgeted = 0

    def _new_path(self) -> str:
        return os.path.join(self._directory, f"spool-{secrets.token_hex(16)}")

    def _flush(self, file: DiskFile) -> None:
        """Move the tail to the disk. Interrupted at any point, it can be done again: the offsets stay the same."""
        with self._disk_lock, self._budget.disk_turns:
            while self._tail and not self._discarded:
                data = bytes(self._tail)
                try:
                    in_thread(file.write_at, self._on_disk, data)
                except OSError as error:
                    self._refuse_by_disk(error)
                if not self._discarded:
                    self._on_disk += len(data)
                    self._tail = self._tail[len(data) :]
                    self._give_back()
        self._check_open()

    def _refuse_by_disk(self, error: OSError) -> None:
        if self._discarded:
            raise SpoolClosed("the body was ended: discarded") from None
        self.fail(f"the disk refused it: {error.strerror}")
        raise SpoolFull(f"a body could not be written to {self._directory}: {error.strerror}", disk=True) from error

    def _wake(self) -> None:
        if self._waiters:
            waiters, self._waiters = self._waiters, ()
            for event in waiters:
                event.set()


class SpoolReader:
    """Reads a spool from its start, following the writer. A ``BodyReader``."""

    def __init__(self, spool: Spool, stall_timeout_s: float) -> None:
        self._spool = spool
        self._stall_timeout_s = stall_timeout_s
        self._offset = 0

    def read(self, limit_bytes: int = 65_536) -> bytes:
        """The next bytes, ``b""`` at the end. Raises ``AnswerCut`` when the writer failed, was discarded or stalls."""
        spool = self._spool
        while self._offset >= spool.size:
            if spool.complete:
                return b""
            if spool.failed:
                raise AnswerCut(f"the body is not complete: {spool.failed}")
            if not spool._wait(self._stall_timeout_s):
                raise AnswerCut(f"the body stalled for {self._stall_timeout_s:g} s")
        data = spool._read_at(self._offset, limit_bytes)
        self._offset += len(data)
        return data
