"""Signals: SIGHUP reads the file again, SIGTERM and SIGINT end the service properly, and a restart goes on."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable

import pytest
import requests

from tests.support.api import session
from tests.support.cluster import Cluster, LoggingNode, Spawn
from tests.support.history import check
from tests.support.load import Load
from tests.support.processes import Processes
from tests.support.waiting import eventually

QUICK_CHECK = {"seconds": 1, "url": "/info", "regexp": "^version:[0-9]+$", "fall": 1}


def ask(spawn: Spawn, method: str, target: str, body: bytes | None = None) -> requests.Response:
    with session() as client:
        return client.request(method, spawn.url + target, data=body, timeout=30)


class Asking:
    """A request in a thread of its own, so that a signal can be sent while it waits."""

    def __init__(self, spawn: Spawn, method: str, target: str, body: bytes | None = None) -> None:
        self._answer: requests.Response | None = None
        self._error: requests.RequestException | None = None
        self._thread = threading.Thread(target=self._ask, args=(spawn, method, target, body), daemon=True)
        self._thread.start()

    def _ask(self, spawn: Spawn, method: str, target: str, body: bytes | None) -> None:
        try:
            self._answer = ask(spawn, method, target, body)
        except requests.RequestException as error:
            self._error = error

    def result(self) -> requests.Response | requests.RequestException:
        self._thread.join(35)
        found = self._answer if self._answer is not None else self._error
        assert found is not None, "the request did not end"
        return found

    def answer(self) -> requests.Response:
        found = self.result()
        assert isinstance(found, requests.Response), f"cut off: {found}"
        return found


def refused(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return False
    except ConnectionRefusedError:
        return True


def wait_busy(made: Cluster, count: int) -> None:
    eventually(lambda: sum(node.busy() for node in made.nodes) == count, timeout_s=10, what="the request is under way")


def test_a_reload_brings_the_new_nodes_of_the_file(cluster: Callable[..., Cluster], processes: Processes) -> None:
    made = cluster((), ())
    late = LoggingNode(processes, "late").start()
    nodes = [*made.spawn.config["nodes"], {"host": "127.0.0.1", "port": late.port}]
    made.spawn.write_config({"nodes": nodes})
    made.spawn.hang_up()
    eventually(lambda: len(made.spawn.api.nodes()) == 3, timeout_s=10, what="the new node")
    made.spawn.api.wait_settled()
    assert ask(made.spawn, "PUT", "/items/x", b"x").status_code == 201
    made.spawn.api.wait_settled()
    assert [node.items() for node in (*made.nodes, late)] == [{"x": "x"}] * 3


def test_a_reload_does_not_bring_back_what_an_operator_deleted(cluster: Callable[..., Cluster]) -> None:
    made = cluster((), ())
    gone, kept = made.nodes
    made.spawn.api.data("DELETE", f"/nodes/127.0.0.1/{gone.port}")
    made.spawn.write_config({"limits": {"body": 10}})
    made.spawn.hang_up()
    eventually(
        lambda: ask(made.spawn, "PUT", "/items/x", b"x" * 100).status_code == 413, timeout_s=10, what="the new limit"
    )
    assert [node["port"] for node in made.spawn.api.nodes()] == [kept.port]
    assert made.spawn.stop() == 0
    made.spawn.start()
    assert [node["port"] for node in made.spawn.api.nodes()] == [kept.port]


def test_a_reload_changes_the_health_check(cluster: Callable[..., Cluster]) -> None:
    made = cluster((), (), settings={"health-check": QUICK_CHECK})
    made.spawn.write_config({"health-check": QUICK_CHECK | {"url": "/broken"}})
    made.spawn.hang_up()
    for node in made.nodes:
        made.spawn.api.wait_state(node.port, "down")
    made.spawn.write_config({"health-check": QUICK_CHECK})
    made.spawn.hang_up()
    made.spawn.api.wait_settled()


def test_a_reload_changes_the_rules(cluster: Callable[..., Cluster]) -> None:
    made = cluster((), ())
    head = made.spawn.api.head()
    made.spawn.write_config({"rules": [{"method": "POST", "url": "^/search", "as": "read"}]})
    made.spawn.hang_up()

    def is_read() -> bool:
        return "Spawn-Sequence" not in ask(made.spawn, "POST", "/search?status=200", b"q").headers

    eventually(is_read, timeout_s=10, what="POST /search is a read")
    after = made.spawn.api.head()
    assert after >= head
    assert is_read()
    assert made.spawn.api.head() == after


@pytest.mark.parametrize(
    ("text", "named"),
    [('{"nodse": []}', "nodse"), ('{"port": ', "spawn.conf"), ('{"health-check": {"regexp": "("}}', "regexp")],
    ids=["unknown key", "not JSON", "bad expression"],
)
def test_a_bad_file_changes_nothing_and_is_logged(cluster: Callable[..., Cluster], text: str, named: str) -> None:
    made = cluster((), ())
    before = made.spawn.api.nodes()
    seen = len(made.spawn.process.output())
    made.spawn.config_path.write_text(text, "utf-8")
    made.spawn.hang_up()
    made.spawn.wait_output(lambda output: named in output[seen:], what=f"a log line that names {named}")
    assert made.spawn.process.alive
    assert made.spawn.api.nodes() == before
    assert ask(made.spawn, "PUT", "/items/x", b"x").status_code == 201
    # And a good file is taken again after it
    made.spawn.write_config({"limits": {"body": 10}})
    made.spawn.hang_up()
    eventually(
        lambda: ask(made.spawn, "PUT", "/items/x", b"x" * 100).status_code == 413, timeout_s=10, what="the new limit"
    )


def test_a_file_that_vanished_changes_nothing(cluster: Callable[..., Cluster]) -> None:
    made = cluster((), ())
    before = made.spawn.api.nodes()
    seen = len(made.spawn.process.output())
    made.spawn.config_path.unlink()
    made.spawn.hang_up()
    made.spawn.wait_output(lambda output: "spawn.conf" in output[seen:], what="a log line that names the file")
    assert made.spawn.api.nodes() == before
    assert ask(made.spawn, "PUT", "/items/x", b"x").status_code == 201


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_lets_requests_in_flight_end(cluster: Callable[..., Cluster], how: signal.Signals) -> None:
    # Given an idle connection, and a read and an update that a node is busy with
    made = cluster((), ())
    ask(made.spawn, "PUT", "/items/x", b"old")
    with socket.create_connection(("127.0.0.1", made.spawn.port), timeout=5):
        reading = Asking(made.spawn, "GET", "/items/x?delay=3")
        wait_busy(made, 1)
        updating = Asking(made.spawn, "PUT", "/items/y?delay=3", b"new")
        wait_busy(made, 3)  # the read on one node, the update on both

        # When it is told to stop
        made.spawn.process.send(how)

        # Then it takes nothing new, and both get their answers
        eventually(lambda: refused(made.spawn.port), timeout_s=5, what="the proxy port is closed")
        assert made.spawn.process.alive
        assert reading.answer().text == "old"
        assert updating.answer().status_code == 201
        assert made.spawn.process.wait(30) == 0
    made.spawn.start()
    made.spawn.api.wait_settled()
    assert [len(node.records()) for node in made.nodes] == [2, 2], "a clean stop leaves nothing in doubt"


def test_a_stop_takes_no_longer_than_it_may(cluster: Callable[..., Cluster]) -> None:
    made = cluster((), (), settings={"timeouts": {"shutdown": 2}})
    reading = Asking(made.spawn, "GET", "/items/x?delay=25")
    wait_busy(made, 1)
    made.spawn.process.send(signal.SIGTERM)
    assert made.spawn.process.wait(8) == 0
    reading.result()  # cut off or answered, but not left hanging


def test_a_second_signal_does_no_harm(cluster: Callable[..., Cluster]) -> None:
    made = cluster((), ())
    reading = Asking(made.spawn, "GET", "/items/x?delay=2")
    wait_busy(made, 1)
    made.spawn.process.send(signal.SIGTERM)
    eventually(lambda: refused(made.spawn.port), timeout_s=5, what="the proxy port is closed")
    made.spawn.process.send(signal.SIGTERM)
    reading.result()
    assert made.spawn.process.wait(30) == 0


def test_a_clean_stop_under_load_loses_and_repeats_nothing(cluster: Callable[..., Cluster]) -> None:
    made = cluster((), ("--answer-delay", "0.003"), ())
    with Load(made.spawn.url, total=300, stubborn=True) as load:
        load.wait_acknowledged(120)
        assert made.spawn.stop() == 0
        made.spawn.start()
        load.join()
    made.spawn.api.wait_settled()
    logs = made.logs()
    assert check(logs, load.attempted, load.acknowledged) == []
    assert {len(log) for log in logs.values()} == {made.spawn.api.head()}, "nothing was delivered twice"
