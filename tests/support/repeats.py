"""Why a node was given an update again: judged by when Spawn was killed and when the node died or was paused. Pure.

Each repeat needs a reason, and each reason is narrow (all times are of one machine's clock):

* ``DIED``: the application before it was not answered when the node died. One update for each death.
* ``TIMED_OUT``: it was not answered within ``deliver_s`` of the earliest moment at which it can have been sent. A
  paused node reads what was sent to it only when it goes on, so that moment may be the beginning of the pause. One
  update for each pause, and one more for each kill of Spawn in it.
* ``WINDOW``: the two were sent by different processes of Spawn with a kill between them, and at most ``window`` updates
  were applied from this one on. A clean stop excuses nothing, and no process excuses a second time.
* ``UNEXPLAINED``: a fault.

Besides, what one process of Spawn delivers to a node ascends: repeats keep the order and precede what is new. Only what
was sent to a paused node may be carried out late: it was in a buffer, and newer ones were taken up first.
"""

from __future__ import annotations

import enum
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.support.history import WINDOW, Applied

PATIENCE = 0.9  # of ``deliver_s``: the node's clock starts a little later than Spawn's
SETTLE_S = 2.0  # within this a node that goes on has read what had piled up


class Reason(enum.Enum):
    DIED = "node died in doubt"
    TIMED_OUT = "delivery timed out"
    WINDOW = "crash window"
    UNEXPLAINED = "unexplained"


@dataclass(frozen=True, slots=True)
class Life:
    """One process of Spawn. ``killed``: it did not end in order."""

    started_s: float
    killed: bool


@dataclass(frozen=True, slots=True)
class Pause:
    """Of one node; from before it was stopped until after it went on, or was killed."""

    began_s: float
    ended_s: float


@dataclass(frozen=True, slots=True)
class Repeat:
    applied: Applied
    reason: Reason


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was done to Spawn and its nodes. ``kills_s``: when Spawn was killed; ``pauses``: by node."""

    lives: Sequence[Life]
    kills_s: Sequence[float]
    pauses: Mapping[str, Sequence[Pause]]
    deliver_s: float
    window: int = WINDOW

    def judge(self, node: str, log: Sequence[Applied]) -> list[str]:
        inquiry = _Inquiry(self, self.pauses.get(node, ()))
        faults = []
        for repeat in inquiry.run(log):
            if repeat.reason is Reason.UNEXPLAINED:
                applied = repeat.applied
                faults.append(f"{node}: {applied.update} (sequence {applied.sequence}) was repeated without an excuse")
        return faults + [f"{node}: {fault}" for fault in inquiry.faults]

    def repeats(self, node: str, log: Sequence[Applied]) -> list[Repeat]:
        return _Inquiry(self, self.pauses.get(node, ())).run(log)

    def late_items(self, node: str, log: Sequence[Applied]) -> set[str]:
        """Items whose newest update was overwritten by an older one that the node carried out late."""
        inquiry = _Inquiry(self, self.pauses.get(node, ()))
        repeated = {id(r.applied) for r in inquiry.run(log) if r.reason is not Reason.UNEXPLAINED}
        newest: dict[str, int] = {}
        late: set[str] = set()
        for applied in log:
            item, sequence = item_of(applied), applied.sequence or 0
            if sequence >= newest.get(item, 0):
                newest[item] = sequence
                late.discard(item)
            elif id(applied) in repeated and inquiry.was_slow(applied):
                late.add(item)
        return late


def item_of(applied: Applied) -> str:
    """The item that a logging node's store changes."""
    method, target = applied.update.split(" ")[:2]
    return f"item-{applied.sequence}" if method == "POST" else target.removeprefix("/items/")


