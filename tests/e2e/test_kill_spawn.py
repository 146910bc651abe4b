"""kill -9 of Spawn itself in the middle of everything: what was acknowledged is on every node all the same."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests

from tests.support.api import session
from tests.support.badnodes import BadNodes
from tests.support.cluster import Cluster, LoggingNode, Spawn
from tests.support.history import WINDOW, Tolerance, check
from tests.support.injection import need_tracing, slow
from tests.support.load import Load
from tests.support.processes import Processes
from tests.support.waiting import eventually

TOTAL = 600
KILLS = 2
LONG_S = 120.0  # longer than a test


def test_nothing_acknowledged_is_lost_when_spawn_is_killed(cluster: Callable[..., Cluster]) -> None:
    made = cluster((), ("--answer-delay", "0.003"), ())
    steady, killed, rested = made.nodes
    spawn = made.spawn

    # When Spawn is killed while one node is down and another in maintenance, and again while both catch up
    with Load(spawn.url, total=TOTAL, stubborn=True) as load:
        load.wait_acknowledged(100)
        killed.kill()
        load.wait_acknowledged(150)
        spawn.api.maintenance(rested.port, on=True)
        load.wait_acknowledged(300)
        spawn.kill()
        spawn.start()
        assert spawn.api.queue(rested.port)["state"] == "maintenance", "what the API changed survives"
        load.wait_acknowledged(400)
        killed.start()
        spawn.api.maintenance(rested.port, on=False)
        load.wait_acknowledged(450)
        spawn.kill()
        spawn.start()
        load.join()
    spawn.api.wait_settled()

    # Then nothing acknowledged is missing anywhere, the order is one, and repeats are within the window
    assert load.failures, "the kills came too late to be a test"
    logs = made.logs()
    assert check(logs, load.attempted, load.acknowledged, Tolerance(spawn_kills=KILLS)) == []
    repeats = {name: len(log) - len({applied.update for applied in log}) for name, log in logs.items()}
    assert max(repeats.values()) <= KILLS * WINDOW + 1
    assert steady.items() == killed.items() == rested.items()
    assert not any(row["diverged"] or row["refused"] or row["out-of-sync"] for row in spawn.api.queues())


def test_a_backlog_survives_the_kill_of_spawn(cluster: Callable[..., Cluster]) -> None:
    # Given two hundred updates that one of two nodes has missed
    made = cluster((), ())
    steady, killed = made.nodes
    killed.kill()
    with Load(made.spawn.url, total=200) as load:
        load.join()
    assert load.failures == []

    # When Spawn is killed and started before that node returns
    made.spawn.kill()
    made.spawn.start()
    assert made.spawn.api.queue(killed.port)["backlog"] == 200
    killed.start()
    made.spawn.api.wait_settled()

    # Then it gets all of them
    logs = made.logs()
    assert check(logs, load.attempted, load.acknowledged, Tolerance(spawn_kills=1)) == []
    assert len(logs[killed.name]) == 200, "it was not there before the kill, so nothing was in doubt on it"
    assert steady.items() == killed.items()


def test_an_update_accepted_without_any_node_survives_the_kill_of_spawn(cluster: Callable[..., Cluster]) -> None:
    # Given updates that were accepted (202) while no node was there
    made = cluster((), ())
    for node in made.nodes:
        node.kill()
        made.spawn.api.wait_state(node.port, "down")
    with Load(made.spawn.url, total=20, clients=4) as load:
        load.join()
    assert load.statuses == {202: 20}

    # When Spawn is killed before a node returns
    made.spawn.kill()
    for node in made.nodes:
        node.start()
    made.spawn.start()
    made.spawn.api.wait_settled()

    # Then all nodes have them, in one order
    assert check(made.logs(), load.attempted, load.acknowledged) == []


def write_ahead_log(spawn: Spawn) -> Path:
    return spawn.state_dir / "journal" / "journal.db-wal"


def deleted(node: LoggingNode) -> list[int | None]:
    return [applied.sequence for applied in node.applied() if applied.update.startswith("DELETE")]


def test_what_was_delivered_and_not_yet_recorded_is_delivered_again_and_is_no_disagreement(
    cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    need_tracing(tmp_path)
    # Given a Spawn that was last stopped in order, and a node that sleeps while more items are deleted than the window
    # has
    made = cluster((), ())
    steady, slept = made.nodes
    spawn, count = made.spawn, WINDOW + 30
    with session() as client:
        for number in range(count):
            assert client.put(f"{spawn.url}/items/k{number}", data="x", timeout=20).status_code == 201
        spawn.api.wait_settled()
        assert spawn.stop() == 0
        spawn.start()
        spawn.api.wait_settled()
        slept.process.pause()
        for number in range(count):
            assert client.delete(f"{spawn.url}/items/k{number}", timeout=20).status_code == 204

    # When it wakes up while the journal's disk does not get on
    with slow(spawn.process.pid, "pwrite64", LONG_S, tmp_path, write_ahead_log(spawn)):
        slept.process.resume()
        eventually(lambda: len(deleted(slept)) >= WINDOW, timeout_s=20, what="it gets a window of them")
        threading.Event().wait(0.5)
        # Then it gets no more than Spawn may forget
        assert len(deleted(slept)) == WINDOW
        spawn.process.send(signal.SIGKILL)
    spawn.kill()

    # When Spawn was killed and has forgotten all that, then these are sent again and answered 404, …
    spawn.start()
    spawn.api.wait_settled()
    first = count + 1
    assert deleted(slept) == [*range(first, first + WINDOW), *range(first, first + count)]
    # … which says nothing against the node
    for row in spawn.api.queues():
        assert [flag for flag in ("diverged", "refused", "held") if row[flag]] == []
    assert "unlike the reference answer" not in spawn.process.output()
    assert steady.items() == slept.items() == {}


def test_a_failure_that_a_client_was_told_outlives_the_kill_of_spawn(processes: Processes, tmp_path: Path) -> None:
    need_tracing(tmp_path)
    # Given an update that all nodes have in hand, and a journal whose disk is slow from now on
    nodes = BadNodes(processes, ["a", "b"]).start()
    spawn = Spawn(processes, [node.port for node in nodes.nodes]).start()
    spawn.api.wait_settled(20)
    for node in nodes.nodes:
        node.behave(update="late-500")

    def put() -> requests.Response:
        with session() as client:
            return client.put(f"{spawn.url}/items/x", data="x", timeout=30)

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(put)
        eventually(lambda: all(node.seen() for node in nodes.nodes), timeout_s=10, what="both have it")
        with slow(spawn.process.pid, "pwrite64", 0.4, tmp_path, write_ahead_log(spawn)):
            # When they fail, its client is told so, and Spawn is killed that very moment
            for node in nodes.nodes:
                node.behave(update="error-500")
            answer = asked.result(30)
            spawn.process.send(signal.SIGKILL)
    spawn.kill()
    assert (answer.status_code, answer.headers["Spawn-Sequence"]) == (500, "1")

    # Then nobody gets it afterwards
    for node in nodes.nodes:
        node.behave()
    spawn.start()
    spawn.api.wait_settled()
    assert [node.applied() for node in nodes.nodes] == [[], []]
    assert [len(node.seen()) for node in nodes.nodes] == [1, 1]
