"""The journal's contract, over every backend; a durable one is also closed and opened again where that matters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest

from spawn.errors import JournalError, JournalFull, Pruned
from spawn.journal.base import MAX_ACTIONS, Action, FileBody, Outcome, Range
from tests.support.journals import JournalUnderTest, until, update

FOREVER = float("inf")


@pytest.fixture(params=["memory", "sqlite"])
def under(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[JournalUnderTest]:
    made = JournalUnderTest(request.param, tmp_path / "journal")
    yield made
    made.journal.stop(10)
    assert made.broken == []


def settle_down(under: JournalUnderTest) -> None:
    """Reopen what is durable; what is not must hold all the same."""
    if under.durable:
        under.reopen()


def test_a_new_journal_is_empty(under: JournalUnderTest) -> None:
    journal = under.journal
    assert (journal.head, journal.tail, journal.positions(), journal.broken) == (0, 1, {}, False)
    assert journal.read(0, 10, 1000) == []
    assert journal.fate(0) is journal.fate(1) is journal.entry(1) is journal.reference(1) is None
    assert len(journal.uuid) == 32
    assert journal.usage().used_bytes == 0


def test_sequences_start_at_1_and_have_no_gaps(under: JournalUnderTest) -> None:
    assert [under.journal.append(update(n)) for n in range(3)] == [1, 2, 3]
    settle_down(under)
    assert under.journal.append(update(4)) == 4


def test_what_is_read_is_what_was_appended(under: JournalUnderTest) -> None:
    bodies = [None, b"", b"\x00\xff" * 500, b"x" * 200_000]
    for n, body in enumerate(bodies):
        under.journal.append(update(n, body, key=b"k%d" % n if n % 2 else None))
    settle_down(under)
    entries = under.journal.read(0, 10, 10_000_000)
    assert [entry.body for entry in entries] == bodies
    assert [entry.key for entry in entries] == [None, b"k1", None, b"k3"]
    assert [entry.sequence for entry in entries] == [1, 2, 3, 4]
    assert (entries[1].method, entries[1].target) == (b"POST", b"/items/1?secret=1")
    assert entries[1].head == b"Host: app\r\nX-N: 1\r\n"
    assert entries[2] == under.journal.entry(3)


def test_the_uuid_is_kept(under: JournalUnderTest) -> None:
    before = under.journal.uuid
    settle_down(under)
    assert under.journal.uuid == before


def test_an_append_is_published_with_its_token_before_it_returns(under: JournalUnderTest) -> None:
    token = object()
    sequence = under.journal.append(update(1), token)
    ((entry, seen),) = under.batches[0]
    assert (entry.sequence, seen, entry.reference) == (sequence, token, None)


def test_batches_are_published_whole_and_in_order_before_any_append_of_them_returns(under: JournalUnderTest) -> None:
    returned: list[int] = []

    def publish_checked(batch: object) -> None:
        assert not set(returned) & {entry.sequence for entry, _ in under.batches[-1]}
        assert under.journal.head == under.batches[-1][-1][0].sequence

    under.on_publish = publish_checked
    jobs = [gevent.spawn(lambda n=n: returned.append(under.journal.append(update(n)))) for n in range(700)]
    gevent.joinall(jobs, timeout=30, raise_error=True)
    assert under.published == list(range(1, 701))
    assert sorted(returned) == under.published


def test_a_published_entry_equals_the_one_read(under: JournalUnderTest) -> None:
    under.journal.append(update(1, under.spooled(b"z" * 300_000)))
    ((published, _),) = under.batches[0]
    assert under.journal.read(0, 1, 1) == [published]


def test_a_killed_appender_does_not_lose_its_update(under: JournalUnderTest) -> None:
    job = gevent.spawn(under.journal.append, update(1), "token")
    gevent.sleep(0)
    job.kill()
    under.journal.append(update(2))
    assert [token for batch in under.batches for _, token in batch] == ["token", None]


def test_a_publisher_that_fails_does_not_stop_the_journal(under: JournalUnderTest) -> None:
    def publish_badly(batch: object) -> None:
        raise RuntimeError("a bug")

    under.on_publish = publish_badly
    assert under.journal.append(update(1)) == 1
    assert under.journal.append(update(2)) == 2


def test_reads_are_bounded_by_entries_and_bytes_but_give_at_least_one(under: JournalUnderTest) -> None:
    under.append(20, body=b"x" * 1000)
    assert [e.sequence for e in under.journal.read(3, 5, 1_000_000)] == [4, 5, 6, 7, 8]
    assert [e.sequence for e in under.journal.read(3, 50, 2500)] == [4, 5]
    assert [e.sequence for e in under.journal.read(3, 50, 1)] == [4]
    assert under.journal.read(20, 50, 1_000_000) == []


def test_a_read_may_span_many_pages(under: JournalUnderTest) -> None:
    under.append(1000)
    assert [e.sequence for e in under.journal.read(0, 10_000, 100 << 20)] == list(range(1, 1001))


def test_time_never_runs_backwards(under: JournalUnderTest) -> None:
    under.journal.append(update(1))
    under.now_s -= 5000
    under.journal.append(update(2))
    settle_down(under)
    under.journal.append(update(3))
    under.now_s += 6000
    under.journal.append(update(4))
    assert [e.time_s for e in under.journal.read(0, 9, 9999)] == [1_000_000.0, 1_000_000.0, 1_000_000.0, 1_001_000.0]


def test_what_a_wrong_clock_has_stamped_grows_older_too(under: JournalUnderTest) -> None:
    """One update years ahead must not keep all that come after it until then."""
    day_s, right_s = 86_400, under.now_s
    under.append(2)
    # Given an update that came while the clock was ten years ahead, and others after that
    under.now_s = right_s + 3_650 * day_s
    under.append(1)
    under.now_s = right_s + 10
    under.append(2)
    settle_down(under)
    under.append(1)
    times = [entry.time_s for entry in under.journal.read(0, 9, 9999)]
    assert times == sorted(times)
    # Then those of before are as old as they are
    head, now_s = under.journal.head, under.now_s
    assert under.journal.prune(head, now_s - day_s, now_s - day_s, 100) == 0
    under.now_s += 1.5 * day_s
    assert under.journal.prune(head, under.now_s - day_s, 0, 100) == 2
    # And the others go too, somewhat later
    under.append(1)
    under.now_s += 3 * day_s
    under.append(1)
    assert under.journal.prune(head, under.now_s - day_s, 0, 100) == 4


def test_positions_move_forwards_only_except_by_set_position(under: JournalUnderTest) -> None:
    under.append(5)
    under.journal.set_position("a", 2)
    under.journal.advance("a", 4)
    under.journal.advance("a", 3)
    assert under.journal.positions() == {"a": 4}
    settle_down(under)
    assert under.journal.positions() == {"a": 4}
    under.journal.set_position("a", 1)
    assert under.journal.durable_position("a") == 1
    settle_down(under)
    assert under.journal.positions() == {"a": 1}


def test_an_advance_is_durable_within_a_moment_without_any_append(under: JournalUnderTest) -> None:
    under.append(2)
    under.journal.set_position("a", 0)
    under.journal.advance("a", 2)
    until(lambda: under.journal.durable_position("a") == 2, "the position is durable", timeout_s=5)


def test_wait_durable_waits_and_gives_up(under: JournalUnderTest) -> None:
    under.append(2)
    under.journal.set_position("a", 0)
    assert not under.journal.wait_durable("a", 2, 0.05)
    under.journal.advance("a", 2)
    assert under.journal.wait_durable("a", 2, 5)
    assert under.journal.durable_position("a") == 2
    waiting = gevent.spawn(under.journal.wait_durable, "b", 1, 10)
    under.journal.set_position("b", 1)
    assert waiting.get(timeout=5) is True


def test_flush_makes_what_is_queued_durable(under: JournalUnderTest) -> None:
    under.append(1)
    under.journal.record("a", 1, 1, Outcome.UNKNOWN)
    assert under.journal.flush(5)
    assert under.journal.flush(0)


def test_a_forgotten_consumer_stays_forgotten(under: JournalUnderTest) -> None:
    under.append(3)
    under.journal.set_position("a", 1)
    under.journal.record("a", 1, 1, Outcome.SKIPPED)
    under.journal.forget("a")
    under.journal.advance("a", 3)  # its worker was a moment late
    under.journal.forget("nobody")
    settle_down(under)
    assert (under.journal.positions(), under.journal.durable_position("a")) == ({}, 0)
    fate = under.journal.fate(1)
    assert fate is not None
    assert fate.outcomes == {"a": Outcome.SKIPPED}


def test_the_first_reference_stands(under: JournalUnderTest) -> None:
    under.append(3)
    under.journal.settle(2, 201)
    under.journal.settle(2, 500)
    assert under.journal.reference(2) == 201
    assert [e.reference for e in under.journal.read(0, 9, 9999)] == [None, 201, None]
    settle_down(under)
    under.journal.settle(2, 404)
    assert under.journal.flush(5)
    assert [under.journal.reference(n) for n in (1, 2, 3, 4)] == [None, 201, None, None]
    assert [e.reference for e in under.journal.read(0, 9, 9999)] == [None, 201, None]


def test_outcomes_are_shown_at_once_and_after_reopening(under: JournalUnderTest) -> None:
    under.append(10)
    under.journal.record("a", 2, 8, Outcome.DROPPED)
    under.journal.record("a", 5, 5, Outcome.REFUSED)
    under.journal.record("a", 6, 6, None)
    under.journal.record("b", 5, 5, Outcome.REJECTED)
    expected = {1: None, 2: Outcome.DROPPED, 5: Outcome.REFUSED, 6: None, 7: Outcome.DROPPED, 9: None}

    def check() -> None:
        for sequence, outcome in expected.items():
            fate = under.journal.fate(sequence)
            assert fate is not None
            assert fate.outcomes.get("a") is outcome, sequence
        fate = under.journal.fate(5)
        assert fate is not None
        assert fate.outcomes == {"a": Outcome.REFUSED, "b": Outcome.REJECTED}

    check()
    settle_down(under)
    check()


def test_outcomes_of_a_consumer_are_ranges_beyond_a_place(under: JournalUnderTest) -> None:
    # Given outcomes of two consumers, some of them durable
    under.append(20)
    under.journal.record("a", 2, 9, Outcome.DROPPED)
    under.journal.record("b", 1, 20, Outcome.REJECTED)
    under.journal.record("a", 15, 16, Outcome.UNKNOWN)
    settle_down(under)
    # When more are queued
    under.journal.record("a", 5, 5, Outcome.REFUSED)
    under.journal.record("a", 10, 11, Outcome.DROPPED)
    under.journal.record("a", 16, 16, None)
    # Then all are shown in order, and cut back at the place that was given
    expected = [
        Range(2, 4, Outcome.DROPPED),
        Range(5, 5, Outcome.REFUSED),
        Range(6, 11, Outcome.DROPPED),
        Range(15, 15, Outcome.UNKNOWN),
    ]
    assert under.journal.outcomes("a", 0) == expected
    assert under.journal.outcomes("a", 8) == [Range(9, 11, Outcome.DROPPED), Range(15, 15, Outcome.UNKNOWN)]
    assert under.journal.outcomes("a", 15) == under.journal.outcomes("nobody", 0) == []
    assert under.journal.outcomes("b", 0) == [Range(1, 20, Outcome.REJECTED)]
    assert under.journal.flush(5)
    settle_down(under)
    assert under.journal.outcomes("a", 0) == expected


def test_outcomes_leave_with_their_records(under: JournalUnderTest) -> None:
    under.append(10)
    under.journal.record("a", 3, 9, Outcome.REJECTED)
    under.now_s += 1
    under.append(1)
    assert under.journal.prune(11, FOREVER, 0, 5) == 5
    assert under.journal.prune(5, 0, FOREVER, 5) == 5, "the records of 1 to 5"
    assert under.journal.outcomes("a", 0) == [Range(6, 9, Outcome.REJECTED)]
    settle_down(under)
    assert under.journal.outcomes("a", 0) == [Range(6, 9, Outcome.REJECTED)]


def actions_on(under: JournalUnderTest, sequence: int) -> tuple[Action, ...]:
    fate = under.journal.fate(sequence)
    assert fate is not None
    return fate.actions


def test_an_operators_actions_are_shown_at_once_and_after_reopening(under: JournalUnderTest) -> None:
    # Given two actions, the first one durable
    under.append(5)
    under.journal.note_action("a", 2, 3, "skip", "10.0.0.7")
    settle_down(under)
    under.now_s += 60
    # When one more is queued
    under.journal.note_action("a", 3, 3, "retry", "10.0.0.8")
    # Then both are shown, the oldest first, for the updates they were done to
    skip = Action(1_000_000.0, "a", "skip", "10.0.0.7")
    retry = Action(1_000_060.0, "a", "retry", "10.0.0.8")
    for _ in range(2):
        assert [actions_on(under, n) for n in range(1, 5)] == [(), (skip,), (skip, retry), ()]
        settle_down(under)


def test_an_action_is_durable_after_a_flush_and_shown_once(under: JournalUnderTest) -> None:
    under.append(2)
    for n in range(20):
        under.journal.note_action("a", 1, 2, "retry", f"10.0.0.{n}")
        if n % 3 == 0:
            assert under.journal.flush(5)
        assert [action.peer for action in actions_on(under, 1)] == [f"10.0.0.{m}" for m in range(n + 1)]


def test_of_many_actions_the_oldest_go(under: JournalUnderTest) -> None:
    under.append(2)
    under.journal.note_action("a", 1, 1, "skip", "10.0.0.7")
    assert under.journal.flush(5)
    for _ in range(MAX_ACTIONS - 1):
        under.journal.note_action("a", 2, 2, "retry", "10.0.0.7")
    assert under.journal.flush(5)
    assert (len(actions_on(under, 1)), len(actions_on(under, 2))) == (1, MAX_ACTIONS - 1)
    under.journal.note_action("a", 2, 2, "retry", "10.0.0.8")
    assert under.journal.flush(5)
    settle_down(under)
    assert (len(actions_on(under, 1)), len(actions_on(under, 2))) == (0, MAX_ACTIONS)


def test_actions_leave_with_their_records(under: JournalUnderTest) -> None:
    under.append(3)
    under.journal.note_action("a", 1, 2, "skip", "10.0.0.7")
    under.journal.note_action("a", 2, 3, "skip", "10.0.0.8")
    under.now_s += 1
    under.append(1)
    assert under.journal.prune(4, FOREVER, under.now_s, 10) == 4 + 3
    settle_down(under)
    under.journal.note_action("a", 1, 3, "skip", "10.0.0.9")  # nobody can see it any more
    under.journal.note_action("a", 4, 4, "skip", "10.0.0.9")
    assert [action.peer for action in actions_on(under, 4)] == ["10.0.0.9"]


def test_a_fate_shows_no_query_header_or_body(under: JournalUnderTest) -> None:
    under.journal.append(update(1))
    under.journal.settle(1, 200)
    fate = under.journal.fate(1)
    assert fate is not None
    assert (fate.method, fate.path, fate.reference, fate.time_s) == ("POST", "/items/1", 200, 1_000_000.0)
    assert "secret" not in repr(fate)
    assert "Host" not in repr(fate)


def test_large_bodies_are_moved_in_and_leave_with_their_entry(under: JournalUnderTest) -> None:
    content = bytes(range(256)) * 2000
    spooled = under.spooled(content)
    under.journal.append(update(1, spooled))
    settle_down(under)
    (entry,) = under.journal.read(0, 9, 9)
    assert isinstance(entry.body, FileBody)
    assert entry.body.size == len(content)
    path = Path(entry.body.path)
    assert path.read_bytes() == content
    assert under.journal.usage().used_bytes > len(content)
    assert under.journal.prune(1, FOREVER, 0, 10) == 1
    assert not path.exists()
    assert under.journal.usage().used_bytes < 1000


def test_a_full_journal_refuses_and_recovers_by_pruning(tmp_path: Path, under: JournalUnderTest) -> None:
    under.max_bytes = 20_000
    under.journal.stop(5)
    under.directory = tmp_path / "small"
    journal = under.start()
    with pytest.raises(JournalFull):
        for n in range(100):
            journal.append(update(n, b"x" * 1000))
    head = journal.head
    assert 10 < head < 20
    spooled = under.spooled(b"x" * 30_000)
    with pytest.raises(JournalFull):
        journal.append(update(0, spooled))
    assert not Path(spooled.path).exists()
    assert (journal.head, under.published) == (head, list(range(1, head + 1)))
    settle_down(under)
    assert under.journal.usage().used_bytes <= 20_000
    with pytest.raises(JournalFull):
        under.journal.append(update(0, b"x" * 1000))
    assert under.journal.prune(5, FOREVER, 0, 100) == 5
    assert under.journal.append(update(0, b"x" * 1000)) == head + 1


def test_pruning_keeps_records_longer_than_entries(under: JournalUnderTest) -> None:
    under.append(10)
    under.now_s += 100
    under.append(10)
    journal = under.journal
    assert journal.prune(20, 0, 0, 100) == 0
    assert journal.prune(7, under.now_s, 0, 4) == 4
    assert journal.prune(7, under.now_s, 0, 4) == 3
    assert journal.prune(7, under.now_s, 0, 4) == 0
    assert journal.prune(20, under.now_s, 0, 100) == 3, "those from 11 on are too young"
    settle_down(under)
    journal = under.journal
    assert journal.tail == 11
    with pytest.raises(Pruned):
        journal.read(9, 1, 1)
    with pytest.raises(Pruned):
        journal.entry(10)
    assert [e.sequence for e in journal.read(10, 1, 1)] == [11]
    assert journal.fate(10) is not None
    assert journal.prune(0, 0, under.now_s, 100) == 10
    with pytest.raises(Pruned):
        journal.fate(10)
    assert journal.reference(10) is None
    journal.settle(10, 200)
    assert journal.reference(10) is None
    assert journal.fate(11) is not None


def test_everything_may_be_pruned_and_the_head_stays(under: JournalUnderTest) -> None:
    under.append(5)
    under.now_s += 1
    assert under.journal.prune(5, FOREVER, FOREVER, 100) == 9, "5 entries, and all records but the newest"
    settle_down(under)
    journal = under.journal
    assert (journal.head, journal.tail) == (5, 6)
    assert journal.read(5, 1, 1) == []
    assert journal.fate(5) is not None
    under.now_s -= 500
    assert journal.append(update(6)) == 6
    assert journal.read(5, 1, 1)[0].time_s == 1_000_000.0


def test_refused_skipped_and_unknown_updates_are_pinned_until_their_record_goes(under: JournalUnderTest) -> None:
    under.append(10)
    under.journal.record("b", 9, 9, Outcome.UNKNOWN)
    under.journal.record("a", 8, 8, Outcome.REJECTED)
    under.journal.record("a", 3, 4, Outcome.REFUSED)
    under.journal.record("b", 6, 6, Outcome.SKIPPED)
    under.journal.record("b", 7, 7, Outcome.DROPPED)
    while under.journal.prune(10, FOREVER, 0, 2):
        pass
    settle_down(under)
    kept = []
    for sequence in range(1, 11):
        try:
            entry = under.journal.entry(sequence)
        except Pruned:
            continue
        assert entry is not None
        kept.append(entry.sequence)
    assert (kept, under.journal.tail) == ([3, 4, 6, 9], 11)
    while under.journal.prune(10, FOREVER, FOREVER, 2):
        pass
    with pytest.raises(Pruned):
        under.journal.entry(4)
    with pytest.raises(Pruned):
        under.journal.fate(4)
    assert under.journal.usage().used_bytes < 100, "one record is left"


def test_a_backup_is_made_where_there_is_something_to_copy_and_else_refused(
    under: JournalUnderTest, tmp_path: Path
) -> None:
    under.append(3)
    target = tmp_path / "backup"
    if under.durable:
        made = under.journal.backup(str(target))
        assert (made.path, made.head) == (str(target), 3)
    else:
        with pytest.raises(JournalError, match="in memory"):
            under.journal.backup(str(target))
    assert target.exists() is under.durable
    assert under.journal.append(update(4)) == 4
    assert under.journal.prune(4, FOREVER, 0, 100) == 4, "pruning goes on"


def test_calls_that_make_no_sense_are_bugs(under: JournalUnderTest) -> None:
    under.append(2)
    under.journal.set_position("a", 0)
    for call in (
        lambda: under.journal.advance("a", 3),
        lambda: under.journal.set_position("a", 3),
        lambda: under.journal.set_position("a", -1),
        lambda: under.journal.settle(3, 200),
        lambda: under.journal.record("a", 2, 1, Outcome.REFUSED),
        lambda: under.journal.record("a", 1, 3, Outcome.REFUSED),
        lambda: under.journal.note_action("a", 2, 3, "skip", "127.0.0.1"),
        lambda: under.journal.note_action("a", 0, 1, "skip", "127.0.0.1"),
    ):
        with pytest.raises(ValueError):
            call()


def test_after_stop_every_call_says_so(under: JournalUnderTest) -> None:
    under.append(1)
    under.journal.set_position("a", 1)
    journal = under.journal
    journal.stop(5)
    journal.stop(5)
    for call in (
        lambda: journal.append(update(1)),
        lambda: journal.read(0, 1, 1),
        lambda: journal.advance("a", 1),
        lambda: journal.fate(1),
        lambda: journal.outcomes("a", 0),
        lambda: journal.note_action("a", 1, 1, "skip", "127.0.0.1"),
        lambda: journal.backup(str(under.directory.parent / "backup")),
        lambda: journal.positions(),
        lambda: journal.flush(1),
        lambda: journal.prune(1, 0, 0, 1),
        lambda: journal.set_position("a", 0),
    ):
        with pytest.raises(JournalError):
            call()
    assert (journal.head, journal.broken) == (1, False)
    assert journal.usage().used_bytes > 0


def test_stop_makes_durable_what_was_queued(under: JournalUnderTest) -> None:
    under.append(3)
    under.journal.set_position("a", 0)
    under.journal.advance("a", 3)
    under.journal.settle(3, 200)
    settle_down(under)
    assert under.journal.positions() == {"a": 3}
    assert under.journal.reference(3) == 200


def test_the_spool_is_empty_after_start(under: JournalUnderTest) -> None:
    spooled = under.spooled(b"never appended")
    under.reopen()
    assert not Path(spooled.path).exists()
    assert Path(under.journal.spool_path()).is_dir()


def test_it_answers_from_before_its_start_until_after_its_end(under: JournalUnderTest) -> None:
    assert under.journal.answers(5)
    under.append(3)
    assert under.journal.answers(5)
    under.journal.stop(10)
    assert under.journal.answers(5)
    assert under.make().answers(5)
