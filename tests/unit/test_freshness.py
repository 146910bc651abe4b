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
    assert Freshness().wait_for(1, lambda: "node", 0.0) == "node"


def test_nothing_within_the_time_is_none() -> None:
    freshness = Freshness()
    assert freshness.wait_for(1, lambda: None, 0.0) is None
    assert freshness.wait_for(1, lambda: None, 0.02) is None


def test_a_wait_ends_when_a_notice_brings_it() -> None:
    freshness = Freshness()
    found: list[str] = []
    waits = [gevent.spawn(freshness.wait_for, 1, lambda: found[0] if found else None, 5.0) for _ in range(3)]
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

    wait = gevent.spawn(freshness.wait_for, 1, look, 5.0)
    gevent.sleep(0)
    freshness.notify()
    wait.join(2.0)
    assert wait.value == "node"


def test_the_limit_holds_under_a_storm_of_notices() -> None:
    freshness = Freshness()
    wait = gevent.spawn(freshness.wait_for, 1, lambda: None, 0.05)

    def storm() -> None:
        while not wait.ready():
            freshness.notify()
            gevent.sleep(0)

    with gevent.Timeout(5.0):
        storm()
    assert wait.value is None


def test_a_step_of_a_node_wakes_those_for_whom_it_is_fresh_now_and_nobody_else() -> None:
    """So that thousands that wait cost nothing while a node works off its backlog."""
    freshness = Freshness()
    looks = dict.fromkeys((2, 3, 5), 0)
    position = 0

    def look(floor: int) -> str | None:
        looks[floor] += 1
        return "node" if position >= floor else None

    waits = {floor: gevent.spawn(freshness.wait_for, floor, lambda floor=floor: look(floor), 5.0) for floor in looks}
    gevent.sleep(0)
    assert looks == {2: 1, 3: 1, 5: 1}
    for position in (1, 2, 3):
        freshness.reached(position)
        gevent.sleep(0)
    gevent.joinall([waits[2], waits[3]], timeout=2.0)
    assert [waits[floor].ready() for floor in (2, 3, 5)] == [True, True, False]
    assert looks == {2: 2, 3: 2, 5: 1}
    position = 5
    freshness.notify()
    waits[5].join(2.0)
    assert waits[5].value == "node"
    assert not freshness._waiting


def test_one_who_was_woken_in_vain_waits_on() -> None:
    freshness = Freshness()
    found: list[str] = []
    wait = gevent.spawn(freshness.wait_for, 4, lambda: found[0] if found else None, 5.0)
    gevent.sleep(0)
    freshness.reached(4)
    gevent.sleep(0)
    found.append("node")
    freshness.reached(4)  # another node
    wait.join(2.0)
    assert wait.value == "node"


def test_who_has_given_up_leaves_nothing_behind() -> None:
    freshness = Freshness()
    waits = [gevent.spawn(freshness.wait_for, floor, lambda: None, 0.01 * floor) for floor in (1, 2, 2)]
    gevent.joinall(waits, timeout=2.0)
    assert [wait.value for wait in waits] == [None] * 3
    assert not freshness._waiting
