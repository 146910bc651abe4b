"""Whose fault it is: one node's, one update's, or an outage's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest
from gevent import socket
from gevent.event import Event

from spawn.delivery import policy, worker
from spawn.nodes.node import NodeState
from tests.support.inprocess import Cluster, until
from tests.support.node import AppNode, Reply, Seen


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-offs and probes of some ten milliseconds."""
    monkeypatch.setattr(policy, "BACKOFF_FIRST_S", 0.01)
    monkeypatch.setattr(policy, "BACKOFF_LIMIT_S", 0.05)
    monkeypatch.setattr(worker, "PROBE_S", 0.1)


def two() -> list[AppNode]:
    return [AppNode("a"), AppNode("b")]


def poisoned(status: int) -> list[AppNode]:
    nodes = two()
    for node in nodes:
        node.answers = lambda seen: Reply(status if seen.target == "/poison" else 200, b"x")
    return nodes


@contextlib.contextmanager
def readers(cluster: Cluster) -> Iterator[None]:
    """Clients that read all the time: their answers tell one bad update from an outage."""

    def read() -> None:
        while True:
            cluster.get()
            gevent.sleep(0.005)

    greenlet = cluster.background(read)
    try:
        yield
    finally:
        greenlet.kill()


@pytest.mark.parametrize("status", [429, 503])
def test_updates_that_no_node_takes_put_no_node_on_hold(tmp_path: Path, status: int) -> None:
    nodes = poisoned(status)
    delivery = {"attempts_uncertain": 3}
    with Cluster(tmp_path, nodes, delivery=delivery, timeouts={"answer": 0.2}) as cluster:
        for _ in range(4):
            assert cluster.post(target="/poison").status == 202
        assert cluster.post().status in (200, 202)
        with readers(cluster):
            cluster.until_applied(5)
        cluster.until_serving(*nodes)
        assert cluster.service.counters.value("delivery.refused-by-all") == 4
        assert not any(cluster.live(node).held or cluster.live(node).diverged for node in nodes)
        assert [cluster.status_on(1, node) for node in nodes] == ["refused", "refused"]
        assert cluster.get().status == 200


def down_behind_a_proxy(seen: Seen) -> Reply:
    """A proxy whose application is away; its own health page goes on being served."""
    return Reply(502, b"bad gateway")


@pytest.mark.parametrize("attempts", [1, 3])
def test_an_outage_behind_health_checks_that_pass_costs_nothing_acknowledged(tmp_path: Path, attempts: int) -> None:
    nodes = two()
    delivery = {"attempts_uncertain": attempts}
    with Cluster(tmp_path, nodes, delivery=delivery, timeouts={"answer": 0.05, "fresh": 0.05}) as cluster:
        for node in nodes:
            node.answers = down_behind_a_proxy
        for _ in range(4):
            assert cluster.post().status == 202
        with readers(cluster):
            until(lambda: all(len(node.updates) > 12 for node in nodes), "many times the tries that an update has")
        assert [cluster.live(node).position for node in nodes] == [0, 0]
        for node in nodes:
            node.answers = None
        cluster.until_applied(4)
        assert [node.applied for node in nodes] == [[1, 2, 3, 4]] * 2
        assert not any(cluster.live(node).diverged or cluster.live(node).refused for node in nodes)
        assert cluster.service.counters.value("delivery.postponed") > 0


def test_even_what_looks_like_an_outage_has_an_end(tmp_path: Path) -> None:
    """Nobody reads, so nothing tells the one from the other."""
    nodes = poisoned(502)
    delivery = {"attempts_uncertain": 2, "outage": 0.3}
    with Cluster(tmp_path, nodes, delivery=delivery, timeouts={"answer": 0.05}) as cluster:
        assert cluster.post(target="/poison").status == 202
        assert cluster.post().status in (200, 202)
        cluster.until_applied(2)
        assert [cluster.status_on(1, node) for node in nodes] == ["refused", "refused"]
        assert cluster.service.counters.value("delivery.postponed") > 0
        assert not any(cluster.live(node).diverged for node in nodes)


def test_an_outage_of_everybody_loses_nothing_that_was_accepted(tmp_path: Path) -> None:
    nodes = two()
    with Cluster(tmp_path, nodes) as cluster:
        for node in nodes:
            node.answers, node.health = (lambda seen: Reply(500, b"no database")), Reply(500)
            cluster.until_state(node, NodeState.DOWN)
        for _ in range(6):
            assert cluster.post().status == 202
        until(lambda: all(cluster.live(node).attempts > 10 for node in nodes), "many attempts")
        for node in nodes:
            node.answers, node.health = None, Reply()
        cluster.until_applied(6)
        assert [node.applied for node in nodes] == [[1, 2, 3, 4, 5, 6]] * 2
        assert not any(cluster.live(node).diverged or cluster.live(node).refused for node in nodes)


