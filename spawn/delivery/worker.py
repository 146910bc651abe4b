"""The worker of one node: takes the updates in order and does not go on before each is done with.

One greenlet, one update in hand. What an outcome means is ``policy``'s decision; the worker carries it out: it sends,
offers the answer to the reference board, waits its back-off and moves the position. It waits for nobody but its own
node, except that an answer which is not good waits for the reference, at most ``timeouts.answer``.

Invariants: the position only moves from N to N + 1, after N is done with on this node; at most ``WINDOW`` updates are
delivered beyond the position that would be found after a crash.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import gevent
from gevent.event import Event
from msgspec import structs

from spawn.counters import Counters
from spawn.delivery.answers import ReferenceBoard
from spawn.delivery.attempt import Sender, WorkerSettings
from spawn.delivery.declarations import Declarations
from spawn.delivery.feed import Feed
from spawn.delivery.outage import Patience
from spawn.delivery.outgoing import effective_method
from spawn.delivery.policy import Backoff, Trial, Verdict, is_good
from spawn.delivery.refusals import Blame
from spawn.delivery.retries import End, Retries
from spawn.delivery.texts import counted, queue_of, retry_of
from spawn.errors import JournalDamaged, JournalError, JournalSlow, Pruned
from spawn.http11.client import Client
from spawn.journal.base import Entry, Journal, Outcome
from spawn.nodes.node import Node, NodeState

log = logging.getLogger("spawn.delivery")

WINDOW = 64  # updates beyond the durable position
IDLE_S = 30.0  # how long a worker sleeps when there is nothing to do and nobody wakes it
PROBE_S = 30.0  # a held node is tried this often
HOLD_AFTER = 3  # refusals in a row
STORE_S = 30.0  # how long a node waits for its flags to be stored
STORE_RETRY_S = 1.0
FAULT_PAUSE_S = 5.0  # after an error in Spawn itself


@dataclass(frozen=True, slots=True)
class WorkerEvents:
    """What a worker tells the fleet; all are called on the hub and do not block."""

    advanced: Callable[[Node], None]
    changed: Callable[[Node], None]  # a flag of the node: it has to be stored and reads chosen anew
    suspect: Callable[[Node], None]  # the node behaves as if its health had changed
    gives_up: Callable[[Node, int], Blame]  # on an update that nobody is known to have applied
    differs: Callable[[Node], None]  # the node surely does not have what others have, or the other way round
    store: Callable[[], bool]  # the flags, now; whether they are on disk. This one blocks
    flagged: Callable[[Node, int], None]  # the node goes on without an update that others may have applied
    skips: Callable[[Node, int], bool]  # whether an operator has taken the update out of the node's queue
    retracts: Callable[[Node, int], None]  # the node has not given the update up after all


class Worker:
    def __init__(
        self,
        node: Node,
        journal: Journal,
        client: Client,
        board: ReferenceBoard,
        settings: WorkerSettings,
        events: WorkerEvents,
        counters: Counters,
    ) -> None:
        self.node = node
        self._journal = journal
        self._board = board
        self._settings = settings
        self._events = events
        self._counters = counters
        self._feed = Feed(journal)
        self._backoff = Backoff()
        self._sender = Sender(node, journal, client, board, settings, counters, self._backoff, events.suspect)
        self._stopping = False
        self._waken = Event()
        self._retries = Retries(
            node,
            journal,
            board,
            self._sender,
            counters,
            retracts=events.retracts,
            differs=events.differs,
            changed=events.changed,
        )
        self._vindicated = 0
        self._postponed = 0  # the update that is kept because of an outage
        self._declarations = Declarations(node, journal, settings)
        self._waits_for_disk = False
        self._held_for = ""
        self._resumed = False
        self._greenlet: gevent.Greenlet[..., None] | None = None

    def start(self) -> None:
        """Begin at the node's position."""
        self._declarations.begin()
        self._greenlet = gevent.spawn(self._run)

    def stop(self, deadline_s: float) -> bool:
        """Let the delivery in flight finish, for at most ``deadline_s`` seconds; False when it was cut then."""
        self._stopping = True
        self._retries.close()
        self.wake()
        greenlet = self._greenlet
        if greenlet is None:
            return True
        greenlet.join(timeout=deadline_s)
        finished = greenlet.ready()
        greenlet.kill(block=True, timeout=1.0)
        return finished or self.node.attempts == 0

    def offer(self, entry: Entry) -> None:
        self._feed.offer(entry)

    def wake(self) -> None:
        """Cut a wait short: there is reason to try again now."""
        self._backoff.reset()
        self._waken.set()
        self._feed.wake()

    def resume(self) -> None:
        """An operator says that the node is well again: what it did before no longer counts."""
        self._resumed = True
        self.wake()

    def retry(self, sequence: int) -> End:
        """Deliver an update once more that the node is done with; see ``Retries.ask``."""
        end = self._retries.ask(sequence)
        self._waken.set()
        self._feed.wake()
        return end

    # -- the loop

    def _run(self) -> None:
        try:
            self._go_on()
        finally:
            self._retries.leave()

    def _go_on(self) -> None:
        while not self._stopping:
            try:
                self._retries.carry_out()
                if self._events.skips(self.node, self.node.position + 1):  # it need not be readable
                    self._leave_out(self.node.position + 1)
                    continue
                entry = self._next()
                if entry is not None:
                    self._waits_for_disk = False
                    self._deliver(entry)
            except (Pruned, JournalDamaged) as lost:
                self._lose_place(lost)
                return
            except JournalSlow as slow:  # met while an update is looked up, before it is sent (again)
                if not self._waits_for_disk:
                    self._waits_for_disk = True
                    log.error("node %s: deliveries wait: %s", self.node.name, slow)
                self._begin_again(self.node.in_doubt)
            except JournalError as error:
                if not self._stopping and not self._journal.broken:
                    log.critical("node %s: deliveries stop: %s", self.node.name, error)
                return
            except Exception:  # a node without a worker would get nothing until the next start
                log.exception("an error in Spawn: a delivery to node %s failed; it is tried again", self.node.name)
                self._begin_again(in_doubt=True)

    def _lose_place(self, error: JournalError) -> None:
        node, number = self.node, self.node.position + 1
        log.critical(
            "node %s cannot be given update %d and is out of sync: %s; copy the data of a node that has the update and "
            'PUT %s {"position": its position}',
            node.name,
            number,
            error,
            queue_of(node.record),
        )
        node.out_of_sync = True
        self._events.changed(node)

    def _begin_again(self, in_doubt: bool) -> None:
        """After a pause, with the update at hand, which the node may have got already if that is ``in_doubt``."""
        if in_doubt:
            self.node.doubt_until = max(self.node.doubt_until, self.node.position + 1)
            self._declarations.begin_again()
        self._waken.clear()
        self._pause(FAULT_PAUSE_S)

    def _next(self) -> Entry | None:
        node = self.node
        beyond = node.position - self._journal.durable_position(node.id)
        if beyond >= WINDOW and not self._journal.wait_durable(node.id, node.position - WINDOW + 1, IDLE_S):
            return None
        if self._stopping or self._retries:
            return None
        entry = self._feed.next(node.position, IDLE_S)
        if entry is not None and node.state is not NodeState.SERVING:
            rate = self._settings.delivery.catch_up_rate
            self._pause(self._settings.pace.wait_s(node.id, rate, self._sender.last_sent_s, self._counters))
        return entry

    def _deliver(self, entry: Entry) -> None:
        """Try until this update is done with on this node, or the worker is told to stop."""
        trial = Trial(effective_method(entry), self._settings.delivery, repeat=entry.sequence <= self.node.doubt_until)
        patience = Patience(trial.limits.attempts_uncertain, time.monotonic())
        self.node.attempts = 0
        while not self._stopping:
            if self._events.skips(self.node, entry.sequence):
                self._leave_out(entry.sequence)
                return
            if entry.reference is None and entry.sequence <= self._board.forgotten:
                entry = structs.replace(entry, reference=self._journal.reference(entry.sequence))
            reference = self._board.reference_of(entry)
            if reference is not None and reference >= 500:
                self._pass_over(entry)
                return
            if self._vindicated == entry.sequence:
                self._give_up_with_all(entry)
                return
            if self._resumed:
                self._resumed = False
                trial.begin_anew()
            self._waken.clear()  # what wakes the worker during the attempt cuts the pause after it short
            if self._retries:
                self._retries.carry_out()
                continue  # it may have taken long: look anew
            trial.limits = self._settings.delivery  # a reload may have changed them
            verdict, wait_s = self._declarations.declare(entry, trial) or self._sender.attempt(entry, trial)
            if verdict is not Verdict.APPLIED and self._may_be_outage(entry, trial, patience, verdict):
                verdict = Verdict.RETRY
            done = self._conclude(entry, verdict)  # before the answer's body: its head has decided
            self._sender.await_carrier()
            if done:
                return
            self._declarations.take_back(entry)
            self._pause(wait_s if wait_s is not None else self._backoff.next_s())

    def _may_be_outage(self, entry: Entry, trial: Trial, patience: Patience, verdict: Verdict) -> bool:
        """The tries are used up, but everything seems to be out: then nothing is given up yet."""
        now_s, limit = time.monotonic(), trial.limits.attempts_uncertain
        patience.tried(trial.uncertain, now_s)
        if verdict is not Verdict.REFUSED or trial.uncertain < limit or self.node.held:
            return False
        outage_s = self._settings.delivery.outage
        if self._board.reference_of(entry) is not None or not patience.lasts(self._board.heard_s, outage_s, now_s):
            return False
        self._counters.add("delivery.postponed")
        trial.uncertain = 0
        if self._postponed != entry.sequence:
            self._postponed = entry.sequence
            log.error(
                "node %s: update %d was given to it %d times in vain (%s), and no node answers anything else: taken "
                "for an outage of all, so it is tried for up to %g s; DELETE %s/%d leaves it out",
                self.node.name,
                entry.sequence,
                self.node.attempts,
                self.node.last_error,
                outage_s,
                queue_of(self.node.record),
                entry.sequence,
            )
        return True

    def _conclude(self, entry: Entry, verdict: Verdict) -> bool:
        """Whether the update is done with."""
        if verdict is Verdict.APPLIED:
            self._counters.add("delivery.applied")
            if self.node.state is not NodeState.SERVING:
                self._counters.add("delivery.caught-up")
            self._finish(entry.sequence, None, took=self._sender.taken)
        elif verdict is Verdict.REJECTED:
            self._counters.add("delivery.rejected")
            self._finish(entry.sequence, None)
        elif verdict is Verdict.DIVERGED:
            self._diverge(f"it has applied update {entry.sequence}, which the others turned down")
            self._finish(entry.sequence, None, took=True)
        elif verdict is Verdict.SKIP:
            self._counters.add("delivery.skipped")
            what = f"it may lack update {entry.sequence}: it gave no answer, and delivery.ambiguous is skip"
            self._diverge(f"{what}; {retry_of(self.node.record, entry.sequence)}")
            self._finish(entry.sequence, Outcome.SKIPPED)
        elif verdict is Verdict.REFUSED:
            return self._refuse(entry)
        elif verdict is Verdict.HOLD:
            if self._held_for != "unknown":
                self.node.last_error = f"gave no answer to update {entry.sequence}"
            self._hold(
                entry,
                "unknown",
                "nobody knows whether it has applied it, and delivery.ambiguous is hold",
                "sends it again, {skip} leaves it out",
            )
            while self.node.held and not self._stopping:
                self._waken.clear()
                self._retries.carry_out()
                if self.node.held:
                    self._pause(IDLE_S)
            return False
        else:
            return False
        return True

    # -- its ends

    def _finish(self, sequence: int, outcome: Outcome | None, took: bool = False) -> None:
        """``took``: the node has taken it, not only agreed with others who turned it down."""
        node = self.node
        self._declarations.conclude(sequence, outcome)
        if took:
            node.in_row.clear()
        node.resend = False
        if node.held:
            node.held = False
            log.info("node %s is no longer held and goes on at update %d", node.name, sequence + 1)
            self._events.changed(node)
        node.attempts = 0
        node.in_doubt = False
        node.position = sequence
        self._backoff.reset()
        self._journal.advance(node.id, sequence)
        if outcome is not None:
            self._board.look_again(sequence)  # this node will not answer
        self._events.advanced(node)

    def _leave_out(self, sequence: int) -> None:
        """An operator has taken it out of the queue; said, recorded and flagged then."""
        self._counters.add("delivery.skipped")
        self._finish(sequence, Outcome.SKIPPED)

    def _pass_over(self, entry: Entry) -> None:
        """Its client was told that it failed: a node that has not seen it never gets it."""
        if self.node.in_doubt:
            self._diverge(f"it may have applied update {entry.sequence}, which failed on the others")
        doubtful = self.node.in_doubt or entry.sequence <= self.node.doubt_until
        self._counters.add("delivery.passed-over")
        self._finish(entry.sequence, Outcome.UNKNOWN if doubtful else None)

    def _refuse(self, entry: Entry) -> bool:
        """The node will not take this update. Go on without it, unless it refuses everything."""
        node = self.node
        reference = self._board.reference_of(entry)
        confirmed = reference is not None and is_good(reference)
        blame = Blame.NODE if confirmed else self._events.gives_up(node, entry.sequence)
        if blame is Blame.NODE and not (confirmed or node.held) and self._board.is_left_open(entry.sequence):
            blame = Blame.OPEN  # the others are away, and an expired credential is not the only reason for a 401
        if blame is Blame.UPDATE:
            self._give_up_with_all(entry)
            return True
        if blame is Blame.OPEN:
            self._go_on_without(entry, confirmed)
            node.in_row.discard(entry.sequence)
            return True
        if len(node.in_row) + 1 >= HOLD_AFTER:
            self._hold(
                entry,
                "refusals",
                f"it takes none of its updates ({node.last_error}); look for an expired credential or a full disk",
                f"tries it at once (else every {PROBE_S:g} s, until the node takes it), {{skip}} leaves it out",
            )
            self._pause(PROBE_S)
            self._backoff.reset()  # that was the wait
            return False
        self._go_on_without(entry, confirmed)
        return True

    def _go_on_without(self, entry: Entry, confirmed: bool) -> None:
        node = self.node
        node.in_row.add(entry.sequence)
        node.refused += 1
        self._counters.add("delivery.refused")
        what = f"update {entry.sequence} was given to it {counted(node.attempts, 'time')} in vain ({node.last_error})"
        if node.in_doubt:
            what += " and may or may not be applied there"
        goes_on = f"it goes on without it; {retry_of(self.node.record, entry.sequence)}"
        if confirmed:
            self._diverge(f"{what}, the others have applied it, and {goes_on}")
        else:
            if self._board.reference_of(entry) is not None:  # else it counts once some node has taken it
                self._counters.add("delivery.diverged")
            log.error("node %s: %s, and %s", node.name, what, goes_on)
            self._events.flagged(node, entry.sequence)
            self._store_flags()
        self._finish(entry.sequence, Outcome.REFUSED)

    def _give_up_with_all(self, entry: Entry) -> None:
        self.node.refused += 1
        self._counters.add("delivery.refused-by-all")
        if self.node.in_doubt:
            what = f"it gave no answer to update {entry.sequence}, which no node took, and may have applied it"
            self._diverge(f"{what}; {retry_of(self.node.record, entry.sequence)}")
        self._finish(entry.sequence, Outcome.UNKNOWN if self.node.in_doubt else Outcome.REFUSED)

    def vindicate(self, sequence: int, by_all: bool) -> None:
        """No other node takes that update either: it says nothing about this one. ``by_all``: it is not sent again."""
        if by_all:
            self._vindicated = sequence
        self.node.in_row.discard(sequence)
        if self.node.held:
            self.wake()

    def _hold(self, entry: Entry, kind: str, why: str, remedy: str) -> None:
        """``kind`` of reason, said once; ``remedy``: what resuming does, and ``{skip}``, which leaves it out."""
        node = self.node
        if node.held and self._held_for in ("", kind):
            return
        node.held, self._held_for = True, kind
        self._counters.add("delivery.held")
        queue = queue_of(node.record)
        log.error(
            "node %s is held at update %d and gets reads only when no other node can be read: %s; POST %s/resume %s",
            node.name,
            entry.sequence,
            why,
            queue,
            remedy.format(skip=f"DELETE {queue}/{entry.sequence}"),
        )
        self._events.changed(node)

    def _diverge(self, what: str) -> None:
        node = self.node
        self._counters.add("delivery.diverged")
        log.error(
            "node %s differs from the others: %s; once its data are right, POST %s/clear-diverged says so",
            node.name,
            what,
            queue_of(node.record),
        )
        self._events.differs(node)
        self._store_flags()

    def _store_flags(self) -> None:
        """A position must not outlive the flag that explains it; but neither is a node stalled for ever by a disk."""
        until_s = time.monotonic() + STORE_S
        while not self._events.store() and time.monotonic() < until_s:
            if self._stopping:  # the next worker delivers it again
                self.node.doubt_until = max(self.node.doubt_until, self.node.position + 1)
                raise gevent.GreenletExit
            gevent.sleep(STORE_RETRY_S)

    def _pause(self, seconds: float) -> None:
        if seconds > 0 and not self._stopping:
            self._waken.wait(seconds)