@dataclass(slots=True)
class _Inquiry:
    """One walk along the log of one node."""

    evidence: Evidence
    pauses: Sequence[Pause]
    faults: list[str] = field(default_factory=list)
    _rank: dict[str, int] = field(default_factory=dict)
    _last: dict[str, Applied] = field(default_factory=dict)
    _deaths_used: set[int] = field(default_factory=set)
    _doubted: dict[Pause, set[str]] = field(default_factory=dict)
    _reached: dict[int, int] = field(default_factory=dict)  # by process of Spawn: the sequence it had come to

    def run(self, log: Sequence[Applied]) -> list[Repeat]:
        found = []
        for applied in log:
            before = self._last.get(applied.update)
            reason = None if before is None else self._why(before, applied)
            if before is None:
                self._rank[applied.update] = len(self._rank)
            elif reason is not None:
                self._same(before, applied)
                found.append(Repeat(applied, reason))
            self._ascends(applied, reason)
            self._last[applied.update] = applied
        return found

    def _same(self, before: Applied, applied: Applied) -> None:
        if before.key != applied.key or before.sequence != applied.sequence:
            self.faults.append(f"{applied.update} was repeated under another Idempotency-Key or Spawn-Sequence")

    def _why(self, before: Applied, applied: Applied) -> Reason:
        if not before.answered and before.run < applied.run and before.run not in self._deaths_used:
            self._deaths_used.add(before.run)
            return Reason.DIED
        if self._timed_out(before, applied):
            return Reason.TIMED_OUT
        if self._in_window(before, applied):
            return Reason.WINDOW
        return Reason.UNEXPLAINED

    def _pause_behind(self, applied: Applied) -> Pause | None:
        """The pause in which this may have been sent, although it was received behind it."""
        for pause in self.pauses:
            if pause.began_s <= applied.received_s <= pause.ended_s + SETTLE_S:
                return pause
        return None

    def _sent_s(self, applied: Applied) -> float:
        """The earliest moment at which Spawn can have sent it."""
        pause = self._pause_behind(applied)
        return pause.began_s if pause else applied.received_s

    def was_slow(self, applied: Applied) -> bool:
        """Whether it may have been carried out when Spawn no longer waited for it."""
        waited_s = applied.time_s - self._sent_s(applied)
        return self._pause_behind(applied) is not None or waited_s >= self.evidence.deliver_s * PATIENCE

    def _timed_out(self, before: Applied, applied: Applied) -> bool:
        if before.run != applied.run:
            return False
        sent_s, patience_s = self._sent_s(before), self.evidence.deliver_s * PATIENCE
        ended_s = applied.time_s if before.ended_s is None else min(before.ended_s, applied.time_s)
        if ended_s - sent_s < patience_s:
            return False
        pause = self._pause_behind(before)
        if pause is None:
            return True  # the node itself was as slow as that
        doubted = self._doubted.setdefault(pause, set())
        doubted.add(applied.update)
        kills = sum(pause.began_s <= kill_s <= pause.ended_s for kill_s in self.evidence.kills_s)
        if len(doubted) <= 1 + kills:
            return True
        doubted.discard(applied.update)
        return False

    def _in_window(self, before: Applied, applied: Applied) -> bool:
        possible = [*self._senders(before), *self._senders(applied)]
        first, last = min(possible), max(possible)
        killed = any(life.killed for life in self.evidence.lives[first:last])
        return killed and len(self._rank) - self._rank[applied.update] <= self.evidence.window

    def _senders(self, applied: Applied) -> range:
        """The processes of Spawn that can have sent it; a request outlives its sender in the buffers of a node."""
        return range(self._life_at(self._sent_s(applied)), self._life_at(applied.received_s) + 1)

    def _life_at(self, time_s: float) -> int:
        """The process that was started last. A new one delivers nothing before it has been started."""
        return max(bisect_right([life.started_s for life in self.evidence.lives], time_s) - 1, 0)

    def _ascends(self, applied: Applied, reason: Reason | None) -> None:
        senders = self._senders(applied)
        if len(senders) != 1 or reason in (Reason.TIMED_OUT, Reason.UNEXPLAINED):
            return
        (life,) = senders
        sequence, reached = applied.sequence or 0, self._reached.get(life, 0)
        if sequence < reached:
            self.faults.append(
                f"{applied.update} (sequence {sequence}) was delivered after {reached} by the same process"
            )
        self._reached[life] = max(sequence, reached)
