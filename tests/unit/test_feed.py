"""A worker's supply: whatever is published, read, lost or woken, the next entry is the one after the position."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import gevent
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spawn.delivery import feed as feed_module
from spawn.delivery.feed import Feed
from spawn.errors import Pruned
from spawn.journal.base import Entry, NewUpdate, Published
from spawn.journal.memory import MemoryJournal


class Supplied:
    """A journal with a feed that gets what is published."""

    def __init__(self, directory: str) -> None:
        self.journal = MemoryJournal(1 << 30, directory)
        self.feed = Feed(self.journal)
        self.reads = 0
        self.journal.start(self._publish, lambda reason: None)
        self._read = self.journal.read
        self.journal.read = self._counted  # type: ignore[method-assign]

    def _publish(self, batch: Sequence[Published]) -> None:
        for entry, _ in batch:
            self.feed.offer(entry)

    def _counted(self, after: int, max_entries: int, max_bytes: int) -> list[Entry]:
        self.reads += 1
        return self._read(after, max_entries, max_bytes)

    def append(self, count: int = 1, body: bytes = b"") -> None:
        for _ in range(count):
            self.journal.append(NewUpdate(b"POST", b"/", b"", body))

    def take(self, position: int) -> int | None:
        entry = self.feed.next(position, 0.001)
        return None if entry is None else entry.sequence


@pytest.fixture
def supplied(tmp_path: Path) -> Iterator[Supplied]:
    made = Supplied(str(tmp_path / "spool"))
    yield made
    made.journal.stop(1.0)


def test_what_lies_in_the_journal_comes_first_then_the_queue_is_followed(supplied: Supplied) -> None:
    supplied.append(3)
    assert [supplied.take(position) for position in range(3)] == [1, 2, 3]
    assert supplied.take(3) is None  # from now on it follows
    supplied.reads = 0
    for position in range(3, 200):
        supplied.append()
        assert supplied.take(position) == position + 1
    assert supplied.reads == 0


def test_an_overflow_of_entries_is_read_from_the_journal(supplied: Supplied) -> None:
    assert supplied.take(0) is None
    supplied.append(feed_module.QUEUE_ENTRIES + 500)
    total = feed_module.QUEUE_ENTRIES + 500
    assert [supplied.take(position) for position in range(total)] == list(range(1, total + 1))
    assert supplied.reads > 0
    assert supplied.take(total) is None


def test_the_queue_is_bounded_in_bytes(supplied: Supplied) -> None:
    assert supplied.take(0) is None
    body = bytes(200_000)
    supplied.append(100, body)
    queued = supplied.feed._queue.qsize()
    assert queued * len(body) <= feed_module.QUEUE_BYTES
    assert [supplied.take(position) for position in range(100)] == list(range(1, 101))


def test_one_entry_larger_than_the_queue_still_comes(supplied: Supplied) -> None:
    assert supplied.take(0) is None
    supplied.append(2, bytes(feed_module.QUEUE_BYTES + 1))
    assert [supplied.take(0), supplied.take(1)] == [1, 2]


def test_another_position_is_served_from_the_journal(supplied: Supplied) -> None:
    assert supplied.take(0) is None
    supplied.append(10)
    assert supplied.take(0) == 1
    assert supplied.take(6) == 7
    assert supplied.take(2) == 3  # rewound
    assert [supplied.take(position) for position in range(3, 10)] == [4, 5, 6, 7, 8, 9, 10]
    assert supplied.take(10) is None
    supplied.append()
    assert supplied.take(10) == 11


def test_the_same_entry_again_when_it_was_not_done_with(supplied: Supplied) -> None:
    supplied.append(2)
    assert [supplied.take(0), supplied.take(0), supplied.take(1)] == [1, 1, 2]


def test_a_wake_ends_the_wait_at_once(supplied: Supplied) -> None:
    waiting = gevent.spawn(supplied.feed.next, 0, 60.0)
    gevent.sleep(0)
    supplied.feed.wake()
    waiting.join(2.0)
    assert waiting.ready()
    assert waiting.value is None


def test_an_append_ends_the_wait_at_once(supplied: Supplied) -> None:
    waiting = gevent.spawn(supplied.feed.next, 0, 60.0)
    gevent.sleep(0)
    supplied.append()
    waiting.join(2.0)
    assert waiting.value is not None
    assert waiting.value.sequence == 1


def test_wakes_do_not_pile_up_nor_hide_entries(supplied: Supplied) -> None:
    assert supplied.take(0) is None
    for _ in range(5_000):
        supplied.feed.wake()
    supplied.append()
    for _ in range(5_000):
        supplied.feed.wake()
    assert supplied.take(0) == 1


def test_what_is_pruned_is_said(supplied: Supplied) -> None:
    supplied.append(3)
    supplied.journal.prune(3, 1e12, 1e12, 100)
    with pytest.raises(Pruned):
        supplied.take(0)


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 30)),
        st.tuples(st.just("take"), st.integers(1, 30)),
        st.tuples(st.just("jump"), st.integers(0, 100)),
        st.tuples(st.just("wake"), st.just(0)),
    ),
    max_size=40,
)


@settings(max_examples=50, deadline=None)
@given(ACTIONS)
def test_it_never_skips_repeats_or_reorders(
    tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[str, int]]
) -> None:
    made = Supplied(str(tmp_path_factory.mktemp("feed")))
    position = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feed_module, "QUEUE_ENTRIES", 7)
        patch.setattr(feed_module, "BATCH_ENTRIES", 5)
        for action, number in actions:
            if action == "append":
                made.append(number)
            elif action == "jump":
                position = min(number, made.journal.head)
            elif action == "wake":
                made.feed.wake()
            else:
                for _ in range(number):
                    taken = made.take(position)
                    if taken is None:
                        taken = made.take(position)  # the first may have been a wake
                    assert taken == (position + 1 if position < made.journal.head else None)
                    position += taken is not None
    made.journal.stop(1.0)
