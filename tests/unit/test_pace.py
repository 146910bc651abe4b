"""How fast a backlog drains: at full speed alone, gently beside busy clients, and as told when told."""

from __future__ import annotations

import pytest

from spawn.counters import Counters
from spawn.delivery.pace import BURST_S, EVENT_S, GENTLE_S, SLACK_S, SPACING_S, CatchUpPace

DELIVERY_S = 0.000_2
AHEAD = SLACK_S / SPACING_S + 2  # updates that may go without a wait at first


class Drain:
    """Nodes that catch up, on a clock of their own; ``run`` says how many updates they got."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.counters = Counters()
        self.pace = CatchUpPace(lambda: self.now_s)

    def run(self, seconds: float, rate: float = 0.0, traffic_per_s: float = 0.0, counter: str = "reads.served") -> int:
        delivered, owed, last_s = 0, 0.0, -1.0
        end_s = self.now_s + seconds
        while True:
            wait_s = self.pace.wait_s("a", rate, last_s, self.counters)
            if self.now_s + wait_s >= end_s:
                return delivered
            last_s = self.now_s + wait_s
            owed += (wait_s + DELIVERY_S) * traffic_per_s
            self.counters.add(counter, int(owed))
            owed -= int(owed)
            self.now_s = last_s + DELIVERY_S
            self.counters.add("delivery.applied")
            self.counters.add("delivery.caught-up")
            delivered += 1


@pytest.fixture
def drain() -> Drain:
    return Drain()


def test_without_traffic_nothing_is_waited_for(drain: Drain) -> None:
    assert drain.run(1.0) >= 0.99 / DELIVERY_S


@pytest.mark.parametrize("counter", ["reads.served", "updates.journalled", "delivery.applied"])
def test_beside_clients_that_keep_spawn_busy_it_is_one_update_each_spacing(drain: Drain, counter: str) -> None:
    delivered = drain.run(2.0, traffic_per_s=2 / EVENT_S, counter=counter)
    assert 0.9 * 2.0 / SPACING_S <= delivered <= 2.0 / SPACING_S + AHEAD


def test_waits_that_were_too_long_are_made_up_for(drain: Drain) -> None:
    # Given a hub so busy that each wait takes 5 ms more than asked for
    delivered, last_s = 0, -1.0
    while drain.now_s < 1_001.0:
        wait_s = drain.pace.wait_s("a", 0.0, last_s, drain.counters)
        drain.now_s += wait_s + (0.005 if wait_s else 0.0) + DELIVERY_S
        drain.counters.add("reads.served", 100)
        delivered += 1
    # Then the average is the same
    assert 0.9 / SPACING_S <= delivered <= 1.0 / SPACING_S + AHEAD


def test_a_few_requests_a_second_cost_a_backlog_little(drain: Drain) -> None:
    alone = 1.0 / DELIVERY_S
    assert drain.run(1.0, traffic_per_s=0.05 / EVENT_S) > 0.9 * alone
    assert alone > drain.run(1.0, traffic_per_s=0.5 / EVENT_S) > 0.5 * alone


def test_a_burst_is_forgotten_soon_after_its_end(drain: Drain) -> None:
    drain.counters.add("reads.served", 1_000_000)
    assert drain.run(BURST_S) <= BURST_S / SPACING_S + AHEAD
    assert drain.run(1.0) >= 0.99 / DELIVERY_S


def test_two_nodes_that_catch_up_share_what_one_would_get() -> None:
    # Given clients that keep Spawn busy, and two nodes whose turns alternate
    now_s, counters, delivered = 0.0, Counters(), 0
    pace = CatchUpPace(lambda: now_s)
    turns_s = [0.0, 0.0]
    while now_s < 1.0:
        # When each asks as soon as it is done with its update
        counters.add("reads.served", 100)
        node = turns_s.index(min(turns_s))
        now_s = max(now_s, turns_s[node])
        turns_s[node] = now_s + pace.wait_s("ab"[node], 0.0, 0.0, counters) + DELIVERY_S
        delivered += 1
    # Then both together get what is good for everybody
    assert delivered <= 1.0 / SPACING_S + AHEAD


@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("clients_per_s", [100, 900, 1_800])
def test_clients_that_never_pause_do_not_keep_a_node_from_catching_up(clients_per_s: int, nodes: int) -> None:
    """After the time in which they come first, every node that catches up gets more than they add."""
    now_s, counters, delivered = 0.0, Counters(), 0
    pace = CatchUpPace(lambda: now_s)
    turns_s, owed = [0.0] * nodes, 0.0
    while now_s < GENTLE_S + 60.0:
        node = turns_s.index(min(turns_s))
        step_s = max(0.0, turns_s[node] - now_s)
        now_s += step_s
        turns_s[node] = now_s + pace.wait_s("ab"[node], 0.0, 0.0, counters) + 0.000_01
        delivered += now_s > GENTLE_S + 2.0
        owed += step_s * clients_per_s
        counters.add("reads.served", 10)  # they are busy besides
        counters.add("updates.journalled", int(owed))
        owed -= int(owed)
    assert delivered >= 58.0 * max(1.15 * clients_per_s * nodes, 0.9 / SPACING_S)


@pytest.mark.parametrize("traffic_per_s", [0.0, 10 / EVENT_S])
@pytest.mark.parametrize("rate", [50.0, 2_000.0])
def test_a_rate_that_the_operator_gives_holds_whatever_clients_do(
    drain: Drain, rate: float, traffic_per_s: float
) -> None:
    delivered = drain.run(2.0, rate, traffic_per_s)
    assert 0.95 * 2.0 * rate <= delivered <= 2.0 * rate + 1
