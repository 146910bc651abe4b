"""The small changes that wait for the next commit: positions, references, outcomes.

They say what shall be, not what to do, so many of them coalesce to few and applying one twice does no harm. A commit
always takes all of them: that keeps the order of calls without remembering it. A whole set that could not be committed
is put back in front of what came since.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gevent.event import AsyncResult

from spawn.journal.base import Outcome
from spawn.journal.outcomes import Change


@dataclass(slots=True)
class Notes:
    """One set of changes and who waits for it; a waiter's result is set once the set is durable."""

    positions: dict[str, int | None] = field(default_factory=dict)  # None: the consumer is forgotten
    settled: dict[int, int] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    waiters: list[AsyncResult[None]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.positions or self.settled or self.changes or self.waiters)

    def settle(self, sequence: int, status: int) -> None:
        self.settled.setdefault(sequence, status)

    def change(self, new: Change) -> None:
        """Add one; a run of equal outcomes of neighbours becomes one range."""
        if self.changes:
            last = self.changes[-1]
            if (last.consumer, last.outcome, last.last + 1) == (new.consumer, new.outcome, new.first):
                self.changes[-1] = last._replace(last=new.last)
                return
        self.changes.append(new)

    def then(self, later: Notes) -> Notes:
        """Both in one."""
        return Notes(
            self.positions | later.positions,
            later.settled | self.settled,  # the first one stands
            self.changes + later.changes,
            self.waiters + later.waiters,
        )

    def outcomes(self, sequence: int, known: dict[str, Outcome]) -> dict[str, Outcome]:
        """``known`` outcomes of one sequence as these changes leave them."""
        after = dict(known)
        for change in self.changes:
            if change.first <= sequence <= change.last:
                if change.outcome is None:
                    after.pop(change.consumer, None)
                else:
                    after[change.consumer] = change.outcome
        return after
