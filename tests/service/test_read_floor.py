"""The floor of fresh reads at its edges: when it rises, what does not raise it, and what is left when a node fails."""

from __future__ import annotations

import contextlib
import http.client
import time
from pathlib import Path

import pytest
from gevent import socket
from gevent.event import Event

from spawn.nodes.node import NodeState
from spawn.proxy.reads import _Read
from tests.support.inprocess import Cluster, until
from tests.support.node import AppNode, Cut, Reply, Seen

ROUND_ROBIN = {"round_robin": True}


def readers(cluster: Cluster, count: int) -> list[str]:
    return [cluster.get().body.decode() for _ in range(count)]


def test_the_floor_rises_before_the_first_byte_of_the_answer(tmp_path: Path) -> None:
    # Given an answer whose head has come while its body is still under way, and a node that has not applied the update
    gate = Event()
    nodes = [AppNode("a"), AppNode("b")]
    with Cluster(tmp_path, nodes, query_mode=ROUND_ROBIN) as cluster:
        nodes[0].next_up.append(Reply(200, b"half", length=100_000))
        nodes[1].next_up.append(Reply(200, gate=gate))
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", cluster.port)) as client:
            client.sock = socket.create_connection(("127.0.0.1", cluster.port), timeout=20)
            client.request("POST", "/items", b"x")
            answer = client.getresponse()
            assert (answer.status, answer.getheader("Spawn-Sequence")) == (200, "1")

            # Then whoever is told of it reads from the node that has it, and from no other
            assert readers(cluster, 6) == ["a"] * 6
        gate.set()
        cluster.until_applied(1)


def test_a_position_moves_only_when_the_answer_is_there(tmp_path: Path) -> None:
    gate = Event()
    nodes = [AppNode("a"), AppNode("b")]
    with Cluster(tmp_path, nodes, query_mode=ROUND_ROBIN) as cluster:
        nodes[1].next_up.append(Reply(200, gate=gate))
        assert cluster.post().status == 200
        until(lambda: nodes[1].updates, "the other node has the request")
        assert cluster.live(nodes[1]).position == 0
        assert readers(cluster, 6) == ["a"] * 6
        gate.set()
        cluster.until_applied(1)
        assert set(readers(cluster, 4)) == {"a", "b"}


def test_a_202_does_not_raise_the_floor_and_the_next_answer_covers_it(tmp_path: Path) -> None:
    # Given an update that was answered with 202, which then one of the two nodes has applied
    gates = {"a": Event(), "b": Event()}
    nodes = [AppNode("a"), AppNode("b")]
    with Cluster(tmp_path, nodes, query_mode=ROUND_ROBIN, timeouts={"answer": 0.1}) as cluster:
        for node in nodes:
            node.next_up.append(Reply(200, gate=gates[node.name]))
        assert cluster.post().status == 202
        gates["a"].set()
        cluster.until_applied(1, nodes[0])

        # Then reads go to both, unmarked
        assert set(readers(cluster, 4)) == {"a", "b"}

        # And once a later update is answered, only to the node that has both
        assert cluster.post().status == 200
        assert readers(cluster, 4) == ["a"] * 4
        gates["b"].set()
        cluster.until_applied(2)


def test_a_read_that_moves_on_waits_for_a_fresh_node_as_well(tmp_path: Path) -> None:
    # Given one fresh node, which drops reads, and one that is about to be fresh
    gate = Event()
    nodes = [AppNode("a", answers=lambda seen: Reply() if seen.sequence else Cut()), AppNode("b")]
    with Cluster(tmp_path, nodes, timeouts={"fresh": 8.0}, health_check={"seconds": 60.0}) as cluster:
        nodes[1].next_up.append(Reply(200, gate=gate))
        assert cluster.post().status == 200
        read = cluster.background(cluster.get)
        until(lambda: nodes[0].reads, "the fresh node was asked")
        assert not read.ready()
        gate.set()
        got = read.get(timeout=6)
        assert (got.status, got.body, "spawn-behind" in got.headers) == (200, b"b", False)


