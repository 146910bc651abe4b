"""Health checks: what makes a node down, and what brings it back."""

from __future__ import annotations

from pathlib import Path

import gevent
import msgspec
import pytest
from gevent.event import Event

from spawn.delivery import policy
from spawn.nodes import health
from spawn.nodes.node import NodeState
from spawn.service import Service
from tests.support.inprocess import Cluster, make_config, until
from tests.support.node import AppNode, Reply


def test_the_first_request_finds_a_decided_state(tmp_path: Path) -> None:
    with AppNode("up", health=Reply(delay_s=0.3)) as up:  # so that it is not by chance
        down = AppNode("down")
        service = Service(make_config([up, down], {}), state_dir=str(tmp_path / "state"))
        service.start()
        try:
            states = [node.state for node in service._registry.nodes]
            assert states == [NodeState.SERVING, NodeState.DOWN]
        finally:
            service.stop(2.0)


def test_a_silent_node_does_not_keep_the_service_from_starting(tmp_path: Path) -> None:
    with AppNode("silent", health=Reply(gate=Event())) as node:
        node.health = Reply(delay_s=60.0)
        config = make_config([node], {"health_check": {"timeout": 0.2}})
        service = Service(config, state_dir=str(tmp_path / "state"))
        with gevent.Timeout(5.0):
            service.start()
        try:
            assert service._registry.nodes[0].state is NodeState.DOWN
        finally:
            service.stop(2.0)


def test_refused_is_down_at_once(tmp_path: Path) -> None:
    node = AppNode()
    with Cluster(tmp_path, [node], health_check={"fall": 1000}) as cluster:
        node.go_away()
        cluster.until_state(node, NodeState.DOWN)
        node.come()
        cluster.until_serving(node)


@pytest.mark.parametrize(
    "bad", [Reply(500), Reply(503), Reply(200, b"version:x"), Reply(200, b"", length=10, cut=True), Reply(delay_s=9.0)]
)
def test_a_bad_answer_is_down_after_some(tmp_path: Path, bad: Reply) -> None:
    good = Reply(200, b"version:7")
    node = AppNode(health=good)
    checks = {"fall": 3, "rise": 2, "regexp": "^version:[0-9]+$", "timeout": 0.15, "seconds": 0.05}
    with Cluster(tmp_path, [node], health_check=checks) as cluster:
        before = node.checks
        node.health = bad
        cluster.until_state(node, NodeState.DOWN)
        assert node.checks - before >= 3
        assert cluster.queue(node)["last-error"]
        node.health = good
        cluster.until_serving(node)


def test_a_4xx_is_alive(tmp_path: Path) -> None:
    node = AppNode(health=Reply(404))
    with Cluster(tmp_path, [node]) as cluster:
        assert cluster.get().status == 200


def test_only_the_beginning_of_an_endless_answer_is_looked_at(tmp_path: Path) -> None:
    node = AppNode(health=Reply(200, b"version:1\n" + b"x" * 3_000_000, length=10**12))
    with Cluster(tmp_path, [node], health_check={"regexp": "version:[0-9]+"}) as cluster:
        until(lambda: node.checks > 3, "it is checked again and again")
        assert cluster.live(node).state is NodeState.SERVING


@pytest.mark.patches_source
def test_a_node_that_returns_is_tried_without_waiting_for_the_back_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy.Backoff, "next_s", lambda self: 3600.0)
    nodes = [AppNode("a"), AppNode("b")]
    with Cluster(tmp_path, nodes) as cluster:
        nodes[1].go_away()
        cluster.until_state(nodes[1], NodeState.DOWN)
        assert cluster.post().status == 200
        until(lambda: cluster.live(nodes[1]).attempts, "it was tried")
        nodes[1].come()
        cluster.until_applied(1)
        cluster.until_serving(nodes[1])


def test_a_storm_of_suspicions_is_a_handful_of_checks(tmp_path: Path) -> None:
    node = AppNode()
    with Cluster(tmp_path, [node], health_check={"seconds": 60.0}) as cluster:
        before = node.checks
        for _ in range(200):
            cluster.service._checker.poke(cluster.live(node))
            gevent.sleep(0.001)
        assert 1 <= node.checks - before <= 10


