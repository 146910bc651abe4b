"""A backup: a consistent copy of the journal, made beside the traffic.

The rows are copied by ``copying`` in steps on the writer, which takes commits in between; body files never change, so a
hard link is a copy of them (a true copy where the backup is on another file system). After each step the copy is
synced on another thread: that paces the backup, and no mountain of dirty pages builds up in front of a commit's sync.

The copy grows behind the head: a few rounds run after it, and the last step takes what is left, or a step's worth of
it, so a backup ends under any load. It is made under another name and gets its own when it is whole and synced.
Whatever goes wrong, what was made is removed, and the journal does not notice: in particular an error of the backup's
disk never counts as one of the journal's.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from gevent.event import Event
from gevent.lock import BoundedSemaphore

from spawn.errors import JournalError
from spawn.journal.base import Backup
from spawn.journal.bodies import BodyFiles, sync_directory
from spawn.journal.copying import DatabaseCopy, files_between
from spawn.journal.database import Database
from spawn.journal.threads import NativeThreads

T = TypeVar("T")

PARTIAL = ".partial"  # ends the name of a backup in the making
ROUNDS = 8  # after the head; then the rest is left out
REST_ENTRIES = 256  # so few are left to the last step
LINKS = 64  # per call
PIECE_BYTES = 8 << 20  # of a body file that has to be copied, per call
SPARE_BYTES = 64 << 20  # left free by a backup on the journal's own disk
NO_LINK = {errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK}


class BackupRun:
    """One backup, made by ``make``. ``check`` raises when the journal cannot go on with it."""

    def __init__(
        self, directory: str, database: Database, database_path: str, bodies: BodyFiles,
        writer: NativeThreads, files: NativeThreads, reading: BoundedSemaphore,
        head: Callable[[], int], check: Callable[[], None],
    ) -> None:  # fmt: skip
        self._directory = os.path.abspath(directory)
        self._partial = self._directory + PARTIAL
        self._database = database
        self._database_path = database_path
        self._bodies = bodies
        self._copy = DatabaseCopy(os.path.join(self._partial, os.path.basename(database_path)))
        self._writer = writer
        self._files = files
        self._reading = reading
        self._head = head
        self._check = check
        self._size_bytes = 0
        self._bodies_upto = 0
        self.over = Event()  # set when it has ended in either way

    def make(self) -> Backup:
        """Raises ``JournalError`` in one line; nothing of the backup is left then."""
        try:
            self._files.call(self._prepare)
            try:
                return self._make()
            except BaseException:
                self._files.call(shutil.rmtree, self._partial, True)
                raise
        except (OSError, sqlite3.Error) as error:
            said = f"{error.strerror}" if isinstance(error, OSError) and error.strerror else str(error)
            raise JournalError(f"the backup in {self._directory} failed and was removed: {said}") from None
        finally:
            self._database.on_settled = None
            self.over.set()

    def _make(self) -> Backup:
        self._files.call(self._copy.create)
        self._database.on_settled = self._copy.settled
        self._follow_the_head()
        head = self._on_writer(partial(self._copy.finish, time_s=time.time()))
        self._take_bodies(head)
        self._files.call(self._complete)
        return Backup(self._directory, head, self._size_bytes)

    def _prepare(self) -> None:
        """Make the directories; look for room first, so that a hopeless backup does not fill a disk."""
        if os.path.lexists(self._directory):
            raise FileExistsError(errno.EEXIST, "there is something of that name already")
        os.mkdir(self._partial, 0o700)
        try:
            self._look_for_room()
            os.mkdir(os.path.join(self._partial, "bodies"), 0o700)
        except BaseException:
            os.rmdir(self._partial)
            raise

    def _look_for_room(self) -> None:
        disk = os.statvfs(self._partial)
        needed = os.path.getsize(self._database_path)
        if os.stat(self._partial).st_dev == os.stat(self._database_path).st_dev:
            needed += SPARE_BYTES
        else:  # no links
            needed += sum(entry.stat().st_size for entry in os.scandir(self._bodies.bodies))
        free = disk.f_bavail * disk.f_frsize
        if free < needed:
            raise OSError(errno.ENOSPC, f"it needs {needed} bytes on a disk that has {free} left")

    def _on_writer(self, step: Callable[[sqlite3.Connection], T]) -> T:
        """Run a step as a read is run: commits have their turn before the next one."""
        self._check()
        with self._reading:
            return self._writer.call(partial(self._database.run, step))

    # --- rows

    def _follow_the_head(self) -> None:
        for _ in range(ROUNDS):
            upto = self._head()
            while self._on_writer(partial(self._copy.step, upto=upto)):
                self._files.call(sync_file, self._copy.path)
            self._take_bodies(upto)
            if self._head() - upto <= REST_ENTRIES:
                return

    # --- bodies

    def _take_bodies(self, upto: int) -> None:
        """The files of what was copied since the last time."""
        files = self._on_writer(partial(files_between, after=self._bodies_upto, upto=upto))
        self._bodies_upto = upto
        self._size_bytes += sum(size for _, size in files)
        while files:
            self._check()
            left = self._files.call(self._link, files[:LINKS])
            for name in left:
                self._copy_body(name)
            files = files[LINKS:]

    def _link(self, files: list[tuple[str, int]]) -> list[str]:
        """Link body files; returns those that cannot be linked, by name."""
        left = []
        for name, _ in files:
            try:
                os.link(self._bodies.path(name), self._body(name))
            except OSError as error:
                if error.errno not in NO_LINK:
                    raise
                left.append(name)
        return left

    def _copy_body(self, name: str) -> None:
        source, target, done = self._bodies.path(name), self._body(name), 0
        while count := self._files.call(_copy_piece, source, target, done):
            done += count
            self._check()

    def _body(self, name: str) -> str:
        return os.path.join(self._partial, "bodies", name)

    # --- the end

    def _complete(self) -> None:
        """Make all of it durable, then give it its name."""
        self._size_bytes += os.path.getsize(self._copy.path)
        sync_file(self._copy.path)
        sync_directory(os.path.join(self._partial, "bodies"))
        sync_directory(self._partial)
        os.rename(self._partial, self._directory)
        sync_directory(os.path.dirname(self._directory))


def _copy_piece(source: str, target: str, offset: int) -> int:
    """Copy the next piece of a file, synced; returns its length, 0 at the end. The first call makes the target."""
    flags = os.O_WRONLY | (0 if offset else os.O_CREAT | os.O_EXCL)
    with open(source, "rb", buffering=0) as reading, open(os.open(target, flags, 0o600), "wb", buffering=0) as writing:
        reading.seek(offset)
        data = reading.read(PIECE_BYTES)
        writing.seek(offset)
        count = writing.write(data) if data else 0
        os.fsync(writing.fileno())
    return count


def sync_file(path: str) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
