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
from dataclasses import dataclass, replace

import gevent
from gevent.event import Event

from spawn.config.schema import DeliveryConfig, Timeouts
from spawn.counters import Counters
from spawn.delivery.answers import ReferenceBoard
from spawn.delivery.feed import Feed
from spawn.delivery.outgoing import effective_method, outgoing
from spawn.delivery.policy import IDEMPOTENT, AnswerClass, Backoff, Trial, Verdict, classify, retry_after_s
from spawn.delivery.refusals import Blame
from spawn.errors import AnswerCut, JournalDamaged, JournalError, JournalFull, NotSent, Pruned, Unknown
from spawn.http11.client import Answer, Client
from spawn.http11.message import get
from spawn.http11.outgoing import BodyUnreadable
from spawn.http11.spool import Spool, SpoolClosed, SpoolFull
from spawn.journal.base import Entry, Journal, Outcome
from spawn.nodes.node import Node

log = logging.getLogger("spawn.delivery")

WINDOW = 64  # updates beyond the durable position
IDLE_S = 30.0  # how long a worker sleeps when there is nothing to do and nobody wakes it
PROBE_S = 30.0  # a held node is tried this often
HOLD_AFTER = 3  # refusals in a row
REUSE_IDLE_S = 30.0  # a connection idle for longer is not trusted with an idempotent update
REUSE_IDLE_STRICT_S = 1.0  # nor for longer than this with any other
INLINE_ANSWER_S = 1.0  # an answer's body that takes longer is carried beside the worker
FAULT_PAUSE_S = 5.0  # after an error in Spawn itself
DRAIN_BYTES = 65_536


@dataclass(slots=True)
class WorkerSettings:
    """What the workers of all nodes share and a reload may replace."""

    delivery: DeliveryConfig
    timeouts: Timeouts


