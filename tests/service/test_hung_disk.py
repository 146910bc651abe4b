"""The disk hangs: who waits for it is told in time, and everything goes on where it was when the disk does.

What hangs is the journal's own thread, in the middle of a real read or commit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from spawn.delivery import report, worker
from spawn.journal import sqlite
from spawn.journal.base import Outcome
from spawn.nodes.node import NodeState
from spawn.state import nodes as nodes_file
from tests.support.inprocess import Cluster, until
from tests.support.journals import replace_calls
from tests.support.node import AppNode


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "LOOK_S", 0.3)
    monkeypatch.setattr(report, "AGE_S", 0.2)
    monkeypatch.setattr(nodes_file, "SAVE_S", 0.3)
    monkeypatch.setattr(worker, "FAULT_PAUSE_S", 0.05)


@contextmanager
def hanging(cluster: Cluster, call: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The database's ``call`` does not return before the end; gives what is set once it hangs."""
    database: Any = cluster.service._journal._database  # type: ignore[attr-defined]
    real: Callable[..., Any] = getattr(database, call)
    hangs, release = threading.Event(), threading.Event()

    def slow(*args: Any) -> Any:
        hangs.set()
        release.wait(20)
        return real(*args)

    with monkeypatch.context() as patched:
        replace_calls(patched, cluster.service._journal, **{call: slow})
        try:
            yield hangs
        finally:
            release.set()


def test_a_backlog_that_cannot_be_read_now_is_delivered_when_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    nodes = [AppNode("a"), AppNode("b")]
    with Cluster(tmp_path, nodes) as cluster:
        b = nodes[1]
        cluster.change(b, maintenance=True)
        for _ in range(3):
            assert cluster.post().status == 200
        # If the disk hangs while the backlog is read
        with hanging(cluster, "page", monkeypatch) as hangs:
            cluster.change(b, maintenance=False)
            until(hangs.is_set, "the backlog is being read")
            until(lambda: "deliveries wait" in caplog.text, "the operator is told")
            # Then whoever asks for what is on it is told as well
            got = cluster.api("GET", "/updates/1")
            assert (got.status, "has not finished anything" in got.body.decode()) == (503, True)
            # And the queue is shown all the same
            assert cluster.queue(b)["backlog"] == 3
            assert b.updates == []
        # When it goes on, then the node gets all, once and in order, and nothing else is wrong with it
        cluster.until_applied(3)
        assert [seen.sequence for seen in b.updates] == [1, 2, 3]
        cluster.until_state(b, NodeState.SERVING)
        assert not cluster.queue(b)["diverged"]
    assert caplog.text.count("deliveries wait") == 1


def test_a_position_that_is_not_durable_yet_is_said_to_be_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [AppNode("a"), AppNode("b")]
    monkeypatch.setattr("spawn.delivery.changes.FLUSH_S", 0.3)
    with Cluster(tmp_path, nodes) as cluster:
        b = nodes[1]
        cluster.change(b, maintenance=True)
        for _ in range(3):
            assert cluster.post().status == 200
        with hanging(cluster, "commit", monkeypatch):
            # If an operator moves a node meanwhile, then that ends, and says what a crash would do
            got = cluster.api("PUT", f"/queues/127.0.0.1/{b.port}", {"position": 2})
            assert (got.status, "a crash would forget it" in got.body.decode()) == (503, True)
        until(lambda: cluster.service._journal.durable_position(cluster.live(b).id) == 2, "it is durable after all")
        assert cluster.queue(b)["position"] == 2


def test_what_was_declared_and_not_answered_stays_in_doubt_when_the_disk_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    nodes = [AppNode("a"), AppNode("b")]
    settings = {"delivery": {"ambiguous": "hold"}}
    with Cluster(tmp_path, nodes, **settings) as cluster:
        b = nodes[1]
        cluster.post()
        cluster.until_applied(1)
        # Given a declaration of update 2 that an earlier life of Spawn has left behind
        cluster.change(b, maintenance=True)
        cluster.post()
        node = cluster.live(b)
        cluster.service._journal.record(node.id, 2, 2, Outcome.UNKNOWN)
        # If the disk hangs when it is looked up
        with hanging(cluster, "fate", monkeypatch):
            cluster.change(b, maintenance=False)
            until(lambda: "deliveries wait" in caplog.text, "the worker waits")
        # Then it is held all the same
        until(lambda: node.held, "b is held")
        assert [seen.sequence for seen in b.updates] == [1]


def test_nodes_that_cannot_be_stored_keep_neither_operators_nor_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    nodes = [AppNode("a"), AppNode("b")]
    release, real = threading.Event(), nodes_file._replace

    def slow(path: str, data: bytes) -> None:
        release.wait(20)
        real(path, data)

    with Cluster(tmp_path, nodes) as cluster, monkeypatch.context() as patched:
        cluster.post()
        cluster.until_applied(1)
        patched.setattr(nodes_file, "_replace", slow)
        try:
            got = cluster.api("PUT", f"/nodes/127.0.0.1/{nodes[1].port}", {"priority": 7})
            assert (got.status, "has not finished" in got.body.decode()) == (503, True)
            cluster.service.stop(2.0)
        finally:
            release.set()
    assert "the states of the nodes cannot be stored" in caplog.text


def test_who_asks_while_spawn_stops_meets_no_fault(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    nodes = [AppNode("a"), AppNode("b")]
    with Cluster(tmp_path, nodes) as cluster:
        b = nodes[1]
        cluster.change(b, maintenance=True)
        cluster.post()
        # If the journal has ended between two steps of an answer to an operator
        cluster.service._journal._database.close()  # type: ignore[attr-defined]
        got = cluster.api("GET", "/updates/1")
        assert (got.status, "not running" in got.body.decode()) == (503, True)
    assert "a fault of Spawn" not in caplog.text
