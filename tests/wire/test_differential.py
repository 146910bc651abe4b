"""The corpus of requests through Spawn, HAProxy and nginx: what both others refuse Spawn takes only for a reason.

That reason is in the case's file. Spawn is a whole service here, in a process of its own, so its nodes are also asked
whether they saw what the corpus says they see.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from tests.support.cluster import Spawn
from tests.support.corpus import RequestCase, name_of, request_cases
from tests.support.differential import (
    HEALTH,
    SPAWN,
    Comparison,
    Outcome,
    Outcomes,
    Received,
    Recorder,
    faults,
    summary,
)
from tests.support.peers import start_haproxy, start_nginx
from tests.support.processes import Processes

AT_ONCE = 40  # connections to each proxy
QUIET_S = 0.2
UNHURRIED_S = 1.0

# Limits are settings and not a way to read; peers have others.
CASES = [case for case in request_cases() if not case.limits]


async def _compare(processes: Processes, cases: Sequence[RequestCase]) -> list[Outcomes]:
    async with Recorder() as ours, Recorder() as haproxys, Recorder() as nginxs:
        settings = {"health-check": {"seconds": 1, "url": HEALTH}}
        spawn = await asyncio.to_thread(lambda: Spawn(processes, [ours.port], settings).start())
        haproxy = await asyncio.to_thread(start_haproxy, processes, haproxys.port)
        nginx = await asyncio.to_thread(start_nginx, processes, nginxs.port)
        comparison = Comparison(
            {SPAWN: spawn.port, "HAProxy": haproxy, "nginx": nginx},
            {SPAWN: ours, "HAProxy": haproxys, "nginx": nginxs},
        )
        outcomes = await comparison.exchanges([case.data for case in cases], at_once=AT_ONCE, quiet_s=QUIET_S)
        for number, case in enumerate(cases):
            if faults(case, outcomes[number]):  # nobody is blamed for what a busy machine did
                outcomes[number] = await comparison.exchange(case.data, UNHURRIED_S)
        return outcomes


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcomes]:
    """Of all cases, by name."""
    processes = Processes(tmp_path_factory.mktemp("differential"))
    try:
        found = asyncio.run(_compare(processes, CASES))
    finally:
        complaints = processes.close()
    assert not complaints, "\n".join(complaints)
    return {case.name: each for case, each in zip(CASES, found, strict=True)}


@pytest.mark.needs("haproxy", "nginx")
@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_what_both_peers_refuse_is_taken_only_for_a_reason(case: RequestCase, outcomes: dict[str, Outcomes]) -> None:
    found = faults(case, outcomes[case.name])
    seen = "".join(f"\n  {name}: {outcome}" for name, outcome in outcomes[case.name].items())
    assert not found, f"{'; '.join(found)}{seen}"


@pytest.mark.needs("haproxy", "nginx")
def test_how_often_they_agree_is_said(outcomes: dict[str, Outcomes], capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\nSpawn beside HAProxy and nginx, {summary(list(outcomes.values()))}")
    assert any(outcome.count for each in outcomes.values() for outcome in each.values()), "nothing got through at all"


class TestTheJudge:
    """``faults`` with made-up outcomes: the comparison can fail."""

    GET = Received(b"GET / HTTP/1.1", b"")
    TOOK = Outcome((GET,), (200,))
    REFUSED = Outcome((), (400,))
    TWO = Outcome((GET, GET), (200, 200))

    @staticmethod
    def case(accepted: int, laxer: str = "") -> RequestCase:
        return RequestCase(
            name="a/b",
            data=b"x",
            expect="accept" if accepted else 400,
            why="-",
            rfc="-",
            laxer=laxer,
            limits={},
            rest=b"x" * (accepted - 1),
        )

    def faults(self, accepted: int, *outcomes: Outcome, laxer: str = "") -> str:
        by_name = dict(zip((SPAWN, "HAProxy", "nginx"), outcomes, strict=True))
        return "; ".join(faults(self.case(accepted, laxer), by_name))

    def test_agreement(self) -> None:
        assert self.faults(1, self.TOOK, self.TOOK, self.TOOK) == ""
        assert self.faults(0, self.REFUSED, self.REFUSED, self.REFUSED) == ""
        assert self.faults(2, self.TWO, self.TWO, self.TWO) == ""

    def test_stricter_than_one_or_both(self) -> None:
        assert self.faults(0, self.REFUSED, self.TOOK, self.TOOK) == ""
        assert self.faults(1, self.TOOK, self.REFUSED, self.TOOK) == ""

    def test_laxer_than_both_needs_its_reason(self) -> None:
        assert "no 'laxer'" in self.faults(1, self.TOOK, self.REFUSED, self.REFUSED)
        assert self.faults(1, self.TOOK, self.REFUSED, self.REFUSED, laxer="why") == ""
        assert "no 'laxer'" in self.faults(2, self.TWO, self.TOOK, self.REFUSED)

    @pytest.mark.parametrize("other", [TOOK, REFUSED])
    def test_a_reason_that_is_not_needed_any_more(self, other: Outcome) -> None:
        assert "is not laxer" in self.faults(1, self.TOOK, self.TOOK, other, laxer="why")

    def test_another_number_of_requests(self) -> None:
        assert "another number" in self.faults(1, self.TOOK, self.TWO, self.TWO)
        told = Outcome((self.GET,), (200, 400))
        assert self.faults(1, told, self.TWO, self.TWO) == "", "the second was refused in so many words"

    def test_another_body(self) -> None:
        posted = Outcome((Received(b"POST / HTTP/1.1", b"abc"),), (200,))
        longer = Outcome((Received(b"POST / HTTP/1.1", b"abc\r\n"),), (200,))
        assert self.faults(1, posted, posted, self.REFUSED) == ""
        assert "a body differs" in self.faults(1, posted, posted, longer)

    def test_a_request_that_nobody_sent(self) -> None:
        assert "no answer" in self.faults(2, Outcome((self.GET, self.GET), (200,)), self.TWO, self.TWO)

    def test_not_what_the_file_says(self) -> None:
        assert "the file says 0" in self.faults(0, self.TOOK, self.TOOK, self.TOOK)

    def test_what_a_node_cannot_read_and_what_never_ends(self) -> None:
        broken = Outcome((self.GET,), (200,), ("unreadable: x",), ended=False)
        assert "unreadable" in self.faults(1, broken, self.TOOK, self.TOOK)
        assert "keeps a connection" in self.faults(1, broken, self.TOOK, self.TOOK)
        assert self.faults(1, self.TOOK, broken, broken) == "", "peers are not what is tested"
