"""Diverged nodes: when a node becomes one, and what follows under ``on-divergence``."""

from __future__ import annotations

from pathlib import Path

import gevent
import pytest
from gevent.event import Event

from spawn.delivery import policy
from spawn.nodes.node import NodeState
from spawn.proxy import turnedaway
from tests.support.inprocess import Cluster, until
from tests.support.node import Action, AppNode, Cut, Reply


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-offs of some ten milliseconds."""
    monkeypatch.setattr(policy, "BACKOFF_FIRST_S", 0.01)
    monkeypatch.setattr(policy, "BACKOFF_LIMIT_S", 0.05)


def two() -> list[AppNode]:
    return [AppNode("a"), AppNode("b")]


@pytest.mark.parametrize(
    ("reference", "late", "diverged"),
    [
        (409, [Reply(200)], True),  # applied what the others turned down
        (200, [Reply(409)] * 2, True),  # turned down what the others applied
        (200, [Reply(409), Reply(200)], False),  # tried again, and then it was applied
        (409, [Cut(), Reply(200)], False),  # not the first attempt: who knows what the first one did
        (200, [Cut(), Reply(409)], False),
        (200, [Cut(), Reply(404)], False),
        (200, [Cut(), Reply(401), Reply(401)], True),  # it was not let in, so that is no echo of the first one
        (200, [Reply(503), Reply(204)], False),
        (404, [Reply(409)], False),  # of one class
        (201, [Reply(303)], False),
    ],
)
def test_only_a_first_attempt_shows_a_difference(
    tmp_path: Path, reference: int, late: list[Action], diverged: bool
) -> None:
    nodes = two()
    with Cluster(tmp_path, nodes, delivery={"attempts": 2}) as cluster:
        nodes[1].go_away()
        cluster.until_state(nodes[1], NodeState.DOWN)
        nodes[0].next_up.append(Reply(reference))
        assert cluster.post().status == reference
        nodes[1].next_up.extend(late)
        nodes[1].come()
        cluster.until_applied(1)
        assert len(nodes[1].updates) == len(late)
        assert [cluster.queue(node)["diverged"] for node in nodes] == [False, diverged]
        assert cluster.service.counters.value("delivery.diverged") == diverged


def diverge(cluster: Cluster, node: AppNode) -> None:
    """By an update that only this node refuses."""
    node.next_up.extend([Reply(422)] * 2)
    sequence = cluster.post().sequence
    cluster.until_applied(sequence)
    assert cluster.live(node).diverged


@pytest.mark.parametrize(
    ("choice", "alone"), [("alert", {"status": 200, "body": b"b"}), ("isolate", {"status": 503, "body": None})]
)
def test_what_a_diverged_node_is_used_for(tmp_path: Path, choice: str, alone: dict[str, object]) -> None:
    nodes = two()
    with Cluster(
        tmp_path,
        nodes,
        on_divergence=choice,
        delivery={"attempts": 2},
        query_mode={"round_robin": True},
        timeouts={"fresh": 0.05},
    ) as cluster:
        diverge(cluster, nodes[1])
        assert {cluster.get().body for _ in range(4)} == {b"a"}
        cluster.restart()
        cluster.until_serving(*nodes)
        assert cluster.queue(nodes[1])["diverged"]  # it is remembered
        assert {cluster.get().body for _ in range(4)} == {b"a"}
        nodes[0].go_away()
        cluster.until_state(nodes[0], NodeState.DOWN)
        got = cluster.get()
        assert got.status == alone["status"]
        assert alone["body"] in (None, got.body)
        assert cluster.post().status == 200  # it gets updates all the same
        nodes[0].come()
        cluster.until_applied(2)
        cluster.until_serving(nodes[0])
        assert {cluster.get().body for _ in range(4)} == {b"a"}


def test_nothing_is_read_from_anybody_when_all_are_isolated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(turnedaway, "QUIET_S", 0.0)
    nodes = two()
    with Cluster(tmp_path, nodes, on_divergence="isolate", timeouts={"fresh": 0.05}) as cluster:
        for node in nodes:
            cluster.live(node).diverged = True
        for _ in range(2):
            got = cluster.get()
            assert (got.status, got.headers["retry-after"]) == (503, "1")
        assert cluster.api("POST", f"/queues/127.0.0.1/{nodes[0].port}/clear-diverged").status == 202
        for _ in range(2):
            assert cluster.get().body == b"a"
    begun, over = (each.getMessage() for each in caplog.records if each.name == "spawn.proxy")
    assert begun.startswith("reads are turned away with 503: the nodes that serve are diverged")
    assert over == "reads are taken again, after 2 were turned away"


def test_a_clean_node_that_is_stale_is_preferred_to_none_and_a_fresh_diverged_one_to_it(tmp_path: Path) -> None:
    """``alert``: a diverged node is the last choice among those that have everything, not an outcast."""
    gate = Event()
    nodes = two()
    with Cluster(tmp_path, nodes, timeouts={"fresh": 0.05}) as cluster:
        cluster.live(nodes[1]).diverged = True
        cluster.service._fleet.refresh()
        nodes[0].next_up.append(Reply(200, gate=gate))
        client = cluster.background(cluster.post)
        until(lambda: cluster.live(nodes[1]).position == 1, "the diverged one has it")
        gevent.sleep(0)
        assert not client.ready()  # its answer is not the client's
        assert cluster.get().body == b"a"  # nobody was told of the update: a is fresh
        gate.set()
        assert client.get(timeout=5).body == b""
