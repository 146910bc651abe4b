"""What the journal may forget."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from spawn.delivery import retention as retention_module
from spawn.delivery.retention import Retention
from spawn.errors import JournalFull, Pruned
from spawn.journal.base import Outcome
from spawn.nodes.node import NodeEvent
from tests.support.fleets import FleetUnderTest
from tests.support.inprocess import until

RETAIN_S = 3_600.0


@pytest.fixture
def made(tmp_path: Path) -> Iterator[FleetUnderTest]:
    fleet = FleetUnderTest(tmp_path, [1, 2], max_bytes=100_000)
    yield fleet
    fleet.close()


@pytest.fixture
def retention(made: FleetUnderTest) -> Retention:
    return Retention(made.fleet, made.journal, RETAIN_S, now=lambda: made.now_s)


def test_what_every_node_has_goes_and_its_record_stays(made: FleetUnderTest, retention: Retention) -> None:
    made.append(5)
    made.deliver(1)
    made.deliver(2, 3)
    retention.prune()
    assert made.journal.tail == 4
    assert made.journal.fate(1) is not None


def test_records_go_after_their_time(made: FleetUnderTest, retention: Retention) -> None:
    made.append(5)
    made.deliver(1)
    made.deliver(2)
    made.now_s += RETAIN_S + 1
    retention.prune()
    with pytest.raises(Pruned):
        made.journal.fate(4)
    assert made.journal.fate(5) is not None  # the newest always stays


@pytest.mark.parametrize("change", [{"active": False}, {"maintenance": True}])
def test_a_node_that_is_away_keeps_what_it_may_need(
    made: FleetUnderTest, retention: Retention, change: dict[str, bool]
) -> None:
    made.append(5)
    made.put(2, **change)
    made.deliver(1)
    retention.prune()
    assert made.journal.tail == 1
    made.now_s += RETAIN_S + 1
    retention.prune()
    # without end for one in maintenance, for some time for one that may be given a position
    assert made.journal.tail == (1 if "maintenance" in change else 6)


def more_than_fits(made: FleetUnderTest) -> int:
    usage = made.journal.usage()
    return usage.max_bytes - usage.used_bytes + 1


def test_room_is_made_of_what_is_only_kept_for_convenience(made: FleetUnderTest, retention: Retention) -> None:
    made.append(5)
    made.put(2, active=False)
    made.deliver(1)
    assert retention.make_room(more_than_fits(made))
    assert made.journal.tail == 6


def test_a_node_that_is_down_and_holds_the_log_back_is_given_up(made: FleetUnderTest, retention: Retention) -> None:
    made.append(5)
    made.deliver(1)
    made.fleet.on_health(made.node(2), NodeEvent.FAIL)
    assert retention.make_room(more_than_fits(made))
    assert made.node(2).out_of_sync
    until(lambda: made.worker(2) is None, "its worker ends")
    assert made.journal.tail == 6


def test_a_node_that_is_far_behind_is_given_up(
    made: FleetUnderTest, retention: Retention, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention_module, "QUEUE_ENTRIES", 3)
    made.append(5)
    made.deliver(1)
    assert retention.make_room(more_than_fits(made))
    assert made.node(2).out_of_sync


def test_a_node_that_is_just_a_little_slower_is_not(made: FleetUnderTest, retention: Retention) -> None:
    made.append(5)
    made.deliver(1)
    made.deliver(2, 4)
    assert retention.make_room(more_than_fits(made))  # the first four
    assert retention.make_room(more_than_fits(made))  # their records
    assert not retention.make_room(more_than_fits(made))
    assert not made.node(2).out_of_sync


def test_what_is_kept_for_retries_and_history_is_kept_within_the_limit(
    made: FleetUnderTest, retention: Retention, caplog: pytest.LogCaptureFixture
) -> None:
    """Else one node that refuses large bodies would stop all updates until ``journal.retain`` is over."""
    made.append(5)
    made.journal.record(made.node(2).id, 1, 3, Outcome.REFUSED)
    made.deliver(1)
    made.deliver(2)
    retention.prune()
    assert made.journal.entry(1) is not None
    # If the journal is full, then records go, the oldest first, and what was kept for retries with them
    assert retention.make_room(more_than_fits(made))
    with pytest.raises(Pruned):
        made.journal.entry(1)
    assert not made.node(2).out_of_sync
    assert retention.make_room(made.journal.usage().max_bytes - made.journal.usage().used_bytes)
    assert [record.levelname for record in caplog.records if "the journal is full" in record.message] == ["ERROR"]
    # And that is said anew once there was room again
    retention.prune()
    made.append(5)
    made.deliver(1)
    made.deliver(2)
    assert retention.make_room(more_than_fits(made))
    while retention.make_room(more_than_fits(made)):
        pass
    assert caplog.text.count("the journal is full") == 2


def test_what_is_only_announced_takes_nothing(made: FleetUnderTest, retention: Retention) -> None:
    made.append(5)
    made.put(3, active=True)  # out of sync, and may still be given any position
    made.deliver(1)
    made.deliver(2)
    assert retention.could_make_room(more_than_fits(made))
    assert made.journal.tail == 1
    assert retention.make_room(more_than_fits(made))
    assert made.journal.tail == 6


def test_what_cannot_be_made_is_known_before(made: FleetUnderTest, retention: Retention) -> None:
    made.append(5)
    for port in (1, 2):
        made.fleet.on_health(made.node(port), NodeEvent.FAIL)
    assert not retention.could_make_room(more_than_fits(made))


def test_nobody_is_given_up_when_nobody_has_everything(made: FleetUnderTest, retention: Retention) -> None:
    made.append(5)
    for port in (1, 2):
        made.fleet.on_health(made.node(port), NodeEvent.FAIL)
    assert not retention.make_room(more_than_fits(made))
    assert not made.node(1).out_of_sync
    assert made.journal.tail == 1


def test_nobody_is_given_up_for_want_of_time(
    made: FleetUnderTest, retention: Retention, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While there may be more to prune, a node that is behind is not what the log is full of."""
    monkeypatch.setattr(retention_module, "ROOM_S", 0.0)
    made.append(5)
    made.deliver(1)
    made.fleet.on_health(made.node(2), NodeEvent.FAIL)
    assert not retention.make_room(more_than_fits(made))
    assert not made.node(2).out_of_sync


