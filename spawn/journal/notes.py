"""The small changes that wait for the next commit: positions, references, outcomes, actions.

They say what shall be, not what to do, so many of them coalesce to few and applying one twice does no harm. A commit
always takes all of them: that keeps the order of calls without remembering it. A whole set that could not be committed
is put back in front of what came since.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from gevent.event import AsyncResult

from spawn.journal.base import MAX_ACTIONS, Action, Outcome, Range
from spawn.journal.outcomes import Change, lay_over


class NotedAction(NamedTuple):
    """One call of ``Journal.note_action``; the number tells it from others wherever it is met, queued or stored."""

    number: int
    first: int
    last: int
    action: Action


@dataclass(slots=True)
class Notes:
    """One set of changes and who waits for it; a waiter's result is set once the set is durable."""

    positions: dict[str, int | None] = field(default_factory=dict)  # None: the consumer is forgotten
    settled: dict[int, int] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    actions: list[NotedAction] = field(default_factory=list)
    waiters: list[AsyncResult[None]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return self.has_changes or bool(self.waiters)

    @property
    def has_changes(self) -> bool:
        return bool(self.positions or self.settled or self.changes or self.actions)

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

    def act(self, new: NotedAction) -> None:
        self.actions.append(new)
        del self.actions[:-MAX_ACTIONS]

    def then(self, later: Notes) -> Notes:
        """Both in one."""
        return Notes(
            self.positions | later.positions,
            later.settled | self.settled,  # the first one stands
            self.changes + later.changes,
            (self.actions + later.actions)[-MAX_ACTIONS:],
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

    def ranges(self, consumer: str, known: Iterable[Range]) -> list[Range]:
        """``known`` ranges of one consumer as these changes leave them."""
        after = list(known)
        for change in self.changes:
            if change.consumer == consumer:
                after = lay_over(after, change.first, change.last, change.outcome)
        return after

    def actions_on(self, sequence: int) -> dict[int, Action]:
        """By number."""
        return {noted.number: noted.action for noted in self.actions if noted.first <= sequence <= noted.last}
