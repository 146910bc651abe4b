"""The nodes as they were last known, in ``nodes.json``: what was changed by API survives a restart.

Written as a whole, durably and atomically: a temporary file is synced and renamed over the old one. Saves follow each
other on one native thread, so the last call wins.
"""

from __future__ import annotations

import contextlib
import os
import zlib

import gevent
import msgspec
from gevent.threadpool import ThreadPool

from spawn.errors import StateError

VERSION = 1
SAVE_S = 5.0  # a disk that has not written so little by then hangs


class StoredNode(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """A node's record and the flags that must survive; its position is the journal's."""

    id: str
    host: str
    port: int
    priority: int = 0
    active: bool = False
    maintenance: bool = False
    out_of_sync: bool = False
    diverged: bool = False
    held: bool = False
    refused: int = 0
    settled: bool = False  # stopped in order: it has got nothing beyond its position


class Stored(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """All of the file."""

    nodes: list[StoredNode] = []
    seen_in_file: list[str] = []  # authorities of the configuration file's nodes as it was last read
    journal: str = ""  # uuid of the journal that the positions are in; empty: not known
    version: int = VERSION
    checksum: int | None = None  # of all the rest; None: written by a version that had none


class _Versioned(msgspec.Struct):
    version: int = VERSION


class NodeStore:
    """``nodes.json`` in a state directory that is open."""

    def __init__(self, directory: str) -> None:
        self.path = os.path.join(directory, "nodes.json")
        self._pool: ThreadPool | None = None

    def load(self) -> Stored | None:
        """What was saved last, None before the first save. Raises ``StateError``. A short blocking read, for start."""
        try:
            with open(self.path, "rb") as file:
                data = file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateError(f"cannot read {self.path}: {error.strerror}") from None
        try:
            version = msgspec.json.decode(data, type=_Versioned).version
            if version > VERSION:
                raise StateError(
                    f"{self.path} was written by a newer Spawn (its version is {version}, this one knows {VERSION}): "
                    "install that Spawn again"
                )
            stored = msgspec.json.decode(data, type=Stored)
            intact = stored.checksum in (None, _checksum(data))
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise self._damaged(str(error)) from None
        if not intact:
            raise self._damaged("it is not what was written")
        return msgspec.structs.replace(stored, checksum=None)

    def _damaged(self, what: str) -> StateError:
        return StateError(
            f"{self.path} is damaged ({what}): restore it from a backup, or move it away and start anew "
            "with the nodes of the configuration file, all out of sync"
        )

    def save(self, stored: Stored) -> None:
        """Durable on return; blocks only the calling greenlet. ``StateError``: the old file still stands.

        So it says too of a disk that hangs, which may write the new one later.
        """
        stored = msgspec.structs.replace(stored, checksum=_checksum(msgspec.json.encode(stored)))
        data = msgspec.json.format(msgspec.json.encode(stored), indent=2) + b"\n"
        if self._pool is None:
            self._pool = ThreadPool(1, idle_task_timeout=5)
        hangs = StateError(f"cannot save {self.path}: the disk has not finished within {SAVE_S:g} s")
        with gevent.Timeout(SAVE_S, hangs):
            failure = self._pool.spawn(_replace_caught, self.path, data).get()
        if failure is not None:
            raise StateError(f"cannot save {self.path}: {failure.strerror or failure}")


def _checksum(data: bytes) -> int:
    """CRC-32 of the contents, however they are laid out: a flipped bit must not put a node in sync.

    Of what is there, not of what this version knows, so that a version with more fields accepts the file.
    """
    contents: dict[str, object] = msgspec.json.decode(data)
    return zlib.crc32(msgspec.json.encode({**contents, "checksum": None}))


def _replace_caught(path: str, data: bytes) -> OSError | None:
    """gevent prints exceptions that leave a thread, so this one is handed over."""
    try:
        _replace(path, data)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(path + ".new")
        return error
    return None


def _replace(path: str, data: bytes) -> None:
    descriptor = os.open(path + ".new", os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    os.rename(path + ".new", path)
    directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
