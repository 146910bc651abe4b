"""What operators change, and what is true when the call returns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest

from spawn.delivery import fleet, saver
from spawn.delivery.refusals import Blame
from spawn.delivery.types import NodeChange, NodeConflict, NoSuchNode, NotPossibleNow, PositionConflict, VerbConflict
from spawn.errors import JournalBroken, Pruned, StateError
from spawn.journal.base import Outcome, Range
from spawn.nodes.node import Node, NodeEvent, NodeState
from spawn.nodes.registry import Registry
from tests.support.fleets import FleetUnderTest
from tests.support.journals import until


@pytest.fixture
def made(tmp_path: Path) -> Iterator[FleetUnderTest]:
    fleet = FleetUnderTest(tmp_path, [1, 2])
    yield fleet
    fleet.close()


def stored(made: FleetUnderTest) -> dict[int, tuple[bool, bool]]:
    again = Registry(made.store)
    again.load()
    return {node.record.port: (node.record.active, node.out_of_sync) for node in again.nodes}


def test_a_new_node_is_inactive_unless_said_and_joins_an_empty_journal_in_sync(made: FleetUnderTest) -> None:
    result = made.put(3)
    assert (result.created, result.record.active, result.note) == (True, False, "")
    assert made.node(3).state is NodeState.INACTIVE
    assert made.worker(3) is None
    assert made.put(4, active=True).note == ""
    assert made.worker(4) is not None
    assert stored(made) == {1: (True, False), 2: (True, False), 3: (False, False), 4: (True, False)}


def test_one_that_joins_later_is_told_what_to_do(made: FleetUnderTest) -> None:
    made.append()
    result = made.put(3, active=True)
    assert "out of sync" in result.note
    assert made.worker(3) is None
    assert stored(made)[3] == (True, True)
    assert 3 not in {made.registry.by_id(node_id).record.port for node_id in made.fleet.speakers}  # type: ignore[union-attr]


@pytest.mark.parametrize(("position", "expected"), [("head", 4), (4, 4), (1, 1), (0, 0)])
def test_a_position_in_the_same_step(made: FleetUnderTest, position: object, expected: int) -> None:
    made.append(4)
    result = made.put(3, position, active=True)
    assert result.note == ""
    assert made.node(3).position == made.journal.positions()[made.node(3).id] == expected
    assert made.worker(3) is not None
    assert not made.node(3).diverged


@pytest.mark.parametrize("position", [5, 10**9])
def test_an_impossible_position_changes_nothing(made: FleetUnderTest, position: int) -> None:
    made.append(4)
    with pytest.raises(PositionConflict, match="beyond"):
        made.put(3, position, active=True)
    assert made.registry.find("h", 3) == []
    with pytest.raises(PositionConflict):
        made.changes.set_position("h", 1, position, "test")
    assert made.node(1).position == 0


def test_a_pruned_position_is_refused(made: FleetUnderTest) -> None:
    made.append(4)
    made.journal.prune(3, 1e12, 0.0, 100)
    with pytest.raises(PositionConflict, match=r"copy the data of another node.* oldest possible one is 3"):
        made.changes.set_position("h", 1, 2, "test")
    made.changes.set_position("h", 1, 3, "test")


def test_a_node_cannot_move_onto_another(made: FleetUnderTest) -> None:
    with pytest.raises(NodeConflict):
        made.put(1, port=2)
    assert made.node(1).record.port == 1


def test_nobody_is_placed_that_is_not_there(made: FleetUnderTest) -> None:
    with pytest.raises(NoSuchNode):
        made.changes.set_position("h", 9, 0, "test")


def test_a_moved_node_keeps_its_id_and_is_looked_at(made: FleetUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    node = made.node(1)
    made.append(3)
    before, stopped_at = made.worker(1), []
    assert before is not None
    monkeypatch.setattr(before, "stop", lambda deadline_s: stopped_at.append(node.record.port) or True)
    made.put(1, port=7)
    assert stopped_at == [1]  # what it had in hand was the old address's to answer
    assert made.worker(7) not in (None, before)
    assert made.node(7) is node
    assert node.state is NodeState.DOWN
    assert node in made.checker.poked
    assert made.worker(7) is not None


def test_maintenance_stops_the_worker_and_its_end_starts_one(made: FleetUnderTest) -> None:
    before = made.worker(1)
    assert before is not None
    made.put(1, maintenance=True)
    assert before.stopped
    assert made.worker(1) is None
    assert made.node(1) in made.checker.nodes
    made.put(1, maintenance=False)
    assert made.worker(1) is not None
    assert made.node(1).state is NodeState.DOWN
    assert made.node(1) in made.checker.poked


def test_inactive_drops_and_active_again_is_out_of_sync(made: FleetUnderTest) -> None:
    made.append(2)
    made.deliver(1, 1)
    made.put(1, active=False)
    assert made.outcomes(1) == {}
    assert made.outcomes(2) == {1: "dropped"}
    assert made.node(1) not in made.checker.nodes
    assert made.put(1, active=True).note
    assert made.node(1).out_of_sync
    made.changes.set_position("h", 1, 1, "test")
    assert made.outcomes(2) == {}  # it gets it after all
    assert made.worker(1) is not None


def test_a_step_ahead_skips_and_marks_a_step_back_does_not(made: FleetUnderTest) -> None:
    made.append(5)
    made.deliver(1, 2)
    made.changes.set_position("h", 1, 4, "test")
    assert made.node(1).diverged
    assert [made.outcomes(sequence).get(1) for sequence in (2, 3, 4, 5)] == [None, "skipped", "skipped", None]
    made.changes.set_position("h", 1, 2, "test")
    assert not made.node(1).diverged
    assert [made.outcomes(sequence).get(1) for sequence in (2, 3, 4, 5)] == [None] * 4
    assert made.node(1).state is NodeState.CATCHING_UP


def test_a_place_in_the_midst_of_what_was_dropped(made: FleetUnderTest) -> None:
    made.append(5)
    made.deliver(1, 1)
    made.put(1, active=False)
    made.put(1, 3, active=True)
    made.deliver(1)
    assert [made.outcomes(sequence).get(1) for sequence in range(1, 6)] == [None, "dropped", "dropped", None, None]


def test_a_node_that_brings_its_data_along_pins_nothing(made: FleetUnderTest) -> None:
    """What it is told to have is not skipped, so that the journal need not keep all of it for the operator."""
    made.append(5)
    made.put(3, "head", active=True)
    assert made.outcomes(5) == {}
    made.deliver(1)
    made.deliver(2)
    assert made.journal.prune(5, 1e12, 0.0, 100) == 5
    with pytest.raises(Pruned):
        made.journal.entry(5)


def test_a_position_that_is_pruned_at_the_last_moment_leaves_a_worker(made: FleetUnderTest) -> None:
    made.append(5)
    made.deliver(1)
    made.deliver(2)
    before = made.worker(1)
    assert before is not None

    def stop(deadline_s: float) -> bool:
        made.journal.prune(5, 1e12, 0.0, 100)
        return True

    before.stop = stop  # type: ignore[method-assign]
    with pytest.raises(PositionConflict, match="no longer retained"):
        made.changes.set_position("h", 1, 2, "test")
    assert made.worker(1) not in (None, before)


def test_a_deleted_node_is_gone_everywhere(made: FleetUnderTest) -> None:
    node, worker = made.node(1), made.worker(1)
    assert made.changes.delete_nodes("h", 1, "test") == 1
    assert worker is not None
    assert worker.stopped
    assert node.id not in made.journal.positions()
    assert node not in made.checker.nodes
    assert node.id not in made.fleet.speakers
    assert node.id not in made.fleet._switching
    assert 1 not in stored(made)
    assert made.changes.delete_nodes("h", 1, "test") == 0


def test_all_can_be_deleted(made: FleetUnderTest) -> None:
    assert made.changes.delete_nodes(None, None, "test") == 2
    assert not made.fleet.any_in_sync()


def test_a_start_after_a_crash_doubts_and_one_after_a_stop_does_not(tmp_path: Path) -> None:
    first = FleetUnderTest(tmp_path, [1])
    again = FleetUnderTest(tmp_path, [1], updates=100)  # the first was not stopped
    assert again.node(1).doubt_until == 64
    again.close()
    third = FleetUnderTest(tmp_path, [1], updates=100)  # what was in doubt still is
    assert third.node(1).doubt_until == 64
    third.node(1).position = 64
    third.close()
    fourth = FleetUnderTest(tmp_path, [1], updates=100)
    assert fourth.node(1).doubt_until == 0
    fourth.close()
    first.close()


def test_a_journal_that_was_lost_or_replaced_puts_every_node_out_of_sync(tmp_path: Path) -> None:
    first = FleetUnderTest(tmp_path, [1, 2], lasts=True)
    first.close()
    other = FleetUnderTest(tmp_path, [1, 2], lasts=True)  # another journal, with another uuid
    assert [node.out_of_sync for node in other.registry.nodes] == [True, True]
    assert not other.workers
    other.changes.set_position("h", 1, "head", "somebody")
    assert not other.node(1).out_of_sync
    other.close()


@pytest.mark.parametrize("verb", ["resume", "skip", "clear"])
def test_what_is_done_to_a_queue_is_on_the_disk_before_its_answer(
    made: FleetUnderTest, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    made.append(2)
    made.node(1).held = made.node(1).diverged = True
    verbs = {
        "resume": lambda: made.changes.resume("h", 1, "test"),
        "skip": lambda: made.changes.skip("h", 1, 2, "test"),
        "clear": lambda: made.changes.clear_diverged("h", 1, "test"),
    }
    monkeypatch.setattr(made.journal, "flush", lambda timeout_s: False)
    with pytest.raises(NotPossibleNow, match="a crash would forget it"):
        verbs[verb]()
    assert made.worker(1) is not None


def test_an_update_at_hand_is_left_out_by_the_next_worker(made: FleetUnderTest) -> None:
    made.append(2)
    before = made.worker(1)
    assert before is not None
    assert before.events.skips(made.node(1), 1) is False
    made.changes.skip("h", 1, 1, "test")
    after = made.worker(1)
    assert before.stopped
    assert after not in (None, before)
    assert after is not None
    assert [after.events.skips(made.node(1), sequence) for sequence in (1, 2)] == [True, False]
    assert made.outcomes(1) == {1: "skipped"}
    assert made.node(1).diverged


def test_a_failure_amid_many_changes_leaves_no_node_without_a_worker(
    made: FleetUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their workers are stopped together, before the first one is changed."""

    def fail(node: Node) -> None:
        raise JournalBroken("no commit")

    monkeypatch.setattr(made.changes, "_set_maintenance", fail)
    change = NodeChange(maintenance=True)
    with pytest.raises(JournalBroken):
        made.changes.put_nodes([("h", 1, change), ("h", 2, change)], "test")
    assert None not in (made.worker(1), made.worker(2))


