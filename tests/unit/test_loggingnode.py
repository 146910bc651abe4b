"""The node that the end-to-end tests believe: what it logs, and that a kill -9 loses nothing it answered."""

from __future__ import annotations

import hashlib
import http.client
import socket
import threading
from collections.abc import Iterator

import pytest
import requests

from tests.support.api import session
from tests.support.cluster import LoggingNode
from tests.support.history import check
from tests.support.load import Load
from tests.support.loggingnode import pattern
from tests.support.processes import Processes
from tests.support.waiting import eventually


@pytest.fixture
def node(processes: Processes) -> LoggingNode:
    return LoggingNode(processes, "node").start()


@pytest.fixture
def client() -> Iterator[requests.Session]:
    with session() as made:
        yield made


def test_it_stores_and_logs_each_update_once(node: LoggingNode, client: requests.Session) -> None:
    headers = {"Idempotency-Key": "k", "Spawn-Sequence": "7", "Test-Life": "2"}
    assert client.put(f"{node.url}/items/x", data="one", headers=headers).status_code == 201
    assert client.patch(f"{node.url}/items/x", data="two").status_code == 200
    assert client.post(f"{node.url}/items", data="three", headers=headers).status_code == 201
    assert client.get(f"{node.url}/items/x").text == "two"
    assert node.items() == {"x": "two", "item-7": "three"}
    assert client.delete(f"{node.url}/items/x").status_code == 204
    assert client.delete(f"{node.url}/items/x").status_code == 404
    first, *_ = node.records()
    assert (first["method"], first["value"], first["key"], first["sequence"]) == ("PUT", "one", "k", "7")
    assert [record["method"] for record in node.records()] == ["PUT", "PATCH", "POST", "DELETE", "DELETE"]
    assert [applied.life for applied in node.applied()] == [2, 0, 2, 0, 0]
    assert node.applied()[0].started_s <= node.applied()[0].time_s
    eventually(lambda: all(applied.answered for applied in node.applied()), timeout_s=5, what="all answered")


def test_it_is_healthy_and_does_as_it_is_asked(node: LoggingNode, client: requests.Session) -> None:
    assert client.get(f"{node.url}/info").text == "version:1"
    assert client.get(f"{node.url}/broken").status_code == 500
    assert client.put(f"{node.url}/items/x?status=503", data="x").status_code == 503
    assert node.records() == []
    assert client.put(f"{node.url}/items/x?delay=0.05&answer-delay=0.05", data="x").status_code == 201


def test_it_counts_reads_by_what_it_had_applied(node: LoggingNode, client: requests.Session) -> None:
    client.get(f"{node.url}/items/x")
    client.put(f"{node.url}/items/x", data="one")
    for _ in range(2):
        client.get(f"{node.url}/items/x")
    client.get(f"{node.url}/info")
    assert node.reads() == {0: 1, 1: 2}


def test_a_kill_and_a_restart_keep_port_log_and_items(node: LoggingNode) -> None:
    with Load(node.url, total=60, clients=4) as load:
        load.wait_acknowledged(20)
        node.kill()
        node.start()
        load.join()
    assert load.failures, "the kill came too late to be a test"
    applied = [entry.update for entry in node.applied()]
    assert set(load.acknowledged) <= set(applied) <= set(load.attempted)
    before = node.items()
    node.kill()
    node.start()
    assert node.items() == before


def test_a_doubtful_update_is_known_as_such(node: LoggingNode) -> None:
    def ask() -> None:
        with session() as client, pytest.raises(requests.RequestException):
            client.put(f"{node.url}/items/x?answer-delay=30", data="x", timeout=20)

    asking = threading.Thread(target=ask)
    asking.start()
    eventually(node.applied, timeout_s=5, what="the update is applied")
    node.kill()
    asking.join(10)
    node.start()
    (doubtful,) = node.applied()
    assert not doubtful.answered
    assert doubtful.run == 1


def test_a_body_cut_short_changes_nothing(node: LoggingNode, client: requests.Session) -> None:
    for head in (b"Content-Length: 10\r\n\r\nshort", b"Transfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n"):
        with socket.create_connection(("127.0.0.1", node.port), timeout=5) as raw:
            raw.sendall(b"PUT /items/x HTTP/1.1\r\nHost: x\r\n" + head)
            raw.shutdown(socket.SHUT_WR)
            assert raw.recv(100) == b""
    assert node.records() == []
    assert client.get(f"{node.url}/items/x").status_code == 404


@pytest.mark.parametrize("chunked", [False, True])
def test_large_bodies_are_hashed_both_ways(node: LoggingNode, chunked: bool) -> None:
    size = 3_000_001
    digest = hashlib.sha256(b"".join(pattern(size))).hexdigest()
    connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=10)
    headers = {} if chunked else {"Content-Length": str(size)}
    connection.request("PUT", "/big/x", body=pattern(size), headers=headers, encode_chunked=chunked)
    assert connection.getresponse().read()
    connection.request("GET", f"/big/x?size={size}")
    got = connection.getresponse().read()
    connection.close()
    (record,) = node.records()
    assert (record["size"], record["sha256"], record["value"]) == (size, digest, None)
    assert record["framing"] == ("chunked" if chunked else "length")
    assert hashlib.sha256(got).hexdigest() == digest


def test_a_load_deletes_what_it_has_made_and_nothing_twice(node: LoggingNode) -> None:
    with Load(node.url, total=200, clients=4, deletes=True) as load:
        load.join()
    assert load.failures == []
    assert load.statuses[204] >= 20
    assert 404 not in load.statuses
    deleted = [name for name in load.attempted if name.startswith("DELETE")]
    assert len(deleted) == len(set(deleted)) == load.statuses[204]


def test_what_went_straight_to_a_node_is_no_history_of_spawn(node: LoggingNode) -> None:
    """The harness end to end without Spawn: the checker sees that sequences and keys are missing."""
    with Load(node.url, total=10, clients=2) as load:
        load.join()
    faults = check({"node": node.applied()}, load.attempted, load.acknowledged)
    assert len(faults) == 20 - len(load.keys), "some came with keys of their own"
    assert all("came without" in fault for fault in faults)
