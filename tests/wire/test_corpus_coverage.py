"""The corpus has cases of every kind of bad input there is, of either outcome where both exist, and each says why."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.support.corpus import AnswerCase, RequestCase, answer_cases, request_cases

REQUESTS = request_cases()
ANSWERS = answer_cases()
TESTS = Path(__file__).parent

# Kind of bad input → the groups of requests that are about it, or, where it is a matter of time or of numbers and not
# of bytes, the tests.
KINDS = {
    "Content-Length and Transfer-Encoding together": ["length-and-coding", "smuggling"],
    "duplicate Content-Length": ["length-twice"],
    "malformed Content-Length": ["length"],
    "Transfer-Encoding unknown, malformed, twice": ["coding", "smuggling"],
    "Transfer-Encoding in HTTP/1.0": ["coding-in-1-0"],
    "space before the colon, no colon, empty name": ["header-line"],
    "CR, NUL and other controls in a value": ["header-control"],
    "bare LF, obs-fold": ["line-end"],
    "invalid character in a name": ["header-name"],
    "underscore in a name": ["underscore"],
    "no Host, two, malformed": ["host"],
    "malformed target": ["target"],
    "absolute-form": ["absolute-form"],
    "CONNECT": ["connect"],
    "malformed or unknown method": ["method"],
    "versions, HTTP/0.9, an HTTP/2 preface": ["version"],
    "odd separators, leading garbage": ["separator"],
    "request line, head, number of headers over their limits": ["limits"],
    "malformed chunks": ["chunks", "chunked"],
    "trailers": ["trailers"],
    "body over its limit": ["body-limit"],
    "Connection": ["connection"],
    "Expect": ["expect"],
    "Upgrade": ["upgrade"],
    "cut short by the client": ["cut"],
    "pipelined requests": ["pipelined"],
    "slow heads and bodies, idle connections": ["test_corpus_deadlines.py", "test_server_deadlines.py"],
    "too many clients": ["test_server_bad_input.py"],
    "clients that do not read": ["test_server_deadlines.py"],
}
ANSWER_KINDS = {
    "framing malformed or ambiguous": ["framing"],
    "204, 304 and HEAD with a body": ["bodyless"],
    "every class of status": ["status"],
    "malformed status line": ["status-line"],
    "line breaks and controls in a header": ["field"],
    "1xx first": ["interim"],
    "endless or cut head": ["head"],
    "body short, malformed or too long": ["body"],
}


@pytest.mark.parametrize(("kinds", "cases"), [(KINDS, REQUESTS), (ANSWER_KINDS, ANSWERS)], ids=["requests", "answers"])
def test_every_kind_has_its_cases(kinds: dict[str, list[str]], cases: list[RequestCase] | list[AnswerCase]) -> None:
    named = {place for places in kinds.values() for place in places}
    modules = {place for place in named if place.endswith(".py")}
    assert all((TESTS / module).is_file() for module in modules)
    counts = Counter(case.group for case in cases)
    assert named - modules == set(counts), "a group without a kind, or a kind without its group"
    assert all(count >= 6 for count in counts.values()), counts


def test_there_are_many() -> None:
    assert len(REQUESTS) > 700
    assert len(ANSWERS) > 200
    assert sum(case.expect == "accept" for case in REQUESTS) > 150
    assert sum(bool(case.update) for case in ANSWERS) > 50


def test_no_two_are_the_same() -> None:
    for same, count in Counter((case.data, str(case.limits)) for case in REQUESTS).items():
        assert count == 1, [case.name for case in REQUESTS if case.data == same[0]]
    for answer, count in Counter((case.data, case.method, case.then) for case in ANSWERS).items():
        assert count == 1, [case.name for case in ANSWERS if case.data == answer[0]]


def test_each_says_why_in_words_of_its_own() -> None:
    reasons = Counter(case.why for case in [*REQUESTS, *ANSWERS])
    assert [why for why, count in reasons.items() if count > 1 or len(why) < 40 or why[-1] not in ".?!)"] == []


def test_what_is_refused_would_have_an_effect() -> None:
    """A refusal proves little where nothing would have happened anyway: most would change both ports' state."""
    refused = [case for case in REQUESTS if isinstance(case.expect, int)]
    effective = [case for case in refused if b"DELETE /nodes" in case.data or case.data.startswith(b"POST ")]
    assert len(effective) > 0.75 * len(refused)
