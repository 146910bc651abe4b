"""What an operator does to a node's queue: resume, skip, retry, clear-diverged, position; what is kept of it."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.event import Event

from spawn.delivery import changes, fleet, policy, retries, worker
from spawn.journal.base import Backup
from spawn.nodes.node import NodeState
from tests.support.inprocess import Cluster, Got, until
from tests.support.node import AppNode, Cut, Reply, Seen

FOR_EVER_S = 3600.0
LARGE = b"large" * 100_000  # a body that lies in a file


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-offs of some ten milliseconds; a held node that is not told to goes on never."""
    monkeypatch.setattr(policy, "BACKOFF_FIRST_S", 0.01)
    monkeypatch.setattr(policy, "BACKOFF_LIMIT_S", 0.05)
    monkeypatch.setattr(worker, "PROBE_S", FOR_EVER_S)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Cluster]:
    """Two nodes; two attempts are enough to be refused."""
    with Cluster(tmp_path, [AppNode("a"), AppNode("b")], delivery={"attempts": 2}) as cluster:
        yield cluster


def holding(tmp_path: Path, ambiguous: str = "hold") -> Cluster:
    return Cluster(tmp_path, [AppNode("a"), AppNode("b")], delivery={"ambiguous": ambiguous})


def post_many(cluster: Cluster, count: int) -> None:
    for number in range(count):
        assert cluster.post(b"%d" % number).status in (200, 202)


def unauthorised(seen: Seen) -> Reply:
    return Reply(401 if seen.sequence else 200)


def sequences(node: AppNode) -> list[int]:
    return [seen.sequence for seen in node.updates]


def queue_of(node: AppNode) -> str:
    return f"/queues/127.0.0.1/{node.port}"


def resume(cluster: Cluster, node: AppNode) -> Got:
    return cluster.api("POST", f"{queue_of(node)}/resume")


def skip(cluster: Cluster, node: AppNode, sequence: int) -> Got:
    return cluster.api("DELETE", f"{queue_of(node)}/{sequence}")


def retry(cluster: Cluster, node: AppNode, sequence: int) -> Got:
    return cluster.api("POST", f"{queue_of(node)}/{sequence}/retry")


def clear(cluster: Cluster, node: AppNode) -> Got:
    return cluster.api("POST", f"{queue_of(node)}/clear-diverged")


def done(got: Got, info: str | None = None) -> dict[str, Any]:
    """The row of a verb that was carried out."""
    assert got.status == 202, (got.status, got.body)
    data = got.json()["data"]
    assert data.get("info", "") == "" if info is None else info in data["info"], data
    return dict(data["results"][0])


def failed(got: Got, status: int, info: str) -> None:
    assert got.status == status, (got.status, got.body)
    assert info in got.json()["data"]["info"], got.body


def verbs_on(cluster: Cluster, sequence: int, node: AppNode) -> list[str]:
    (fate,) = (each for each in cluster.fate(sequence)["nodes"] if each["port"] == node.port)
    assert all(action["by"] == "127.0.0.1" and action["time"].endswith("Z") for action in fate["actions"])
    return [action["verb"] for action in fate["actions"]]


def held_at(cluster: Cluster, node: AppNode, sequence: int) -> None:
    until(lambda: cluster.live(node).held and cluster.live(node).position == sequence - 1, f"held at {sequence}")


def take_away(cluster: Cluster, node: AppNode) -> None:
    node.go_away()
    cluster.until_state(node, NodeState.DOWN)


def kill(cluster: Cluster) -> None:
    """Start again from what is on the disk at this moment, as after kill -9."""
    copy = f"{cluster.state_dir}-{time.monotonic_ns()}"
    shutil.copytree(cluster.state_dir, copy)
    cluster.service.stop(0.0)
    cluster.state_dir = copy
    cluster.service = cluster._new_service()
    cluster.service.start()


# --- resume


