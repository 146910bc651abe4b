"""What an answer means and what is done about it: the table of outcomes, row by row."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spawn.config.schema import DeliveryConfig
from spawn.delivery.policy import (
    BACKOFF_FIRST_S,
    BACKOFF_LIMIT_S,
    IDEMPOTENT,
    AnswerClass,
    Backoff,
    Trial,
    Verdict,
    classify,
    retry_after_s,
)

GOOD, CLIENT, SERVER = 201, 409, 500


def trial(method: bytes = b"POST", *, repeat: bool = False, **limits: object) -> Trial:
    return Trial(method, DeliveryConfig(**limits), repeat=repeat)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("statuses", "kind"),
    [
        ((200, 201, 202, 204, 206, 226, 299, 301, 302, 303), AnswerClass.GOOD),
        ((300, 304, 305, 307, 308, 399, 400, 401, 403, 404, 409, 412, 413, 422, 499), AnswerClass.CLIENT),
        ((500, 501, 505, 507, 599), AnswerClass.SERVER),
        ((408, 425, 429, 502, 503, 504), AnswerClass.NOT_NOW),
    ],
)
def test_the_class_of_a_status(statuses: tuple[int, ...], kind: AnswerClass) -> None:
    assert {classify(status) for status in statuses} == {kind}


@pytest.mark.parametrize(
    ("status", "reference", "repeat", "verdict"),
    [
        # the first answer of all
        (GOOD, None, False, Verdict.APPLIED),
        (CLIENT, None, False, Verdict.AWAIT_REFERENCE),
        (SERVER, None, False, Verdict.AWAIT_REFERENCE),
        # agrees
        (200, 303, False, Verdict.APPLIED),
        (302, 201, False, Verdict.APPLIED),
        (404, 409, False, Verdict.APPLIED),
        (307, 404, False, Verdict.APPLIED),
        (SERVER, 501, False, Verdict.REJECTED),
        # disagrees
        (CLIENT, GOOD, False, Verdict.RETRY),
        (SERVER, GOOD, False, Verdict.RETRY),
        (SERVER, CLIENT, False, Verdict.RETRY),
        (GOOD, CLIENT, False, Verdict.DIVERGED),
        (GOOD, SERVER, False, Verdict.DIVERGED),
        # a repeat: any 2xx–4xx counts as applied, never as disagreement
        (GOOD, None, True, Verdict.APPLIED),
        (CLIENT, None, True, Verdict.APPLIED),
        (CLIENT, GOOD, True, Verdict.APPLIED),
        (GOOD, CLIENT, True, Verdict.APPLIED),
        (SERVER, None, True, Verdict.AWAIT_REFERENCE),
        (SERVER, GOOD, True, Verdict.RETRY),
        # not now, whatever else is known
        (503, None, False, Verdict.RETRY),
        (429, GOOD, True, Verdict.RETRY),
    ],
)
def test_what_an_answer_means(status: int, reference: int | None, repeat: bool, verdict: Verdict) -> None:
    assert trial(repeat=repeat).answered(status, reference, True) is verdict


def test_a_node_that_goes_on_disagreeing_has_refused() -> None:
    one = trial(attempts=3)
    assert [one.answered(CLIENT, GOOD, True) for _ in range(3)] == [Verdict.RETRY, Verdict.RETRY, Verdict.REFUSED]


def test_a_node_that_is_out_of_order_as_a_whole_has_refused_nothing() -> None:
    one = trial(attempts=3)
    assert all(one.answered(SERVER, GOOD, False) is Verdict.RETRY for _ in range(100))
    assert [one.answered(SERVER, GOOD, True) for _ in range(3)] == [Verdict.RETRY, Verdict.RETRY, Verdict.REFUSED]


def test_uncertain_outcomes_count_only_while_the_node_is_healthy() -> None:
    one = trial(b"PUT", attempts_uncertain=3)
    assert all(one.not_now(False) is Verdict.RETRY for _ in range(100))
    assert all(one.fate_unknown(False) is Verdict.RETRY for _ in range(100))
    assert [one.not_now(True), one.fate_unknown(True), one.not_now(True)] == [
        Verdict.RETRY,
        Verdict.RETRY,
        Verdict.REFUSED,
    ]


@pytest.mark.parametrize(
    ("ambiguous", "verdict"), [("resend", Verdict.RETRY), ("hold", Verdict.HOLD), ("skip", Verdict.SKIP)]
)
def test_an_unknown_fate_of_what_is_not_idempotent_is_the_operators_choice(ambiguous: str, verdict: Verdict) -> None:
    one = trial(b"POST", ambiguous=ambiguous)
    assert one.fate_unknown(True) is verdict
    assert one.repeat


@pytest.mark.parametrize("ambiguous", ["resend", "hold", "skip"])
@pytest.mark.parametrize("method", sorted(IDEMPOTENT))
def test_an_unknown_fate_of_what_is_idempotent_is_sent_again(ambiguous: str, method: bytes) -> None:
    assert trial(method, ambiguous=ambiguous).fate_unknown(True) is Verdict.RETRY


@given(st.integers(0, 2**32), st.integers(1, 40))
def test_the_back_off_stays_within_its_doubling_ceiling(seed: int, attempts: int) -> None:
    backoff = Backoff(random.Random(seed))
    for attempt in range(attempts):
        assert 0 <= backoff.next_s() <= min(BACKOFF_FIRST_S * 2**attempt, BACKOFF_LIMIT_S)
    backoff.reset()
    assert backoff.next_s() <= BACKOFF_FIRST_S


DATE = b"Mon, 23 Nov 2026 12:00:00 GMT"


@pytest.mark.parametrize(
    ("value", "date", "seconds"),
    [
        (None, None, None),
        (b"0", None, 0.0),
        (b"7", None, 7.0),
        (b"61", None, 60.0),
        (b"9" * 4000, None, 60.0),
        (b"-1", None, None),
        (b"1.5", None, None),
        (b"soon", DATE, None),
        (b"", DATE, None),
        (b"Mon, 23 Nov 2026 12:00:09 GMT", DATE, 9.0),
        (b"Mon, 23 Nov 2026 12:00:09 GMT", None, None),  # against whose clock?
        (b"Mon, 23 Nov 2026 11:00:00 GMT", DATE, 0.0),
        (b"Mon, 23 Nov 2099 12:00:00 GMT", DATE, 60.0),
        (b"Mon, 23 Nov 2026 12:00:09 -0000", DATE, None),  # no zone: cannot be compared
        (b"Mon, 99 Nov 2026 12:00:09 GMT", DATE, None),
        (b"\xff\xfe", b"\xff", None),
    ],
)
def test_retry_after(value: bytes | None, date: bytes | None, seconds: float | None) -> None:
    assert retry_after_s(value, date) == seconds


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_retry_after_takes_whatever_a_node_sends(value: bytes, date: bytes) -> None:
    seconds = retry_after_s(value, date)
    assert seconds is None or 0 <= seconds <= 60
