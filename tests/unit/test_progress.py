"""The floor for how fast a node takes a request: what counts, and what does not."""

from __future__ import annotations

import pytest

from spawn.http11 import progress
from spawn.http11.progress import FLOOR_BYTES_PER_S, Progress

GRACE_S = 60.0
MB = 1_000_000


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "_now", clock)
    return clock


def taken_at(clock: Clock, sending: Progress, taken_bytes: float, after_s: float) -> bool:
    clock.now_s = 1000.0 + after_s
    return sending.look(sending.written - int(taken_bytes))


def test_each_byte_is_progress_in_the_beginning(clock: Clock) -> None:
    sending = Progress(MB, 40 * MB, GRACE_S)
    assert taken_at(clock, sending, 1, 30)
    assert taken_at(clock, sending, 2, 60)
    assert not taken_at(clock, sending, 2, 60)
    assert not sending.too_slow


def test_who_is_faster_than_the_floor_may_pause_for_as_long_as_any_pause_may_be(clock: Clock) -> None:
    sending = Progress(40 * MB, 40 * MB, GRACE_S)
    assert taken_at(clock, sending, 600 * FLOOR_BYTES_PER_S, 600)
    assert not taken_at(clock, sending, 600 * FLOOR_BYTES_PER_S, 660)
    assert not sending.too_slow  # there was no progress, but that is another deadline's business


def test_who_is_below_the_floor_is_too_slow_although_there_is_progress(clock: Clock) -> None:
    sending = Progress(40 * MB, 40 * MB, GRACE_S)
    assert taken_at(clock, sending, 100_000, 60)
    assert not taken_at(clock, sending, 120_000, 120)
    assert sending.too_slow == "0.1 of 40.0 MB in 120 s"


def test_what_is_all_taken_is_not_slow(clock: Clock) -> None:
    said: list[str] = []
    sending = Progress(100_000, 100_000, GRACE_S, said.append)
    assert taken_at(clock, sending, 100_000, 300)
    assert not taken_at(clock, sending, 100_000, 360)
    assert (sending.too_slow, said) == ("", [])


def test_time_in_which_the_node_waits_does_not_count(clock: Clock) -> None:
    sending = Progress(40 * MB, 40 * MB, GRACE_S)
    sending.pause()
    clock.now_s += 600  # a disk that hangs
    sending.resume()
    assert taken_at(clock, sending, 100_000, 650)
    assert not sending.too_slow


def test_who_takes_long_is_spoken_of_once(clock: Clock) -> None:
    said: list[str] = []
    sending = Progress(40 * MB, 40 * MB, GRACE_S, said.append)
    for after_s in (59, 61, 62, 200):
        assert taken_at(clock, sending, 100_000 * after_s, after_s)
    assert said == ["6.1 of 40.0 MB in 61 s"]
