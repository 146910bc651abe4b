"""The reference answer in a whole service: who makes it, whatever the order, and who is compared with it when."""

from __future__ import annotations

import itertools
from pathlib import Path

import gevent
import pytest
from gevent import socket
from gevent.event import Event

from spawn.delivery import answers, policy, worker
from spawn.nodes.node import NodeState
from tests.support.inprocess import Cluster, Got, until
from tests.support.node import AppNode, Cut, Reply, Seen


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-offs of some ten milliseconds."""
    monkeypatch.setattr(policy, "BACKOFF_FIRST_S", 0.01)
    monkeypatch.setattr(policy, "BACKOFF_LIMIT_S", 0.05)


def two() -> list[AppNode]:
    return [AppNode("a"), AppNode("b")]


def gated(names_and_statuses: dict[str, int]) -> tuple[list[AppNode], dict[str, Event]]:
    """Nodes that always answer updates with their status, but not before their gate is open."""
    nodes, gates = [], {}
    for name, status in names_and_statuses.items():
        gate = gates[name] = Event()
        node = AppNode(name)
        node.answers = lambda seen, status=status, gate=gate, name=name: (
            Reply(status, name.encode(), gate=gate) if seen.sequence else Reply()
        )
        nodes.append(node)
    return nodes, gates


def heard(cluster: Cluster, node: AppNode, sequence: int) -> bool:
    """Whether the answer of the node has been weighed, or need not be any more."""
    vote = cluster.service._board._votes.get(sequence)
    return vote is None or cluster.live(node).id in vote.ballots


@pytest.mark.parametrize(
    ("statuses", "told"),
    [
        ({"a": 401, "b": 500, "c": 200}, 200),
        ({"a": 404, "b": 500, "c": 501}, 404),
        ({"a": 307, "b": 303, "c": 500}, 303),
        ({"a": 308, "b": 500, "c": 500}, 308),
        ({"a": 500, "b": 500, "c": 507}, 500),
    ],
)
def test_the_order_of_the_answers_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statuses: dict[str, int], told: int
) -> None:
    monkeypatch.setattr(worker, "HOLD_AFTER", 1_000)
    nodes, gates = gated(statuses)
    by_name = {node.name: node for node in nodes}
    timeouts = {"agree": 60.0, "answer": 60.0}
    with Cluster(tmp_path, nodes, timeouts=timeouts, delivery={"attempts": 1}) as cluster:
        for number, order in enumerate(itertools.permutations(statuses), 1):
            client = cluster.background(cluster.post)
            for node in (by_name[name] for name in order):
                until(lambda node=node, number=number: len(node.updates) >= number, f"{node.name} has it")  # type: ignore[misc]
                gates[node.name].set()
                until(lambda node=node, number=number: heard(cluster, node, number), f"{node.name} is heard")  # type: ignore[misc]
            got = client.get(timeout=10)
            assert got.status // 100 == told // 100, order
            assert statuses[got.body.decode()] == got.status
            assert cluster.fate(number)["reference"] == got.status
            cluster.until_applied(number)
            for gate in gates.values():
                gate.clear()
            for node in nodes:  # as if nothing had been: a node that differs no longer speaks
                cluster.live(node).diverged = False
            cluster.service._fleet.refresh()


def test_a_401_in_a_millisecond_and_200s_later(tmp_path: Path) -> None:
    nodes = [AppNode("a"), AppNode("b"), AppNode("c")]
    nodes[0].next_up.append(Reply(401))
    for node in nodes[1:]:
        node.answers = lambda seen: Reply(200, b"later", delay_s=0.3 if seen.sequence else 0.0)
    with Cluster(tmp_path, nodes) as cluster:  # with the time-outs as they come
        assert cluster.post().body == b"later"


def test_a_5xx_and_a_2xx_half_a_second_later(tmp_path: Path) -> None:
    nodes = two()
    nodes[0].next_up.append(Reply(500))
    nodes[1].next_up.append(Reply(201, b"later", delay_s=0.5))
    with Cluster(tmp_path, nodes) as cluster:
        got = cluster.post()
        assert (got.status, got.body) == (201, b"later")
        cluster.until_applied(1)
        assert not any(cluster.live(node).diverged for node in nodes)


# --- nobody can be asked


def test_all_were_down_and_the_first_to_return_says_500(tmp_path: Path) -> None:
    nodes = two()
    with Cluster(tmp_path, nodes) as cluster:
        for node in nodes:
            node.go_away()
        for node in nodes:
            cluster.until_state(node, NodeState.DOWN)
        assert cluster.post().status == 202
        nodes[0].answers = lambda seen: Reply(500 if seen.sequence else 200)
        nodes[0].come()
        until(lambda: len(nodes[0].updates) > 3, "a fails at it again and again")
        assert cluster.fate(1)["reference"] is None
        nodes[1].come()
        cluster.until_applied(1, nodes[1])
        nodes[0].answers = None
        cluster.until_applied(1)
        assert cluster.fate(1)["reference"] == 200
        assert [node.applied for node in nodes] == [[1], [1]]
        assert not any(cluster.live(node).diverged for node in nodes)
        assert cluster.service.counters.value("updates.accepted") == 1


def test_a_202_says_what_it_means_and_the_fate_is_told_at_every_stage(tmp_path: Path) -> None:
    gate = Event()
    nodes = [AppNode(name) for name in "abcd"]
    with Cluster(tmp_path, nodes, timeouts={"answer": 0.1}) as cluster:
        nodes[1].go_away()
        cluster.until_state(nodes[1], NodeState.DOWN)
        cluster.change(nodes[3], maintenance=True)
        nodes[0].next_up.append(Reply(200, gate=gate))
        nodes[2].next_up.extend([Cut(), Reply(200, gate=gate)])
        got = cluster.post(target="/items?secret=1")
        assert (got.status, got.sequence, got.headers["content-type"]) == (202, 1, "application/json")
        assert set(got.json()) == {"status", "sequence", "message"}
        assert (got.json()["status"], got.json()["sequence"]) == (202, 1)

        def fates() -> list[str]:
            return [cluster.status_on(1, node) for node in nodes]

        until(lambda: len(nodes[2].updates) == 2, "c has it again")
        assert fates() == ["pending", "pending", "unknown", "pending"]
        assert (cluster.fate(1)["reference"], cluster.fate(1)["path"]) == (None, "/items")
        gate.set()
        cluster.until_applied(1, nodes[0], nodes[2])
        assert fates() == ["applied", "pending", "applied", "pending"]
        assert cluster.fate(1)["reference"] == 200
        cluster.change(nodes[3], active=False)
        nodes[1].come()
        cluster.until_applied(1, nodes[1])
        assert fates() == ["applied", "applied", "applied", "dropped"]
        assert cluster.api("GET", "/updates/2").status == 404


# --- a client or a node goes


@pytest.mark.parametrize("status", [409, 500])
def test_a_node_that_is_removed_is_waited_for_no_longer(tmp_path: Path, status: int) -> None:
    nodes, gates = gated({"a": status, "b": 200})
    with Cluster(tmp_path, nodes, timeouts={"answer": 60.0, "agree": 60.0}) as cluster:
        gates["a"].set()
        client = cluster.background(cluster.post)
        until(lambda: all(node.updates for node in nodes) and heard(cluster, nodes[0], 1), "a is heard, b has it")
        deletion = cluster.background(cluster.api, "DELETE", f"/nodes/127.0.0.1/{nodes[1].port}")
        got = client.get(timeout=10)
        assert (got.status, got.body) == (status, b"a")
        gates["b"].set()
        assert deletion.get(timeout=15).status in (200, 204)


def test_a_client_that_leaves_takes_nothing_with_it(tmp_path: Path) -> None:
    """The vote goes on: the others are compared with the answer that nobody took."""
    nodes, gates = gated({"a": 409, "b": 409})
    with Cluster(tmp_path, nodes, timeouts={"agree": 60.0}) as cluster:
        sock = socket.create_connection(("127.0.0.1", cluster.port))
        sock.sendall(b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc")
        until(lambda: all(node.updates for node in nodes), "both have it")
        sock.close()
        for gate in gates.values():
            gate.set()
        cluster.until_applied(1)
        assert cluster.fate(1)["reference"] == 409
        assert not cluster.service._board._votes


# --- who may not speak


@pytest.mark.parametrize("flag", ["diverged", "held"])
@pytest.mark.parametrize("status", [200, 404])
def test_a_node_that_is_suspect_does_not_speak_for_the_others(tmp_path: Path, flag: str, status: int) -> None:
    nodes, gates = gated({"a": status, "b": 201})
    with Cluster(tmp_path, nodes, timeouts={"agree": 0.01, "answer": 60.0}) as cluster:
        setattr(cluster.live(nodes[0]), flag, True)
        cluster.service._fleet.refresh()
        gates["a"].set()
        client = cluster.background(cluster.post)
        until(lambda: heard(cluster, nodes[0], 1) and nodes[0].updates and nodes[1].updates, "a is heard, b has it")
        gevent.sleep(0.05)  # beyond agree
        assert not client.ready()
        gates["b"].set()
        assert client.get(timeout=10).status == 201
        assert cluster.fate(1)["reference"] == 201


def test_a_suspect_node_speaks_when_there_is_no_other(tmp_path: Path) -> None:
    nodes = two()
    with Cluster(tmp_path, nodes, timeouts={"answer": 60.0}) as cluster:
        cluster.live(nodes[0]).diverged = True
        nodes[1].go_away()
        cluster.until_state(nodes[1], NodeState.DOWN)
        assert cluster.post().body == b"a"


@pytest.mark.parametrize(("status", "good"), [(401, 200), (200, 409)])
def test_nor_after_a_202_while_a_clean_one_has_still_to_answer(tmp_path: Path, status: int, good: int) -> None:
    """One expired credential must not turn down what the others will apply."""
    nodes, gates = gated({"a": status, "b": good})
    timeouts = {"agree": 0.02, "answer": 0.1}
    with Cluster(tmp_path, nodes, timeouts=timeouts, delivery={"attempts": 1}) as cluster:
        cluster.live(nodes[0]).diverged = True
        cluster.service._fleet.refresh()
        gates["a"].set()
        assert cluster.post().status == 202
        until(
            lambda: cluster.live(nodes[0]).position == 1 or len(nodes[0].updates) > 1, "a has gone on, or tries again"
        )
        assert cluster.fate(1)["reference"] is None
        assert status != 200 or not cluster.service._board._votes  # nothing is kept for an answer that decides nothing
        gates["b"].set()
        cluster.until_applied(1)
        assert cluster.fate(1)["reference"] == good
        assert not cluster.live(nodes[1]).diverged
        assert not cluster.service._board._votes


# --- what others are compared with


def test_redirects_that_keep_the_method_are_not_applied(tmp_path: Path) -> None:
    """301–303 are what applications answer to a form that they have taken; 307 and 308 ask to send it elsewhere."""
    nodes = [AppNode("a"), AppNode("b"), AppNode("c")]
    for node, status in zip(nodes, (302, 204, 308), strict=True):
        node.answers = lambda seen, status=status: Reply(status if seen.sequence else 200)
    with Cluster(tmp_path, nodes, delivery={"attempts": 2}) as cluster:
        assert cluster.post().status in (302, 204)
        cluster.until_applied(1)
        assert [cluster.status_on(1, node) for node in nodes] == ["applied", "applied", "refused"]
        assert [cluster.live(node).diverged for node in nodes] == [False, False, True]


def told(cluster: Cluster, nodes: list[AppNode], statuses: list[int]) -> list[Got]:
    """Updates whose reference answers are as given; all nodes but the first are away."""
    nodes[0].next_up.extend(Reply(status) for status in statuses)
    return [cluster.post() for _ in statuses]


def test_days_later_and_after_a_restart_it_is_still_what_counts(tmp_path: Path) -> None:
    nodes = two()
    with Cluster(tmp_path, nodes, delivery={"attempts": 1}) as cluster:
        nodes[1].go_away()
        cluster.until_state(nodes[1], NodeState.DOWN)
        statuses = [409, 200, 303, 500, 404]
        assert [got.status for got in told(cluster, nodes, statuses)] == statuses
        cluster.restart()
        late = {1: 404, 2: 201, 3: 422, 5: 200}
        nodes[1].answers = lambda seen: Reply(late.get(seen.sequence, 200))
        nodes[1].come()
        cluster.until_applied(5)
        assert [seen.sequence for seen in nodes[1].updates] == [1, 2, 3, 5]
        fates = [cluster.status_on(sequence, nodes[1]) for sequence in range(1, 6)]
        assert fates == ["applied", "applied", "refused", "rejected", "applied"]
        assert cluster.live(nodes[1]).diverged


def test_what_memory_has_forgotten_is_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker may hold an entry, read before its reference was known, for longer than references are remembered."""
    monkeypatch.setattr(answers, "RECENT_REFERENCES", 2)
    gate = Event()
    nodes = two()

    def late(seen: Seen) -> Reply:
        return Reply(422 if seen.sequence == 2 else 200, gate=gate if seen.sequence == 1 else None)

    nodes[1].answers = late
    with Cluster(tmp_path, nodes, timeouts={"agree": 0.01}, delivery={"attempts": 2}) as cluster:
        for _ in range(8):  # b's queue has them all, without their references
            assert cluster.post().status == 200
        until(lambda: cluster.service._board.forgotten >= 2, "it is forgotten")
        gate.set()
        cluster.until_applied(8)
        assert cluster.status_on(2, nodes[1]) == "refused"
        assert cluster.fate(2)["reference"] == 200
        assert [cluster.live(node).diverged for node in nodes] == [False, True]