def test_after_a_crash_a_401_is_no_echo_of_a_first_delivery(tmp_path: Path) -> None:
    """An expired credential must not eat what a node has still to get."""
    nodes = two()
    with Cluster(tmp_path, nodes) as cluster:
        nodes[1].go_away()
        cluster.until_state(nodes[1], NodeState.DOWN)
        for _ in range(10):
            assert cluster.post().status == 200
        nodes[1].answers = unauthorised
        nodes[1].come()
        cluster.crash()
        until(lambda: cluster.live(nodes[1]).held, "b is held")
        assert cluster.live(nodes[1]).position == 2
        nodes[1].answers = None  # the operator has renewed the credential
        cluster.until_applied(10, nodes[1])
        assert nodes[1].applied == list(range(3, 11))


def unauthorised(seen: Seen) -> Reply:
    return Reply(401 if seen.sequence else 200, b"")


def test_reads_go_to_a_held_node_rather_than_to_nobody(tmp_path: Path) -> None:
    node = AppNode("only")
    with Cluster(
        tmp_path, [node], delivery={"attempts_uncertain": 1}, timeouts={"answer": 0.1, "fresh": 0.1}
    ) as cluster:
        node.answers = lambda seen: Reply(503 if seen.sequence else 200, b"old")
        for _ in range(3):
            assert cluster.post().status == 202
        with readers(cluster):
            until(lambda: cluster.live(node).held, "it is held")
        assert cluster.get().body == b"old"


def test_a_node_that_is_away_does_not_make_the_others_be_held(tmp_path: Path) -> None:
    nodes = poisoned(429)
    away = AppNode("away")
    with Cluster(tmp_path, [*nodes, away], delivery={"attempts_uncertain": 2}, timeouts={"answer": 0.2}) as cluster:
        away.go_away()
        cluster.until_state(away, NodeState.DOWN)
        for _ in range(4):
            assert cluster.post(target="/poison").status == 202
        assert cluster.post().status in (200, 202)
        with readers(cluster):
            cluster.until_applied(5, *nodes)
        until(lambda: not any(cluster.live(node).held for node in nodes), "nobody is held")


def test_an_announcement_gives_nobody_up(tmp_path: Path) -> None:
    """One request head without a body must not put a node out of sync."""
    nodes = two()
    with Cluster(tmp_path, nodes, journal={"max_bytes": 20_000_000}) as cluster:
        nodes[1].go_away()
        cluster.until_state(nodes[1], NodeState.DOWN)
        assert cluster.post().status == 200
        with socket.create_connection(("127.0.0.1", cluster.port)) as client:
            client.sendall(
                b"POST /items HTTP/1.1\r\nHost: x\r\nContent-Length: 19999950\r\nExpect: 100-continue\r\n\r\n"
            )
            client.settimeout(10)
            assert client.recv(100).startswith(b"HTTP/1.1 100")  # it may well fit, and nothing was done for it
        assert not cluster.live(nodes[1]).out_of_sync


def test_an_expired_credential_does_not_turn_down_what_was_accepted(tmp_path: Path) -> None:
    """Nobody serves, and the node that is quick to say 401 is not the one to believe, however slow the others are."""
    nodes = two()
    with Cluster(tmp_path, nodes, timeouts={"agree": 0.01}, delivery={"attempts_uncertain": 1_000}) as cluster:
        for node in nodes:
            cluster.change(node, maintenance=True)
        for _ in range(5):
            assert cluster.post().status == 202
        nodes[0].answers = unauthorised
        gate = Event()
        nodes[1].answers = lambda seen: Reply(200, b"", gate=gate if seen.sequence else None)
        for node in reversed(nodes):
            cluster.change(node, maintenance=False)
            cluster.until_state(node, NodeState.CATCHING_UP)
        until(lambda: len(nodes[0].updates) > 3, "a turns the first one down, again and again")
        gate.set()
        cluster.until_applied(5, nodes[1])
        assert [cluster.fate(sequence)["reference"] for sequence in range(1, 6)] == [200] * 5
        assert not cluster.live(nodes[1]).diverged
        until(lambda: cluster.live(nodes[0]).held, "a is held")
        nodes[0].answers = None
        cluster.until_applied(5)
        assert nodes[0].applied == [3, 4, 5]


