"""The durable journal against the one in memory: any sequence of calls, with reopening and crashes among them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec import structs

from spawn.errors import JournalFull, Pruned
from spawn.journal.base import Entry, FileBody, Outcome
from tests.support.journals import JournalUnderTest, update

CONSUMERS = st.sampled_from(["a", "b"])
FRACTION = st.floats(0, 1)
MAX_BYTES = 4_000  # small, so that both get full


def result_of(call: Callable[[], Any]) -> Any:
    try:
        return with_contents(call())
    except (JournalFull, Pruned) as error:
        return type(error)


def with_contents(result: Any) -> Any:
    """Body files have other names in each journal, and have to hold the same."""
    if isinstance(result, list):
        return [with_contents(one) for one in result]
    if isinstance(result, Entry) and isinstance(result.body, FileBody):
        content = Path(result.body.path).read_bytes()
        assert len(content) == result.body.size
        return structs.replace(result, body=b"file:" + content)
    return result


class TwoJournals(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.uploads = 0
        self.both = [JournalUnderTest(kind, self.root / kind, MAX_BYTES) for kind in ("memory", "sqlite")]

    def teardown(self) -> None:
        for under in self.both:
            under.journal.stop(10)
        shutil.rmtree(self.root)

    def same(self, call: Callable[[Any], Any]) -> Any:
        """What both answer, which has to be equal."""
        memory, sqlite = (result_of(lambda under=under: call(under.journal)) for under in self.both)
        assert memory == sqlite
        return memory

    def at(self, fraction: float, low: int = 0) -> int:
        return low + round(fraction * (self.both[0].journal.head - low))

    @rule(count=st.integers(1, 4), body=st.sampled_from([None, b"", b"x" * 300]), seconds=st.integers(-5, 20))
    def append(self, count: int, body: bytes | None, seconds: int) -> None:
        for under in self.both:
            under.now_s += seconds
        for n in range(count):
            self.same(lambda journal, n=n: journal.append(update(n, body)))

    @rule(size=st.integers(1, 900))
    def append_large(self, size: int) -> None:
        self.uploads += 1  # names are unique, as those of real uploads

        def append(under: JournalUnderTest) -> Any:
            body = under.spooled(bytes([size % 256]) * size, f"upload-{self.uploads}")
            return result_of(lambda: under.journal.append(update(size, body)))

        memory, sqlite = map(append, self.both)
        assert memory == sqlite

    @rule(consumer=CONSUMERS, fraction=FRACTION)
    def advance(self, consumer: str, fraction: float) -> None:
        self.same(lambda journal: journal.advance(consumer, self.at(fraction)))

    @rule(consumer=CONSUMERS, fraction=FRACTION)
    def set_position(self, consumer: str, fraction: float) -> None:
        self.same(lambda journal: journal.set_position(consumer, self.at(fraction)))

    @rule(consumer=CONSUMERS)
    def forget(self, consumer: str) -> None:
        self.same(lambda journal: journal.forget(consumer))

    @rule(fraction=FRACTION, status=st.sampled_from([200, 404]))
    def settle(self, fraction: float, status: int) -> None:
        if self.both[0].journal.head:
            self.same(lambda journal: journal.settle(self.at(fraction, 1), status))

    @rule(consumer=CONSUMERS, one=FRACTION, other=FRACTION, outcome=st.sampled_from([None, *Outcome]))
    def record(self, consumer: str, one: float, other: float, outcome: Outcome | None) -> None:
        if self.both[0].journal.head:
            first, last = sorted((self.at(one, 1), self.at(other, 1)))
            self.same(lambda journal: journal.record(consumer, first, last, outcome))

    @rule(consumer=CONSUMERS, one=FRACTION, other=FRACTION, verb=st.sampled_from(["skip", "retry"]))
    def note_action(self, consumer: str, one: float, other: float, verb: str) -> None:
        if self.both[0].journal.head:
            first, last = sorted((self.at(one, 1), self.at(other, 1)))
            self.same(lambda journal: journal.note_action(consumer, first, last, verb, "10.0.0.7"))

    @rule(consumer=CONSUMERS, after=FRACTION)
    def outcomes(self, consumer: str, after: float) -> None:
        self.same(lambda journal: journal.outcomes(consumer, self.at(after)))

    @rule(upto=FRACTION, entries=st.integers(-20, 60), records=st.integers(-20, 60), limit=st.integers(1, 5))
    def prune(self, upto: float, entries: int, records: int, limit: int) -> None:
        now_s = self.both[0].now_s
        self.same(lambda journal: journal.prune(self.at(upto), now_s - entries, now_s - records, limit))

    @rule(after=FRACTION, max_entries=st.integers(1, 10), max_bytes=st.integers(0, 2000))
    def read(self, after: float, max_entries: int, max_bytes: int) -> None:
        self.same(lambda journal: journal.read(self.at(after), max_entries, max_bytes))

    @rule()
    def reopen(self) -> None:
        self.both[1].reopen()

    @rule()
    def crash(self) -> None:
        """Everything that was said to be durable is found again, without a stop in order."""
        assert self.both[1].journal.flush(10)
        self.both[1].reopen_as_after_a_kill()

    @invariant()
    def they_agree(self) -> None:
        self.same(lambda journal: (journal.head, journal.tail, journal.positions(), journal.usage()))
        assert self.both[0].published == self.both[1].published

    @rule()
    def they_agree_in_all_details(self) -> None:
        for sequence in range(self.both[0].journal.head + 2):
            self.same(lambda journal, n=sequence: journal.entry(n))
            self.same(lambda journal, n=sequence: journal.fate(n))
            self.same(lambda journal, n=sequence: journal.reference(n))
            self.same(lambda journal, n=sequence: [journal.outcomes(consumer, n) for consumer in ("a", "b", "c")])


TestTwoJournals = TwoJournals.TestCase
TestTwoJournals.settings = settings(
    max_examples=80, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
