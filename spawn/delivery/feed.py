"""A worker's supply of entries: a bounded gevent queue of what is published, and the journal for everything else.

The committer offers each entry as it is published. While the worker keeps up, the queue gives it every next entry
without touching the disk. When the queue overflows (the node is slow or down), or the worker's position is elsewhere,
the offers are let go and batches are read from the journal until the head is reached; then the queue is followed
again. The invariant: what ``next`` returns is always ``position + 1``.
"""

from __future__ import annotations

from collections import deque

from gevent.queue import Empty, Queue

from spawn.journal.base import Entry, Journal

QUEUE_ENTRIES = 1_024
QUEUE_BYTES = 4_194_304
BATCH_ENTRIES = 256
BATCH_BYTES = 1_048_576


def _weight(entry: Entry) -> int:
    body = entry.body
    return 512 + len(entry.head) + (len(body) if isinstance(body, bytes) else 0)


class Feed:
    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._queue: Queue[Entry | None] = Queue(maxsize=QUEUE_ENTRIES + 1)  # room for the waking None
        self._queued_bytes = 0
        self._follows: int | None = None  # the next sequence the queue takes; None: the journal is being read
        self._batch: deque[Entry] = deque()

    def offer(self, entry: Entry) -> None:
        """Publication, on the hub: never blocks, drops what does not fit."""
        if entry.sequence != self._follows:
            return
        weight = _weight(entry)
        full = self._queue.qsize() >= QUEUE_ENTRIES or self._queued_bytes + weight > QUEUE_BYTES
        if full and self._queue.qsize():
            self._follows = None
            return
        self._follows = entry.sequence + 1
        self._queued_bytes += weight
        self._queue.put_nowait(entry)

    def wake(self) -> None:
        """Let a waiting ``next`` return None."""
        if self._queue.empty():
            self._queue.put_nowait(None)

    def next(self, position: int, timeout_s: float) -> Entry | None:
        """The entry after ``position``; None when woken, or when there is none within ``timeout_s``."""
        wanted = position + 1
        while True:
            entry = self._from_batch(wanted) or self._from_queue(wanted)
            if entry is not None:
                return entry
            if wanted <= self._journal.head:
                self._batch.extend(self._journal.read(position, BATCH_ENTRIES, BATCH_BYTES))
                continue
            self._follows = wanted
            entry = self._take(timeout_s)
            if entry is None:
                return None
            if entry.sequence == wanted:
                return entry

    def _from_batch(self, wanted: int) -> Entry | None:
        if self._batch and self._batch[0].sequence == wanted:
            return self._batch.popleft()
        self._batch.clear()
        return None

    def _from_queue(self, wanted: int) -> Entry | None:
        while not self._queue.empty():
            entry = self._take(0.0)
            if entry is None or entry.sequence < wanted:
                continue
            if entry.sequence == wanted:
                return entry
            self._clear()  # a gap: the journal has what is missing
        return None

    def _take(self, timeout_s: float) -> Entry | None:
        try:
            entry = self._queue.get(timeout=timeout_s) if timeout_s else self._queue.get_nowait()
        except Empty:
            return None
        if entry is not None:
            self._queued_bytes -= _weight(entry)
        return entry

    def _clear(self) -> None:
        while not self._queue.empty():
            self._queue.get_nowait()
        self._queued_bytes = 0
        self._follows = None