@pytest.mark.parametrize("expired", [True, False])
def test_a_401_of_the_only_node_that_is_there_is_left_open(tmp_path: Path, expired: bool) -> None:
    """Strangers must not stop the node that survived an outage, nor its expired credential eat what was accepted."""
    nodes = two()
    with Cluster(tmp_path, nodes, timeouts={"agree": 0.01}) as cluster:
        for node in nodes:
            node.go_away()
        for node in nodes:
            cluster.until_state(node, NodeState.DOWN)
        for _ in range(5):
            assert cluster.post().status == 202
        # When the first one returns and turns all of them away
        nodes[0].answers = unauthorised
        nodes[0].come()
        cluster.until_applied(5, nodes[0])
        # Then it goes on, and nothing is decided but that it may lack them
        assert not cluster.live(nodes[0]).held
        assert cluster.live(nodes[0]).diverged
        assert cluster.fate(5)["reference"] is None
        assert cluster.status_on(5, nodes[0]) == "refused"
        # And what the other one does, decides
        nodes[1].answers = None if expired else unauthorised
        nodes[1].come()
        cluster.until_applied(5)
        until(lambda: cluster.live(nodes[0]).diverged is expired, "it is known what was the matter")
        assert not cluster.live(nodes[1]).diverged
        assert nodes[1].applied == ([1, 2, 3, 4, 5] if expired else [])
        assert cluster.fate(5)["reference"] == (200 if expired else None)
        assert cluster.service.counters.value("delivery.diverged") == (5 if expired else 0)


def test_an_expired_credential_does_not_eat_a_backlog_in_which_all_turn_some_down(tmp_path: Path) -> None:
    """Its 401 agrees with the others' 404, but that is not to take an update."""
    nodes = two()
    nodes[0].answers = lambda seen: Reply(404 if seen.target == "/missing" else 200)
    with Cluster(tmp_path, nodes, delivery={"attempts": 2}, timeouts={"agree": 0.05}) as cluster:
        nodes[1].answers = unauthorised
        for number in range(12):
            cluster.post(target="/missing" if number % 2 else "/items")
        until(lambda: cluster.live(nodes[1]).held, "it is held")
        assert cluster.live(nodes[1]).refused == 2
        nodes[1].answers = nodes[0].answers
        cluster.until_applied(12)
        assert cluster.live(nodes[1]).refused == 2


def test_three_bad_updates_hold_nobody_beside_a_node_that_is_held(tmp_path: Path) -> None:
    nodes = [*poisoned(503), AppNode("c")]
    delivery = {"attempts": 2, "attempts_uncertain": 3}
    with Cluster(tmp_path, nodes, delivery=delivery, timeouts={"answer": 0.2}) as cluster:
        nodes[2].answers = unauthorised
        for _ in range(3):
            assert cluster.post().status == 200
        until(lambda: cluster.live(nodes[2]).held, "c is held")
        with readers(cluster):
            for _ in range(3):
                cluster.post(target="/poison")
            cluster.post()
            cluster.until_applied(7, *nodes[:2])
        assert not any(cluster.live(node).held for node in nodes[:2])


def test_three_bad_updates_hold_nobody_beside_a_node_that_is_behind(tmp_path: Path) -> None:
    nodes = [*poisoned(503), AppNode("c")]
    delivery = {"attempts_uncertain": 3, "catch_up_rate": 2.0}
    with Cluster(tmp_path, nodes, delivery=delivery, timeouts={"answer": 0.2}) as cluster:
        nodes[2].go_away()
        cluster.until_state(nodes[2], NodeState.DOWN)
        for _ in range(50):
            cluster.post()
        nodes[2].come()
        cluster.until_state(nodes[2], NodeState.CATCHING_UP)
        with readers(cluster):
            for _ in range(3):
                cluster.post(target="/poison")
            cluster.post()
            cluster.until_applied(54, *nodes[:2])
        assert cluster.live(nodes[2]).state is NodeState.CATCHING_UP
        assert not any(cluster.live(node).held for node in nodes[:2])


def test_one_lost_session_does_not_speak_for_all_while_nobody_serves(tmp_path: Path) -> None:
    nodes = two()
    with Cluster(tmp_path, nodes) as cluster:
        for node in nodes:
            cluster.change(node, maintenance=True)
        assert cluster.post().status == 202
        nodes[0].answers = unauthorised
        nodes[1].answers = lambda seen: Reply(200, b"", delay_s=0.3)
        for node in nodes:
            cluster.change(node, maintenance=False)
        cluster.until_applied(1, nodes[1])
        assert cluster.fate(1)["reference"] == 200
