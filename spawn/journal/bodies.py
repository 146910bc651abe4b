"""The journal's body files, and the ballast that keeps a full disk from stopping everything.

A body becomes durable before the commit that mentions it: its contents are synced, it is renamed from the spool into
``bodies/``, and that directory is synced. So a committed row always has its file; a file without a row is a leftover
of a crash and swept at start. All functions block: they run on native threads.
"""

from __future__ import annotations

import contextlib
import os
import uuid
import zlib
from collections.abc import Iterable
from typing import NamedTuple

from spawn.errors import JournalDamaged, StateError

STEP_BYTES = 1 << 20


class StoredFile(NamedTuple):
    """A body as a row remembers it; ``name`` is relative to ``bodies/``."""

    name: str
    size: int
    crc: int


class BodyFiles:
    """``bodies/`` and ``spool/`` of one journal."""

    def __init__(self, directory: str) -> None:
        self.bodies = os.path.join(directory, "bodies")
        self.spool = os.path.join(directory, "spool")

    def make(self) -> None:
        """Make both directories. Raises ``StateError``."""
        for path in (self.bodies, self.spool):
            make_directory(path)

    def empty_spool(self) -> None:
        """What lies there at start was never accepted."""
        for name in os.listdir(self.spool):
            self.drop(os.path.join(self.spool, name))  # or leave it: a directory that somebody put there, say

    def path(self, name: str) -> str:
        return os.path.join(self.bodies, name)

    def adopt(self, path: str, size: int) -> StoredFile:
        """Make a spooled file durable and move it in. Raises ``OSError``."""
        descriptor = os.open(path, os.O_RDWR)
        try:
            found = os.fstat(descriptor).st_size
            if found != size:
                raise ValueError(f"a spooled body has {found} bytes instead of {size}")
            os.fchmod(descriptor, 0o600)
            os.fsync(descriptor)
            crc = _checksum(descriptor)
        finally:
            os.close(descriptor)
        name = uuid.uuid4().hex
        os.rename(path, self.path(name))
        sync_directory(self.bodies)
        return StoredFile(name, size, crc)

    def verify(self, name: str, size: int, crc: int) -> None:
        """Read a body through. Raises ``JournalDamaged`` when it is not what was written."""
        try:
            descriptor = os.open(self.path(name), os.O_RDONLY)
            try:
                intact = os.fstat(descriptor).st_size == size and _checksum(descriptor) == crc
            finally:
                os.close(descriptor)
        except OSError as error:
            what = f"body file {self.path(name)} cannot be read: {error.strerror}"
            raise JournalDamaged(f"the journal is damaged: {what}") from None
        if not intact:
            raise JournalDamaged(f"the journal is damaged: body file {self.path(name)} is not what was written")

    def drop(self, path: str) -> None:
        """Delete a spooled file that is not wanted after all."""
        with contextlib.suppress(OSError):
            os.unlink(path)

    def delete(self, names: Iterable[str]) -> None:
        """Delete what is there; what cannot be deleted is a leftover for the next start."""
        for name in names:
            with contextlib.suppress(OSError):
                os.unlink(self.path(name))

    def reconcile(self, rows: Iterable[tuple[int, str, int]]) -> None:
        """Sweep files without a row. Raises ``JournalDamaged`` for a row (sequence, name, size) without its file."""
        sizes = {entry.name: entry.stat().st_size for entry in os.scandir(self.bodies)}
        for sequence, name, size in rows:
            found = sizes.pop(name, None)
            if found != size:
                what = "is missing" if found is None else f"has {found} bytes instead of {size}"
                raise JournalDamaged(f"the journal is damaged: body file {self.path(name)} of update {sequence} {what}")
        self.delete(sizes)

    def missing(self, rows: Iterable[tuple[int, str, int]]) -> set[int]:
        """Of rows (sequence, name, size), the sequences whose file is not there."""
        there = set(os.listdir(self.bodies))
        return {sequence for sequence, name, _ in rows if name not in there}

    def any(self) -> bool:
        """Whether there are bodies at all."""
        return bool(os.listdir(self.bodies))


def _checksum(descriptor: int) -> int:
    """CRC-32 of a whole file; against bit rot, not against an attacker."""
    crc = 0
    os.lseek(descriptor, 0, os.SEEK_SET)
    while data := os.read(descriptor, STEP_BYTES):
        crc = zlib.crc32(data, crc)
    return crc


def sync_directory(path: str) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Ballast:
    """Room that is held back while there is plenty, and let go when a full disk would stop positions and pruning."""

    def __init__(self, path: str, size_bytes: int) -> None:
        self._path = path
        self._size_bytes = size_bytes
        self.margin_bytes = size_bytes // 4  # to spare when it is taken back, so that the states do not flutter

    def take(self, margin_bytes: int) -> bool:
        """Allocate it unless it is there; False when the disk has not that much and ``margin_bytes`` more."""
        if not self._size_bytes or self._is_whole():
            return True
        try:
            disk = os.statvfs(os.path.dirname(self._path))
            if disk.f_bavail * disk.f_frsize < self._size_bytes + margin_bytes:
                self.let_go()
                return False
            descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, self._size_bytes)
            finally:
                os.close(descriptor)
        except OSError:  # the disk filled up meanwhile, or a quota did
            self.let_go()
            return False
        return True

    def lacking_bytes(self, margin_bytes: int) -> int:
        """How much more room the disk would need for ``take``."""
        try:
            disk = os.statvfs(os.path.dirname(self._path))
        except OSError:
            return 0
        return self._size_bytes + margin_bytes - disk.f_bavail * disk.f_frsize

    def let_go(self) -> None:
        with contextlib.suppress(OSError):  # it is gone, or the disk has worse problems
            os.unlink(self._path)

    def _is_whole(self) -> bool:
        try:
            return os.stat(self._path).st_size == self._size_bytes
        except OSError:
            return False


def make_directory(path: str) -> None:
    """The journal's own directory, or one in it. Raises ``StateError`` in one line."""
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
    except FileExistsError:
        raise StateError(
            f"cannot make the journal's directory {path}: what is there is no directory; move it away"
        ) from None
    except OSError as error:
        raise StateError(f"cannot make the journal's directory {path}: {error.strerror}") from None
