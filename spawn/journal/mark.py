"""The mark: how far the journal had come, kept beside the database, so that a lost end is noticed.

SQLite takes the first damaged frame of a WAL for its end: whatever was committed behind it is gone without a word, and
the positions with it. The mark is written at most every ``PERIOD_S`` *after* a commit was durable, so a journal that is
found behind its mark has lost something. It is not synced: after a power failure it may be older, which does no harm.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from typing import NamedTuple

PERIOD_S = 0.05
SIZE_BYTES = 96  # always overwritten as a whole, so that it needs no room on a full disk


class Place(NamedTuple):
    """Where a journal is: both numbers only grow."""

    uuid: str
    head: int
    commits: int  # those without an update


class Mark:
    """Both methods block: they run on native threads, one at a time."""

    def __init__(self, path: str) -> None:
        self._path = path

    def read(self) -> Place | None:
        """None when there is none, or none that can be trusted."""
        with contextlib.suppress(OSError, ValueError):
            with open(self._path, "rb") as file:
                text, _, crc = file.read(SIZE_BYTES).decode("ascii").strip().rpartition(" ")
            if int(crc) == zlib.crc32(text.encode("ascii")):
                uuid, head, commits = text.split(" ")
                return Place(uuid, int(head), int(commits))
        return None

    def write(self, place: Place) -> None:
        """As well as it goes: without a mark a loss is not noticed, but nothing is lost."""
        text = f"{place.uuid} {place.head} {place.commits}"
        line = f"{text} {zlib.crc32(text.encode('ascii'))}".ljust(SIZE_BYTES - 1) + "\n"
        with contextlib.suppress(OSError):
            descriptor = os.open(self._path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            try:
                os.pwrite(descriptor, line.encode("ascii"), 0)
            finally:
                os.close(descriptor)