def test_a_nodes_own_headers_are_set_in_checks(tmp_path: Path) -> None:
    nodes = [AppNode("a"), AppNode("b")]
    own = {f"127.0.0.1:{nodes[0].port}": {"Authorization": "Basic a", "user-agent": "mine"}}
    with Cluster(tmp_path, nodes, delivery={"set_headers": own}):
        checks = [node.last_check for node in nodes]
    first, second = [dict(check.headers) for check in checks if check is not None]
    assert (first["authorization"], first["user-agent"]) == ("Basic a", "mine")
    assert "authorization" not in second
    assert "health check" in second["user-agent"]


def test_checks_are_spread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spreads: set[tuple[float, float]] = set()

    def shortest(least: float, most: float) -> float:
        spreads.add((round(least, 3), round(most, 3)))
        return least

    monkeypatch.setattr("spawn.nodes.health.random.uniform", shortest)
    node = AppNode()
    with Cluster(tmp_path, [node], health_check={"seconds": 0.05}):
        before = node.checks
        until(lambda: node.checks > before + 3, "it is checked again and again")
    assert spreads == {(0.9, 1.1)}


def test_a_deleted_node_is_no_longer_asked(tmp_path: Path) -> None:
    nodes = [AppNode("a"), AppNode("b")]
    with Cluster(tmp_path, nodes, health_check={"seconds": 0.02}) as cluster:
        cluster.api("DELETE", f"/nodes/127.0.0.1/{nodes[1].port}")
        before, others = nodes[1].checks, nodes[0].checks
        until(lambda: nodes[0].checks > others + 3, "the other is")
        assert nodes[1].checks - before <= 1


def test_an_error_in_spawn_does_not_end_a_nodes_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = AppNode()
    with Cluster(tmp_path, [node]) as cluster:

        def faulty(self: object, answer: object) -> str:
            raise ZeroDivisionError

        with monkeypatch.context() as patch:
            patch.setattr(health.HealthChecker, "_examine", faulty)
            cluster.until_state(node, NodeState.DOWN)
        cluster.until_serving(node)


def test_suspicions_do_not_put_off_the_check_that_is_due(tmp_path: Path) -> None:
    """A node that crashes at an update, and is asked just then each time, is seen when it is up again."""
    node = AppNode()
    with Cluster(tmp_path, [node], health_check={"seconds": 0.6, "fall": 1000}) as cluster:
        live, checker = cluster.live(node), cluster.service._checker
        check = checker._checks[live.id]

        def crash() -> None:
            """It is asked, is away, and is back at once."""
            node.go_away()
            before = check.failures
            checker.poke(live)
            until(lambda: check.failures > before, "it was found away")
            node.come()

        # Given a node that crashes more often than checks are due, then one that is due comes in between
        crashes, seen_up = 0, False
        while not seen_up:
            crashes += 1
            assert crashes < 20
            crash()
            with gevent.Timeout(0.3, False):
                while not seen_up:
                    gevent.sleep(0.005)
                    seen_up = live.state is NodeState.SERVING


def test_a_shorter_period_holds_at_once(tmp_path: Path) -> None:
    node = AppNode()
    with Cluster(tmp_path, [node], health_check={"seconds": 3600.0}) as cluster:
        checker, before = cluster.service._checker, node.checks
        checker.configure(msgspec.structs.replace(cluster.config.health_check, seconds=0.05), {})
        until(lambda: node.checks > before + 3, "it is checked again and again")


def test_successes_at_the_old_address_do_not_count_at_the_new_one(tmp_path: Path) -> None:
    old, new = AppNode("old"), AppNode("new")
    with Cluster(tmp_path, [old], health_check={"seconds": 0.05, "rise": 3}) as cluster, new:
        until(lambda: old.checks > 3, "it has passed more than once")
        cluster.change(old, port=new.port)
        cluster.until_serving(new)
        assert new.checks >= 3