def test_a_backup_keeps_nobody_waiting_for_room_again_and_again(
    made: FleetUnderTest, retention: Retention, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(retention_module, "ROOM_S", 0.0)
    monkeypatch.setattr(made.journal, "prune", lambda *bounds: asked.append(bounds))  # None: a backup came first
    made.append(5)
    assert not retention.make_room(more_than_fits(made))
    assert len(asked) == 1


def test_while_no_node_gets_deliveries_the_journal_is_the_only_copy(made: FleetUnderTest, retention: Retention) -> None:
    # Given nodes that are all out of sync, as after a restore
    made.append(5)
    for port in (1, 2):
        made.node(port).out_of_sync = True
    made.now_s += RETAIN_S + 1
    # When it is pruned, also for want of room, then nothing goes
    retention.prune()
    assert not retention.make_room(more_than_fits(made))
    assert made.journal.tail == 1
    # And it does once one of them has its place, and the other is not told one
    made.node(1).out_of_sync = False
    made.deliver(1)
    retention.prune()
    assert made.journal.tail == 6


def test_pruning_that_fails_is_said_once(
    retention: Retention, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries, fails = [0], [True]

    def prune() -> int:
        tries[0] += 1
        if fails[0]:
            raise JournalFull("no room")
        return 0

    def tried() -> None:
        before = tries[0]
        until(lambda: tries[0] > before + 2, "it is tried again")

    monkeypatch.setattr(retention_module, "PERIOD_S", 0.001)
    monkeypatch.setattr(retention, "prune", prune)
    retention.start()
    for fails[0] in (True, False, True):
        tried()
    retention.stop()
    said = [record.getMessage() for record in caplog.records if "pruning failed" in record.getMessage()]
    assert len(said) == 2, "and again after it went well"
