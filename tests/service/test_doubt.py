"""What may have been delivered before is remembered for as long as it matters, and not a moment longer."""

from __future__ import annotations

import threading
from pathlib import Path

import gevent
import pytest
from gevent.event import Event

from spawn.delivery import fleet, policy, worker
from spawn.journal import committer
from spawn.nodes.node import NodeState
from tests.support.inprocess import Cluster, until
from tests.support.journals import replace_calls
from tests.support.node import AppNode, Cut, Reply, Seen


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-offs and probes of some ten milliseconds."""
    monkeypatch.setattr(policy, "BACKOFF_FIRST_S", 0.01)
    monkeypatch.setattr(policy, "BACKOFF_LIMIT_S", 0.05)
    monkeypatch.setattr(worker, "PROBE_S", 0.1)


def two() -> list[AppNode]:
    return [AppNode("a"), AppNode("b")]


def conflict(seen: Seen) -> Reply:
    """An application that finds everything there already."""
    return Reply(409 if seen.sequence else 200)


@pytest.mark.parametrize("then", ["maintenance", "skip", "restart", "moved"])
def test_the_doubt_after_a_crash_outlives_what_is_done_to_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    nodes = two()
    with Cluster(tmp_path, nodes) as cluster:
        b = nodes[1]
        b.go_away()
        cluster.until_state(b, NodeState.DOWN)
        for _ in range(4):
            cluster.post()
        cluster.crash()
        # Given that a new worker begins, in one way or another, before b is back
        if then == "maintenance":
            cluster.change(b, maintenance=True)
            cluster.change(b, maintenance=False)
        elif then == "skip":
            cluster.api("DELETE", f"/queues/127.0.0.1/{b.port}/1")
        elif then == "restart":
            cluster.restart()
        else:
            cluster.api("PUT", f"/nodes/127.0.0.1/{b.port}", {"port": b.port})
        # When it says of everything that it is there already
        b.answers = conflict
        b.come()
        cluster.until_applied(4)
        # Then that is no disagreement
        assert not cluster.live(b).held
        assert cluster.live(b).refused == 0
        assert cluster.service.counters.value("delivery.disagreed") == 0


def test_a_position_ends_all_doubt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes after it is new to the node, whatever was cut before: its 4xx is no echo."""
    monkeypatch.setattr(fleet, "IN_FLIGHT_S", 0.1)
    nodes = two()
    with Cluster(tmp_path, nodes, delivery={"attempts": 2}) as cluster:
        b = nodes[1]
        b.next_up.append(Reply(200, gate=Event()))
        cluster.post()
        until(lambda: b.updates, "b has the first one")
        cluster.change(b, active=False)
        for _ in range(2):
            cluster.post()
        b.answers = lambda seen: Reply(400 if seen.sequence else 200)
        cluster.api("PUT", f"/nodes/127.0.0.1/{b.port}", {"active": True, "position": 2})
        cluster.until_applied(3)
        assert cluster.live(b).refused == 1
        assert cluster.live(b).diverged


def test_a_delivery_that_was_cut_and_then_rejected_is_a_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "IN_FLIGHT_S", 0.1)
    nodes = two()
    with Cluster(tmp_path, nodes) as cluster:
        a, b = nodes
        gate, slow = Event(), Event()
        a.next_up.append(Reply(500, gate=gate))
        b.next_up.append(Reply(200, gate=slow))
        client = cluster.background(cluster.post)
        until(lambda: a.updates and b.updates, "both have it")
        # When b's delivery is cut and the other one fails
        cluster.change(b, maintenance=True)
        gate.set()
        assert client.get(timeout=10).status == 500
        cluster.change(b, maintenance=False)
        cluster.until_applied(1)
        # Then b may have done what it has never been told to be wrong
        assert cluster.live(b).diverged
        assert cluster.status_on(1, b) == "unknown"
        slow.set()


