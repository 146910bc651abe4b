"""What is true when a change of a node has been answered: where its data stand, who was asked, what is left of it."""

from __future__ import annotations

from pathlib import Path

import gevent
import pytest
from gevent.event import Event

from spawn.journal import committer
from spawn.nodes.node import NodeState
from tests.support.inprocess import Cluster, fetch, until
from tests.support.node import AppNode, Reply

# --- maintenance and inactive


@pytest.mark.parametrize("change", [{"maintenance": True}, {"active": False}])
def test_the_position_of_a_node_that_was_taken_out_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, bool]
) -> None:
    """A crash a moment later must not take it back: its data may have been copied by then."""
    nodes = [AppNode("a"), AppNode("b")]
    with Cluster(tmp_path, nodes) as cluster:
        node = cluster.live(nodes[1])
        monkeypatch.setattr(committer, "LINGER_S", 3600.0)  # positions become durable when somebody asks for it
        for _ in range(3):
            assert cluster.post().status == 200
        cluster.until_applied(3)
        cluster.change(nodes[1], **change)
        assert cluster.service._journal.durable_position(node.id) == 3
        monkeypatch.undo()


# --- moves


def test_what_the_old_address_has_in_hand_ends_before_the_move(tmp_path: Path) -> None:
    old, other, new = AppNode("old"), AppNode("other"), AppNode("new")
    with Cluster(tmp_path, [old, other]) as cluster, new:
        # Given a delivery in flight
        gate = Event()
        old.next_up.append(Reply(200, gate=gate))
        assert cluster.post().status == 200
        until(lambda: old.updates, "the old address has it")
        # When the node is moved, then that is waited for
        move = cluster.background(cluster.change, old, port=new.port)
        gevent.sleep(0.1)
        assert not move.ready()
        gate.set()
        move.get(timeout=10)
        # And what comes after it goes to the new address, once
        cluster.until_serving(new)
        assert cluster.post().status == 200
        cluster.until_applied(2, new, other)
        assert (old.applied, new.applied) == ([1], [2])


def test_what_the_old_address_never_answers_goes_to_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spawn.delivery.fleet.IN_FLIGHT_S", 0.1)
    old, other, new = AppNode("old"), AppNode("other"), AppNode("new")
    with Cluster(tmp_path, [old, other]) as cluster, new:
        gate = Event()
        old.next_up.append(Reply(200, gate=gate))
        assert cluster.post().status == 200
        until(lambda: old.updates, "the old address has it")
        cluster.change(old, port=new.port)
        gate.set()
        cluster.until_applied(1, new, other)
        assert new.applied == [1]


def test_a_check_of_the_old_address_says_nothing_about_the_new_one(tmp_path: Path) -> None:
    old, new = AppNode("old"), AppNode("new")  # nothing listens at the new address
    with Cluster(tmp_path, [old], health_check={"seconds": 60.0, "timeout": 5.0}) as cluster:
        # Given a check of the old address under way
        node, before = cluster.live(old), old.checks
        old.health = Reply(200, delay_s=0.5)
        cluster.service._checker.poke(node)
        until(lambda: old.checks > before, "the old address is asked")
        # When the node is moved, then that check's good end does not make it serve
        cluster.change(old, port=new.port)
        states: set[NodeState] = set()
        until(lambda: states.add(node.state) or "refused" in node.last_error, "the new address was asked")
        assert states == {NodeState.DOWN}
        new.come()
        cluster.service._checker.poke(node)
        cluster.until_serving(new)
        new.go_away()


# --- deletion


def test_nothing_is_kept_of_a_deleted_node(tmp_path: Path) -> None:
    nodes = [AppNode("a"), AppNode("b")]
    with Cluster(tmp_path, nodes) as cluster:
        node = cluster.live(nodes[1])
        assert cluster.post().status == 200
        cluster.until_applied(1)
        assert cluster.api("DELETE", f"/nodes/127.0.0.1/{nodes[1].port}").status == 200
        service = cluster.service
        assert not [key for key in service._client._idle._buckets if node.id in key]
        assert node.id not in service._fleet._switching
        until(lambda: not service._client._in_use, "its connections are closed")


def test_an_update_that_arrives_while_all_nodes_are_deleted_is_not_taken(tmp_path: Path) -> None:
    nodes = [AppNode("a"), AppNode("b")]
    with Cluster(tmp_path, nodes) as cluster:
        # Given a client whose body is still on its way
        head = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nab"
        with gevent.socket.create_connection(("127.0.0.1", cluster.port), timeout=20) as client:
            client.sendall(head)
            until(lambda: cluster.service.counters.value("proxy.requests"), "its head is here")
            # When the last node is deleted, and then the rest of it comes
            assert cluster.api("DELETE", "/nodes").status == 200
            client.sendall(b"cd")
            answer = client.recv(65_536)
        # Then it is told that nothing was done, and nothing was
        assert answer.startswith(b"HTTP/1.1 503"), answer
        assert b"nobody to apply an update" in answer
        assert b"spawn-sequence" not in answer.lower()
        assert cluster.service._journal.head == 0
        assert cluster.service.counters.value("updates.not-taken") == 1
        assert fetch(cluster.port, "POST", "/x", b"x").status == 503
