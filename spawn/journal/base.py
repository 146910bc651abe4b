"""The journal's contract: one ordered, durable log of updates, and a position per consumer.

There is one log for all nodes, not a copy per node. A *consumer* is whoever reads the log in order (a node, but the
journal knows only its id). Sequences start at 1 and have no gaps. The suite in ``tests/contract`` runs over every
backend and is the other half of this text.

Invariants that every backend keeps:

* An ``append`` that returned is durable (as far as the backend's durability goes) and will be read by everybody.
* Publication: the ``publish`` callback given to ``start`` gets whole batches, in sequence order, on the hub, in one
  call per batch and without a gap, after they are durable and **before** the ``append`` calls of the batch return.
* ``advance``, ``settle``, ``record`` and ``note_action`` are queued and become durable in the order of their calls,
  within about 50 ms, with the next batch if one comes first. ``wait_durable`` waits for that.
* ``positions``, ``reference``, ``read``, ``fate`` and ``outcomes`` show what is queued at once, durable or not.
* A disk that hangs keeps nobody for ever: what has to read it, and what says so, raises ``JournalSlow``.
* After a commit of unknown outcome every call raises ``JournalBroken`` and ``on_broken`` is called once.
  After ``stop`` every call raises ``JournalError``. The properties, ``usage``, ``answers`` and ``stop`` itself always
  work.
* ``publish`` and ``on_broken`` must not block, and must not call ``stop``.
* A call that makes no sense (a position beyond the head, an empty range) raises ``ValueError``: a bug, not an outcome.
* All calls are made on the hub's thread; none blocks it: a call that needs the disk only blocks its greenlet.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from msgspec import Struct

INLINE_BODY_BYTES = 262_144  # larger bodies are files
MAX_ACTIONS = 1_000  # of operators that are remembered


class FileBody(Struct, frozen=True):
    """A body that lies in a file.

    Given to ``append``, the file must lie in ``spool_path()``. It belongs to the journal from the call on, whatever
    comes of it: it is moved into the journal, or deleted when ``append`` raises.
    """

    path: str
    size: int


Body = bytes | FileBody | None  # None: the request had no body at all, which is not the same as an empty one


class NewUpdate(Struct, frozen=True):
    """An update as a client sent it, cleaned for forwarding."""

    method: bytes
    target: bytes
    head: bytes  # header lines, each ended by CRLF, without framing, hop-by-hop and Spawn-* ones
    body: Body
    key: bytes | None = None  # the client's Idempotency-Key (which then is in ``head`` too)


class Entry(Struct, frozen=True):
    """An update with its place in the one order."""

    sequence: int
    time_s: float  # Unix time of the append; never runs backwards within one journal
    method: bytes
    target: bytes
    head: bytes
    body: Body
    key: bytes | None
    reference: int | None  # status of the reference answer, when it was known as this entry was read


class Outcome(enum.Enum):
    """What became of an update on one node, where it was not simply applied."""

    REFUSED = "refused"
    SKIPPED = "skipped"
    REJECTED = "rejected"
    DROPPED = "dropped"
    UNKNOWN = "unknown"


class Range(NamedTuple):
    """``first … last``, both included."""

    first: int
    last: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Action:
    """What an operator did to updates of one consumer's queue."""

    time_s: float
    consumer: str
    verb: str
    peer: str  # who asked


@dataclass(frozen=True, slots=True)
class Backup:
    """A copy that was made."""

    path: str
    head: int  # the last update in it
    size_bytes: int  # of its files, linked bodies included


@dataclass(frozen=True, slots=True)
class Fate:
    """What is known of one update; holds no header, body or query string."""

    sequence: int
    time_s: float
    method: str
    path: str
    reference: int | None
    outcomes: dict[str, Outcome]  # consumer id → outcome; a consumer that is absent has no exception recorded
    actions: tuple[Action, ...] = ()  # the oldest first


Published = tuple[Entry, Any]  # the entry and the token that was given to append
Publish = Callable[[Sequence[Published]], None]


class Usage(Struct, frozen=True):
    """How full the journal is."""

    used_bytes: int  # bodies included, uploads that are still being received not
    max_bytes: int