def test_a_node_in_doubt_hears_of_a_rejection_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not when its back-off ends: until then a crash would forget what it may have done."""
    monkeypatch.setattr(policy, "BACKOFF_FIRST_S", 1_000.0)
    monkeypatch.setattr(policy, "BACKOFF_LIMIT_S", 1_000.0)
    nodes = two()
    with Cluster(tmp_path, nodes, health_check={"seconds": 60.0}) as cluster:
        a, b = nodes
        gate = Event()
        a.next_up.append(Reply(500, gate=gate))
        b.health = Reply(500)
        b.next_up.append(Cut())
        client = cluster.background(cluster.post)
        until(lambda: cluster.live(b).in_doubt, "b gave no answer")
        cluster.until_state(b, NodeState.DOWN)
        gate.set()
        assert client.get(timeout=10).status == 500
        until(lambda: cluster.live(b).diverged, "it may have applied it")


def test_resuming_gives_a_node_all_its_attempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "PROBE_S", 60.0)
    nodes = two()
    with Cluster(tmp_path, nodes, delivery={"attempts": 4}) as cluster:
        b = nodes[1]
        b.answers = lambda seen: Reply(401 if seen.sequence else 200)
        for _ in range(3):
            cluster.post()
        until(lambda: cluster.live(b).held, "b is held")
        before = len(b.updates)
        cluster.api("POST", f"/queues/127.0.0.1/{b.port}/resume")
        cluster.until_applied(3)
        assert len(b.updates) - before == 4


def test_a_hold_that_has_become_another_one_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    nodes = two()
    with Cluster(tmp_path, nodes, delivery={"attempts": 2, "ambiguous": "hold"}) as cluster:
        b = nodes[1]
        b.answers = lambda seen: Reply(401 if seen.sequence else 200)
        for _ in range(3):
            cluster.post()
        until(lambda: cluster.live(b).held, "b is held")
        b.next_up.append(Cut())
        until(lambda: "nobody knows whether it has applied it" in caplog.text, "it waits for the operator now")
        assert "gave no answer to update 3" in cluster.queue(b)["last-error"]


def test_a_body_that_cannot_be_read_does_not_stall_a_node_in_silence(tmp_path: Path) -> None:
    nodes = two()
    with Cluster(tmp_path, nodes, delivery={"attempts_uncertain": 3}) as cluster:
        b = nodes[1]
        b.go_away()
        cluster.until_state(b, NodeState.DOWN)
        cluster.post(b"x" * 400_000)
        (body,) = [path for path in Path(cluster.state_dir).rglob("*") if path.stat().st_size == 400_000]
        body.unlink()
        body.mkdir()
        b.come()
        until(lambda: cluster.live(b).out_of_sync, "it is given up, loudly")
        body.rmdir()


def test_a_flag_is_stored_before_the_position_that_it_explains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = two()
    with Cluster(tmp_path, nodes, delivery={"attempts": 2}) as cluster:
        b = nodes[1]
        directory = Path(cluster.state_dir) / "nodes.json.new"
        directory.mkdir()  # so it cannot be replaced
        monkeypatch.setattr(worker, "STORE_RETRY_S", 0.05)
        b.next_up.extend([Reply(422)] * 2)
        cluster.post()
        until(lambda: cluster.live(b).diverged, "it differs")
        assert cluster.live(b).position == 0
        directory.rmdir()
        cluster.until_applied(1)


@pytest.mark.parametrize("how", ["maintenance", "restart"])
def test_a_gateways_502_is_remembered_as_a_doubt(tmp_path: Path, how: str) -> None:
    nodes = two()
    with Cluster(tmp_path, nodes) as cluster:
        b = nodes[1]
        b.answers = lambda seen: Reply(502 if seen.sequence else 200, headers=(("Retry-After", "30"),))
        assert cluster.post().status == 200
        until(lambda: cluster.service.counters.value("delivery.not-now"), "the gateway has answered")
        if how == "maintenance":
            cluster.change(b, maintenance=True)
        else:
            cluster.service.stop(2.0)
        # When the application had carried it out
        b.answers = conflict
        if how == "maintenance":
            cluster.change(b, maintenance=False)
        else:
            cluster.restart()
        # Then its conflict is an echo
        cluster.until_applied(1)
        assert cluster.live(b).refused == 0
        assert not cluster.live(b).diverged


def test_what_could_not_be_declared_is_no_doubt_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = two()
    with Cluster(tmp_path, nodes, delivery={"ambiguous": "skip"}) as cluster:
        b = nodes[1]
        b.go_away()
        cluster.until_state(b, NodeState.DOWN)
        monkeypatch.setattr(cluster.service._journal, "flush", lambda timeout_s: False)  # a disk that is slow, or full
        cluster.post()
        until(lambda: cluster.live(b).attempts == 0, "it cannot be declared")
        gevent.sleep(0.2)
        b.come()
        cluster.restart()
        cluster.until_applied(1)
        assert b.applied == [1]
        assert not cluster.live(b).diverged


def test_a_probe_that_a_crash_has_cut_is_a_doubt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = two()
    with Cluster(tmp_path, nodes, delivery={"attempts": 2}) as cluster:
        b = nodes[1]
        b.answers = lambda seen: Reply(401 if seen.sequence else 200)
        for _ in range(3):
            cluster.post()
        until(lambda: cluster.live(b).held, "b is held")
        b.answers = conflict  # the probe was applied, and its answer was lost with the process
        cluster.crash()
        cluster.until_applied(3)
        assert not cluster.live(b).held


def test_what_a_node_that_may_not_speak_has_applied_was_applied(tmp_path: Path) -> None:
    """503 would make its client send it again."""
    nodes = two()
    with Cluster(tmp_path, nodes, delivery={"ambiguous": "skip"}) as cluster:
        a, b = nodes
        cluster.live(b).diverged = True
        cluster.service._fleet.refresh()
        gate = Event()
        a.answers = lambda seen: (gate.wait(10), Cut())[1] if seen.sequence else Reply(200)
        client = cluster.background(cluster.post)
        until(lambda: b.applied, "b has applied it")
        gate.set()
        assert client.get(timeout=10).status == 202
        cluster.until_applied(1)
        assert cluster.fate(1)["reference"] == 200


def test_an_answer_that_comes_after_its_client_was_told_otherwise_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = two()
    for node in nodes:
        node.answers = lambda seen: Reply(200, b"y" * 1_000)
    with Cluster(tmp_path, nodes) as cluster:
        monkeypatch.setattr(committer, "SLOW_S", 0.05)
        monkeypatch.setattr(committer, "COMMIT_S", 0.2)
        release, commit = threading.Event(), cluster.service._journal._database.commit  # type: ignore[attr-defined]
        replace_calls(monkeypatch, cluster.service._journal, commit=lambda batch: (release.wait(20), commit(batch)))
        got = cluster.post()
        assert (got.status, got.sequence) == (503, 0)
        release.set()
        cluster.until_applied(1)
        until(lambda: cluster.service._budget.used_bytes == 0, "its memory is given back")
