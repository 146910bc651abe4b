"""Why a node was given an update again: judged by who sent it, and by when Spawn and the node came to an end. Pure.

Each process of Spawn marks what it sends, so it is known who sent an application, however late the node read it; times
(of one machine's clock) decide nothing else. Each repeat needs a reason, and each reason is narrow:

* ``DIED``: the application before it was not answered when the node died. One update for each death.
* ``TIMED_OUT``: the application before it was not answered within ``deliver_s`` of the earliest moment at which it can
  have been sent: when the node had applied what the same process had sent it before, or was started. A paused node
  excuses one update of each process, therefore.
* ``WINDOW``: the two were sent by different processes of Spawn with a kill between them, and at most ``window`` updates
  were applied from this one on. A clean stop excuses nothing, and no process excuses a second time.
* ``CUT``: the process that sent the application before it had ended when the node answered. Also after a clean stop,
  which does not wait for ever.
* ``UNEXPLAINED``: a fault.

Besides, what one process of Spawn delivers to a node ascends: repeats keep the order and precede what is new. Only what
was given up may be carried out late: it was in a buffer of the node, and newer ones were taken up first.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.support.history import WINDOW, Applied

PATIENCE = 0.9  # of ``deliver_s``: the clocks of processes are read a little apart


class Reason(enum.Enum):
    DIED = "node died in doubt"
    TIMED_OUT = "delivery timed out"
    WINDOW = "crash window"
    CUT = "cut by a stop"
    UNEXPLAINED = "unexplained"


@dataclass(frozen=True, slots=True)
class Life:
    """One process of Spawn; from before it was started until it surely had ended. ``killed``: not in order."""

    started_s: float
    ended_s: float
    killed: bool


@dataclass(frozen=True, slots=True)
class Repeat:
    applied: Applied
    reason: Reason


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was done to Spawn. ``Applied.life`` is a place in ``lives``."""

    lives: Sequence[Life]
    deliver_s: float
    window: int = WINDOW

    def judge(self, node: str, log: Sequence[Applied]) -> list[str]:
        inquiry = _Inquiry(self)
        faults = []
        for repeat in inquiry.run(log):
            if repeat.reason is Reason.UNEXPLAINED:
                applied = repeat.applied
                faults.append(f"{node}: {applied.update} (sequence {applied.sequence}) was repeated without an excuse")
        return faults + [f"{node}: {fault}" for fault in inquiry.faults]

    def repeats(self, log: Sequence[Applied]) -> list[Repeat]:
        return _Inquiry(self).run(log)

    def late_items(self, log: Sequence[Applied]) -> set[str]:
        """Items whose newest update was overwritten by an older one that the node carried out late.

        Late is what was sent before something that had been carried out by then, and has an excuse to be a repeat.
        """
        excused = {id(r.applied) for r in self.repeats(log) if r.reason is not Reason.UNEXPLAINED}
        newest: dict[str, int] = {}
        furthest = (0, 0)
        late: set[str] = set()
        for applied in log:
            item, sequence = item_of(applied), applied.sequence or 0
            if sequence >= newest.get(item, 0):
                newest[item] = sequence
                late.discard(item)
            elif id(applied) in excused and (applied.life, sequence) < furthest:
                late.add(item)
            furthest = max(furthest, (applied.life, sequence))
        return late


def item_of(applied: Applied) -> str:
    """The item that a logging node's store changes."""
    method, target = applied.update.split(" ")[:2]
    return f"item-{applied.sequence}" if method == "POST" else target.removeprefix("/items/")


@dataclass(slots=True)
class _Course:
    """How far one process of Spawn had come with this node."""

    sequence: int = 0
    applied_s: float = 0.0  # when the node had first applied that


@dataclass(slots=True)
class _Inquiry:
    """One walk along the log of one node."""

    evidence: Evidence
    faults: list[str] = field(default_factory=list)
    _rank: dict[str, int] = field(default_factory=dict)
    _last: dict[str, Applied] = field(default_factory=dict)
    _deaths_used: set[int] = field(default_factory=set)
    _courses: dict[int, _Course] = field(default_factory=dict)  # by process of Spawn
    _sent_s: dict[tuple[int, str], float] = field(default_factory=dict)  # the earliest; by process and update

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
            self._follow(applied, reason)
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
        if (applied.life, applied.update) in self._sent_s:
            return Reason.UNEXPLAINED  # twice by the same process
        if self._in_window(before, applied):
            return Reason.WINDOW
        if self._cut(before, applied):
            return Reason.CUT
        return Reason.UNEXPLAINED

    def _timed_out(self, before: Applied, applied: Applied) -> bool:
        if applied.life < before.life:  # read late, or twice
            sent_s = self._sent_s.get((applied.life, applied.update), applied.time_s)
            return self._given_up(min(applied.time_s, self.evidence.lives[applied.life].ended_s) - sent_s)
        if before.ended_s is None:
            return False  # the node died first
        return self._given_up(min(before.ended_s, applied.time_s) - self._sent_s[before.life, before.update])

    def _given_up(self, waited_s: float) -> bool:
        return waited_s >= self.evidence.deliver_s * PATIENCE

    def _in_window(self, before: Applied, applied: Applied) -> bool:
        lives = self.evidence.lives
        if applied.life < before.life:  # read late; it is the last that its process sent, or it does not ascend
            return lives[applied.life].killed
        killed = any(life.killed for life in lives[before.life : applied.life])
        return killed and len(self._rank) - self._rank[applied.update] <= self.evidence.window

    def _cut(self, before: Applied, applied: Applied) -> bool:
        earlier = min(before, applied, key=lambda sent: sent.life)
        return earlier.ended_s is None or earlier.ended_s > self.evidence.lives[earlier.life].ended_s

    def _follow(self, applied: Applied, reason: Reason | None) -> None:
        """Note how far the process has come that sent this; it must not go back."""
        course, sequence = self._courses.setdefault(applied.life, _Course()), applied.sequence or 0
        began_s = max(self.evidence.lives[applied.life].started_s, applied.started_s)
        self._sent_s.setdefault((applied.life, applied.update), max(began_s, course.applied_s))
        if sequence > course.sequence:
            course.sequence, course.applied_s = sequence, applied.time_s
        elif sequence < course.sequence and reason not in (Reason.TIMED_OUT, Reason.UNEXPLAINED):
            self.faults.append(
                f"{applied.update} (sequence {sequence}) was delivered after {course.sequence} by the same process"
            )
