"""The judge of repeats: each reason excuses what it says and nothing beyond. Histories by hand, one second a step."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.history import WINDOW, Applied
from tests.support.repeats import Evidence, Life, Reason

DELIVER_S = 2.0
FOREVER_S = 1_000.0
QUIET = Evidence([Life(0.0, FOREVER_S, killed=False)], DELIVER_S)


def at(sequence: int, time_s: float, *, took_s: float | None = 0.01, run: int = 1, life: int = 0) -> Applied:
    """An update applied at ``time_s``; ``took_s`` None: the node died before it had answered."""
    return Applied(
        f"PUT /items/k{sequence % 5} {sequence}",
        f"j-{sequence}",
        sequence,
        answered=took_s is not None,
        run=run,
        life=life,
        time_s=time_s,
        ended_s=None if took_s is None else time_s + took_s,
    )


def lives(*ends: tuple[float, bool]) -> Evidence:
    """Processes of Spawn that end at these times (killed or not) and are followed by the next one at once."""
    starts = [0.0, *(end for end, _ in ends)]
    made = [Life(start, end, how) for start, (end, how) in zip(starts, [*ends, (FOREVER_S, False)], strict=True)]
    return Evidence(made, DELIVER_S)


def reasons(evidence: Evidence, log: list[Applied]) -> list[Reason]:
    return [repeat.reason for repeat in evidence.repeats(log)]


def test_without_repeats_there_is_nothing_to_judge() -> None:
    log = [at(1, 1), at(2, 2), at(4, 3)]
    assert reasons(QUIET, log) == []
    assert QUIET.judge("a", log) == []


def test_a_repeat_without_any_reason_is_a_fault() -> None:
    log = [at(1, 1), at(1, 2)]
    assert reasons(QUIET, log) == [Reason.UNEXPLAINED]
    assert any("without an excuse" in fault for fault in QUIET.judge("a", log))
    assert reasons(lives((10, True)), log) == [Reason.UNEXPLAINED], "the kill came later"


def test_a_death_excuses_one_update_that_was_not_answered() -> None:
    log = [at(1, 1), at(2, 2, took_s=None), at(2, 4, run=2)]
    assert reasons(QUIET, log) == [Reason.DIED]
    both = [at(1, 1, took_s=None), at(2, 2, took_s=None), at(1, 3, run=2), at(2, 4, run=2)]
    assert reasons(QUIET, both) == [Reason.DIED, Reason.UNEXPLAINED]
    answered = [at(1, 1), at(1, 3, run=2)]
    assert reasons(QUIET, answered) == [Reason.UNEXPLAINED]


def test_a_node_that_was_too_slow_may_be_asked_again() -> None:
    assert reasons(QUIET, [at(1, 1), at(2, 2, took_s=DELIVER_S), at(2, 4.5)]) == [Reason.TIMED_OUT]
    assert reasons(QUIET, [at(1, 1), at(2, 1.5, took_s=DELIVER_S / 2), at(2, 4.5)]) == [Reason.UNEXPLAINED]


def test_what_a_node_read_late_was_sent_when_the_one_before_was_done() -> None:
    """The node itself answers at once, but has come to that only after a while."""
    assert reasons(QUIET, [at(1, 1), at(2, 3), at(2, 3.01)]) == [Reason.TIMED_OUT]
    assert reasons(QUIET, [at(1, 1), at(2, 2), at(2, 2.01)]) == [Reason.UNEXPLAINED]


def test_nothing_was_sent_to_a_node_before_it_was_started() -> None:
    late = [replace(at(2, time_s, run=2), started_s=8.5) for time_s in (9, 9.01)]
    assert reasons(QUIET, [at(1, 1), *late]) == [Reason.UNEXPLAINED]


def test_a_spawn_that_gives_up_before_its_time_is_caught() -> None:
    """The answer could not be given any more, but not because it was late."""
    early = replace(at(2, 1.5, took_s=0.5), answered=False)
    assert reasons(QUIET, [at(1, 1), early, at(2, 5)]) == [Reason.UNEXPLAINED]


def test_what_a_paused_node_has_in_its_buffers_comes_several_times() -> None:
    log = [at(1, 1), at(2, 7.01), at(2, 7.02), at(3, 7.03), at(2, 7.04), at(4, 7.1)]
    assert reasons(QUIET, log) == [Reason.TIMED_OUT] * 2
    assert QUIET.judge("a", log) == []


def test_a_pause_excuses_one_update_of_each_process() -> None:
    log = [at(1, 1), at(2, 7.01), at(2, 7.02), at(3, 7.05), at(3, 7.06)]
    assert reasons(QUIET, log) == [Reason.TIMED_OUT, Reason.UNEXPLAINED]
    evidence = lives((4, True))
    log = [at(1, 1), at(2, 7), at(2, 7.01, life=1), at(2, 7.02, life=1), at(3, 7.03, life=1)]
    assert reasons(evidence, log) == [Reason.TIMED_OUT] * 2
    assert evidence.judge("a", log) == []
    assert reasons(evidence, [*log, at(3, 7.04, life=1)])[-1] is Reason.UNEXPLAINED


def test_a_kill_of_spawn_excuses_its_window_once() -> None:
    evidence = lives((10, True))
    again = (at(n, 11 + n / 100, life=1) for n in range(100 - WINDOW, 100))
    log = [*(at(n, n / 10) for n in range(1, 100)), *again]
    assert reasons(evidence, log) == [Reason.WINDOW] * WINDOW
    assert evidence.judge("a", log) == []
    assert reasons(evidence, [*log, at(99, 12.1, life=1)])[-1] is Reason.UNEXPLAINED, "twice by the same process"


def test_a_repeat_from_before_the_window_is_caught() -> None:
    log = [*(at(n, n / 10) for n in range(1, 100)), at(99 - WINDOW, 11, life=1)]
    assert reasons(lives((10, True)), log) == [Reason.UNEXPLAINED]


def test_a_clean_stop_excuses_nothing_that_was_answered() -> None:
    log = [at(1, 1), at(2, 2), at(2, 12, life=1)]
    assert reasons(lives((10, False)), log) == [Reason.UNEXPLAINED]
    assert reasons(lives((10, True)), log) == [Reason.WINDOW]
    log = [at(1, 1, life=0), at(2, 6, life=1), at(2, 12, life=2)]
    assert reasons(lives((5, True), (10, False)), log) == [Reason.UNEXPLAINED]


def test_a_stop_that_had_waited_long_enough_cuts_one_update() -> None:
    evidence = replace(lives((10, False)), deliver_s=30.0)
    log = [at(1, 1), at(2, 12), at(2, 12.1, life=1), at(3, 12.2, life=1)]
    assert reasons(evidence, log) == [Reason.CUT]
    assert evidence.judge("a", log) == []
    assert reasons(evidence, [at(1, 9), at(2, 9.5), at(2, 12, life=1)]) == [Reason.UNEXPLAINED]


@pytest.mark.parametrize("late_s", [0.001, 0.005, 0.5, 3.0])
def test_what_a_killed_spawn_had_sent_is_its_own_however_late_it_is_read(late_s: float) -> None:
    """The next process may have been started by then, and may have sent something itself."""
    evidence = lives((10, True))
    late = replace(at(2, 10 + late_s), answered=False)
    for log in (
        [at(1, 9.9), late, at(2, 13.1, life=1)],
        [at(1, 9.9), late, at(1, 13.1, life=1), at(2, 13.2, life=1)],
        [at(1, 9.9), at(1, 10 + late_s / 2, life=1), late, at(2, 13.1, life=1)],
        [at(1, 9.9), at(2, 10 + late_s / 2, life=1), late, at(3, 13.1, life=1)],
    ):
        assert set(reasons(evidence, log)) <= {Reason.WINDOW, Reason.TIMED_OUT}, log
        assert evidence.judge("a", log) == []


def test_what_a_killed_spawn_had_sent_comes_late_at_most_once() -> None:
    evidence = lives((10, True))
    log = [at(1, 9.1), at(2, 9.2), at(1, 10.1, life=1), at(2, 10.2, life=1), at(3, 10.3, life=1)]
    assert evidence.judge("a", [*log, at(3, 10.4)]) == []
    assert reasons(evidence, [*log, at(3, 10.4), at(3, 10.5)])[-1] is Reason.UNEXPLAINED
    assert reasons(evidence, [*log, at(2, 10.4)])[-1] is Reason.UNEXPLAINED
    behind = [at(2, 9.2), at(1, 10.1, life=1), at(2, 10.2, life=1), at(1, 10.3)]
    assert any("delivered after 2 by the same process" in fault for fault in evidence.judge("a", behind))


@pytest.mark.parametrize("change", [{"key": "fresh"}, {"sequence": 9}])
def test_a_repeat_under_another_key_or_sequence_is_caught_whatever_its_reason(change: dict[str, object]) -> None:
    again = replace(at(1, 11, life=1), **change)  # type: ignore[arg-type]
    assert any("another Idempotency-Key" in fault for fault in lives((10, True)).judge("a", [at(1, 1), again]))


def test_repeats_of_one_process_that_are_out_of_order_are_caught() -> None:
    evidence = lives((10, True))
    before = [at(1, 1), at(2, 2), at(3, 3)]

    def then(*sequences: int) -> list[str]:
        return evidence.judge("a", [*before, *(at(n, 11 + place, life=1) for place, n in enumerate(sequences))])

    assert then(2, 3, 4) == []
    assert any("delivered after 3" in fault for fault in then(3, 2))
    assert any("delivered after 4" in fault for fault in then(4, 3))


def test_what_a_paused_node_carries_out_late_may_overwrite_newer_updates() -> None:
    # Given two updates of the same item, the older one of which was in a buffer twice
    log = [at(1, 7.01), at(6, 7.02), at(1, 7.03)]
    assert QUIET.late_items(log) == {"k1"}
    assert QUIET.judge("a", log) == []

    # Then a newer update ends it, and what has no excuse is none
    assert QUIET.late_items([*log, at(11, 8)]) == set()
    assert QUIET.late_items([at(1, 1), at(6, 1.1), at(1, 1.2)]) == set()


def test_what_a_killed_spawn_had_sent_may_overwrite_what_the_next_one_sends() -> None:
    evidence = lives((10, True))
    log = [at(1, 10.1, life=1), at(6, 10.2, life=1), at(1, 10.3)]
    assert evidence.late_items(log) == {"k1"}
    in_order = [at(1, 9), at(6, 9.1), at(1, 10.1, life=1), at(6, 10.2, life=1)]
    assert evidence.late_items(in_order) == set()
