"""Checks fresh reads against what happened: concurrent reads and writes of a few registers. Pure.

A write gives its register a value that no other write has; it is known by its ``Spawn-Sequence``, so "older" is "of a
lower sequence". Times are those of one monotonic clock in one process. What ``check`` holds Spawn to, for all reads
whose answer has no ``Spawn-Behind``:

* none returns a value older than one whose write was *acknowledged* before the read began;
* none returns a value that nobody had begun to write by then, or that no node has a place for;
* of two that follow one another and that no open write overlaps, the later one does not return the older value.

**Acknowledged** here means: a client has the reference answer, below 500. A 202 says only that the update is durable;
perhaps no node has applied it yet, so it makes no read stale. Nor does a write whose client got nothing. Such a write
is *open* from its begin until an update of the same or a higher sequence is acknowledged (of any register): whoever
has applied that one has applied all before it. A value without an answer gets its sequence from the logs of the nodes.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

STALE = "stale read of"


@dataclass(frozen=True, slots=True)
class Write:
    """One update. ``acknowledged_s``: when its client had the reference answer (None: a 202, an error, nothing)."""

    register: str
    value: str
    client: str
    began_s: float
    acknowledged_s: float | None
    sequence: int | None  # None: no answer told it
    status: int | None = None  # None: no answer


@dataclass(frozen=True, slots=True)
class Read:
    """One read. ``value`` None: the register had none yet. ``behind``: its ``Spawn-Behind``, 0 without one."""

    register: str
    value: str | None
    began_s: float
    ended_s: float
    behind: int = 0


def with_sequences(writes: Iterable[Write], logged: Mapping[str, int]) -> list[Write]:
    """Unanswered writes get the sequence that the nodes logged for their value, if they got it at all."""
    return [replace(write, sequence=logged.get(write.value)) if write.sequence is None else write for write in writes]


def check(reads: Sequence[Read], writes: Sequence[Write]) -> list[str]:
    """One sentence for each violation. All updates are taken to be such that every node can apply them."""
    by_value = {write.value: write for write in writes}
    ends = open_until(writes)
    of_register: dict[str, list[tuple[Write, float]]] = defaultdict(list)
    for write in writes:
        if write.sequence is not None:  # any other never got into the journal
            of_register[write.register].append((write, ends[write.sequence]))
    unmarked: dict[str, list[Read]] = defaultdict(list)
    for read in reads:
        if not read.behind:
            unmarked[read.register].append(read)
    strange, stale, backwards = [], [], []
    for read in reads:
        strange += _from_nowhere(read, by_value)
    for register, its_reads in unmarked.items():
        known = [(read, sequence) for read in its_reads if (sequence := _sequence(read, by_value)) is not None]
        stale += _stale(known, of_register[register])
        backwards += _backwards(known, of_register[register])
    return strange + stale + backwards


def count_stale(faults: Iterable[str]) -> int:
    return sum(fault.startswith(STALE) for fault in faults)


def open_until(writes: Iterable[Write]) -> dict[int, float]:
    """Sequence → when a client first had the answer of that update or of a later one; infinite without."""
    ends: dict[int, float] = {}
    soonest_s = math.inf
    journalled = (write for write in writes if write.sequence is not None)
    for write in sorted(journalled, key=lambda write: write.sequence or 0, reverse=True):
        if write.acknowledged_s is not None:
            soonest_s = min(soonest_s, write.acknowledged_s)
        ends[write.sequence or 0] = soonest_s
    return ends


def check_client_order(writes: Sequence[Write], logs: Mapping[str, Sequence[tuple[str, int]]]) -> list[str]:
    """A client that waits for each answer finds its own updates in its own order: in the journal and on every node.

    ``logs``: value and sequence of every application on a node, in order. Answers below 500 count, 202 included.
    """
    faults = []
    own: dict[str, list[Write]] = defaultdict(list)
    for write in sorted(writes, key=lambda write: write.began_s):
        if write.status is not None and write.status < 500:
            own[write.client].append(write)
    for client, its_writes in own.items():
        for earlier, later in pairwise(its_writes):
            if (later.sequence or 0) <= (earlier.sequence or 0):
                faults.append(f"{client}: {later.value} ({later.sequence}) not after {earlier.value}")
    for node, log in logs.items():
        places: dict[str, int] = {}
        for place, (value, _) in enumerate(log):
            places.setdefault(value, place)
        for client, its_writes in own.items():
            held = [places[write.value] for write in its_writes if write.value in places]
            if held != sorted(held):
                faults.append(f"{node} applied the updates of {client} in another order than they were sent in")
    return faults


def _sequence(read: Read, by_value: Mapping[str, Write]) -> int | None:
    """0 before the first write; None for a value that has no place."""
    if read.value is None:
        return 0
    write = by_value.get(read.value)
    return None if write is None else write.sequence


def _from_nowhere(read: Read, by_value: Mapping[str, Write]) -> list[str]:
    if read.value is None:
        return []
    write = by_value.get(read.value)
    if write is None or write.register != read.register:
        return [f"{read.register} was read as {read.value}, which nobody wrote"]
    if write.began_s > read.ended_s:
        return [f"{read.register} was read as {read.value} before that was sent"]
    if write.sequence is None:
        return [f"{read.register} was read as {read.value}, which no node has in its log"]
    return []


def _stale(reads: Sequence[tuple[Read, int]], writes: Sequence[tuple[Write, float]]) -> list[str]:
    """Compare each read with the newest write that had ended when it began."""
    closed = sorted((end_s, write.sequence or 0) for write, end_s in writes if end_s < math.inf)
    times = [end_s for end_s, _ in closed]
    newest: list[int] = []
    for _, sequence in closed:
        newest.append(max(sequence, newest[-1] if newest else 0))
    values = {write.sequence: write.value for write, _ in writes}
    faults = []
    for read, sequence in reads:
        ended = bisect_left(times, read.began_s)
        if ended and sequence < (expected := newest[ended - 1]):
            late_ms = (read.began_s - times[newest.index(expected)]) * 1_000
            faults.append(
                f"{STALE} {read.register}: {read.value} ({sequence}) although {values[expected]} ({expected}) "
                f"had been acknowledged {late_ms:.1f} ms before it began (at {read.began_s:.3f})"
            )
    return faults


def _backwards(reads: Sequence[tuple[Read, int]], writes: Sequence[tuple[Write, float]]) -> list[str]:
    """Reads that no open write overlaps, in the order in which they began, against those that ended before them."""
    spans = _united([(write.began_s, end_s) for write, end_s in writes])
    starts = [start_s for start_s, _ in spans]
    quiet = []
    for read, sequence in reads:
        before = bisect_right(starts, read.ended_s)
        if not before or spans[before - 1][1] < read.began_s:
            quiet.append((read, sequence))
    faults = []
    by_end = sorted(quiet, key=lambda pair: pair[0].ended_s)
    done, seen = 0, 0
    for read, sequence in sorted(quiet, key=lambda pair: pair[0].began_s):
        while done < len(by_end) and by_end[done][0].ended_s < read.began_s:
            seen = max(seen, by_end[done][1])
            done += 1
        if sequence < seen:
            faults.append(f"{read.register} went backwards from {seen} to {sequence} (at {read.began_s:.3f})")
    return faults


def _united(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The same times as spans that do not overlap, in order."""
    united: list[tuple[float, float]] = []
    for start_s, end_s in sorted(spans):
        if united and start_s <= united[-1][1]:
            united[-1] = (united[-1][0], max(united[-1][1], end_s))
        else:
            united.append((start_s, end_s))
    return united