def test_a_held_node_goes_on_once_its_credential_is_renewed(pair: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    a, b = pair.nodes
    # Given a node that is held, since it turns every update down that the other one takes
    b.answers = unauthorised
    post_many(pair, 6)
    held_at(pair, b, 3)
    assert f"POST {queue_of(b)}/resume" in caplog.text
    assert f"DELETE {queue_of(b)}/3" in caplog.text
    # When the operator has mended it, and says so
    b.answers = None
    caplog.clear()
    caplog.set_level(logging.INFO)
    row = done(resume(pair, b))
    # Then it goes on at once with what it was held at
    assert not row["held"]
    pair.until_applied(6)
    assert b.applied == [3, 4, 5, 6]
    assert pair.queue(b)["refused"] == 2
    assert "resumed by 127.0.0.1" in caplog.text
    assert [verbs_on(pair, sequence, b) for sequence in (2, 3, 4)] == [[], ["resume"], []]
    assert verbs_on(pair, 3, a) == []
    counters = pair.service.counters
    assert [counters.value(name) for name in ("delivery.held", "operator.resume")] == [1, 1]


def test_a_resumed_node_that_refuses_again_is_held_again(pair: Cluster) -> None:
    b = pair.nodes[1]
    b.answers = unauthorised
    post_many(pair, 8)
    held_at(pair, b, 3)
    done(resume(pair, b))
    held_at(pair, b, 5)  # the third refusal in a row since
    assert [pair.status_on(sequence, b) for sequence in (3, 4, 5)] == ["refused", "refused", "pending"]
    assert pair.queue(b)["refused"] == 4


def test_resuming_what_is_not_held_changes_nothing(pair: Cluster) -> None:
    b = pair.nodes[1]
    b.answers = lambda seen: Reply(503 if seen.sequence else 200)
    pair.post()
    before = pair.queue(b)
    row = done(resume(pair, b), info="not held")
    assert (row["position"], row["held"]) == (before["position"], False)
    assert verbs_on(pair, 1, b) == []
    failed(pair.api("POST", "/queues/127.0.0.1/1/resume"), 404, "no node 127.0.0.1:1")


def test_a_hold_is_lifted_for_when_the_node_comes_back(pair: Cluster) -> None:
    b = pair.nodes[1]
    b.answers = unauthorised
    post_many(pair, 4)
    held_at(pair, b, 3)
    pair.change(b, maintenance=True)
    row = done(resume(pair, b), info="when it gets updates again (it is maintenance)")
    assert not row["held"]
    pair.change(b, maintenance=False)
    pair.until_applied(4)  # refused both: the count began anew
    assert pair.queue(b)["refused"] == 4
    assert not pair.queue(b)["held"]


@pytest.mark.parametrize("when", ["running", "restarted", "in maintenance", "restarted in maintenance"])
def test_resuming_sends_an_update_of_unknown_fate_again(tmp_path: Path, when: str) -> None:
    with holding(tmp_path) as cluster:
        b = cluster.nodes[1]
        b.next_up.append(Cut())
        post_many(cluster, 2)
        held_at(cluster, b, 1)
        if when == "restarted":
            cluster.restart()
            until(lambda: cluster.live(b).in_doubt, "it was found in doubt")
        if "maintenance" in when:
            cluster.change(b, maintenance=True)
        cluster_row = done(resume(cluster, b), info="maintenance" if "maintenance" in when else None)
        assert not cluster_row["held"]
        if when == "restarted in maintenance":
            cluster.restart()
        if "maintenance" in when:
            assert sequences(b) == [1]
            cluster.change(b, maintenance=False)
        cluster.until_applied(2)
        assert sequences(b) == [1, 1, 2]
        assert len({seen.key for seen in b.updates if seen.sequence == 1}) == 1
        assert cluster.status_on(1, b) == "applied"


def test_an_old_resume_does_not_let_a_later_doubt_through(tmp_path: Path) -> None:
    """Each hold is for the operator to decide."""
    with holding(tmp_path) as cluster:
        b = cluster.nodes[1]
        b.next_up.extend([Cut(), Cut()])
        post_many(cluster, 1)
        held_at(cluster, b, 1)
        done(resume(cluster, b))
        until(lambda: sequences(b) == [1, 1] and cluster.live(b).held, "held again")
        cluster.change(b, maintenance=True)
        cluster.change(b, maintenance=False)
        until(lambda: cluster.live(b).state is NodeState.CATCHING_UP, "it is back")
        post_many(cluster, 1)
        gevent.sleep(0.1)
        assert sequences(b) == [1, 1]
        assert cluster.live(b).held


# --- skip


def test_the_update_that_holds_a_node_is_left_out_and_the_count_stays(pair: Cluster) -> None:
    b = pair.nodes[1]
    b.answers = unauthorised
    post_many(pair, 6)
    held_at(pair, b, 3)
    row = done(skip(pair, b, 3))
    assert (row["held"], row["diverged"]) == (False, True)
    held_at(pair, b, 4)  # its first refusal since
    assert sequences(b)[-2:] == [4, 4]
    assert pair.status_on(3, b) == "skipped"
    assert verbs_on(pair, 3, b) == ["skip"]
    assert pair.queue(b)["refused"] == 2
    b.answers = None
    done(skip(pair, b, 4))
    pair.until_applied(6)
    assert b.applied == [5, 6]


@pytest.mark.parametrize("how", ["down", "maintenance", "restart", "kill", "held"])
def test_an_update_far_ahead_is_left_out_when_the_node_gets_there(tmp_path: Path, how: str) -> None:
    with holding(tmp_path, "hold" if how == "held" else "resend") as pair:
        left_out_ahead(pair, how)


def left_out_ahead(pair: Cluster, how: str) -> None:
    a, b = pair.nodes
    # Given a node that is behind, for whatever reason
    if how == "maintenance":
        pair.change(b, maintenance=True)
    elif how == "held":
        b.next_up.append(Cut())
    else:
        take_away(pair, b)
    post_many(pair, 6)
    if how == "held":
        held_at(pair, b, 1)
    # When two updates are taken out of its queue
    for sequence in (3, 5):
        row = done(skip(pair, b, sequence))
        assert row["diverged"]
        assert row["position"] == 0
    done(skip(pair, b, 5), info="taken out of the queue before")
    assert [pair.status_on(sequence, b) for sequence in (2, 3, 4, 5)] == ["pending", "skipped", "pending", "skipped"]
    if how == "restart":
        pair.restart()
    elif how == "kill":
        kill(pair)
    if how == "maintenance":
        pair.change(b, maintenance=False)
    elif how == "held":
        done(resume(pair, b))
    else:
        b.come()
    # Then it gets all but these, and the other node all
    pair.until_applied(6)
    assert sorted(set(sequences(b))) == [1, 2, 4, 6]
    assert sequences(a) == [1, 2, 3, 4, 5, 6]
    assert [pair.status_on(sequence, b) for sequence in (3, 5)] == ["skipped", "skipped"]
    assert verbs_on(pair, 5, b) == ["skip"]
    assert pair.live(b).diverged
    assert pair.service._journal.entry(3) is not None  # kept for a retry


def test_what_cannot_be_left_out(pair: Cluster) -> None:
    a, b = pair.nodes
    post_many(pair, 1)
    pair.until_applied(1)
    pair.change(b, maintenance=True)
    a.next_up.append(Reply(500))
    assert pair.post().status == 500
    failed(skip(pair, b, 1), 409, "done with update 1")
    failed(skip(pair, b, 2), 409, "rejected")
    failed(skip(pair, b, 3), 404, "sequence 3")
    failed(pair.api("DELETE", "/queues/127.0.0.1/1/2"), 404, "no node 127.0.0.1:1")
    pair.change(b, active=False)
    failed(skip(pair, b, 2), 409, "inactive")
    pair.change(b, active=True)
    failed(skip(pair, b, 2), 409, "out of sync")
    assert not pair.live(b).diverged
    assert verbs_on(pair, 2, b) == verbs_on(pair, 1, b) == []


def test_a_delivery_in_flight_that_succeeds_is_not_taken_back(pair: Cluster) -> None:
    b = pair.nodes[1]
    gate = Event()
    b.next_up.append(Reply(200, gate=gate))
    post_many(pair, 2)
    until(lambda: b.updates, "b has it")
    asked = pair.background(skip, pair, b, 1)
    until(lambda: pair.live(b).id not in pair.service._fleet._workers, "its worker is being stopped")
    assert not asked.ready()
    gate.set()
    failed(asked.get(timeout=10), 409, "has just been applied")
    pair.until_applied(2)
    assert sequences(b) == [1, 2]
    assert not pair.live(b).diverged


def test_a_delivery_that_hangs_is_cut(pair: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "IN_FLIGHT_S", 0.1)
    b = pair.nodes[1]
    b.next_up.append(Reply(200, gate=Event()))
    post_many(pair, 2)
    until(lambda: b.updates, "b has it")
    done(skip(pair, b, 1))
    pair.until_applied(2)
    assert sequences(b) == [1, 2]
    assert pair.status_on(1, b) == "skipped"


def test_a_client_does_not_wait_for_a_node_that_will_never_answer(tmp_path: Path) -> None:
    node = AppNode("only")
    with Cluster(tmp_path, [node], timeouts={"answer": 60.0}) as cluster:
        # Given a node that has one update in hand, and clients that wait for it
        gate = Event()
        node.next_up.append(Reply(200, gate=gate))
        first = cluster.background(cluster.post)
        until(lambda: node.updates, "it has the first one")
        second = cluster.background(cluster.post)
        until(lambda: cluster.service._journal.head == 2, "the second one is journalled")
        # When the second one is taken out of its queue
        done(skip(cluster, node, 2))
        # Then its client is answered at once, and nothing happens to the first one
        assert second.get(timeout=10).status == 503  # not 202: nobody will ever apply it
        assert not first.ready()
        gate.set()
        assert first.get(timeout=10).status == 200


def test_a_client_does_not_wait_for_a_node_that_has_gone_on_without_its_update(tmp_path: Path) -> None:
    node = AppNode("only")
    with Cluster(tmp_path, [node], delivery={"ambiguous": "skip"}, timeouts={"answer": 60.0}) as cluster:
        node.next_up.append(Cut())
        client = cluster.background(cluster.post)
        assert client.get(timeout=10).status == 503  # not 202: nobody will ever apply it
        assert cluster.status_on(1, node) == "skipped"


@pytest.mark.parametrize(
    ("answered", "cleared", "told"), [(200, False, 200), (404, False, 404), (500, False, 500), (500, True, 202)]
)
def test_the_other_node_then_speaks_alone(tmp_path: Path, answered: int, cleared: bool, told: int) -> None:
    """``cleared``: it was applied there already, says the operator; so who fails it now does not reject it."""
    nodes = [AppNode("a"), AppNode("b")]
    with Cluster(tmp_path, nodes, timeouts={"answer": 60.0, "agree": 60.0}) as cluster:
        gates = [Event(), Event()]
        for node, gate in zip(nodes, gates, strict=True):
            node.next_up.append(Reply(200, gate=gate))
        first = cluster.background(cluster.post)
        until(lambda: all(node.updates for node in nodes), "both have the first one")
        second = cluster.background(cluster.post)
        until(lambda: cluster.service._journal.head == 2, "the second one is journalled")
        done(skip(cluster, nodes[1], 2))
        if cleared:
            done(clear(cluster, nodes[1]))
        assert not second.ready()
        nodes[0].answers = lambda seen: Reply(answered if seen.sequence == 2 else 200)
        gates[0].set()
        assert first.get(timeout=10).status == 200
        assert second.get(timeout=10).status == told
        nodes[0].answers = None
        gates[1].set()
        cluster.until_applied(2)


def test_a_node_put_back_still_leaves_out_what_is_ahead(pair: Cluster) -> None:
    b = pair.nodes[1]
    post_many(pair, 2)
    pair.until_applied(2)
    take_away(pair, b)
    post_many(pair, 3)
    done(skip(pair, b, 4))
    assert pair.api("PUT", queue_of(b), {"position": 2}).status == 202
    b.come()
    pair.until_applied(5)
    assert sequences(b) == [1, 2, 3, 5]


# --- clear-diverged


def test_an_update_of_unknown_fate_that_was_applied(tmp_path: Path) -> None:
    """The operator looks, finds it applied, says that it need not be sent, and that the node is all right."""
    with holding(tmp_path) as cluster:
        b = cluster.nodes[1]
        b.next_up.append(Cut())
        post_many(cluster, 3)
        held_at(cluster, b, 1)
        done(skip(cluster, b, 1))
        cluster.until_applied(3)
        assert sequences(b) == [1, 2, 3]
        assert cluster.queue(b)["diverged"]
        row = done(clear(cluster, b))
        assert (row["diverged"], row["refused"], row["held"]) == (False, 0, False)
        assert [verbs_on(cluster, n, b) for n in (1, 2)] == [["skip", "clear-diverged"], ["clear-diverged"]]
        done(clear(cluster, b), info="not diverged")
        kill(cluster)
        assert not cluster.queue(b)["diverged"]
        assert verbs_on(cluster, 1, b) == ["skip", "clear-diverged"]


def test_what_was_refused_is_no_longer_counted(pair: Cluster) -> None:
    b = pair.nodes[1]
    b.next_up.extend([Reply(403), Reply(403)])
    post_many(pair, 2)
    pair.until_applied(2)
    assert (pair.queue(b)["diverged"], pair.queue(b)["refused"]) == (True, 1)
    row = done(clear(pair, b))
    assert (row["diverged"], row["refused"]) == (False, 0)
    assert pair.status_on(1, b) == "refused"  # what happened, happened
    assert verbs_on(pair, 2, b) == ["clear-diverged"]


# --- retry


def refuse(cluster: Cluster, body: bytes = b"x") -> int:
    """An update that b refuses and a applies; its sequence."""
    b = cluster.nodes[1]
    b.next_up.extend([Reply(403), Reply(403)])
    sequence = cluster.post(body).sequence
    cluster.until_applied(sequence)
    assert cluster.status_on(sequence, b) == "refused"
    return sequence


@pytest.mark.parametrize("body", [b"small", LARGE])
@pytest.mark.parametrize("restarted", [False, True])
def test_a_refused_update_is_delivered_after_all(pair: Cluster, body: bytes, restarted: bool) -> None:
    a, b = pair.nodes
    # Given an update that one node refused, and whose entry only that keeps
    sequence = refuse(pair, body)
    post_many(pair, 3)
    pair.until_applied(4)
    pair.service._retention.prune()
    assert pair.service._journal.tail == 5
    if restarted:
        pair.restart()
        pair.until_serving(*pair.nodes)
    # When it is retried
    row = done(retry(pair, b, sequence))
    # Then the node has it, out of order, as it was the first time
    assert (row["refused"], row["position"], row["diverged"]) == (0, 4, True)
    assert pair.status_on(sequence, b) == "applied"
    assert sequences(b) == [1, 1, 2, 3, 4, 1]
    first, last = b.updates[0], b.updates[-1]
    assert last.body == body
    for name in ("idempotency-key", "spawn-sequence", "spawn-time"):
        assert first.headers[name] == last.headers[name]
    assert sequences(a) == [1, 2, 3, 4]
    assert verbs_on(pair, sequence, b) == ["retry"]
    failed(retry(pair, b, sequence), 409, "applied")
    value = pair.service.counters.value
    assert (value("operator.retry"), value("delivery.retried")) == (1, 1)


def test_a_retry_that_is_refused_again(pair: Cluster) -> None:
    b = pair.nodes[1]
    sequence = refuse(pair)
    b.next_up.append(Reply(403))
    failed(retry(pair, b, sequence), 409, "answered 403")
    assert pair.status_on(sequence, b) == "refused"
    assert pair.queue(b)["refused"] == 1
    assert sequences(b) == [1, 1, 1]
    done(retry(pair, b, sequence))


def test_a_retry_that_gets_no_answer_is_unknown_until_the_next_one(pair: Cluster) -> None:
    b = pair.nodes[1]
    sequence = refuse(pair)
    b.next_up.append(Cut())
    failed(retry(pair, b, sequence), 504, "gave no answer")
    assert pair.status_on(sequence, b) == "unknown"
    assert not pair.live(b).in_doubt  # that is the update at hand
    pair.service._retention.prune()
    kill(pair)
    pair.until_serving(*pair.nodes)
    done(retry(pair, b, sequence))
    assert pair.status_on(sequence, b) == "applied"


def test_a_retry_that_a_gateway_has_lost_is_unknown(pair: Cluster) -> None:
    sequence = refuse(pair)
    b = pair.nodes[1]
    b.next_up.append(Reply(504))
    failed(retry(pair, b, sequence), 504, "is not known")
    assert pair.status_on(sequence, b) == "unknown"


def test_a_retry_that_cannot_be_sent_leaves_all_as_it_was(pair: Cluster) -> None:
    b = pair.nodes[1]
    sequence = refuse(pair)
    take_away(pair, b)
    failed(retry(pair, b, sequence), 503, "could not be sent")
    assert pair.status_on(sequence, b) == "refused"
    assert pair.queue(b)["refused"] == 1


def test_a_retry_is_recorded_before_it_is_sent(pair: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed amid it, Spawn says that nobody knows."""
    b = pair.nodes[1]
    sequence = refuse(pair)
    monkeypatch.setattr(pair.service._journal, "flush", lambda timeout_s: False)
    failed(retry(pair, b, sequence), 503, "say first")
    assert len(b.updates) == 2
    assert pair.status_on(sequence, b) == "refused"
    monkeypatch.undo()
    monkeypatch.setattr(worker, "PROBE_S", FOR_EVER_S)
    gate = Event()
    b.next_up.append(Reply(200, gate=gate))
    asked = pair.background(retry, pair, b, sequence)
    until(lambda: len(b.updates) == 3, "b has it")
    kill(pair)
    asked.kill()
    gate.set()
    assert pair.status_on(sequence, b) == "unknown"


def test_a_retry_that_takes_long_goes_on_behind_its_answer(pair: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "RETRY_WAIT_S", 0.05)
    monkeypatch.setattr(retries, "RETRIES", 2)
    b = pair.nodes[1]
    for _ in range(2):
        refuse(pair)
    take_away(pair, b)
    post_many(pair, 1)
    done(skip(pair, b, 3))
    b.come()
    pair.until_applied(3)
    gate = Event()
    b.next_up.append(Reply(200, gate=gate))
    done(retry(pair, b, 1), info="under way")
    until(lambda: sequences(b)[-1] == 1, "b has it")
    failed(retry(pair, b, 1), 409, "under way")
    done(retry(pair, b, 2), info="under way")
    failed(retry(pair, b, 3), 503, "2 retries wait")
    post_many(pair, 1)  # the other node goes on, this one does one thing at a time
    assert sequences(b)[-1] == 1
    gate.set()
    pair.until_applied(4)
    assert sequences(b)[-3:] == [1, 2, 4]
    assert [pair.status_on(sequence, b) for sequence in (1, 2, 3)] == ["applied", "applied", "skipped"]


def test_what_cannot_be_retried(pair: Cluster) -> None:
    a, b = pair.nodes
    sequence = refuse(pair)
    post_many(pair, 1)
    pair.until_applied(2)
    for node in (a, b):
        node.next_up.append(Reply(500))
    assert pair.post().status == 500
    pair.until_applied(3)
    failed(retry(pair, a, sequence), 409, "is applied")
    failed(retry(pair, b, 3), 409, "rejected")
    failed(retry(pair, b, 4), 404, "sequence 4")
    failed(pair.api("POST", "/queues/127.0.0.1/1/1/retry"), 404, "no node 127.0.0.1:1")
    take_away(pair, b)
    post_many(pair, 1)
    failed(retry(pair, b, 4), 409, "has not got as far")
    pair.change(b, maintenance=True)
    failed(retry(pair, b, sequence), 409, "maintenance")
    pair.change(b, active=False)
    failed(retry(pair, b, sequence), 409, "inactive")
    pair.change(b, maintenance=False, active=True)
    failed(retry(pair, b, sequence), 409, "out of sync")
    pair.service._journal.prune(4, 1e12, 1e12, 100)
    failed(retry(pair, b, sequence), 410, "")
    assert sequences(b).count(1) == 2


def test_a_node_that_is_held_can_be_given_one_again(pair: Cluster) -> None:
    b = pair.nodes[1]
    b.answers = unauthorised
    post_many(pair, 5)
    held_at(pair, b, 3)
    b.answers = lambda seen: Reply(200 if seen.sequence in (0, 1) else 401)
    done(retry(pair, b, 1))
    assert pair.status_on(1, b) == "applied"
    assert pair.queue(b)["held"]
    assert pair.queue(b)["position"] == 2


def test_a_node_that_waits_for_the_operator_can_be_given_another_one(tmp_path: Path) -> None:
    with holding(tmp_path, "hold") as cluster:
        b = cluster.nodes[1]
        take_away(cluster, b)
        post_many(cluster, 2)
        done(skip(cluster, b, 1))
        b.next_up.append(Cut())
        b.come()
        held_at(cluster, b, 2)
        done(retry(cluster, b, 1))
        assert sequences(b) == [2, 1]
        assert cluster.status_on(1, b) == "applied"
        assert cluster.live(b).in_doubt
        assert cluster.live(b).held


def test_a_node_between_two_attempts_can_be_given_another_one(pair: Cluster) -> None:
    b = pair.nodes[1]
    sequence = refuse(pair)
    b.answers = lambda seen: Reply(503 if seen.sequence == 2 else 200, headers=(("Retry-After", "60"),))
    post_many(pair, 1)
    until(lambda: sequences(b)[-1] == 2, "b has the next one")
    b.answers = None
    done(retry(pair, b, sequence))
    pair.until_applied(2)
    assert sequences(b)[-2:] == [1, 2]


def test_a_retry_of_what_every_node_gave_up_makes_the_reference(tmp_path: Path) -> None:
    nodes = [AppNode("a"), AppNode("b")]
    delivery = {"attempts_uncertain": 2, "outage": 0.0}
    with Cluster(tmp_path, nodes, delivery=delivery, timeouts={"answer": 0.1}) as cluster:
        for node in nodes:
            node.answers = lambda seen: Reply(503 if seen.sequence else 200)
        assert cluster.post().status == 503  # it was given up before the client's time was over
        until(lambda: cluster.status_on(1, nodes[0]) == "refused" == cluster.status_on(1, nodes[1]), "given up by both")
        for node in nodes:
            node.answers = None
        done(retry(cluster, nodes[0], 1))
        assert cluster.fate(1)["reference"] == 200
        assert [cluster.status_on(1, node) for node in nodes] == ["applied", "refused"]
        assert [cluster.live(node).diverged for node in nodes] == [False, True]
        assert cluster.service.counters.value("delivery.diverged") == 1
        done(retry(cluster, nodes[1], 1))
        assert cluster.status_on(1, nodes[1]) == "applied"


def test_what_waits_is_not_lost_in_silence_when_deliveries_stop(
    pair: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fleet, "IN_FLIGHT_S", 0.1)
    b = pair.nodes[1]
    for _ in range(2):
        refuse(pair)
    b.next_up.append(Reply(200, gate=Event()))
    asked = [pair.background(retry, pair, b, 1)]
    until(lambda: sequences(b)[-1] == 1, "it is on its way")
    asked.append(pair.background(retry, pair, b, 2))
    until(lambda: sequences(b)[-1] == 1 and pair.service.counters.value("operator.retry") == 2, "b has the first one")
    pair.change(b, maintenance=True)
    failed(asked[0].get(timeout=10), 504, "cut short")
    failed(asked[1].get(timeout=10), 503, "stopped before the retry")
    assert [pair.status_on(sequence, b) for sequence in (1, 2)] == ["unknown", "refused"]
    assert "update 2 is not sent again" in caplog.text


# --- backups


def test_a_backup_keeps_nobody_waiting(pair: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    post_many(pair, 3)
    pair.until_applied(3)
    gate, begun = Event(), Event()
    copy = pair.service._journal.backup

    def slow(directory: str) -> Backup:
        begun.set()
        gate.wait()
        return copy(directory)

    monkeypatch.setattr(pair.service._journal, "backup", slow)
    asked = pair.background(pair.api, "POST", "/journal/backup")
    begun.wait(10)
    failed(pair.api("POST", "/journal/backup"), 409, "a backup is being made")
    pair.change(pair.nodes[1], priority=7)
    assert pair.post().status == 200
    gate.set()
    got = asked.get(timeout=10)
    assert got.status == 201, got.body
    (made,) = got.json()["data"]["results"]
    assert list(made) == ["path", "head", "size-bytes"]
    assert (made["head"], (Path(made["path"]) / "journal" / "journal.db").exists()) == (4, True)
    assert pair.service.counters.value("operator.backup") == 1


def test_there_is_no_backup_of_a_journal_in_memory(tmp_path: Path) -> None:
    with Cluster(tmp_path, [AppNode()], journal={"durability": "none"}) as cluster:
        failed(cluster.api("POST", "/journal/backup"), 409, "in memory")


# --- position, and what is the same for all


def test_a_position_is_noted_with_what_it_moves_over(pair: Cluster) -> None:
    b = pair.nodes[1]
    post_many(pair, 3)
    pair.until_applied(3)
    take_away(pair, b)
    post_many(pair, 2)
    assert pair.api("PUT", queue_of(b), {"position": 4}).status == 202
    assert [verbs_on(pair, sequence, b) for sequence in (3, 4, 5)] == [[], ["position"], []]
    assert pair.status_on(4, b) == "skipped"
    assert pair.api("PUT", queue_of(b), {"position": 4}).status == 202  # moves over nothing
    pair.change(b, maintenance=True)
    pair.restart()
    assert [verbs_on(pair, sequence, b) for sequence in (3, 4, 5)] == [[], ["position"], []]
    assert pair.service.counters.value("operator.position") == 0


def test_a_position_backwards_gives_again_what_is_retained(pair: Cluster) -> None:
    a, b = pair.nodes
    post_many(pair, 2)
    pair.until_applied(2)
    pair.service._retention.prune()
    take_away(pair, a)
    post_many(pair, 3)
    pair.until_applied(5, b)
    failed(pair.api("PUT", queue_of(b), {"position": 1}), 409, "no longer retained")
    assert pair.api("PUT", queue_of(b), {"position": 3}).status == 202
    pair.until_applied(5, b)
    assert sequences(b) == [1, 2, 3, 4, 5, 4, 5]
    assert [verbs_on(pair, sequence, b) for sequence in (3, 4, 5)] == [[], ["position"], ["position"]]


def test_several_nodes_that_hang_are_waited_for_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [AppNode(name) for name in "abc"]
    stopping, most = [0], [0]
    stop = worker.Worker.stop

    def counted(self: worker.Worker, deadline_s: float) -> bool:
        stopping[0] += 1
        most[0] = max(most[0], stopping[0])
        try:
            return stop(self, deadline_s)
        finally:
            stopping[0] -= 1

    with Cluster(tmp_path, nodes) as cluster:
        gate = Event()
        for node in nodes:
            node.next_up.append(Reply(200, gate=gate))
        client = cluster.background(cluster.post)
        until(lambda: all(node.updates for node in nodes), "all have it")
        monkeypatch.setattr(worker.Worker, "stop", counted)
        records = [{"host": "127.0.0.1", "port": node.port, "maintenance": True} for node in nodes]
        change = cluster.background(cluster.api, "PUT", "/nodes", records)
        until(lambda: most[0] == 3, "all three are told to stop")
        assert not change.ready()
        gate.set()
        assert change.get(timeout=10).status == 202
        monkeypatch.undo()
        assert [cluster.queue(node)["state"] for node in nodes] == ["maintenance"] * 3
        assert [cluster.queue(node)["position"] for node in nodes] == [1] * 3
        client.get(timeout=10)


@pytest.mark.parametrize("ambiguous", ["hold", "skip"])
def test_what_could_not_be_sent_is_no_doubt_after_a_restart(tmp_path: Path, ambiguous: str) -> None:
    """Spawn says durably what it is about to send, and takes it back when the node could not be reached."""
    with holding(tmp_path, ambiguous) as cluster:
        b = cluster.nodes[1]
        take_away(cluster, b)
        post_many(cluster, 2)
        until(lambda: cluster.live(b).attempts > 3, "it was tried")
        cluster.restart()
        b.come()
        cluster.until_applied(2)
        assert sequences(b) == [1, 2]
        assert not cluster.live(b).diverged


def test_a_declaration_that_did_not_reach_the_disk_is_no_doubt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The update was not sent then: it must not be skipped as if it had been."""
    with holding(tmp_path, "skip") as cluster:
        journal = cluster.service._journal
        flush, refusals = journal.flush, [False, False]
        monkeypatch.setattr(journal, "flush", lambda timeout_s: refusals.pop() if refusals else flush(timeout_s))
        assert cluster.post().status == 200
        cluster.until_applied(1)
        assert [sequences(node) for node in cluster.nodes] == [[1], [1]]
        assert [cluster.status_on(1, node) for node in cluster.nodes] == ["applied", "applied"]
        monkeypatch.undo()
