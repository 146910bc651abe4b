"""Every request of the corpus through the codec: whole, byte by byte, and cut at every boundary."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from spawn.http11.wire import HeadLimits
from tests.support.codec import BODY_BYTES, Outcome, Taken, outcome
from tests.support.corpus import Fate, RequestCase, name_of, request_cases
from tests.support.splits import Pieces, in_thirds, in_two, one_by_one

CASES = request_cases()


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_it_means_the_same_however_it_is_cut(case: RequestCase) -> None:
    limits = HeadLimits(case.limits.get("head", 65_536), case.limits.get("headers", 100))
    body_bytes = case.limits.get("body", BODY_BYTES)
    whole = outcome([case.data], limits, body_bytes)
    check(case, whole)
    for pieces in ways(case.data):
        assert outcome(pieces, limits, body_bytes) == whole, [piece[:80] for piece in pieces[:3]]


def ways(data: bytes) -> Iterator[Pieces]:
    yield one_by_one(data)
    yield in_thirds(data)
    yield from in_two(data)


def check(case: RequestCase, found: Outcome) -> None:
    assert fate(found) == case.expect
    if isinstance(found, Taken):
        head = found.head
        assert (head.method, head.target, head.host) == (case.method, case.target, case.host)
        assert (found.body, found.rest) == (case.body, case.rest)
        assert head.keep_alive is not case.close
        arrived = iter(head.headers)
        assert all(wanted in arrived for wanted in case.headers), head.headers  # in this order
        if case.rest and not case.close:
            assert fate(outcome([case.rest])) == case.then


def fate(found: Outcome) -> Fate:
    if isinstance(found, Taken):
        return "accept"
    return found or "incomplete"
