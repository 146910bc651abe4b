"""What the journal takes of ``journal.max-bytes``, counted the same way by every backend.

The count is of content plus a flat charge per row, not of pages: cheap, exact to add and to take away, and close
enough to the truth that the disk is never surprised by more than some per cent.
"""

from __future__ import annotations

import logging

from spawn.errors import JournalAtLimit
from spawn.journal.base import FileBody, NewUpdate

log = logging.getLogger("spawn.journal")

ENTRY_BYTES = 64  # charged per entry besides its content: row and page overhead
RECORD_BYTES = 64  # the same for a record
WARN_PERCENT = (50, 80, 95)


def inline_bytes(update: NewUpdate) -> int:
    """Bytes of an update that are held in memory when its entry is."""
    body = len(update.body) if isinstance(update.body, bytes) else 0
    return len(update.target) + len(update.head) + body


def entry_bytes(update: NewUpdate) -> int:
    """What the entry (head, target, body, key) of an update takes."""
    in_file = update.body.size if isinstance(update.body, FileBody) else 0
    return ENTRY_BYTES + inline_bytes(update) + in_file + len(update.key or b"")


def path_of(target: bytes) -> bytes:
    """The part of a target that records, the API and logs may show: no query."""
    return target.partition(b"?")[0]


def record_bytes(update: NewUpdate) -> int:
    """What the record (time, method, path, reference) of an update takes."""
    return RECORD_BYTES + len(update.method) + len(path_of(update.target))


class Budget:
    """A sum with a bound, and one log line each time it passes one of ``WARN_PERCENT`` on its way up."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used_bytes = 0
        self._warned = 0  # how many of the warnings are out

    def reserve(self, size_bytes: int) -> None:
        """Take room. Raises ``JournalAtLimit`` and takes nothing when there is not enough."""
        if self.used_bytes + size_bytes > self.max_bytes:
            raise JournalAtLimit(
                f"the journal is full: {self.used_bytes} of journal.max-bytes {self.max_bytes} are used"
            )
        self.used_bytes += size_bytes
        self._warn()

    def release(self, size_bytes: int) -> None:
        """Give room back. A warning may be said again once it is 5 points below its mark."""
        self.used_bytes -= size_bytes
        percent = self._percent()
        while self._warned and percent < WARN_PERCENT[self._warned - 1] - 5:
            self._warned -= 1

    def load(self, used_bytes: int) -> None:
        """Set the sum, as found at start."""
        self.used_bytes = used_bytes
        self._warn()

    def _percent(self) -> float:
        return 100 * self.used_bytes / max(1, self.max_bytes)

    def _warn(self) -> None:
        percent = self._percent()
        passed = sum(1 for mark in WARN_PERCENT if percent >= mark)
        if passed > self._warned:
            log.warning(
                "the journal is %d %% full (%d of %d bytes), GET /queues shows which node holds it back; when it is "
                "full, such a node goes out of sync if another one has kept up, else updates are refused with 507",
                percent, self.used_bytes, self.max_bytes,
            )  # fmt: skip
            self._warned = passed
