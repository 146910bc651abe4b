"""What clients meet right after a start: nodes that have been judged, and that have caught up if they can quickly."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from gevent.event import Event

from spawn.nodes.node import NodeState
from spawn.service.compose import CATCH_UP_S
from tests.support.inprocess import Cluster
from tests.support.node import AppNode, Reply

NOBODY = "no node serves"


def left_behind(cluster: Cluster, node: AppNode, updates: int) -> None:
    """The node has still to get that many when the service starts anew, as after a kill."""
    node.go_away()
    cluster.until_state(node, NodeState.DOWN)
    for _ in range(updates):
        assert cluster.post().status == 202
    cluster.service.stop(2.0)
    node.come()


def test_clients_do_not_meet_nodes_that_lack_only_a_moments_work(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Given the only node, which takes 0.15 s for what it has still to get
    node = AppNode("a", answers=lambda seen: Reply(200, delay_s=0.05 if seen.sequence else 0.0))
    with Cluster(tmp_path, [node]) as cluster:
        left_behind(cluster, node, 3)
        caplog.clear()

        # When Spawn has started, then the first update has its answer, not a 202, and the first read no mark
        cluster.restart()
        assert cluster.live(node).state is NodeState.SERVING
        assert cluster.post().status == 200
        got = cluster.get()
        assert (got.status, "spawn-behind" in got.headers) == (200, False)
        assert NOBODY not in caplog.text


def test_a_start_does_not_wait_for_a_node_that_does_not_get_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Event()
    node = AppNode("a", answers=lambda seen: Reply(200, gate=gate if seen.sequence else None))
    with Cluster(tmp_path, [node]) as cluster:
        left_behind(cluster, node, 1)
        caplog.clear()
        began_s = time.monotonic()
        cluster.restart()
        assert CATCH_UP_S <= time.monotonic() - began_s < CATCH_UP_S + 5.0
        assert f"{NOBODY}: reads are answered by a node that lacks updates" in caplog.text
        assert cluster.get().headers["spawn-behind"] == "1"
        gate.set()
        cluster.until_serving(node)


def test_nobody_is_waited_for_while_another_node_serves_or_none_is_there(tmp_path: Path) -> None:
    gate = Event()
    good, late = AppNode("good"), AppNode("late", answers=lambda seen: Reply(200, gate=gate if seen.sequence else None))
    with Cluster(tmp_path, [good, late]) as cluster:
        assert cluster.post().status == 200
        cluster.service.stop(0.2)
        cluster.restart()
        fleet = cluster.service._fleet
        assert cluster.live(late).state is NodeState.CATCHING_UP
        assert not fleet.is_about_to_serve(), "the other one serves"
        good.go_away()
        cluster.until_state(good, NodeState.DOWN)
        assert fleet.is_about_to_serve()
        cluster.live(late).held = True
        assert not fleet.is_about_to_serve(), "nobody knows when"
        cluster.live(late).held = False
        late.go_away()
        cluster.until_state(late, NodeState.DOWN)
        assert not fleet.is_about_to_serve(), "nobody is there"
        gate.set()