@dataclass(frozen=True, slots=True)
class WorkerEvents:
    """What a worker tells the fleet; all are called on the hub and do not block."""

    advanced: Callable[[Node], None]
    changed: Callable[[Node], None]  # a flag of the node: it has to be stored and reads chosen anew
    suspect: Callable[[Node], None]  # the node behaves as if its health had changed
    gives_up: Callable[[Node, int], Blame]  # on an update that nobody is known to have applied
    differs: Callable[[Node], None]  # the node surely does not have what others have, or the other way round
    flagged: Callable[[Node, int], None]  # the node goes on without an update that others may have applied


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
        self._client = client
        self._board = board
        self._settings = settings
        self._events = events
        self._counters = counters
        self._feed = Feed(journal)
        self._backoff = Backoff()
        self._stopping = False
        self._waken = Event()
        self._resumed = False
        self._refused: set[int] = set(range(-HOLD_AFTER + 1, 0)) if node.held else set()  # in a row
        self._vindicated = 0
        self._carrier: gevent.Greenlet[..., None] | None = None
        self._troubled = False  # a failure was logged, and the success that ends it will be
        self._first = 0
        self._doubt_until = 0
        self._last_delivery_s = 0.0
        self._greenlet: gevent.Greenlet[..., None] | None = None

    def start(self, doubtful: int) -> None:
        """Begin at the node's position; the next ``doubtful`` updates may have been delivered before."""
        self._first = self.node.position + 1
        self._doubt_until = min(self.node.position + doubtful, self._journal.head)
        self._greenlet = gevent.spawn(self._run)

    def stop(self, deadline_s: float) -> bool:
        """Let the delivery in flight finish, for at most ``deadline_s`` seconds; False when it was cut then."""
        self._stopping = True
        self.wake()
        if self._greenlet is None:
            return True
        self._greenlet.join(timeout=deadline_s)
        finished = self._greenlet.ready()
        self._greenlet.kill(block=True, timeout=1.0)
        return finished or self.node.attempts == 0

    def offer(self, entry: Entry) -> None:
        self._feed.offer(entry)

    def wake(self) -> None:
        """Cut a wait short: there is reason to try again now."""
        self._backoff.reset()
        self._waken.set()
        self._feed.wake()

    def resume(self) -> None:
        """The operator lets a held node go on, past the update it refuses."""
        self._resumed = True
        self.wake()

    # -- the loop

    def _run(self) -> None:
        while not self._stopping:
            try:
                entry = self._next()
                if entry is not None:
                    self._deliver(entry)
            except (Pruned, JournalDamaged) as error:
                log.critical("node %s cannot be given update %d: %s", self.node.name, self.node.position + 1, error)
                self.node.out_of_sync = True
                self._events.changed(self.node)
                return
            except JournalError as error:
                if not self._stopping and not self._journal.broken:
                    log.critical("node %s: deliveries stop: %s", self.node.name, error)
                return
            except Exception:  # a node without a worker would get nothing until the next start
                log.exception("an error in Spawn: a delivery to node %s failed; it is tried again", self.node.name)
                self._doubt_until = max(self._doubt_until, self.node.position + 1)
                self._waken.clear()
                self._pause(FAULT_PAUSE_S)

    def _next(self) -> Entry | None:
        node = self.node
        beyond = node.position - self._journal.durable_position(node.id)
        if beyond >= WINDOW and not self._journal.wait_durable(node.id, node.position - WINDOW + 1, IDLE_S):
            return None
        entry = self._feed.next(node.position, IDLE_S)
        rate = self._settings.delivery.catch_up_rate
        if entry is not None and rate > 0 and self._journal.head - node.position > 1:
            self._pause(self._last_delivery_s + 1 / rate - time.monotonic())
        return entry

    def _deliver(self, entry: Entry) -> None:
        """Try until this update is done with on this node, or the worker is told to stop."""
        trial = Trial(effective_method(entry), self._settings.delivery, repeat=entry.sequence <= self._doubt_until)
        self.node.attempts = 0
        while not self._stopping:
            if entry.reference is None and entry.sequence <= self._board.forgotten:
                entry = replace(entry, reference=self._journal.reference(entry.sequence))
            reference = self._board.reference_of(entry)
            if reference is not None and reference >= 500:
                self._pass_over(entry)
                return
            if self._vindicated == entry.sequence:
                self._give_up_with_all(entry)
                return
            self._waken.clear()  # what wakes the worker during the attempt cuts the pause after it short
            verdict, wait_s = self._declare(entry, trial) or self._attempt(entry, trial)
            done = self._conclude(entry, verdict)  # before the answer's body: its head has decided
            self._await_carrier()
            if done:
                return
            self._pause(wait_s if wait_s is not None else self._backoff.next_s())

    def _declare(self, entry: Entry, trial: Trial) -> tuple[Verdict, float | None] | None:
        """Where an unknown fate is not simply resolved by sending again, say durably that this is about to be sent.

        A declaration without an outcome, found by a new worker, is an unknown fate.
        """
        if trial.method in IDEMPOTENT or self._settings.delivery.ambiguous == "resend":
            return None
        if not trial.attempts:
            if entry.sequence == self._first and self._was_declared(entry):
                trial.attempts += 1  # so that it is sent when the operator says so
                return trial.fate_unknown(self.node.healthy), None
            trial.repeat = False
        self._journal.record(self.node.id, entry.sequence, entry.sequence, Outcome.UNKNOWN)
        try:
            declared = self._journal.flush(IDLE_S)
        except JournalFull:
            declared = False
        return None if declared else (Verdict.RETRY, None)

    def _was_declared(self, entry: Entry) -> bool:
        fate = self._journal.fate(entry.sequence)
        return fate is not None and fate.outcomes.get(self.node.id) is Outcome.UNKNOWN

    def _conclude(self, entry: Entry, verdict: Verdict) -> bool:
        """Whether the update is done with."""
        if verdict is Verdict.APPLIED:
            self._counters.add("delivery.applied")
            self._finish(entry, None)
        elif verdict is Verdict.REJECTED:
            self._counters.add("delivery.rejected")
            self._finish(entry, None)
        elif verdict is Verdict.DIVERGED:
            self._diverge(f"has applied update {entry.sequence}, which the others turned down")
            self._finish(entry, None)
        elif verdict is Verdict.SKIP:
            self._counters.add("delivery.skipped")
            self._diverge(f"may lack update {entry.sequence}: it gave no answer, and delivery.ambiguous is skip")
            self._finish(entry, Outcome.SKIPPED)
        elif verdict is Verdict.REFUSED:
            return self._refuse(entry)
        elif verdict is Verdict.HOLD:
            self._hold(entry, "its fate is unknown and delivery.ambiguous is hold")
            while not (self._stopping or self._resumed):
                self._waken.clear()
                self._pause(IDLE_S)
            self._resumed = False
            return False
        else:
            return False
        return True

    # -- one attempt

    def _attempt(self, entry: Entry, trial: Trial) -> tuple[Verdict, float | None]:
        """Send once. The verdict, and how long to wait when it is to try again (None: the back-off's wait)."""
        node, settings = self.node, self._settings
        node.attempts += 1
        trial.attempts += 1
        replaced = settings.delivery.set_headers.get(node.name, {})
        request = outgoing(entry, self._journal.uuid, node.name, replaced)
        self._last_delivery_s = time.monotonic()
        idempotent = trial.method in IDEMPOTENT
        try:
            answer = self._client.send(
                node.id,
                node.record.host,
                node.record.port,
                request,
                progress_timeout_s=settings.timeouts.deliver,
                max_idle_s=REUSE_IDLE_S if idempotent else REUSE_IDLE_STRICT_S,
                on_sent=lambda: self._board.sent(entry.sequence),
            )
        except BodyUnreadable as error:
            if error.lost:
                raise JournalDamaged(str(error)) from None
            self._trouble(f"cannot be given update {entry.sequence} ({error})")
            return Verdict.RETRY, None
        except NotSent as error:
            self._counters.add("delivery.not-sent")
            self._trouble(f"cannot be reached ({error})")
            return Verdict.RETRY, None
        except Unknown as error:
            self._counters.add("delivery.unknown")
            if not error.reused_and_silent:  # a node that restarts drops its idle connections: no reason to doubt it
                self._trouble(f"gave no answer to update {entry.sequence} ({error})")
            node.in_doubt = True
            return trial.fate_unknown(node.healthy), 0.0 if error.reused_and_silent else None
        return self._judge(entry, trial, answer)

    def _judge(self, entry: Entry, trial: Trial, answer: Answer) -> tuple[Verdict, float | None]:
        head = answer.head
        if classify(head.status) is AnswerClass.NOT_NOW:
            self._carry(answer, None)
            self._counters.add("delivery.not-now")
            self._trouble(f"answers {head.status} to update {entry.sequence}")
            wait_s = retry_after_s(get(head.headers, b"retry-after"), get(head.headers, b"date")) or 0.0
            return trial.not_now(self.node.healthy), max(wait_s, self._backoff.next_s())
        verdict = trial.answered(head.status, self._board.reference_of(entry))
        spool = self._board.offer(self.node.id, entry, head, trial.repeat)
        try:
            self._carry(answer, spool)
            if verdict is Verdict.AWAIT_REFERENCE:
                verdict = self._compare(entry, trial, head.status)
        except BaseException:  # stopped amid it: nobody else would take the ballot back
            self._board.withdraw(self.node.id, entry.sequence)
            raise
        if verdict in (Verdict.RETRY, Verdict.REFUSED):
            self._board.withdraw(self.node.id, entry.sequence)
            self._counters.add("delivery.disagreed")
            self._trouble(f"answers {head.status} to update {entry.sequence}, unlike the reference answer")
        elif head.status < 500:
            self._recovered()
        return verdict, None

    def _compare(self, entry: Entry, trial: Trial, status: int) -> Verdict:
        """What an answer that is not good means, once the others have spoken."""
        reference = self._board.await_reference(self.node.id, entry, self._settings.timeouts.answer)
        if reference is None:  # there is nothing to disagree with; perhaps nobody can apply anything now
            return trial.not_now(self.node.healthy)
        if reference == status or classify(reference) is classify(status):
            return Verdict.APPLIED if status < 500 else Verdict.REJECTED
        return trial.answered(status, reference)

    def _carry(self, answer: Answer, spool: Spool | None) -> None:
        """Take the answer's body to its spool, or drain it, in a greenlet of its own unless it is here already."""
        if answer.whole:
            carry_body(answer, spool)
        else:
            self._carrier = gevent.spawn(carry_body, answer, spool)

    def _await_carrier(self) -> None:
        """Give the body a moment, so that its connection can serve the next update; a slow one is left behind."""
        carrier, self._carrier = self._carrier, None
        if carrier is not None:
            carrier.join(timeout=INLINE_ANSWER_S)

    # -- its ends

    def _finish(self, entry: Entry, outcome: Outcome | None) -> None:
        node = self.node
        if outcome is not None or self._settings.delivery.ambiguous != "resend":
            self._journal.record(node.id, entry.sequence, entry.sequence, outcome)
        if outcome is not Outcome.REFUSED:
            self._refused.clear()
        if node.held:
            node.held = False
            log.info("node %s is no longer held and goes on at update %d", node.name, entry.sequence + 1)
            self._events.changed(node)
        node.attempts = 0
        node.in_doubt = False
        node.position = entry.sequence
        self._backoff.reset()
        self._journal.advance(node.id, entry.sequence)
        self._events.advanced(node)

    def _pass_over(self, entry: Entry) -> None:
        """Its client was told that it failed: a node that has not seen it never gets it."""
        if self.node.in_doubt:
            self._diverge(f"may have applied update {entry.sequence}, which failed on the others")
        doubtful = self.node.in_doubt or entry.sequence <= self._doubt_until
        self._finish(entry, Outcome.UNKNOWN if doubtful else None)

    def _refuse(self, entry: Entry) -> bool:
        """The node will not take this update. Go on without it, unless it refuses everything."""
        node = self.node
        reference = self._board.reference_of(entry)
        confirmed = reference is not None and classify(reference) is AnswerClass.GOOD
        blame = Blame.NODE if confirmed else self._events.gives_up(node, entry.sequence)
        if blame is Blame.UPDATE:
            self._give_up_with_all(entry)
            return True
        if blame is Blame.OPEN:
            self._go_on_without(entry, confirmed)
            self._refused.discard(entry.sequence)
            return True
        if len(self._refused) + 1 >= HOLD_AFTER and not self._resumed:
            why = f"it takes none of its updates ({node.last_error}); look for an expired credential or a full disk"
            self._hold(entry, why)
            self._pause(PROBE_S)
            return False
        self._resumed = False
        self._go_on_without(entry, confirmed)
        return True

    def _go_on_without(self, entry: Entry, confirmed: bool) -> None:
        node = self.node
        self._refused.add(entry.sequence)
        node.refused += 1
        self._counters.add("delivery.refused")
        what = f"was given update {entry.sequence} {node.attempts} times in vain ({node.last_error})"
        if node.in_doubt:
            what += ", and may or may not have applied it"
        if confirmed:
            self._diverge(f"{what}; the others have applied it")
        else:
            log.error("node %s %s; it goes on without it", node.name, what)
            self._events.flagged(node, entry.sequence)
        self._finish(entry, Outcome.REFUSED)

    def _give_up_with_all(self, entry: Entry) -> None:
        self.node.refused += 1
        self._counters.add("delivery.refused-by-all")
        if self.node.in_doubt:
            self._diverge(f"gave no answer to update {entry.sequence}, which no node took; it may have applied it")
        self._finish(entry, Outcome.UNKNOWN if self.node.in_doubt else Outcome.REFUSED)

    def vindicate(self, sequence: int, by_all: bool) -> None:
        """No other node takes that update either: it says nothing about this one. ``by_all``: it is not sent again."""
        if by_all:
            self._vindicated = sequence
        self._refused.discard(sequence)
        if self.node.held:
            self.wake()

    def _hold(self, entry: Entry, why: str) -> None:
        node = self.node
        if node.held:
            return
        node.held = True
        log.error(
            "node %s is held at update %d and gets no reads: %s; it is tried every %g s and goes on by itself, or PUT "
            '/queues/HOST/PORT {"position": N} lets it go on behind N',
            node.name,
            entry.sequence,
            why,
            PROBE_S,
        )
        self._events.changed(node)

    def _diverge(self, why: str) -> None:
        node = self.node
        self._counters.add("delivery.diverged")
        log.error("node %s differs from the others: it %s", node.name, why)
        self._events.differs(node)

    def _trouble(self, what: str) -> None:
        """Say once that the node makes trouble, not at every attempt."""
        node = self.node
        node.last_error = what
        if not self._troubled:
            self._troubled = True
            log.warning(
                "node %s %s; its updates are kept from %d on and tried again", node.name, what, node.position + 1
            )
        self._events.suspect(node)

    def _recovered(self) -> None:
        if self._troubled:
            self._troubled = False
            self.node.last_error = ""
            log.info("node %s takes updates again, at %d", self.node.name, self.node.position + 1)

    def _pause(self, seconds: float) -> None:
        if seconds > 0 and not self._stopping:
            self._waken.wait(seconds)


def carry_body(answer: Answer, spool: Spool | None) -> None:
    """Move an answer's body to where its client reads it; nobody else's fate depends on how this ends."""
    if spool is None:
        answer.finish(DRAIN_BYTES)
        return
    try:
        with answer:
            while data := answer.read():
                spool.write(data)
        spool.close_write()
    except (AnswerCut, SpoolFull) as error:
        spool.fail(str(error))
    except SpoolClosed:
        return