def test_many_changes_are_all_made_when_they_cannot_be_stored(
    made: FleetUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    saves: list[object] = []

    def full(diverged: Node | None = None) -> None:
        saves.append(diverged)
        raise StateError("cannot save: no space left")

    monkeypatch.setattr(made.registry, "save", full)
    change = NodeChange(maintenance=True)
    with pytest.raises(StateError, match="the change holds, but a restart would undo it"):
        made.changes.put_nodes([("h", 1, change), ("h", 2, change)], "test")
    assert [made.node(port).state for port in (1, 2)] == [NodeState.MAINTENANCE] * 2
    assert len(saves) == 1


def test_nothing_is_stored_when_there_is_nothing_to_delete(
    made: FleetUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(diverged: Node | None = None) -> None:
        raise StateError("cannot save: no space left")

    monkeypatch.setattr(made.registry, "save", full)
    assert made.changes.delete_nodes("h", 9, "test") == 0


@pytest.mark.parametrize("change", [{"maintenance": True}, {"active": False}])
def test_a_node_that_is_stopped_is_where_the_journals_disk_says(
    made: FleetUnderTest, monkeypatch: pytest.MonkeyPatch, change: dict[str, bool]
) -> None:
    """An operator who has taken a node out copies its data, and notes its position."""
    made.append(2)
    monkeypatch.setattr(made.journal, "flush", lambda timeout_s: False)
    # Given a disk that takes nothing, then whoever stops a node is told so, and it holds and is stored
    with pytest.raises(NotPossibleNow, match="it is done, but a crash would forget it"):
        made.put(1, **change)
    assert made.worker(1) is None
    again = Registry(made.store)
    again.load()
    assert again.find("h", 1)[0].record == made.node(1).record
    # And no other change waits for that disk
    made.put(1, priority=3)
    made.put(2, priority=4)


@pytest.mark.parametrize("verb", ["skip at hand", "skip ahead", "position"])
def test_a_node_is_stored_as_diverged_before_what_makes_it_so(
    made: FleetUnderTest, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    def stored_as_diverged() -> bool:
        again = Registry(made.store)
        again.load()
        return again.find("h", 1)[0].diverged

    made.append(3)
    found: list[bool] = []
    record, set_position = made.journal.record, made.journal.set_position
    monkeypatch.setattr(made.journal, "record", lambda *args: found.append(stored_as_diverged()) or record(*args))
    monkeypatch.setattr(
        made.journal, "set_position", lambda *args: found.append(made.node(1).diverged) or set_position(*args)
    )
    leave_out(made, verb)
    assert found
    assert all(found)


@pytest.mark.parametrize("verb", ["skip at hand", "skip ahead", "position"])
def test_nothing_changes_when_a_node_cannot_be_stored_as_diverged(made: FleetUnderTest, verb: str) -> None:
    made.append(3)
    in_the_way = Path(made.store.path + ".new")
    in_the_way.mkdir()
    with pytest.raises(NotPossibleNow, match="since Spawn cannot save"):
        leave_out(made, verb)
    node = made.node(1)
    assert (node.diverged, node.position, made.journal.positions()[node.id]) == (False, 0, 0)
    assert [made.outcomes(sequence) for sequence in (1, 2, 3)] == [{}] * 3
    assert not made.fleet.skips.have(node, 1)
    assert made.worker(1) is not None
    in_the_way.rmdir()
    leave_out(made, verb)
    assert node.diverged


def leave_out(made: FleetUnderTest, verb: str) -> None:
    if verb == "position":
        made.changes.set_position("h", 1, 2, "test")
    else:
        made.changes.skip("h", 1, 1 if verb == "skip at hand" else 3, "test")


@pytest.mark.parametrize("upto", [2, 3])
def test_an_update_that_its_worker_comes_to_while_the_flag_is_stored(
    made: FleetUnderTest, monkeypatch: pytest.MonkeyPatch, upto: int
) -> None:
    made.append(4)
    save, before = made.registry.save, made.worker(1)
    assert before is not None

    def deliver_meanwhile(diverged: Node | None = None) -> None:
        save(diverged)
        if made.node(1).position < upto:
            made.deliver(1, upto)

    monkeypatch.setattr(made.registry, "save", deliver_meanwhile)
    if upto == 2:  # it has it in hand: it is stopped
        made.changes.skip("h", 1, 3, "test")
        assert made.outcomes(3) == {1: "skipped"}
    else:
        with pytest.raises(VerbConflict, match="has just been applied"):
            made.changes.skip("h", 1, 3, "test")
        assert made.outcomes(3) == {}
        until(lambda: not stored_flags(made)[1], "it is not stored as diverged any more")
    assert before.stopped
    assert made.worker(1) not in (None, before)
    assert made.node(1).diverged == (upto == 2)


def stored_flags(made: FleetUnderTest) -> dict[int, bool]:
    again = Registry(made.store)
    again.load()
    return {node.record.port: node.diverged for node in again.nodes}


def test_a_node_is_in_sync_only_once_it_is_where_it_was_put(
    made: FleetUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.append(5)
    made.put(3, active=True)
    node, seen, put = made.node(3), [], made.fleet.skips.put

    def look(other: Node, ahead: list[Range]) -> None:
        seen.append((node.position, node.out_of_sync))
        put(other, ahead)

    monkeypatch.setattr(made.fleet.skips, "put", look)
    made.changes.set_position("h", 3, 4, "test")
    assert seen == [(4, True)]
    assert not node.out_of_sync


def test_nodes_serve_once_they_have_caught_up(made: FleetUnderTest) -> None:
    node = made.node(1)
    made.fleet.on_health(node, NodeEvent.FAIL)
    made.append(3)
    made.pass_check(node)
    assert node.state is NodeState.CATCHING_UP
    made.append(2)  # what comes later does not move the goal
    made.deliver(1, 2)
    assert node.state is NodeState.CATCHING_UP
    made.deliver(1, 3)
    assert made.node(1).state is NodeState.SERVING


def test_caught_up_is_also_that_the_rest_fits_the_queue(made: FleetUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "QUEUE_ENTRIES", 4)
    node = made.node(1)
    made.fleet.on_health(node, NodeEvent.FAIL)
    made.append(3)
    made.pass_check(node)
    made.append(5)  # it came back, and the others are faster
    made.deliver(1, 3)
    assert node.state is NodeState.CATCHING_UP
    made.deliver(1, 4)
    assert made.node(1).state is NodeState.SERVING


def test_a_flag_for_two_reasons_outlives_the_end_of_one(made: FleetUnderTest) -> None:
    made.append(2)
    for port in (1, 2):
        made.deliver(port)
    node, other = made.node(1), made.node(2)
    assert made.fleet.refusals.note(node, 2) is Blame.NODE
    made.fleet.refusals.flag(node, 2)
    made.fleet.mark_diverged(node)  # for another reason
    assert made.fleet.refusals.note(other, 2) is Blame.UPDATE
    assert node.diverged


def test_what_a_deactivated_node_had_not_got_is_dropped(made: FleetUnderTest) -> None:
    made.append(3)
    made.deliver(1, 1)
    made.put(1, active=False)
    fates = [made.journal.fate(number) for number in (1, 2, 3)]
    dropped = [fate is not None and fate.outcomes.get(made.node(1).id) for fate in fates]
    assert dropped == [None, Outcome.DROPPED, Outcome.DROPPED]


def test_a_change_that_cannot_be_stored_holds_is_said_and_is_stored_later(
    made: FleetUnderTest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a disk that takes no file
    monkeypatch.setattr(saver, "SAVE_RETRY_S", 0.01)
    in_the_way = Path(made.store.path + ".new")
    in_the_way.mkdir()
    # When a node is changed, then whoever asked is told that it is not stored, and so is the operator, once
    with pytest.raises(StateError, match="a restart would undo it"):
        made.put(1, maintenance=True)
    assert made.node(1).state is NodeState.MAINTENANCE
    gevent.sleep(0.2)
    assert len([line for line in caplog.messages if "cannot be stored" in line]) == 1
    # And it is stored as soon as that is possible
    in_the_way.rmdir()
    until(lambda: "stored again" in caplog.text, "it is stored")
    again = Registry(made.store)
    again.load()
    assert again.find("h", 1)[0].record.maintenance
