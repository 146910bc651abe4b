"""Who gets the next read."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from spawn.config.schema import QueryMode
from spawn.nodes.balance import Balancer, by_priority
from spawn.nodes.node import Node, NodeRecord


def node(port: int, priority: int = 0, diverged: bool = False) -> Node:
    return Node(id=str(port), record=NodeRecord(host="h", port=port, priority=priority), diverged=diverged)


def ports(nodes: list[Node]) -> list[int]:
    return [each.record.port for each in nodes]


def test_priority_order_is_the_originals() -> None:
    nodes = [node(1, -2), node(2, 0), node(3, 2), node(4, -1), node(5, 1), node(6, 0), node(7, 3)]
    assert ports(by_priority(nodes)) == [5, 3, 7, 2, 6, 4, 1]


def test_round_robin_walks_in_priority_order() -> None:
    nodes = [node(1, 3), node(2, 1), node(3, 2)]
    balancer = Balancer(QueryMode(round_robin=True, by_priority=True))
    assert ports([balancer.choose(nodes) for _ in range(7)]) == [2, 3, 1, 2, 3, 1, 2]


def test_by_priority_alone_gives_everything_to_the_best() -> None:
    balancer = Balancer(QueryMode(by_priority=True))
    nodes = [node(1, 0), node(2, 2), node(3, 1)]
    assert ports([balancer.choose(nodes) for _ in range(3)]) == [3, 3, 3]
    assert balancer.choose(nodes[:2]).record.port == 2


def test_with_neither_the_configurations_order_decides() -> None:
    balancer = Balancer(QueryMode())
    nodes = [node(1, 0), node(2, 1)]
    assert ports([balancer.choose(nodes) for _ in range(3)]) == [1, 1, 1]


def test_a_diverged_node_only_when_there_is_no_other() -> None:
    for mode in (QueryMode(), QueryMode(round_robin=True), QueryMode(by_priority=True)):
        balancer = Balancer(mode)
        clean, odd = node(2), node(1, 1, diverged=True)
        assert {balancer.choose([odd, clean]).record.port for _ in range(5)} == {2}
        assert balancer.choose([odd]) is odd


@given(st.integers(2, 6), st.integers(1, 5))
def test_round_robin_is_fair(count: int, rounds: int) -> None:
    nodes = [node(number) for number in range(count)]
    balancer = Balancer(QueryMode(round_robin=True))
    chosen = Counter(balancer.choose(nodes).id for _ in range(count * rounds))
    assert set(chosen.values()) == {rounds}


@given(st.lists(st.sets(st.integers(0, 3), min_size=2), min_size=1, max_size=60))
def test_round_robin_never_starves_a_node_that_is_always_eligible(sets: list[set[int]]) -> None:
    """Node 0 is always there: it waits for at most the three others."""
    nodes = [node(number) for number in range(4)]
    balancer = Balancer(QueryMode(round_robin=True))
    waited = 0
    for eligible in sets:
        chosen = balancer.choose([nodes[number] for number in sorted(eligible | {0})])
        waited = 0 if chosen is nodes[0] else waited + 1
        assert waited <= 3


def test_one_eligible_node_does_not_lose_its_turn_for_having_been_alone() -> None:
    one, two = node(1), node(2)
    balancer = Balancer(QueryMode(round_robin=True))
    assert ports([balancer.choose([one]) for _ in range(3)]) == [1, 1, 1]
    assert {balancer.choose([one, two]).id for _ in range(2)} == {"1", "2"}
