"""The judge of repeats: each reason excuses what it says and nothing beyond. Histories by hand, one second a step."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.history import WINDOW, Applied
from tests.support.repeats import Evidence, Life, Pause, Reason

DELIVER_S = 2.0
QUIET = Evidence([Life(0.0, killed=False)], [], {}, DELIVER_S)


def at(sequence: int, time_s: float, *, took_s: float | None = 0.01, run: int = 1) -> Applied:
    """An update applied at ``time_s``; ``took_s`` None: the node died before it had answered."""
    ended_s = None if took_s is None else time_s + took_s
    return Applied(
        f"PUT /items/k{sequence % 5} {sequence}",
        f"j-{sequence}",
        sequence,
        took_s is not None,
        run,
        time_s,
        time_s,
        ended_s,
    )


def lives(*ends: tuple[float, bool]) -> Evidence:
    """Processes of Spawn that end at these times (killed or not) and are followed by the next one 0.5 s later."""
    starts = [0.0, *(end + 0.5 for end, _ in ends)]
    killed = [*(how for _, how in ends), False]
    made = [Life(start, how) for start, how in zip(starts, killed, strict=True)]
    return Evidence(made, [end for end, how in ends if how], {}, DELIVER_S)


def reasons(evidence: Evidence, log: list[Applied]) -> list[Reason]:
    return [repeat.reason for repeat in evidence.repeats("a", log)]


def test_without_repeats_there_is_nothing_to_judge() -> None:
    log = [at(1, 1), at(2, 2), at(4, 3)]
    assert reasons(QUIET, log) == []
    assert QUIET.judge("a", log) == []


def test_a_repeat_without_any_reason_is_a_fault() -> None:
    log = [at(1, 1), at(1, 2)]
    assert reasons(QUIET, log) == [Reason.UNEXPLAINED]
    assert any("without an excuse" in fault for fault in QUIET.judge("a", log))


def test_a_death_excuses_one_update_that_was_not_answered() -> None:
    log = [at(1, 1), at(2, 2, took_s=None), at(2, 4, run=2)]
    assert reasons(QUIET, log) == [Reason.DIED]
    both = [at(1, 1, took_s=None), at(2, 2, took_s=None), at(1, 3, run=2), at(2, 4, run=2)]
    assert reasons(QUIET, both) == [Reason.DIED, Reason.UNEXPLAINED]
    answered = [at(1, 1), at(1, 3, run=2)]
    assert reasons(QUIET, answered) == [Reason.UNEXPLAINED]


def test_a_node_that_was_too_slow_may_be_asked_again() -> None:
    assert reasons(QUIET, [at(1, 1, took_s=DELIVER_S + 1), at(1, 3.5)]) == [Reason.TIMED_OUT]
    assert reasons(QUIET, [at(1, 1, took_s=DELIVER_S / 2), at(1, 3.5)]) == [Reason.UNEXPLAINED]


def test_a_spawn_that_gives_up_before_its_time_is_caught() -> None:
    """The answer could not be given any more, but not because it was late."""
    early = replace(at(1, 1, took_s=0.5), answered=False)
    assert reasons(QUIET, [early, at(1, 5)]) == [Reason.UNEXPLAINED]


def test_what_a_paused_node_has_in_its_buffers_comes_several_times() -> None:
    evidence = replace(QUIET, pauses={"a": [Pause(2, 7)]})
    log = [at(1, 1), at(2, 7.01), at(2, 7.02), at(2, 7.03), at(3, 7.1)]
    assert reasons(evidence, log) == [Reason.TIMED_OUT] * 2
    assert evidence.judge("a", log) == []


def test_a_pause_excuses_one_update_and_only_if_it_was_long_enough() -> None:
    evidence = replace(QUIET, pauses={"a": [Pause(2, 7)]})
    others = [at(1, 7.01), at(1, 7.02), at(2, 7.05), at(2, 7.06)]
    assert reasons(evidence, others) == [Reason.TIMED_OUT, Reason.UNEXPLAINED]
    short = replace(QUIET, pauses={"a": [Pause(2, 3)]})
    assert reasons(short, [at(1, 3.01), at(1, 3.02)]) == [Reason.UNEXPLAINED]
    assert reasons(evidence, [at(1, 20), at(1, 20.1)]) == [Reason.UNEXPLAINED], "long after the pause"
    other_node = replace(QUIET, pauses={"b": [Pause(2, 7)]})
    assert reasons(other_node, [at(1, 7.01), at(1, 7.02)]) == [Reason.UNEXPLAINED]


def test_a_kill_of_spawn_excuses_its_window_once() -> None:
    evidence = lives((10, True))
    log = [*(at(n, n / 10) for n in range(1, 100)), *(at(n, 11 + n / 100) for n in range(100 - WINDOW, 100))]
    assert reasons(evidence, log) == [Reason.WINDOW] * WINDOW
    assert evidence.judge("a", log) == []
    assert reasons(evidence, [*log, at(99, 20)])[-1] is Reason.UNEXPLAINED, "twice by the same process"


def test_a_repeat_from_before_the_window_is_caught() -> None:
    log = [*(at(n, n / 10) for n in range(1, 100)), at(99 - WINDOW, 11)]
    assert reasons(lives((10, True)), log) == [Reason.UNEXPLAINED]


def test_the_old_process_has_no_excuse_yet() -> None:
    assert reasons(lives((10, True)), [at(1, 1), at(1, 2)]) == [Reason.UNEXPLAINED]


def test_a_clean_stop_excuses_nothing() -> None:
    log = [at(1, 1), at(2, 2), at(2, 12)]
    assert reasons(lives((10, False)), log) == [Reason.UNEXPLAINED]
    assert reasons(lives((10, True)), log) == [Reason.WINDOW]
    assert reasons(lives((5, True), (10, False)), [at(1, 1), at(2, 6), at(2, 12)]) == [Reason.UNEXPLAINED]


def test_what_a_dead_spawn_had_sent_to_a_paused_node_is_of_the_old_process() -> None:
    evidence = replace(lives((10, True)), pauses={"a": [Pause(9.5, 11)]})
    assert reasons(evidence, [at(7, 11.01), at(7, 11.02)]) == [Reason.WINDOW]


@pytest.mark.parametrize("change", [{"key": "fresh"}, {"sequence": 9}])
def test_a_repeat_under_another_key_or_sequence_is_caught_whatever_its_reason(change: dict[str, object]) -> None:
    again = replace(at(1, 11), **change)  # type: ignore[arg-type]
    assert any("another Idempotency-Key" in fault for fault in lives((10, True)).judge("a", [at(1, 1), again]))


def test_repeats_of_one_process_that_are_out_of_order_are_caught() -> None:
    evidence = lives((10, True))
    before = [at(1, 1), at(2, 2), at(3, 3)]
    assert evidence.judge("a", [*before, at(2, 11), at(3, 12), at(4, 13)]) == []
    assert any("delivered after 3" in fault for fault in evidence.judge("a", [*before, at(3, 11), at(2, 12)]))
    assert any("delivered after 4" in fault for fault in evidence.judge("a", [*before, at(4, 11), at(3, 12)]))


def test_what_a_paused_node_carries_out_late_may_overwrite_newer_updates() -> None:
    # Given two updates of the same item, the older one of which was in a buffer twice
    evidence = replace(QUIET, pauses={"a": [Pause(2, 7)]})
    log = [at(1, 7.01), at(6, 7.02), at(1, 7.03)]
    assert evidence.late_items("a", log) == {"k1"}
    assert evidence.judge("a", log) == []

    # Then a newer update ends it, and without a pause there is no such thing
    assert evidence.late_items("a", [*log, at(11, 8)]) == set()
    assert QUIET.late_items("a", log) == set()