@pytest.mark.parametrize(("consistency", "status"), [("fresh", 200), ("strict", 503)])
def test_all_waits_of_a_read_take_no_longer_than_the_time_out(tmp_path: Path, consistency: str, status: int) -> None:
    gate = Event()
    nodes = [AppNode("a", answers=lambda seen: Reply() if seen.sequence else Cut()), AppNode("b")]
    with Cluster(tmp_path, nodes, timeouts={"fresh": 0.3}, consistency=consistency) as cluster:
        nodes[1].next_up.append(Reply(200, gate=gate))
        assert cluster.post().status == 200
        began_s = time.monotonic()
        got = cluster.get()
        assert time.monotonic() - began_s < 5.0
        assert got.status == status
        if status == 200:
            assert (got.body, got.headers["spawn-behind"]) == (b"b", "1")
        else:
            assert int(got.headers["retry-after"]) >= 1
            assert "fresh enough" in got.json()["message"]
        gate.set()


def test_strict_waits_as_long_as_fresh_does(tmp_path: Path) -> None:
    gate = Event()
    nodes = [AppNode("a"), AppNode("b")]
    with Cluster(tmp_path, nodes, timeouts={"fresh": 8.0}, consistency="strict") as cluster:
        nodes[1].next_up.append(Reply(200, gate=gate))
        assert cluster.post().status == 200
        nodes[0].go_away()
        cluster.until_state(nodes[0], NodeState.DOWN)
        read = cluster.background(cluster.get)
        until(lambda: len(cluster.service._freshness._waiting) == 1, "the read waits")
        gate.set()
        assert read.get(timeout=6).body == b"b"


@pytest.mark.patches_source
def test_reads_that_wait_cost_nothing_while_a_node_works_off_its_backlog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given reads that wait for a node that serves, and that has some updates to apply
    gate, looks, look = Event(), [0], _Read._fresh

    def counted(read: _Read) -> object:
        looks[0] += 1
        return look(read)

    monkeypatch.setattr(_Read, "_fresh", counted)
    nodes = [AppNode("a"), AppNode("b", answers=lambda seen: Reply(200, b"b", gate=gate if seen.sequence else None))]
    with Cluster(tmp_path, nodes, timeouts={"fresh": 8.0}) as cluster:
        for _ in range(20):
            assert cluster.post().status == 200
        nodes[0].go_away()
        cluster.until_state(nodes[0], NodeState.DOWN)
        reads = [cluster.background(cluster.get) for _ in range(5)]
        until(lambda: sum(group.size for group in cluster.service._freshness._waiting.values()) == 5, "they wait")

        # When it applies them one after the other
        looks[0] = 0
        gate.set()

        # Then they look again when it has come far enough, and not at each of its steps
        got = [read.get(timeout=6) for read in reads]
        assert {(each.body, "spawn-behind" in each.headers) for each in got} == {(b"b", False)}
        assert 5 <= looks[0] <= 15


def test_a_returning_node_is_the_last_choice_and_says_what_it_lacks(tmp_path: Path) -> None:
    # Given a node that has come back with three updates to apply
    gate = Event()

    def slow(seen: Seen) -> Reply:
        return Reply(200, b"b", gate=gate if seen.sequence else None)

    nodes = [AppNode("a"), AppNode("b", answers=slow)]
    with Cluster(tmp_path, nodes, query_mode=ROUND_ROBIN, timeouts={"fresh": 0.1}) as cluster:
        nodes[1].go_away()
        cluster.until_state(nodes[1], NodeState.DOWN)
        for _ in range(3):
            assert cluster.post().status == 200
        nodes[1].come()
        cluster.until_state(nodes[1], NodeState.CATCHING_UP)

        # Then it gets nothing while another one serves, and marked reads when it is alone
        assert readers(cluster, 6) == ["a"] * 6
        nodes[0].go_away()
        cluster.until_state(nodes[0], NodeState.DOWN)
        got = cluster.get()
        assert (got.body, got.headers["spawn-behind"]) == (b"b", "3")
        gate.set()
        cluster.until_serving(nodes[1])
        assert "spawn-behind" not in cluster.get().headers


def test_after_a_restart_everything_in_the_journal_counts_as_answered(tmp_path: Path) -> None:
    # Given an update that one node has applied, and a restart after which only the other one is there
    gate = Event()
    nodes = [AppNode("a"), AppNode("b", answers=lambda seen: Reply(200, b"b", gate=gate if seen.sequence else None))]
    with Cluster(tmp_path, nodes, timeouts={"fresh": 0.1}) as cluster:
        assert cluster.post().status == 200
        nodes[0].go_away()
        cluster.restart()
        cluster.until_state(nodes[1], NodeState.CATCHING_UP)

        # Then an answer of that one is marked
        got = cluster.get()
        assert (got.body, got.headers["spawn-behind"]) == (b"b", "1")
        gate.set()
        cluster.until_serving(nodes[1])
        assert "spawn-behind" not in cluster.get().headers
