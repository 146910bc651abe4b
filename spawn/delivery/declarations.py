"""Saying durably what is about to be sent, where an unknown fate is not simply resolved by sending again.

With ``delivery.ambiguous`` = ``hold`` or ``skip`` an update that is not idempotent is declared (its outcome is recorded
as unknown) before it is sent, and its own outcome is durable before the next update is sent. So a declaration that a
new worker finds is an unknown fate, also after a ``kill -9``.
"""

from __future__ import annotations

from spawn.delivery.attempt import WorkerSettings
from spawn.delivery.policy import IDEMPOTENT, Trial, Verdict
from spawn.errors import JournalFull
from spawn.journal.base import Entry, Journal, Outcome
from spawn.nodes.node import Node

FLUSH_S = 30.0


class Declarations:
    """Those of one worker."""

    def __init__(self, node: Node, journal: Journal, settings: WorkerSettings) -> None:
        self._node = node
        self._journal = journal
        self._settings = settings
        self._began = 0  # the first update of this worker: an earlier one may have declared it
        self._first = 0  # the same, until it was looked up
        self._declared = 0
        self._settled = True  # what was declared has its outcome, durably

    def begin(self) -> None:
        """At the node's position."""
        self._first = self._began = self._node.position + 1

    def begin_again(self) -> None:
        """With the update at hand, whose declaration is to be looked up."""
        self._first = self._node.position + 1

    def declare(self, entry: Entry, trial: Trial) -> tuple[Verdict, float | None] | None:
        """Before each attempt. A verdict instead of the attempt, and how long to wait (None: the back-off's wait)."""
        if self._settings.delivery.ambiguous == "resend":
            return None
        if trial.method in IDEMPOTENT:  # what was declared before has its outcome first, or a crash would doubt it
            return None if self._settled or self._make_durable() else (Verdict.RETRY, None)
        node, first = self._node, 0
        if not trial.attempts:
            first = self._first
            found = entry.sequence == first and self._is_declared(entry)
            self._first = 0  # from now on a declaration is this worker's own
            if not found:
                trial.repeat = entry.sequence == first and node.in_doubt  # resumed, so it is sent
            else:
                trial.repeat = node.in_doubt = True
                if not node.resend:
                    trial.attempts += 1  # so that it is sent when the operator says so
                    return trial.fate_unknown(node.healthy), None
        self._journal.record(node.id, entry.sequence, entry.sequence, Outcome.UNKNOWN)
        self._declared = entry.sequence
        if not self._make_durable():
            self._first = first or self._first  # all of this again; it was not sent
            return Verdict.RETRY, None
        node.resend = False
        return None

    def take_back(self, entry: Entry) -> None:
        """It was surely not sent, or got its answer: a restart now must not take the declaration for a doubt."""
        if self._declared == entry.sequence and not self._node.in_doubt:
            self._declared = 0
            self._journal.record(self._node.id, entry.sequence, entry.sequence, None)

    def conclude(self, sequence: int, outcome: Outcome | None) -> None:
        """The update is done with; also where a reload has come meanwhile, and nothing is declared any more."""
        if outcome is not None or sequence in (self._declared, self._began):
            self._journal.record(self._node.id, sequence, sequence, outcome)
            self._settled = False

    def _is_declared(self, entry: Entry) -> bool:
        fate = self._journal.fate(entry.sequence)
        return fate is not None and fate.outcomes.get(self._node.id) is Outcome.UNKNOWN

    def _make_durable(self) -> bool:
        try:
            self._settled = self._journal.flush(FLUSH_S)
        except JournalFull:
            self._settled = False
        return self._settled
