"""The floor of fresh reads, and the wait for a node that has reached it."""

from __future__ import annotations

import gevent

from spawn.delivery.freshness import Freshness


def test_the_floor_only_rises() -> None:
    freshness = Freshness()
    freshness.raise_to(5)
    freshness.raise_to(3)
    assert freshness.floor == 5


def test_what_is_there_is_found_without_a_wait() -> None:
    assert Freshness().wait_for(lambda: "node", 0.0) == "node"


def test_nothing_within_the_time_is_none() -> None:
    freshness = Freshness()
    assert freshness.wait_for(lambda: None, 0.0) is None
    assert freshness.wait_for(lambda: None, 0.02) is None


def test_a_wait_ends_when_a_notice_brings_it() -> None:
    freshness = Freshness()
    found: list[str] = []
    waits = [gevent.spawn(freshness.wait_for, lambda: found[0] if found else None, 5.0) for _ in range(3)]
    gevent.sleep(0)
    freshness.notify()  # not yet
    gevent.sleep(0)
    assert not any(wait.ready() for wait in waits)
    found.append("node")
    freshness.notify()
    gevent.joinall(waits, timeout=2.0)
    assert [wait.value for wait in waits] == ["node"] * 3


def test_a_notice_between_look_and_wait_is_not_lost() -> None:
    """A look that itself lets others run must not sleep through what they say."""
    freshness = Freshness()
    looks: list[int] = []

    def look() -> str | None:
        looks.append(1)
        if len(looks) == 1:
            freshness.notify()
            return None
        return "node"

    wait = gevent.spawn(freshness.wait_for, look, 5.0)
    gevent.sleep(0)
    freshness.notify()
    wait.join(2.0)
    assert wait.value == "node"


def test_the_limit_holds_under_a_storm_of_notices() -> None:
    freshness = Freshness()
    wait = gevent.spawn(freshness.wait_for, lambda: None, 0.05)

    def storm() -> None:
        while not wait.ready():
            freshness.notify()
            gevent.sleep(0)

    with gevent.Timeout(5.0):
        storm()
    assert wait.value is None