class Journal(Protocol):
    """See the module's text. ``start`` may raise ``JournalDamaged`` or ``StateError``."""

    @property
    def uuid(self) -> str:
        """Identity of this log, made when it was created."""

    @property
    def head(self) -> int:
        """The last durable sequence, 0 for an empty log."""

    @property
    def tail(self) -> int:
        """The first sequence whose entry can still be read; ``head + 1`` when none can."""

    @property
    def records_tail(self) -> int:
        """The first sequence whose record is kept; records go after their entries, and the newest one stays."""

    @property
    def broken(self) -> bool: ...

    def start(self, publish: Publish, on_broken: Callable[[str], None]) -> None: ...

    def stop(self, deadline_s: float) -> None:
        """Make durable what is queued, then close. May be called twice."""

    def append(self, update: NewUpdate, token: Any = None) -> int:
        """Append, wait until durable and published, return the sequence.

        Raises ``JournalFull`` (nothing was written), ``JournalBroken`` (it may have been written or not) or
        ``JournalSlow`` (it may still be, and is published then). When the
        waiting greenlet is killed, the update may still be committed, and then is published with its token.
        """

    def read(self, after: int, max_entries: int, max_bytes: int) -> list[Entry]:
        """Entries ``after + 1 …`` in order, without a gap; at least one if there is one, whatever ``max_bytes`` says.

        Heads, targets and inline bodies count against ``max_bytes``. Fewer than asked for may come; none only at the
        head. Raises ``Pruned`` when ``after + 1`` is below the tail, ``JournalDamaged`` when the stored bytes are not
        those that were written.
        """

    def entry(self, sequence: int) -> Entry | None:
        """One entry, also one kept below the tail because it was refused or skipped, or its fate is unknown.

        None for a sequence that was never given; ``Pruned`` when the entry is gone.
        """

    def fate(self, sequence: int) -> Fate | None:
        """None for a sequence that was never given; ``Pruned`` for one whose record is gone."""

    def reference(self, sequence: int) -> int | None:
        """Status of the reference answer, or None when there is none (or no record) yet."""

    def positions(self) -> dict[str, int]:
        """Every consumer's position: all entries up to it are done with."""

    def advance(self, consumer: str, position: int) -> None:
        """Queue a consumer's progress. Never backwards: use ``set_position`` for that.

        Ignored for a consumer that is not known (its worker may outlive it by a moment).
        """

    def settle(self, sequence: int, status: int) -> None:
        """Queue the reference answer's status of an update. The first one stands; ignored when its record is gone."""

    def record(self, consumer: str, first: int, last: int, outcome: Outcome | None) -> None:
        """Queue the outcome of ``first … last`` (inclusive) on one consumer; None takes it back.

        What was recorded before for a part of the range is replaced.
        """

    def outcomes(self, consumer: str, after: int) -> list[Range]:
        """What is recorded for a consumer from ``after + 1`` on, in order; equal neighbours are one range.

        Nothing is shown of updates whose record is gone.
        """

    def note_action(self, consumer: str, first: int, last: int, verb: str, peer: str) -> None:
        """Queue that an operator did this to ``first … last`` of a consumer; ``fate`` shows it.

        Kept as long as the records, and at most ``MAX_ACTIONS`` of them: the oldest go.
        """

    def wait_durable(self, consumer: str, position: int, timeout_s: float) -> bool:
        """Wait until the consumer's durable position has reached ``position``; False when time ran out."""

    def flush(self, timeout_s: float) -> bool:
        """Make everything queued so far durable now; False when time ran out (it stays queued)."""

    def durable_position(self, consumer: str) -> int:
        """The position that would be found after a crash now; 0 for an unknown consumer."""

    def set_position(self, consumer: str, position: int) -> None:
        """Put a consumer anywhere from 0 to the head, durable on return. This is how a consumer becomes known.

        Raises ``JournalFull`` when the disk had no room even for this, ``JournalSlow`` when it hangs: it holds, and
        becomes durable later.
        """

    def forget(self, consumer: str) -> None:
        """Remove a consumer and its position, durable on return. Its outcomes stay. Raises as ``set_position``."""

    def prune(self, entries_upto: int, entries_before_s: float, records_before_s: float, limit: int) -> int | None:
        """One small step of pruning, at most ``limit`` of each kind; 0 when nothing is left to do, else how many.

        What is queued becomes durable first, so ``entries_upto`` may be taken from ``positions``. None: a backup came
        first, and was waited for at most some seconds; ask again, with what is true now.

        Entries (bodies, heads) up to ``entries_upto`` go that are older than ``entries_before_s``; their records
        (time, method, path, reference, outcomes) stay until they are older than ``records_before_s``. Updates that a
        consumer refused, skipped or left unknown keep their entries until then too (see ``entry``), below the tail.
        The newest record always stays. In a restored journal, no entry counts as older than that start.
        """

    def backup(self, directory: str) -> Backup:
        """Make a consistent copy of everything durable in a new directory; commits go on meanwhile, pruning waits.

        What is appended late in a backup may not be in it. The copy is marked: it must be started as a restored one,
        which gives it a new ``uuid``. Raises ``JournalError`` when it cannot be made, with what was made removed.
        """

    def usage(self) -> Usage: ...

    def answers(self, timeout_s: float) -> bool:
        """Whether whatever does the work does it: an empty piece of work came back within ``timeout_s``.

        Also while a long piece is seen to go on, and where there is nothing to do the work (any more). May be asked
        from before ``start`` has returned until after ``stop``.
        """

    def spool_path(self) -> str:
        """The directory where a ``FileBody`` must lie to be moved in by rename; made by ``start``."""
