"""What operators are told: by answers of the API, by the queues, and once by the log; with what to do."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gevent.event import Event

from spawn.delivery import policy
from spawn.errors import StartError
from spawn.nodes.node import NodeState
from spawn.service import Service
from tests.support.inprocess import Cluster, Got, until
from tests.support.node import AppNode, Reply


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "BACKOFF_FIRST_S", 0.01)
    monkeypatch.setattr(policy, "BACKOFF_LIMIT_S", 0.05)


@pytest.fixture
def pair(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Cluster]:
    caplog.set_level(logging.INFO)
    with Cluster(tmp_path, [AppNode("a"), AppNode("b")], delivery={"attempts": 2}) as cluster:
        yield cluster


def queue_of(node: AppNode) -> str:
    return f"/queues/127.0.0.1/{node.port}"


def info(got: Got) -> str:
    assert got.status < 300 or got.status in (404, 409), (got.status, got.body)
    return str(got.json()["data"].get("info", ""))


def lines(caplog: pytest.LogCaptureFixture, words: str) -> list[str]:
    return [message for message in caplog.messages if words in message]


def post_many(cluster: Cluster, count: int) -> None:
    for _ in range(count):
        cluster.post()


# --- a node that is out of sync


def put_out_of_sync(cluster: Cluster, node: AppNode) -> None:
    """It is healthy, was down amid a delivery, and has missed an update."""
    node.go_away()
    cluster.until_state(node, NodeState.DOWN)
    cluster.post()
    until(lambda: cluster.queue(node)["attempts"], "a delivery to it was tried")
    assert cluster.queue(node)["last-error"]
    cluster.change(node, active=False)
    cluster.change(node, active=True)
    node.come()
    until(lambda: cluster.live(node).state is NodeState.CATCHING_UP, "it passes its check")


def test_a_node_out_of_sync_does_not_look_as_if_it_caught_up(pair: Cluster) -> None:
    b = pair.nodes[1]
    put_out_of_sync(pair, b)
    row = pair.queue(b)
    assert (row["state"], row["out-of-sync"], row["last-error"], row["attempts"]) == ("out-of-sync", True, "", 0)
    pair.change(b, maintenance=True)
    assert pair.queue(b)["state"] == "maintenance"
    pair.change(b, maintenance=False)
    b.go_away()
    until(lambda: pair.queue(b)["state"] == "down", "it is down")
    b.come()
    until(lambda: pair.queue(b)["state"] == "out-of-sync", "it is up again")
    pair.api("PUT", queue_of(b), {"position": "head"})
    until(lambda: pair.queue(b)["state"] == "serving", "it serves")


def test_an_error_of_a_delivery_does_not_outlive_the_deliveries(pair: Cluster) -> None:
    b = pair.nodes[1]
    b.answers = lambda seen: Reply(503 if seen.sequence else 200)
    pair.post()
    until(lambda: pair.queue(b)["attempts"] and "503" in pair.queue(b)["last-error"], "a delivery has failed")
    pair.live(b).out_of_sync = True  # as when the journal is full
    pair.service._fleet._on_flagged(pair.live(b))
    until(lambda: not pair.queue(b)["last-error"], "it passes its check, and there is no more to say")
    assert (pair.queue(b)["state"], pair.queue(b)["attempts"]) == ("out-of-sync", 0)


@pytest.mark.parametrize("verb", ["resume", "retry", "skip"])
def test_the_verbs_say_that_a_node_is_out_of_sync_and_what_to_do(pair: Cluster, verb: str) -> None:
    b = pair.nodes[1]
    put_out_of_sync(pair, b)
    method, path = {"resume": ("POST", "/resume"), "retry": ("POST", "/1/retry"), "skip": ("DELETE", "/1")}[verb]
    said = info(pair.api(method, queue_of(b) + path))
    assert "out of sync" in said
    assert f"PUT {queue_of(b)} " in said
    assert "has not got as far" not in said


# --- positions


def test_a_step_ahead_says_what_the_node_lacks_now(pair: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    b = pair.nodes[1]
    post_many(pair, 1)
    pair.until_applied(1)
    pair.change(b, maintenance=True)
    post_many(pair, 3)
    said = info(pair.api("PUT", queue_of(b), {"position": 3}))
    assert "lacks updates 2 to 3 and differs from the others" in said
    assert f"POST {queue_of(b)}/clear-diverged" in said
    (line,) = lines(caplog, "is put from position 1 to 3")
    assert "lacks updates 2 to 3" in line
    # And so it is when it comes with other changes
    got = pair.api("PUT", f"/nodes/127.0.0.1/{b.port}", {"maintenance": False, "position": 4})
    assert "lacks update 4 and" in info(got)


def test_a_position_that_changes_nothing_is_not_logged_as_a_move(
    pair: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    b = pair.nodes[1]
    post_many(pair, 2)
    pair.until_applied(2)
    caplog.clear()
    assert "at position 2 already" in info(pair.api("PUT", queue_of(b), {"position": 2}))
    assert not lines(caplog, "position")
    # But what it ends is
    pair.live(b).diverged = pair.live(b).held = True
    assert info(pair.api("PUT", queue_of(b), {"position": 2})) == ""
    (line,) = lines(caplog, "position")
    assert line.endswith("stands at position 2, says 127.0.0.1: it is no longer held or diverged")


def test_a_node_that_is_added_with_its_position_is_never_called_out_of_sync(
    pair: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    post_many(pair, 2)
    with AppNode("c") as c, AppNode("d") as d:
        assert info(pair.change(c, active=True, position=2)) == ""
        assert not lines(caplog, "is out of sync")
        # Nor is one that comes back with it
        pair.change(c, active=False)
        post_many(pair, 1)
        assert info(pair.change(c, active=True, position=2)) == ""
        assert not lines(caplog, "is out of sync")
        # One without is, and is told its own address
        assert f"PUT {queue_of(d)} " in info(pair.change(d, active=True))
        (line,) = lines(caplog, "is out of sync")
        assert f"PUT {queue_of(d)} " in line
        pair.change(c, active=False)
        post_many(pair, 1)
        pair.change(c, active=True)
        assert f"PUT {queue_of(c)} " in lines(caplog, "was inactive, missed 1 update and is out of sync")[0]


def test_a_place_that_is_not_kept_names_what_helps(pair: Cluster) -> None:
    b = pair.nodes[1]
    post_many(pair, 2)
    pair.until_applied(2)
    pair.service._retention.prune()
    got = pair.api("PUT", queue_of(b), {"position": 1})
    assert got.status == 409
    assert "copy the data of another node" in info(got)


@pytest.mark.parametrize(
    ("method", "path"), [("PUT", ""), ("POST", "/resume"), ("POST", "/clear-diverged"), ("DELETE", "/1")]
)
def test_a_verb_on_a_wrong_port_says_that_there_is_no_such_node(pair: Cluster, method: str, path: str) -> None:
    pair.post()
    body = {"position": 1} if method == "PUT" else None
    for host, shown in (("127.0.0.1", "127.0.0.1:1"), ("[::1]", "[::1]:1")):
        got = pair.api(method, f"/queues/{host}/1{path}", body)
        assert (got.status, got.json()["data"]["message"]) == (404, "Record(s) not found")
        assert f"no node {shown}" in info(got)


# --- refusals


def test_a_refusal_says_what_can_be_done_about_it(pair: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    b = pair.nodes[1]
    b.next_up.extend([Reply(422)] * 2)
    pair.post()
    pair.until_applied(1)
    (line,) = lines(caplog, "differs from the others")
    assert "update 1 was given to it 2 times in vain (answers 422" in line
    assert f"POST {queue_of(b)}/1/retry" in line
    assert f"POST {queue_of(b)}/clear-diverged" in line


def test_a_held_node_is_not_said_to_be_read_only(pair: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    b = pair.nodes[1]
    b.answers = lambda seen: Reply(401 if seen.sequence else 200)
    post_many(pair, 3)
    until(lambda: pair.live(b).held, "it is held")
    (line,) = lines(caplog, "is held at")
    assert "gets reads only when no other node can be read" in line


# --- start and stop


def test_a_quiet_stop_speaks_of_no_requests(pair: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    pair.post()
    pair.service.stop(2.0)
    assert not lines(caplog, "in flight")


def test_a_stop_says_how_many_requests_it_waits_for(pair: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    a, gate = pair.nodes[0], Event()
    a.answers = pair.nodes[1].answers = lambda seen: Reply(200, gate=gate)
    reading = pair.background(pair.get)
    until(lambda: a.requests or pair.nodes[1].requests, "the read has arrived")
    stopping = pair.background(pair.service.stop, 10.0)
    until(lambda: lines(caplog, "requests in flight: 1; they have 7 s to end"), "it is said")
    gate.set()
    assert reading.get(timeout=10).status == 200
    stopping.get(timeout=10)


def test_a_start_that_fails_speaks_of_no_requests(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with Cluster(tmp_path, [AppNode("a")]) as cluster:
        cluster.service.stop(2.0)
        Path(cluster.state_dir, "nodes.json").write_text("{")
        with pytest.raises(StartError, match="damaged"):
            cluster.restart()
    assert not lines(caplog, "in flight")


def alarms(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.CRITICAL]


def test_nodes_that_are_lost_beside_a_journal_that_is_not_are_an_alarm(
    pair: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    # Given nodes of the file, and one that was added through the API
    with AppNode("c") as c:
        pair.change(c, active=True)
        pair.post()
        pair.until_applied(1, *pair.nodes, c)
        assert not alarms(caplog), "the first start is none"
        # When their file is gone at a start
        pair.service.stop(2.0)
        os.unlink(Path(pair.state_dir, "nodes.json"))
        pair.service = pair._new_service()
        pair.service.start()
        # Then it is said once, with what follows and what to do
        (alarm,) = alarms(caplog)
        assert str(Path(pair.state_dir, "nodes.json")) in alarm
        assert "at update 1" in alarm
        assert "positions of 3 nodes" in alarm
        assert "from a backup" in alarm
        assert [pair.queue(node)["out-of-sync"] for node in pair.nodes] == [True, True]
        # And the next start is an ordinary one
        pair.restart()
        assert len(alarms(caplog)) == 1


def test_nodes_that_are_lost_beside_an_empty_journal_are_none(pair: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    pair.service.stop(2.0)
    os.unlink(Path(pair.state_dir, "nodes.json"))
    pair.restart()
    assert not alarms(caplog)
    assert [pair.queue(node)["out-of-sync"] for node in pair.nodes] == [False, False]


def test_a_start_as_restored_leaves_no_directory_behind_where_there_was_none(tmp_path: Path) -> None:
    with Cluster(tmp_path, []) as cluster:
        mistyped = tmp_path / "mistyped"
        with pytest.raises(StartError, match="mistyped does not exist"):
            Service(cluster.config, state_dir=str(mistyped), restored=True).start()
        assert not mistyped.exists()


@pytest.mark.parametrize("name", ["journal", "journal/bodies", "journal/spool"])
def test_a_file_where_a_directory_belongs_is_named(tmp_path: Path, name: str) -> None:
    in_the_way = tmp_path / "state" / name
    in_the_way.parent.mkdir(parents=True, mode=0o700)
    in_the_way.write_text("")
    (tmp_path / "state").chmod(0o700)
    refuses_to_start(tmp_path, in_the_way)


@pytest.mark.parametrize("name", ["lock", ".probe", "nodes.json", "journal/journal.db"])
def test_a_directory_where_a_file_belongs_is_named(tmp_path: Path, name: str) -> None:
    in_the_way = tmp_path / "state" / name
    in_the_way.mkdir(parents=True, mode=0o700)
    (tmp_path / "state").chmod(0o700)
    refuses_to_start(tmp_path, in_the_way)


def refuses_to_start(directory: Path, in_the_way: Path) -> None:
    with pytest.raises(StartError) as caught, Cluster(directory, []):
        pass
    assert str(in_the_way) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_verb_is_logged_and_counted_with_who_asked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    nodes = [AppNode("a"), AppNode("b")]
    nodes[1].answers = lambda seen: Reply(422 if seen.body == b"bad" else 200)
    caplog.set_level("INFO")
    with Cluster(tmp_path, nodes, delivery={"attempts": 1}) as cluster:
        b = nodes[1]
        queue = f"/queues/127.0.0.1/{b.port}"
        cluster.post(b"bad")
        cluster.until_applied(1)
        cluster.change(b, maintenance=True)
        for _ in range(2):
            cluster.post()
        cluster.live(b).held = True

        def ask(verb: str, method: str, path: str, body: Any = None) -> None:
            caplog.clear()
            before = cluster.service.counters.value(f"operator.{verb}")
            assert cluster.api(method, path, body).status in (201, 202, 409), verb
            assert re.search(r"(by|says) 127\.0\.0\.1(?!:\d)", caplog.text), verb
            assert cluster.service.counters.value(f"operator.{verb}") == before + 1

        ask("resume", "POST", f"{queue}/resume")
        ask("skip", "DELETE", f"{queue}/2")
        ask("position", "PUT", queue, {"position": 3})
        ask("clear-diverged", "POST", f"{queue}/clear-diverged")
        cluster.change(b, maintenance=False)
        cluster.until_serving(b)
        ask("retry", "POST", f"{queue}/1/retry")
        ask("backup", "POST", "/journal/backup")
