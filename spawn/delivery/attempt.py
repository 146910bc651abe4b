"""One attempt at one update on one node: send it, offer the answer to the reference board, say what it means.

What is done about a verdict (wait, go on, hold) is the worker's business; what an operator's retry makes of an answer
is ``retries``'. A ``Sender`` belongs to one worker and has one delivery in hand at most.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import gevent

from spawn.config.schema import DeliveryConfig, Timeouts
from spawn.counters import Counters
from spawn.delivery.answers import NOT_LET_IN, ReferenceBoard
from spawn.delivery.outgoing import outgoing
from spawn.delivery.pace import CatchUpPace
from spawn.delivery.policy import IDEMPOTENT, NOT_NOW, Backoff, Trial, Verdict, classify, is_good, retry_after_s
from spawn.errors import AnswerCut, JournalDamaged, NotSent, Unknown
from spawn.http11.client import Answer, Client
from spawn.http11.message import get
from spawn.http11.outgoing import BodyUnreadable
from spawn.http11.spool import Spool, SpoolClosed, SpoolFull
from spawn.journal.base import Entry, FileBody, Journal
from spawn.nodes.node import Node

log = logging.getLogger("spawn.delivery")

REUSE_IDLE_S = 30.0  # a connection idle for longer is not trusted with an idempotent update
REUSE_IDLE_STRICT_S = 1.0  # nor for longer than this with any other
INLINE_ANSWER_S = 1.0  # an answer's body that takes longer is carried beside the worker
DRAIN_BYTES = 65_536


@dataclass(slots=True)
class WorkerSettings:
    """What the workers of all nodes share and a reload may replace."""

    delivery: DeliveryConfig
    timeouts: Timeouts
    pace: CatchUpPace = field(default_factory=CatchUpPace)


class Sender:
    """``suspect``: the node behaves as if its health had changed."""

    def __init__(
        self,
        node: Node,
        journal: Journal,
        client: Client,
        board: ReferenceBoard,
        settings: WorkerSettings,
        counters: Counters,
        backoff: Backoff,
        suspect: Callable[[Node], None],
    ) -> None:
        self.last_sent_s = 0.0  # when the last delivery began
        self.taken = False  # whether the last answer was a good one
        self._node = node
        self._journal = journal
        self._client = client
        self._board = board
        self._settings = settings
        self._counters = counters
        self._backoff = backoff
        self._suspect = suspect
        self._carrier: gevent.Greenlet[..., None] | None = None
        self._troubled = False  # a failure was logged, and the success that ends it will be
        self._said_slow = self._still_slow = 0  # the update that was logged as slow, the same until its answer

    def send(self, entry: Entry, method: bytes) -> Answer:
        """Raises ``BodyUnreadable``, ``NotSent`` or ``Unknown``; ``method`` as it counts (``effective_method``)."""
        node, settings = self._node, self._settings
        set_headers = settings.delivery.set_headers
        replaced = set_headers.get(node.name, {}) if set_headers else {}
        request = outgoing(entry, self._journal.uuid, node.name, replaced)
        self.last_sent_s = time.monotonic()
        try:
            answer = self._client.send(
                node.id,
                node.record.host,
                node.record.port,
                request,
                progress_timeout_s=settings.timeouts.deliver,
                max_idle_s=REUSE_IDLE_S if method in IDEMPOTENT else REUSE_IDLE_STRICT_S,
                on_sent=self._on_sent(entry),
                on_slow=lambda so_far: self._slow(entry.sequence, so_far),
            )
        finally:
            node.slow = ""
        self._no_longer_slow(entry.sequence)
        return answer

    def _on_sent(self, entry: Entry) -> Callable[[], None] | None:
        """What to call when the node has all of a large body: its client is given time until then."""
        return (lambda: self._board.sent(entry.sequence)) if isinstance(entry.body, FileBody) else None

    def attempt(self, entry: Entry, trial: Trial) -> tuple[Verdict, float | None]:
        """Send once. The verdict, and how long to wait when it is to try again (None: the back-off's wait)."""
        node = self._node
        node.attempts += 1
        trial.attempts += 1
        if trial.repeat:
            self._counters.add("delivery.repeated")
        try:
            answer = self.send(entry, trial.method)
        except BodyUnreadable as unreadable:
            trial.unreadable += 1
            if unreadable.lost or trial.unreadable >= trial.limits.attempts_uncertain:
                raise JournalDamaged(str(unreadable)) from None
            self._trouble(f"cannot be given update {entry.sequence} ({unreadable})")
            return Verdict.RETRY, None
        except NotSent as unsent:
            self._counters.add("delivery.not-sent")
            self._trouble(f"cannot be reached ({unsent})")
            return Verdict.RETRY, None
        except Unknown as unknown:
            self._counters.add("delivery.unknown")
            if not unknown.reused_and_silent:  # a node that restarts drops its idle connections: no reason to doubt it
                self._trouble(f"gave no answer to update {entry.sequence} ({unknown})")
            node.in_doubt = True
            return trial.fate_unknown(node.healthy), 0.0 if unknown.reused_and_silent else None
        return self._judge(entry, trial, answer)

    def carry(self, answer: Answer, spool: Spool | None) -> None:
        """Take the answer's body to its spool, or drain it, in a greenlet of its own unless it is here already."""
        if answer.ended:
            carry_body(answer, spool)
        else:
            self._carrier = gevent.spawn(carry_body, answer, spool)

    def await_carrier(self) -> None:
        """Give the body a moment, so that its connection can serve the next update; a slow one is left behind."""
        carrier, self._carrier = self._carrier, None
        if carrier is not None:
            carrier.join(timeout=INLINE_ANSWER_S)

    # -- what an answer means

    def _judge(self, entry: Entry, trial: Trial, answer: Answer) -> tuple[Verdict, float | None]:
        node, head = self._node, answer.head
        if head.status in NOT_NOW:
            self.carry(answer, None)
            self._counters.add("delivery.not-now")
            self._trouble(f"answers {head.status} to update {entry.sequence}")
            wait_s = retry_after_s(get(head.headers, b"retry-after"), get(head.headers, b"date")) or 0.0
            wait_s = max(wait_s, self._backoff.next_s())
            if head.status == 504:  # whoever stands before the node has sent it
                node.in_doubt = True
                return trial.fate_unknown(node.healthy), wait_s
            if head.status == 502:  # so may this one have
                trial.repeat = True
                node.doubt_until = max(node.doubt_until, entry.sequence)
            return trial.not_now(node.healthy), wait_s
        self.taken = is_good(head.status)
        verdict = trial.answered(head.status, self._board.reference_of(entry), node.healthy)
        spool = self._board.offer(node.id, entry, head, trial.repeat)
        try:
            self.carry(answer, spool)
            if verdict is Verdict.AWAIT_REFERENCE:
                verdict = self._compare(entry, trial, head.status)
        except BaseException:  # stopped amid it: nobody else would take the ballot back
            self._board.withdraw(node.id, entry.sequence)
            raise
        if verdict in (Verdict.RETRY, Verdict.REFUSED):
            self._board.withdraw(node.id, entry.sequence)
            self._counters.add("delivery.disagreed")
            self._trouble(f"answers {head.status} to update {entry.sequence}, unlike the reference answer")
        elif head.status < 500:
            self._recovered()
        return verdict, None

    def _compare(self, entry: Entry, trial: Trial, status: int) -> Verdict:
        """What an answer that is not good means, once the others have spoken."""
        reference = self._board.await_reference(self._node.id, entry, self._settings.timeouts.answer)
        if reference is None and status in NOT_LET_IN and self._board.is_left_open(entry.sequence):
            return Verdict.REFUSED
        if reference is None:  # there is nothing to disagree with; perhaps nobody can apply anything now
            return trial.not_now(self._node.healthy)
        if reference == status or classify(reference) is classify(status):
            return Verdict.APPLIED if status < 500 else Verdict.REJECTED
        return trial.answered(status, reference, self._node.healthy)

    def _trouble(self, what: str) -> None:
        """Say once that the node makes trouble, not at every attempt."""
        node = self._node
        node.last_error = what
        if not self._troubled:
            self._troubled = True
            log.warning(
                "node %s %s; its updates are kept from %d on and tried again", node.name, what, node.position + 1
            )
        self._suspect(node)

    def _recovered(self) -> None:
        if self._troubled:
            self._troubled = False
            self._node.last_error = ""
            log.info("node %s takes updates again, at %d", self._node.name, self._node.position + 1)

    def _slow(self, sequence: int, so_far: str) -> None:
        """The node takes the update, so its health is not in doubt, but others wait. Said once, not per attempt."""
        node = self._node
        node.slow = f"takes the body of update {sequence} slowly ({so_far})"
        if self._said_slow != sequence:
            self._said_slow = self._still_slow = sequence
            log.warning("node %s %s; its other updates wait behind it", node.name, node.slow)

    def _no_longer_slow(self, sequence: int) -> None:
        if self._still_slow == sequence:
            self._still_slow = 0
            took_s = time.monotonic() - self.last_sent_s
            log.info("node %s has answered update %d, after %.0f s", self._node.name, sequence, took_s)


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
