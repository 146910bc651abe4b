"""A latch opens once, lets the greenlet that waits go on, and never keeps it beyond its deadline."""

from __future__ import annotations

import time

import gevent
import pytest

from spawn.latch import Latch
from tests.support.inprocess import until


def test_who_waits_goes_on_when_it_opens() -> None:
    latch = Latch()
    waiting = gevent.spawn(latch.wait, 60.0)
    gevent.sleep(0.01)
    assert not waiting.ready()
    latch.open()
    assert waiting.get(timeout=5) is True


def test_an_open_one_keeps_nobody() -> None:
    latch = Latch()
    latch.open()
    latch.open()
    switched = []
    gevent.spawn(switched.append, True)
    assert latch.wait(60.0) is True
    assert not switched


@pytest.mark.parametrize("timeout_s", [0.0, -1.0])
def test_without_time_it_does_not_wait(timeout_s: float) -> None:
    assert Latch().wait(timeout_s) is False


def test_a_wait_ends_at_its_deadline_and_not_before() -> None:
    latch = Latch()
    began_s = time.monotonic()
    assert latch.wait(0.05) is False
    assert time.monotonic() - began_s >= 0.049
    latch.open()
    assert latch.wait(60.0) is True


def test_the_time_counts_from_the_wait_however_busy_the_hub_was_before() -> None:
    time.sleep(0.1)
    began_s = time.monotonic()
    assert Latch().wait(0.05) is False
    assert time.monotonic() - began_s >= 0.049


def test_there_is_no_second_to_wait() -> None:
    latch = Latch()
    waiting = gevent.spawn(latch.wait, 60.0)
    gevent.sleep(0)
    with pytest.raises(AssertionError):
        latch.wait(60.0)
    latch.open()
    assert waiting.get(timeout=5) is True


def test_opened_as_the_time_is_up_it_wakes_once() -> None:
    """The second wake-up would resume the greenlet in a wait of its own that has nothing to do with this."""
    for pause_s in (0.0, 0.001, 0.002, 0.003) * 5:
        latch = Latch()
        went_on = []

        def wait(latch: Latch = latch, went_on: list[float] = went_on) -> None:
            latch.wait(0.002)
            began_s = time.monotonic()
            gevent.sleep(0.01)
            went_on.append(time.monotonic() - began_s)

        waiting = gevent.spawn(wait)
        gevent.sleep(pause_s)
        latch.open()
        waiting.get(timeout=5)
        assert went_on[0] >= 0.009


def test_a_greenlet_that_is_killed_while_it_waits_is_not_resumed_elsewhere() -> None:
    latch, cleaned = Latch(), []

    def wait() -> None:
        try:
            latch.wait(60.0)
        finally:
            began_s = time.monotonic()
            gevent.sleep(0.05)
            cleaned.append(time.monotonic() - began_s)

    waiting = gevent.spawn(wait)
    gevent.sleep(0)
    waiting.kill(block=False)
    latch.open()  # its wake-up comes when it is somewhere else
    until(lambda: cleaned, "it has cleaned up")
    assert cleaned[0] >= 0.049
