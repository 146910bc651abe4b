"""Whose fault it is: one node's, one update's, or an outage's."""

from __future__ import annotations

from pathlib import Path

import pytest
from gevent import socket

from spawn.delivery import fleet, policy, worker
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


@pytest.mark.parametrize("status", [429, 503])
def test_updates_that_no_node_takes_put_no_node_on_hold(tmp_path: Path, status: int) -> None:
    nodes = poisoned(status)
    delivery = {"attempts_uncertain": 3}
    with Cluster(tmp_path, nodes, delivery=delivery, timeouts={"answer": 0.2}) as cluster:
        for _ in range(4):
            assert cluster.post(target="/poison").status == 202
        assert cluster.post().status in (200, 202)
        cluster.until_applied(5)
        cluster.until_serving(*nodes)
        assert not any(cluster.live(node).held or cluster.live(node).diverged for node in nodes)
        assert [cluster.status_on(1, node) for node in nodes] == ["refused", "refused"]
        assert cluster.get().status == 200


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
        as_after_a_crash = pytest.MonkeyPatch()
        as_after_a_crash.setattr(fleet.Fleet, "_settle", lambda self: None)
        nodes[1].answers = unauthorised
        nodes[1].come()
        cluster.restart()
        as_after_a_crash.undo()
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
