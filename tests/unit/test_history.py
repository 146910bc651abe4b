"""The checker that the end-to-end tests trust: broken histories must be caught, honest ones must pass."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.history import (
    WINDOW,
    Applied,
    Tolerance,
    check,
    check_clients,
    check_contents,
    check_keys,
    check_prefixes,
    count_reordered,
    lost_updates,
    parse_log,
)

NOTHING = Tolerance()
KILLED = Tolerance(spawn_kills=1)


def entry(number: int, *, answered: bool = True, run: int = 1) -> Applied:
    return Applied(f"u{number}", f"key-{number}", number, answered, run)


def log_of(*numbers: int) -> list[Applied]:
    return [entry(number) for number in numbers]


def names(*numbers: int) -> list[str]:
    return [f"u{number}" for number in numbers]


def told(*numbers: int) -> dict[str, int | None]:
    return {f"u{number}": number for number in numbers}


def faults_of(
    a: list[Applied],
    b: list[Applied],
    *,
    acknowledged: dict[str, int | None] | None = None,
    tolerance: Tolerance = NOTHING,
) -> list[str]:
    attempted = [applied.update for applied in a + b] + list(acknowledged or ())
    return check({"a": a, "b": b}, attempted, acknowledged or {}, tolerance)


def test_an_honest_history_passes() -> None:
    assert faults_of(log_of(1, 2, 3), log_of(1, 2, 3), acknowledged=told(1, 2, 3)) == []


def test_an_update_without_an_answer_may_have_been_applied_everywhere_or_nowhere() -> None:
    assert faults_of(log_of(1, 3), log_of(1, 3), acknowledged=told(1)) == []


def test_an_acknowledged_update_that_is_missing_everywhere_is_caught() -> None:
    assert any("lacks acknowledged" in fault for fault in faults_of(log_of(1), log_of(1), acknowledged=told(1, 2)))


def test_an_acknowledged_update_that_is_missing_on_one_node_is_caught() -> None:
    faults = faults_of(log_of(1, 2), log_of(1), acknowledged=told(1, 2))
    assert any(fault.startswith("b lacks acknowledged") for fault in faults)


def test_an_unacknowledged_update_that_only_one_node_has_is_caught() -> None:
    assert any("b applied 1 updates, a 2" in fault for fault in faults_of(log_of(1, 2), log_of(1)))


def test_an_update_that_nobody_sent_is_caught() -> None:
    faults = check({"a": log_of(1), "b": log_of(1)}, [], {})
    assert any("what nobody sent" in fault for fault in faults)


def test_an_acknowledgement_of_what_was_not_attempted_is_caught() -> None:
    assert any("never attempted" in fault for fault in check({"a": log_of(1)}, [], told(1)))


def test_another_order_on_one_node_is_caught() -> None:
    faults = faults_of(log_of(1, 2, 3), log_of(1, 3, 2))
    assert any("place 2: b has u3" in fault for fault in faults)
    assert any("sequence 2 after 3" in fault for fault in faults)


def test_the_same_order_with_other_sequences_is_caught() -> None:
    other = [entry(1), replace(entry(2), sequence=7)]
    assert any(fault.startswith("place 2") for fault in faults_of(log_of(1, 2), other))


def test_the_same_order_under_another_key_is_caught() -> None:
    other = [entry(1), replace(entry(2), key="made-up")]
    assert any(fault.startswith("place 2") for fault in faults_of(log_of(1, 2), other))


def test_a_wrong_order_that_all_nodes_share_is_caught_by_its_sequences() -> None:
    assert any("sequence 1 after 2" in fault for fault in faults_of(log_of(2, 1), log_of(2, 1)))


def test_a_client_that_was_told_another_sequence_is_caught() -> None:
    assert any("its client was told 9" in fault for fault in faults_of(log_of(1), log_of(1), acknowledged={"u1": 9}))


@pytest.mark.parametrize("lack", ["key", "sequence"])
def test_an_update_without_key_or_sequence_is_caught(lack: str) -> None:
    bare = [replace(entry(1), key=None) if lack == "key" else replace(entry(1), sequence=None)]
    assert any("came without" in fault for fault in faults_of(bare, bare))


def test_two_updates_with_one_key_are_caught() -> None:
    both = [entry(1), replace(entry(2), key="key-1")]
    assert any("has the Idempotency-Key of u1" in fault for fault in faults_of(both, both))


def test_a_repeat_without_any_death_is_caught() -> None:
    assert any("without an excuse" in fault for fault in faults_of(log_of(1, 2, 2), log_of(1, 2)))


def test_a_repeat_of_what_was_in_doubt_when_the_node_died_passes() -> None:
    again = [entry(1), entry(2, answered=False), entry(2, run=2), entry(3, run=2)]
    assert faults_of(again, log_of(1, 2, 3), acknowledged=told(1, 2, 3)) == []


def test_a_repeat_of_what_had_been_answered_before_the_node_died_is_caught() -> None:
    again = [entry(1), entry(2), entry(2, run=2)]
    assert any("without an excuse" in fault for fault in faults_of(again, log_of(1, 2)))


def test_two_doubts_at_one_death_are_caught_because_deliveries_are_one_at_a_time() -> None:
    again = [entry(1, answered=False), entry(2, answered=False), entry(1, run=2), entry(2, run=2)]
    assert any("u2 was repeated without an excuse" in fault for fault in faults_of(again, log_of(1, 2)))


def test_an_unanswered_update_repeated_to_the_same_life_of_a_node_is_caught() -> None:
    again = [entry(1, answered=False), entry(1)]
    assert any("without an excuse" in fault for fault in faults_of(again, log_of(1)))


def test_a_doubtful_update_repeated_under_another_key_is_caught() -> None:
    again = [entry(1, answered=False), replace(entry(1, run=2), key="fresh")]
    assert any("another Idempotency-Key" in fault for fault in faults_of(again, log_of(1)))


def test_a_window_of_repeats_passes_after_a_kill_of_spawn_only() -> None:
    again = [*log_of(*range(1, 101)), *log_of(*range(101 - WINDOW, 103))]
    assert faults_of(again, log_of(*range(1, 103)), tolerance=KILLED) == []
    assert faults_of(again, log_of(*range(1, 103))) != []


def test_a_repeat_from_before_the_window_is_caught() -> None:
    again = [*log_of(*range(1, 101)), entry(100 - WINDOW)]
    assert any("without an excuse" in fault for fault in faults_of(again, log_of(*range(1, 101)), tolerance=KILLED))


def test_more_repeats_than_the_kills_explain_are_caught() -> None:
    window = log_of(*range(101 - WINDOW, 101))
    again = [*log_of(*range(1, 101)), *window, *window]
    assert any("repeats after 1 kills" in fault for fault in faults_of(again, log_of(*range(1, 101)), tolerance=KILLED))


def test_a_repeat_under_another_key_is_caught_in_the_window_too() -> None:
    again = [*log_of(1, 2), replace(entry(2), key="fresh")]
    assert any("another Idempotency-Key" in fault for fault in faults_of(again, log_of(1, 2), tolerance=KILLED))


@given(st.integers(2, 30), st.data())
def test_swapping_any_two_updates_of_one_node_is_caught(count: int, data: st.DataObject) -> None:
    honest = log_of(*range(1, count + 1))
    first = data.draw(st.integers(0, count - 2))
    second = data.draw(st.integers(first + 1, count - 1))
    swapped = honest.copy()
    swapped[first], swapped[second] = swapped[second], swapped[first]
    assert faults_of(honest, swapped) != []
    assert faults_of(swapped, honest) != []


@given(st.integers(1, 30), st.data())
def test_losing_any_acknowledged_update_is_caught(count: int, data: st.DataObject) -> None:
    honest = log_of(*range(1, count + 1))
    lost = data.draw(st.integers(0, count - 1))
    torn = honest[:lost] + honest[lost + 1 :]
    assert faults_of(torn, torn, acknowledged=told(*range(1, count + 1))) != []


def test_a_log_is_read_with_its_lives_and_answers() -> None:
    body = {"method": "PUT", "target": "/items/x", "start": "abc", "sha256": "0" * 64}
    lines: list[dict[str, object]] = [
        {"event": "start"},
        {"event": "applied", "n": 1, "key": "k1", "sequence": "1", **body},
        {"event": "answered", "n": 1},
        {"event": "applied", "n": 2, "key": "k2", "sequence": "2", **body},
        {"event": "start"},
        {"event": "applied", "n": 3, "key": None, "sequence": None, **body},
    ]
    name = "PUT /items/x abc 000000000000"
    assert parse_log(lines) == [
        Applied(name, "k1", 1, answered=True, run=1),
        Applied(name, "k2", 2, answered=False, run=1),
        Applied(name, None, None, answered=False, run=2),
    ]


def test_a_log_says_who_sent_an_update_and_since_when_the_node_was_there() -> None:
    update = {"event": "applied", "method": "PUT", "target": "/items/a", "start": "", "sha256": "", "key": "k"}
    first = {"n": 1, "time": 2.0, "sequence": "1", "life": None}
    second = {"n": 2, "time": 6.0, "sequence": "2", "life": "3"}
    found = parse_log(
        [{"event": "start", "time": 1.0}, update | first, {"event": "start", "time": 5.0}, update | second]
    )
    assert [(each.life, each.started_s, each.time_s) for each in found] == [(0, 1.0, 2.0), (3, 5.0, 6.0)]


def test_a_node_that_has_not_come_as_far_is_a_prefix() -> None:
    assert check_prefixes({"a": log_of(1, 2, 3), "b": log_of(1), "c": []}) == []


def test_two_nodes_that_went_different_ways_are_no_prefixes_of_each_other() -> None:
    faults = check_prefixes({"a": log_of(1, 2, 3), "b": log_of(1, 3), "c": log_of(2)})
    assert [fault.split(",")[0] for fault in faults] == [
        "place 1: c has u2 (sequence 2",
        "place 2: b has u3 (sequence 3",
    ]


def test_first_applications_out_of_order_are_counted() -> None:
    assert count_reordered({"a": log_of(1, 2, 2, 3), "b": log_of(1, 3, 2, 4)}) == 1


def test_lost_updates_are_counted_once_however_many_nodes_lack_them() -> None:
    assert lost_updates({"a": log_of(1), "b": log_of(1, 2)}, told(1, 2, 3)) == {"u2", "u3"}


def test_a_key_of_the_clients_own_has_to_be_passed_on() -> None:
    mine = replace(entry(1), key="mine")
    assert check_keys({"a": [mine, entry(2)]}, {"u1": "mine"}) == []
    assert check_keys({"a": log_of(1, 2)}, {"u1": "mine"}) != []
    assert check_keys({"a": [mine]}, {}) != []


def test_spawns_own_keys_are_of_one_journal_and_the_sequence() -> None:
    assert check_keys({"a": [entry(1), replace(entry(2), key="key-7")]}, {}) != []
    other = replace(entry(2), key="other-2")
    assert check_keys({"a": [entry(1), other]}, {}) == ["keys of several journals: key, other"]


def test_a_client_whose_updates_were_swapped_is_caught() -> None:
    assert check_clients({"c": names(1, 2, 3)}, told(1, 3)) == []
    assert check_clients({"c": names(2, 1)}, told(1, 2)) == [
        "c sent u1 after u2, they have the sequences 1 and 2",
    ]


def test_nodes_that_hold_different_things_are_caught_unless_that_is_excused() -> None:
    contents = {"a": {"x": "1", "y": "2"}, "b": {"x": "1"}}
    assert check_contents({"a": {"x": "1"}, "b": {"x": "1"}}, {}) == []
    assert check_contents(contents, {}) == ["the nodes differ in y (a: 2, b: None)"]
    assert check_contents(contents, {"a": {"y"}}) == []
    assert check_contents(contents, {"a": {"x"}}) != []
