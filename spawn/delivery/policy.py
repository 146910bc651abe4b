"""What an answer means and what is done about it: pure decisions, no I/O, no clock.

The classes of answers and the table of outcomes are those of docs/guarantees.md. A worker makes one ``Trial`` per
update, feeds it what happened and does what the ``Verdict`` says.
"""

from __future__ import annotations

import email.utils
import enum
import random
from dataclasses import dataclass

from spawn.config.schema import DeliveryConfig

BACKOFF_FIRST_S = 0.25
BACKOFF_LIMIT_S = 30.0
RETRY_AFTER_LIMIT_S = 60.0

# RFC 9110 §9.2.2; sending one of these twice is the same as sending it once.
IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})
# "Not now": the node (or what stands before it) did not take the request, or says that it may come again.
NOT_NOW = frozenset({408, 425, 429, 502, 503, 504})


# Answers to a repeat that cannot come from having done it before: the request was not let in, or not understood.
# Any other 4xx (404 to a second DELETE, 409, 405 to a second MKCOL, …) may be just that.
NOT_DONE_BEFORE = frozenset({307, 308, 401, 402, 403, 407, 411, 413, 414, 415, 417, 421, 426, 428, 431, 451})


class AnswerClass(enum.Enum):
    GOOD = "good"  # 2xx and 301–303: the update was applied
    CLIENT = "client"  # 4xx, 307, 308 and the other 3xx: it was understood and turned down
    SERVER = "server"  # 5xx: the node failed
    NOT_NOW = "not-now"


def is_good(status: int) -> bool:
    """``classify``'s most frequent answer, for less."""
    return 200 <= status <= 299 or 301 <= status <= 303


def classify(status: int) -> AnswerClass:
    """The class of a final status."""
    if is_good(status):
        return AnswerClass.GOOD
    if status in NOT_NOW:
        return AnswerClass.NOT_NOW
    if status >= 500:
        return AnswerClass.SERVER
    return AnswerClass.CLIENT


class Verdict(enum.Enum):
    APPLIED = "applied"
    DIVERGED = "diverged"  # done with, but this node did something else than the others
    RETRY = "retry"
    AWAIT_REFERENCE = "await-reference"  # what it means depends on what the others say
    REFUSED = "refused"
    REJECTED = "rejected"
    HOLD = "hold"
    SKIP = "skip"


@dataclass(slots=True)
class Trial:
    """The attempts of one update on one node."""

    method: bytes
    limits: DeliveryConfig
    repeat: bool = False  # the node may have seen this update before
    attempts: int = 0
    disagreements: int = 0
    uncertain: int = 0
    unreadable: int = 0  # times that the journal could not give the body

    def begin_anew(self) -> None:
        """An operator has looked after the node: what it answered before no longer counts."""
        self.disagreements = self.uncertain = 0

    def may_be_done(self, status: int) -> bool:
        """Whether this answer to a repeat may mean that the update had been applied already."""
        kind = classify(status)
        return self.repeat and (
            kind is AnswerClass.GOOD or (kind is AnswerClass.CLIENT and status not in NOT_DONE_BEFORE)
        )

    def answered(self, status: int, reference: int | None, healthy: bool) -> Verdict:
        """A complete final head came. ``reference`` is the reference answer's status, if there is one.

        A 5xx against it counts only while the node passes its health check: else it is out of order as a whole.
        """
        if is_good(status) and (reference is None or is_good(reference)):
            return Verdict.APPLIED
        mine = classify(status)
        if mine is AnswerClass.NOT_NOW:
            return Verdict.RETRY
        if reference is None:
            return Verdict.APPLIED if self.may_be_done(status) else Verdict.AWAIT_REFERENCE
        theirs = classify(reference)
        if mine is theirs:
            return Verdict.REJECTED if mine is AnswerClass.SERVER else Verdict.APPLIED
        if self.may_be_done(status):
            return Verdict.APPLIED
        if mine is AnswerClass.GOOD:
            return Verdict.DIVERGED
        return self.disagreed() if healthy or mine is not AnswerClass.SERVER else Verdict.RETRY

    def disagreed(self) -> Verdict:
        self.disagreements += 1
        return Verdict.REFUSED if self.disagreements >= self.limits.attempts else Verdict.RETRY

    def not_now(self, healthy: bool) -> Verdict:
        """The node asked to come again. Counted only while it passes its health check."""
        self.uncertain += healthy
        return Verdict.REFUSED if self.uncertain >= self.limits.attempts_uncertain else Verdict.RETRY

    def fate_unknown(self, healthy: bool) -> Verdict:
        """Something was sent and no answer came."""
        self.repeat = True
        if self.method not in IDEMPOTENT and self.limits.ambiguous != "resend":
            return Verdict.HOLD if self.limits.ambiguous == "hold" else Verdict.SKIP
        return self.not_now(healthy)


class Backoff:
    """Exponential back-off with full jitter; ``random_source`` gives a number in [0, 1)."""

    def __init__(self, random_source: random.Random | None = None) -> None:
        self._random = random_source or random.Random()
        self._ceiling_s = BACKOFF_FIRST_S

    def next_s(self) -> float:
        """Seconds to wait before the next attempt."""
        wait_s = self._random.uniform(0.0, self._ceiling_s)
        self._ceiling_s = min(self._ceiling_s * 2, BACKOFF_LIMIT_S)
        return wait_s

    def reset(self) -> None:
        self._ceiling_s = BACKOFF_FIRST_S


def retry_after_s(value: bytes | None, date: bytes | None) -> float | None:
    """Seconds that a ``Retry-After`` asks for (RFC 9110 §10.2.3), at most 60; None when absent or unreadable.

    A date is read against the answer's own ``Date``, so that two clocks that disagree do no harm.
    """
    if value is None:
        return None
    if value.isdigit():
        return float(min(int(value[:9]), RETRY_AFTER_LIMIT_S))
    if date is None:
        return None
    try:
        until = email.utils.parsedate_to_datetime(value.decode("latin-1"))
        since = email.utils.parsedate_to_datetime(date.decode("latin-1"))
        return min(max((until - since).total_seconds(), 0.0), RETRY_AFTER_LIMIT_S)
    except (ValueError, TypeError, OverflowError):
        return None
