"""What may be sent before it is known to be recorded, and what becomes of a delivery that was begun and not ended."""

from __future__ import annotations

from pathlib import Path

import gevent
import pytest
from gevent.event import Event

from spawn.delivery import fleet, policy, worker
from spawn.nodes.node import NodeState
from tests.support.inprocess import Cluster, fetch, until
from tests.support.node import AppNode, Cut, Reply, Seen


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-offs and probes of some ten milliseconds."""
    monkeypatch.setattr(policy, "BACKOFF_FIRST_S", 0.01)
    monkeypatch.setattr(policy, "BACKOFF_LIMIT_S", 0.05)
    monkeypatch.setattr(worker, "PROBE_S", 0.1)


def pair() -> list[AppNode]:
    return [AppNode("a"), AppNode("b")]


def sequences(node: AppNode) -> list[int]:
    return [seen.sequence for seen in node.updates]


def miss(cluster: Cluster, node: AppNode, count: int) -> None:
    """Updates that come while the node is away."""
    node.go_away()
    cluster.until_state(node, NodeState.DOWN)
    for _ in range(count):
        assert cluster.post().status == 200


def test_the_65th_delivery_waits_until_the_first_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = pair()
    with Cluster(tmp_path, nodes) as cluster:
        b, count = nodes[1], worker.WINDOW + 10
        miss(cluster, b, count)
        # Given a journal that records nothing from now on
        journal = cluster.service._journal
        known, gate = journal.positions()[cluster.live(b).id], Event()
        with monkeypatch.context() as stuck:
            stuck.setattr(type(journal), "durable_position", lambda self, consumer: 0 if not gate.is_set() else count)
            # When the node comes back
            b.come()
            # Then it gets as many updates as may be forgotten, and no more …
            until(lambda: len(b.applied) >= worker.WINDOW, "a window of them")
            gevent.sleep(0.2)
            assert (known, sequences(b)) == (0, list(range(1, worker.WINDOW + 1)))
            # … until they are recorded
            gate.set()
            cluster.background(cluster.post)
            cluster.until_applied(count)
        cluster.until_applied(count + 1)
        assert sequences(b) == list(range(1, count + 2))


@pytest.mark.parametrize("how", ["maintenance", "restart"])
def test_a_404_after_a_delivery_that_was_cut_is_no_disagreement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(fleet, "IN_FLIGHT_S", 0.1)
    nodes = pair()
    with Cluster(tmp_path, nodes, delivery={"attempts": 2}, timeouts={"shutdown": 0.5}) as cluster:
        b = nodes[1]
        # Given a node that has deleted something and takes its time to say so
        b.next_up.append(Reply(204, gate=Event()))
        assert fetch(cluster.port, "DELETE", "/items/x").status == 200
        until(lambda: b.updates, "b has it")
        # When the delivery is cut, and the node is asked again
        b.answers = lambda seen: Reply(404 if seen.sequence else 200)
        if how == "maintenance":
            cluster.change(b, maintenance=True)
            cluster.change(b, maintenance=False)
        else:
            cluster.restart()
        cluster.until_applied(1)
        # Then it may well have nothing to delete any more
        assert sequences(b) == [1, 1]
        assert (cluster.live(b).refused, cluster.live(b).diverged) == (0, False)
        assert cluster.service.counters.value("delivery.disagreed") == 0


@pytest.mark.parametrize("ambiguous", ["hold", "skip"])
def test_an_unknown_fate_is_as_unknown_while_a_node_catches_up(tmp_path: Path, ambiguous: str) -> None:
    nodes = pair()
    with Cluster(tmp_path, nodes, delivery={"ambiguous": ambiguous}) as cluster:
        b = nodes[1]
        miss(cluster, b, 3)
        # When the node comes back and gives no answer to the first update that it has missed
        b.next_up.append(Cut())
        b.come()
        # Then that is not sent again
        if ambiguous == "hold":
            until(lambda: cluster.live(b).held, "b is held")
            cluster.until_state(b, NodeState.CATCHING_UP)
            assert sequences(b) == [1]
            assert cluster.status_on(1, b) == "unknown"
        else:
            cluster.until_applied(3)
            assert sequences(b) == [1, 2, 3]
            assert cluster.status_on(1, b) == "skipped"
            assert cluster.live(b).diverged


def test_what_a_held_node_is_tried_with_is_not_recorded_before_its_answer(tmp_path: Path) -> None:
    nodes = pair()
    with Cluster(tmp_path, nodes, delivery={"attempts": 2}) as cluster:
        b, gate = nodes[1], Event()
        b.answers = lambda seen: Reply(401 if seen.sequence else 200)
        for _ in range(3):
            assert cluster.post().status == 200
        until(lambda: cluster.live(b).held, "b is held")
        # When the next try is in hand
        tried = len(b.updates)
        b.answers = lambda seen: Reply(gate=gate if seen.sequence else None)
        until(lambda: len(b.updates) > tried and b.updates[-1].sequence == 3, "b is tried once more")
        until(lambda: cluster.live(b).attempts, "which has no answer")
        # Then a restart now would try it as well
        assert cluster.live(b).position == 2
        assert cluster.service._journal.positions()[cluster.live(b).id] == 2
        gate.set()
        cluster.until_applied(3)
        until(lambda: not cluster.live(b).held, "b goes on")


def test_a_retry_carries_the_clients_own_key(tmp_path: Path) -> None:
    nodes = pair()
    with Cluster(tmp_path, nodes, delivery={"attempts": 2}) as cluster:
        b = nodes[1]
        b.answers = lambda seen: Reply(401 if seen.sequence else 200)
        assert cluster.post(headers={"Idempotency-Key": "own"}).status == 200
        cluster.until_applied(1)
        assert cluster.status_on(1, b) == "refused"
        b.answers = None
        assert cluster.api("POST", f"/queues/127.0.0.1/{b.port}/1/retry").status == 202
        until(lambda: cluster.status_on(1, b) == "applied", "b has taken it")
        assert {seen.key for seen in b.updates} == {"own"}


def test_whoever_was_told_a_4xx_reads_from_a_node_that_has_got_as_far(tmp_path: Path) -> None:
    gate = Event()

    def turned_down(seen: Seen) -> Reply:
        return Reply(409 if seen.sequence else 200, b"a")

    nodes = [AppNode("a", answers=turned_down), AppNode("b")]
    with Cluster(tmp_path, nodes, query_mode={"round_robin": True}, timeouts={"agree": 0.1, "fresh": 5.0}) as cluster:
        nodes[1].next_up.append(Reply(409, gate=gate))
        assert cluster.post().status == 409
        assert [cluster.get().body for _ in range(6)] == [b"a"] * 6
        gate.set()
        cluster.until_applied(1)
        assert {cluster.get().body for _ in range(4)} == {b"a", b"b"}
