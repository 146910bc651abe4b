"""Deliveries: backlogs, failures and what an operator does about them."""

from __future__ import annotations

import contextlib
import http.client
import random
from collections import Counter
from pathlib import Path

import gevent
import pytest
from gevent.event import Event

from spawn.delivery import attempt, feed, fleet, policy, worker
from spawn.delivery.outgoing import outgoing
from spawn.nodes.node import NodeState
from tests.support.inprocess import Cluster, fetch, until
from tests.support.node import Action, AppNode, Cut, Reply, Seen
from tests.support.processes import free_port


def pair() -> list[AppNode]:
    return [AppNode("a"), AppNode("b")]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-offs and probes of some ten milliseconds."""
    monkeypatch.setattr(policy, "BACKOFF_FIRST_S", 0.01)
    monkeypatch.setattr(policy, "BACKOFF_LIMIT_S", 0.05)
    monkeypatch.setattr(worker, "PROBE_S", 0.1)


def post_many(cluster: Cluster, count: int) -> None:
    for number in range(count):
        assert cluster.post(b"%d" % number).status in (200, 202)


def sequences(node: AppNode) -> list[int]:
    return [seen.sequence for seen in node.updates]


# --- a node that goes and comes


def test_a_node_that_was_down_catches_up_in_order_and_then_serves(tmp_path: Path) -> None:
    nodes = pair()
    with Cluster(tmp_path, nodes, query_mode={"round_robin": True}) as cluster:
        post_many(cluster, 3)
        cluster.until_applied(3)
        nodes[1].go_away()
        cluster.until_state(nodes[1], NodeState.DOWN)
        post_many(cluster, 20)
        row = cluster.queue(nodes[1])
        assert (row["state"], row["position"], row["backlog"]) == ("down", 3, 20)
        assert row["backlog-seconds"] > 0
        assert row["last-error"]
        assert cluster.status_on(20, nodes[1]) == "pending"
        nodes[1].answers = lambda seen: Reply(200, b"b", delay_s=0.005)
        nodes[1].come()
        until(lambda: nodes[1].reads or cluster.get().body == b"b", "b is read from")
        assert nodes[1].applied[-1] == 23  # not before it has everything
        cluster.until_serving(nodes[1])
        assert nodes[1].applied == list(range(1, 24))
        assert cluster.queue(nodes[1])["backlog"] == 0


def test_live_updates_do_not_overtake_a_backlog(tmp_path: Path) -> None:
    nodes = pair()
    with Cluster(tmp_path, nodes) as cluster:
        nodes[1].go_away()
        cluster.until_state(nodes[1], NodeState.DOWN)
        post_many(cluster, 30)
        nodes[1].come()
        clients = [cluster.background(cluster.post) for _ in range(30)]
        gevent.joinall(clients, timeout=10)
        cluster.until_applied(60)
        assert nodes[1].applied == list(range(1, 61))


def test_a_backlog_longer_than_the_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (feed, fleet):
        monkeypatch.setattr(module, "QUEUE_ENTRIES", 20)
    nodes = pair()
    with Cluster(tmp_path, nodes) as cluster:
        nodes[1].go_away()
        cluster.until_state(nodes[1], NodeState.DOWN)
        clients = [cluster.background(post_many, cluster, 20) for _ in range(10)]
        gevent.joinall(clients, timeout=20, raise_error=True)
        nodes[1].come()
        clients = [cluster.background(post_many, cluster, 20) for _ in range(5)]
        gevent.joinall(clients, timeout=20, raise_error=True)
        cluster.until_applied(300)
        cluster.until_serving(nodes[1])
        assert sequences(nodes[1]) == list(range(1, 301))


def test_a_restart_of_the_service_goes_on_where_it_was(tmp_path: Path) -> None:
    nodes = pair()
    with Cluster(tmp_path, nodes) as cluster:
        post_many(cluster, 3)
        cluster.until_applied(3)
        nodes[1].go_away()
        cluster.until_state(nodes[1], NodeState.DOWN)
        post_many(cluster, 3)
        uuid = cluster.service._journal.uuid
        cluster.restart()
        assert cluster.service._journal.uuid == uuid
        nodes[1].come()
        assert cluster.post().sequence == 7
        cluster.until_applied(7)
        assert sequences(nodes[0]) == sequences(nodes[1]) == list(range(1, 8))


def test_without_durability_a_restart_leaves_late_nodes_out_of_sync(tmp_path: Path) -> None:
    nodes = pair()
    with Cluster(tmp_path, nodes, journal={"durability": "none"}) as cluster:
        nodes[1].go_away()
        cluster.until_state(nodes[1], NodeState.DOWN)
        post_many(cluster, 2)
        cluster.restart()
        nodes[1].come()
        cluster.until_serving(nodes[0])
        assert [cluster.queue(node)["out-of-sync"] for node in nodes] == [False, True]
        assert cluster.post().sequence == 1


# --- what operators do


def test_maintenance_keeps_updates_and_gives_no_reads(tmp_path: Path) -> None:
    nodes = pair()
    with Cluster(tmp_path, nodes, query_mode={"round_robin": True}) as cluster:
        post_many(cluster, 1)
        cluster.until_applied(1)
        cluster.change(nodes[1], maintenance=True)
        assert cluster.queue(nodes[1])["state"] == "maintenance"
        post_many(cluster, 5)
        for _ in range(4):
            assert cluster.get().body == b"a"
        assert sequences(nodes[1]) == [1]
        assert cluster.queue(nodes[1])["backlog"] == 5
        cluster.change(nodes[1], maintenance=False)
        cluster.until_applied(6)
        cluster.until_serving(nodes[1])
        assert sequences(nodes[1]) == list(range(1, 7))


def test_maintenance_survives_a_restart(tmp_path: Path) -> None:
    nodes = pair()
    with Cluster(tmp_path, nodes) as cluster:
        cluster.change(nodes[1], maintenance=True, priority=3)
        post_many(cluster, 2)
        cluster.restart()
        assert cluster.queue(nodes[1])["state"] == "maintenance"
        assert cluster.live(nodes[1]).record.priority == 3
        cluster.change(nodes[1], maintenance=False)
        cluster.until_applied(2)
        assert sequences(nodes[1]) == [1, 2]


def test_a_change_returns_when_the_delivery_in_flight_is_over(tmp_path: Path) -> None:
    gate = Event()
    nodes = pair()
    with Cluster(tmp_path, nodes) as cluster:
        nodes[1].next_up.append(Reply(200, gate=gate))
        post_many(cluster, 1)
        until(lambda: nodes[1].updates, "b has it")
        change = cluster.background(cluster.change, nodes[1], maintenance=True)
        gevent.sleep(0.05)
        assert not change.ready()
        gate.set()
        change.get(timeout=5)
        assert cluster.queue(nodes[1])["position"] == 1


def test_an_inactive_node_drops_its_backlog_and_has_to_be_told_its_place(tmp_path: Path) -> None:
    nodes = pair()
    with Cluster(tmp_path, nodes) as cluster:
        nodes[1].go_away()
        cluster.until_state(nodes[1], NodeState.DOWN)
        post_many(cluster, 3)
        cluster.change(nodes[1], active=False)
        nodes[1].come()
        assert cluster.queue(nodes[1])["backlog"] == 0
        assert cluster.status_on(2, nodes[1]) == "dropped"
        post_many(cluster, 1)
        cluster.change(nodes[1], active=True)
        assert cluster.queue(nodes[1])["out-of-sync"]
        assert cluster.status_on(4, nodes[1]) == "out-of-sync"
        post_many(cluster, 1)
        assert nodes[1].updates == []
        target = f"/queues/127.0.0.1/{nodes[1].port}"
        assert cluster.api("PUT", target, {"position": "head"}).status in (200, 202)
        cluster.until_serving(nodes[1])
        post_many(cluster, 1)
        cluster.until_applied(6)
        assert sequences(nodes[1]) == [6]


def test_a_node_that_missed_nothing_comes_back_in_sync(tmp_path: Path) -> None:
    nodes = pair()
    with Cluster(tmp_path, nodes) as cluster:
        post_many(cluster, 1)
        cluster.until_applied(1)
        cluster.change(nodes[1], active=False)
        cluster.change(nodes[1], active=True)
        cluster.until_serving(nodes[1])
        assert not cluster.queue(nodes[1])["out-of-sync"]


def test_a_new_node_joins_at_a_position(tmp_path: Path) -> None:
    nodes = pair()
    late = AppNode("late")
    with Cluster(tmp_path, nodes) as cluster, late:
        post_many(cluster, 4)
        cluster.until_applied(4)
        cluster.change(late, active=True)
        row = cluster.queue(late)
        assert (row["out-of-sync"], row["state"]) == (True, "down") or row["state"] == "out-of-sync"
        target = f"/queues/127.0.0.1/{late.port}"
        assert cluster.api("PUT", target, {"position": 5}).status == 409  # beyond the head
        assert cluster.queue(late)["out-of-sync"]
        assert cluster.api("PUT", target, {"position": 2}).status in (200, 202)
        cluster.until_applied(4, late)
        assert sequences(late) == [3, 4]
        cluster.until_serving(late)


def test_a_new_node_joins_in_one_step(tmp_path: Path) -> None:
    nodes = pair()
    late = AppNode("late")
    with Cluster(tmp_path, nodes) as cluster, late:
        post_many(cluster, 2)
        cluster.change(late, active=True, position="head")
        cluster.until_serving(late)
        post_many(cluster, 1)
        cluster.until_applied(3, late)
        assert sequences(late) == [3]


def test_a_node_restored_from_a_backup_is_rewound(tmp_path: Path) -> None:
    nodes = pair()
    with Cluster(tmp_path, nodes) as cluster:
        post_many(cluster, 5)
        cluster.until_applied(5)
        keys = [seen.key for seen in nodes[1].updates]
        # as long as somebody may need it; here the other node does
        nodes[0].go_away()
        cluster.until_state(nodes[0], NodeState.DOWN)
        target = f"/queues/127.0.0.1/{nodes[1].port}"
        assert cluster.api("PUT", target, {"position": 2}).status in (200, 202)
        cluster.until_applied(5, nodes[1])
        assert sequences(nodes[1]) == [1, 2, 3, 4, 5, 3, 4, 5]
        assert [seen.key for seen in nodes[1].updates][5:] == keys[2:]


def test_a_node_that_moves_keeps_its_backlog(tmp_path: Path) -> None:
    nodes = pair()
    with Cluster(tmp_path, nodes) as cluster:
        nodes[1].go_away()
        cluster.until_state(nodes[1], NodeState.DOWN)
        post_many(cluster, 3)
        old, nodes[1].port = nodes[1].port, free_port()
        nodes[1].come()
        assert cluster.api("PUT", f"/nodes/127.0.0.1/{old}", {"port": nodes[1].port}).status < 300
        cluster.until_applied(3)
        assert sequences(nodes[1]) == [1, 2, 3]


def test_headers_are_replaced_for_one_node(tmp_path: Path) -> None:
    nodes = pair()
    named = {f"127.0.0.1:{nodes[1].port}": {"Authorization": "Basic b"}}
    with Cluster(tmp_path, nodes, delivery={"set_headers": named}) as cluster:
        cluster.post(headers={"Authorization": "Basic a"})
        cluster.until_applied(1)
    assert [node.updates[0].headers["authorization"] for node in nodes] == ["Basic a", "Basic b"]


# --- answers that are not simply good


@pytest.mark.parametrize("status", [408, 425, 429, 502, 503, 504])
def test_not_now_means_again(tmp_path: Path, quick: None, status: int) -> None:
    node = AppNode()
    node.next_up.extend([Reply(status), Reply(status)])
    with Cluster(tmp_path, [node]) as cluster:
        assert cluster.post().status == 200
        assert sequences(node) == [1, 1, 1]
        assert len({seen.key for seen in node.updates}) == 1
        assert not cluster.live(node).diverged


def test_retry_after_is_obeyed_and_zero_is_no_invitation_to_hammer(tmp_path: Path) -> None:
    node = AppNode()
    node.next_up.append(Reply(503, headers=(("Retry-After", "1"),)))
    node.next_up.extend([Reply(503, headers=(("Retry-After", "0"),))] * 6)
    with Cluster(tmp_path, [node], timeouts={"answer": 0.1}) as cluster:
        assert cluster.post().status == 202
        until(lambda: node.updates, "it has it")
        gevent.sleep(0.5)
        assert len(node.updates) == 1
        until(lambda: len(node.updates) >= 2, "the second attempt")
        gevent.sleep(0.02)
        assert len(node.updates) <= 5


def test_a_connection_cut_after_the_request_is_resent_with_the_same_key(tmp_path: Path, quick: None) -> None:
    nodes = pair()
    nodes[1].next_up.extend([Cut(), Cut()])
    with Cluster(tmp_path, nodes) as cluster:
        assert cluster.post().status == 200
        cluster.until_applied(1)
        assert sequences(nodes[1]) == [1, 1, 1]
        assert len({(seen.key, seen.headers["spawn-time"]) for seen in nodes[1].updates}) == 1
        assert not cluster.live(nodes[1]).diverged


def test_a_conflict_on_a_repeat_means_that_it_was_applied(tmp_path: Path, quick: None) -> None:
    nodes = pair()
    nodes[1].next_up.extend([Cut(), Reply(409)])
    with Cluster(tmp_path, nodes) as cluster:
        assert cluster.post().status == 200
        cluster.until_applied(1)
        assert sequences(nodes[1]) == [1, 1]
        assert not cluster.live(nodes[1]).diverged


@pytest.mark.parametrize("how", ["restart", "maintenance"])
def test_a_doubt_is_remembered(tmp_path: Path, how: str) -> None:
    """What was sent without an answer may have been applied, so a conflict later is no disagreement."""
    nodes = pair()
    nodes[1].next_up.append(Cut())
    with Cluster(tmp_path, nodes, delivery={"attempts": 1}) as cluster:
        assert cluster.post().status == 200
        until(lambda: cluster.live(nodes[1]).in_doubt, "b has it, or not")
        nodes[1].go_away()
        cluster.until_state(nodes[1], NodeState.DOWN)
        nodes[1].next_up.append(Reply(409))
        if how == "restart":
            cluster.restart()
        else:
            cluster.change(nodes[1], maintenance=True)
            cluster.change(nodes[1], maintenance=False)
        nodes[1].come()
        cluster.until_applied(1)
        assert nodes[1].updates[-1].sequence == 1
        assert not cluster.live(nodes[1]).diverged


def test_a_node_that_disagrees_has_refused_after_some_attempts_and_goes_on(tmp_path: Path, quick: None) -> None:
    nodes = pair()
    nodes[1].answers = lambda seen: Reply(422 if seen.body == b"bad" else 200)
    with Cluster(tmp_path, nodes, delivery={"attempts": 3}) as cluster:
        assert cluster.post(b"bad").status == 200
        assert cluster.post(b"good").status == 200
        cluster.until_applied(2)
        assert sequences(nodes[1]) == [1, 1, 1, 2]
        row = cluster.queue(nodes[1])
        assert (row["refused"], row["diverged"], row["held"]) == (1, True, False)
        assert cluster.status_on(1, nodes[1]) == "refused"
        assert cluster.status_on(1, nodes[0]) == "applied"
        assert cluster.service._journal.entry(1) is not None


def test_a_good_answer_against_a_4xx_makes_the_node_diverged(tmp_path: Path) -> None:
    nodes = pair()
    nodes[0].next_up.append(Reply(409))
    nodes[1].next_up.append(Reply(200, delay_s=0.3))
    with Cluster(tmp_path, nodes, timeouts={"agree": 0.05}) as cluster:
        assert cluster.post().status == 409
        cluster.until_applied(1)
        assert [cluster.live(node).diverged for node in nodes] == [False, True]
        assert sequences(nodes[1]) == [1]


def test_a_node_that_catches_up_is_compared_with_the_reference(tmp_path: Path, quick: None) -> None:
    nodes = pair()
    with Cluster(tmp_path, nodes, delivery={"attempts": 2}) as cluster:
        nodes[1].go_away()
        cluster.until_state(nodes[1], NodeState.DOWN)
        nodes[0].next_up.extend([Reply(409), Reply(200)])
        assert [cluster.post().status, cluster.post().status] == [409, 200]
        cluster.restart()
        nodes[1].answers = lambda seen: Reply(404 if seen.sequence else 200)
        nodes[1].come()
        cluster.until_applied(2)
        assert sequences(nodes[1]) == [1, 2, 2]
        assert [cluster.status_on(sequence, nodes[1]) for sequence in (1, 2)] == ["applied", "refused"]


def test_after_a_crash_a_4xx_may_be_the_echo_of_a_first_delivery(tmp_path: Path, quick: None) -> None:
    nodes = pair()
    with Cluster(tmp_path, nodes) as cluster:
        nodes[1].go_away()
        cluster.until_state(nodes[1], NodeState.DOWN)
        post_many(cluster, 2)
        cluster.crash()
        nodes[1].answers = lambda seen: Reply(409 if seen.sequence else 200)
        nodes[1].come()
        cluster.until_applied(2)
        assert sequences(nodes[1]) == [1, 2]
        assert not cluster.live(nodes[1]).diverged


def test_three_refusals_in_a_row_hold_the_node_and_it_goes_on_by_itself(tmp_path: Path, quick: None) -> None:
    nodes = pair()
    with Cluster(tmp_path, nodes, delivery={"attempts": 2}) as cluster:
        nodes[1].answers = lambda seen: Reply(401 if seen.sequence else 200, b"b")
        post_many(cluster, 6)
        until(lambda: cluster.live(nodes[1]).held, "b is held")
        row = cluster.queue(nodes[1])
        assert (row["position"], row["refused"], row["backlog"]) == (2, 2, 4)
        assert {cluster.get().body for _ in range(4)} == {b"a"}
        nodes[1].answers = None
        cluster.until_applied(6)
        until(lambda: not cluster.live(nodes[1]).held, "b goes on")
        assert nodes[1].applied == [3, 4, 5, 6]
        assert cluster.queue(nodes[1])["refused"] == 2


def test_a_held_node_is_still_held_after_a_restart(tmp_path: Path, quick: None) -> None:
    nodes = pair()
    with Cluster(tmp_path, nodes, delivery={"attempts": 2}) as cluster:
        nodes[1].answers = lambda seen: Reply(401 if seen.sequence else 200)
        post_many(cluster, 5)
        until(lambda: cluster.live(nodes[1]).held, "b is held")
        cluster.restart()
        assert cluster.queue(nodes[1])["held"]


def test_not_now_for_ever_stalls_nobody_for_ever(tmp_path: Path, quick: None) -> None:
    nodes = pair()
    nodes[1].answers = lambda seen: Reply(503 if seen.body == b"bad" else 200)
    with Cluster(tmp_path, nodes, delivery={"attempts_uncertain": 4}) as cluster:
        cluster.post(b"bad")
        cluster.post(b"good")
        cluster.until_applied(2)
        assert sequences(nodes[1]) == [1, 1, 1, 1, 2]
        assert cluster.status_on(1, nodes[1]) == "refused"


def test_a_node_that_is_down_uses_up_no_attempts(tmp_path: Path, quick: None) -> None:
    nodes = pair()
    with Cluster(tmp_path, nodes, delivery={"attempts": 1, "attempts_uncertain": 1}) as cluster:
        nodes[1].health = Reply(500)
        cluster.until_state(nodes[1], NodeState.DOWN)
        nodes[1].next_up.extend([Reply(503)] * 10)
        post_many(cluster, 1)
        cluster.until_applied(1)
        assert cluster.live(nodes[1]).refused == 0
        nodes[1].go_away()
        post_many(cluster, 1)
        until(lambda: cluster.live(nodes[1]).attempts > 5, "it was tried some times")
        nodes[1].come()
        cluster.until_applied(2)
        assert not cluster.live(nodes[1]).diverged


# --- the fate of what is not idempotent


def test_hold_waits_for_the_operator(tmp_path: Path, quick: None) -> None:
    nodes = pair()
    nodes[1].next_up.append(Cut())
    with Cluster(tmp_path, nodes, delivery={"ambiguous": "hold"}) as cluster:
        assert cluster.post(b"one").status == 200
        until(lambda: cluster.live(nodes[1]).held, "b is held")
        assert cluster.post(b"two").status == 200
        assert cluster.status_on(1, nodes[1]) == "unknown"
        cluster.restart()  # and still nobody knows
        until(lambda: cluster.live(nodes[1]).held, "b is held")
        assert sequences(nodes[1]) == [1]
        target = f"/queues/127.0.0.1/{nodes[1].port}"
        assert cluster.api("PUT", target, {"position": 0}).status in (200, 202)  # it was not applied, says the operator
        cluster.until_applied(2)
        assert sequences(nodes[1]) == [1, 1, 2]
        assert cluster.status_on(1, nodes[1]) == "applied"
        until(lambda: not cluster.live(nodes[1]).held, "b goes on")


def test_maintenance_does_not_lift_a_hold(tmp_path: Path, quick: None) -> None:
    nodes = pair()
    nodes[1].next_up.append(Cut())
    with Cluster(tmp_path, nodes, delivery={"ambiguous": "hold"}) as cluster:
        cluster.post()
        until(lambda: cluster.live(nodes[1]).held, "b is held")
        cluster.change(nodes[1], maintenance=True)
        cluster.change(nodes[1], maintenance=False)
        cluster.until_state(nodes[1], NodeState.CATCHING_UP)
        cluster.post()
        cluster.until_applied(2, nodes[0])
        assert sequences(nodes[1]) == [1]
        assert cluster.queue(nodes[1])["held"]


def test_what_is_held_goes_on_when_told_so_after_a_restart(tmp_path: Path, quick: None) -> None:
    nodes = pair()
    nodes[1].next_up.append(Cut())
    with Cluster(tmp_path, nodes, delivery={"ambiguous": "hold"}) as cluster:
        cluster.post()
        until(lambda: cluster.live(nodes[1]).held, "b is held")
        cluster.restart()
        until(lambda: cluster.live(nodes[1]).held, "b is held")
        cluster.service._fleet.resume(cluster.live(nodes[1]))
        cluster.until_applied(1)
        assert sequences(nodes[1]) == [1, 1]


def test_skip_goes_on_without_it(tmp_path: Path) -> None:
    nodes = pair()
    nodes[1].next_up.append(Cut())
    with Cluster(tmp_path, nodes, delivery={"ambiguous": "skip"}) as cluster:
        post_many(cluster, 2)
        cluster.until_applied(2)
        assert sequences(nodes[1]) == [1, 2]
        assert cluster.status_on(1, nodes[1]) == "skipped"
        assert cluster.status_on(2, nodes[1]) == "applied"
        assert cluster.live(nodes[1]).diverged


def test_an_idempotent_update_is_sent_again_whatever_the_choice(tmp_path: Path, quick: None) -> None:
    nodes = pair()
    nodes[1].next_up.append(Cut())
    with Cluster(tmp_path, nodes, delivery={"ambiguous": "skip"}) as cluster:
        assert fetch(cluster.port, "PUT", "/x", b"y").status == 200
        cluster.until_applied(1)
        assert sequences(nodes[1]) == [1, 1]
        assert not cluster.live(nodes[1]).diverged


# --- errors in Spawn itself


@pytest.mark.patches_source
def test_an_error_in_spawn_does_not_end_a_nodes_deliveries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker, "FAULT_PAUSE_S", 0.01)
    node = AppNode()
    with Cluster(tmp_path, [node]) as cluster:
        whole = outgoing
        faults = [ZeroDivisionError(), KeyError()]

        def faulty(*args: object) -> object:
            if faults:
                raise faults.pop()
            return whole(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(attempt, "outgoing", faulty)
        assert cluster.post().status == 200
        assert cluster.post().status == 200
        assert node.applied == [1, 2]
    assert sum("an error in Spawn" in record.getMessage() for record in caplog.records) == 2


# --- everything at once


class Shaky:
    """An application that applies each update once, and a network around it that does what it likes."""

    def __init__(self, node: AppNode, seed: int) -> None:
        self.node = node
        self.calm = False
        self.order: list[int] = []
        self._random = random.Random(seed)
        node.answers = self.answer

    def answer(self, seen: Seen) -> Action:
        dice = 1.0 if self.calm else self._random.random()
        if not seen.sequence:
            return Cut() if dice < 0.1 else Reply(200)
        if dice < 0.05:
            return Cut()
        if dice < 0.10:
            return Reply(503)
        if dice < 0.13:
            return Reply(500)
        if seen.sequence not in self.order:
            self.order.append(seen.sequence)
        if dice < 0.20:
            return Cut()  # applied, and nobody is told
        if dice < 0.25:
            return Reply(200, b"half", length=1_000, cut=True)
        return Reply(200, delay_s=0.01 if dice < 0.4 else 0.0)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_nothing_acknowledged_is_lost_and_the_order_is_one(tmp_path: Path, quick: None, seed: int) -> None:
    nodes = [AppNode(name) for name in "abc"]
    shaky = [Shaky(node, seed * 10 + number) for number, node in enumerate(nodes)]
    acknowledged: set[int] = set()
    told: Counter[int] = Counter()
    dice = random.Random(seed)
    delivery = {"attempts": 1_000, "attempts_uncertain": 1_000}
    with Cluster(tmp_path, nodes, delivery=delivery, timeouts={"answer": 0.3, "fresh": 0.05}) as cluster:
        over = Event()

        def client() -> None:
            while not over.is_set():
                with contextlib.suppress(ConnectionError, http.client.HTTPException):
                    got = cluster.post()
                    told[got.status] += 1
                    if got.status < 500:
                        acknowledged.add(got.sequence)
                    cluster.get()

        clients = [cluster.background(client) for _ in range(6)]
        for _ in range(12):
            node = dice.choice(nodes)
            event = dice.choice(["crash", "crash", "maintenance", "restart"])
            if event == "crash":
                node.go_away()
                gevent.sleep(0.05)
                node.come()
            elif event == "maintenance":
                cluster.change(node, maintenance=True)
                gevent.sleep(0.05)
                cluster.change(node, maintenance=False)
            else:
                cluster.restart()
            gevent.sleep(0.05)
        over.set()
        for each in shaky:
            each.calm = True
        gevent.joinall(clients, timeout=20, raise_error=True)
        head = cluster.service._journal.head
        cluster.until_applied(head)
        cluster.until_serving(*nodes)
        assert told[200] > 50, told
        for each in shaky:
            assert each.order == sorted(each.order)
            if not cluster.live(each.node).diverged:
                assert acknowledged <= set(each.order)
        for sequence in acknowledged:  # a node that lacks one must say so
            for each in shaky:
                assert sequence in each.order or cluster.status_on(sequence, each.node) != "applied"
        assert cluster.service._budget.used_bytes == 0
        assert not cluster.service._board._votes
