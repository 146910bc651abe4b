"""Test mode's own nodes: a REST store that makes the same ids everywhere, and that never outlives its parent."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests

from spawnctl.sandbox import BODY_LIMIT_BYTES, Sandbox
from tests.support.api import session
from tests.support.processes import Processes, clean_environment
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[str]]:
    sandbox = Sandbox(2)
    sandbox.start()
    yield [f"http://{host}:{port}" for host, port in sandbox.addresses]
    sandbox.stop()
    sandbox.stop()


@pytest.fixture
def client() -> Iterator[requests.Session]:
    with session() as client:
        yield client


def test_the_same_update_makes_the_same_id_on_every_node(nodes: list[str], client: requests.Session) -> None:
    answers = [client.post(f"{node}/items", data='{"a": 1}', headers={"Idempotency-Key": "k-1"}) for node in nodes]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() == answers[1].json()
    assert answers[0].json()["value"] == {"a": 1}
    again = client.post(f"{nodes[0]}/items", data='{"a": 1}', headers={"Idempotency-Key": "k-1"})
    assert again.json() == answers[0].json(), "a repeat makes nothing new"
    other = client.post(f"{nodes[0]}/items", data='{"a": 1}', headers={"Idempotency-Key": "k-2"})
    assert other.json()["id"] != again.json()["id"]


def test_posts_without_a_key_do_not_collide(nodes: list[str], client: requests.Session) -> None:
    ids = {client.post(f"{nodes[0]}/items", data="x").json()["id"] for _ in range(3)}
    assert len(ids) == 3


def test_items_come_change_and_go(nodes: list[str], client: requests.Session) -> None:
    item = f"{nodes[1]}/items/a%20b"
    assert client.get(item).status_code == 404
    assert client.put(item, data="red").status_code == 201
    assert client.put(item, data="blue").status_code == 200
    assert client.get(item).json() == {"id": "a b", "value": "blue"}
    assert {"id": "a b", "value": "blue"} in client.get(f"{nodes[1]}/items").json()["items"]
    head = client.head(item)
    assert (head.status_code, head.text) == (200, "")
    assert client.delete(item).status_code == 204
    assert client.delete(item).status_code == 404


def test_the_version_is_what_the_health_check_looks_for(nodes: list[str], client: requests.Session) -> None:
    assert client.get(f"{nodes[0]}/info").text.startswith("version:1")


def test_what_a_node_does_not_do(nodes: list[str], client: requests.Session) -> None:
    assert client.get(f"{nodes[0]}/other").status_code == 404
    assert client.delete(f"{nodes[0]}/items").status_code == 404
    assert client.put(f"{nodes[0]}/items/", data="x").status_code == 404
    client.put(f"{nodes[0]}/items/x", data="x")
    assert client.patch(f"{nodes[0]}/items/x", data="x").status_code == 405
    big = client.put(f"{nodes[0]}/items/big", data=b"x" * (BODY_LIMIT_BYTES + 1))
    assert big.status_code == 413


def test_nodes_end_with_a_parent_that_was_killed(processes: Processes) -> None:
    script = (
        "import time; from spawnctl.sandbox import Sandbox\n"
        "sandbox = Sandbox(2); sandbox.start(); print('up', flush=True); time.sleep(60)"
    )
    parent = processes.add("parent", [sys.executable, "-c", script])
    parent.start()
    eventually(lambda: "up" in parent.output(), timeout_s=30, what="the nodes are up")
    children = psutil.Process(parent.pid).children()
    assert len(children) == 2
    parent.kill()
    gone, alive = psutil.wait_procs(children, timeout=10)
    assert (len(gone), alive) == (2, [])


def test_one_that_is_started_by_hand_heeds_no_end_of_file(tmp_path: Path, client: requests.Session) -> None:
    """``nohup … &`` gives it an input that has ended already; nothing can be seen of that but that it goes on."""
    command = [sys.executable, "-m", "spawnctl.sandbox"]
    env = clean_environment(tmp_path)
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=env) as node:
        assert node.stdout
        url = f"http://{node.stdout.readline().strip()}"
        with pytest.raises(subprocess.TimeoutExpired):
            node.wait(0.5)
        assert client.get(f"{url}/info").status_code == 200
        node.terminate()
        node.wait(10)


def test_a_port_that_is_no_port(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "spawnctl.sandbox", "--port=x"]
    env = clean_environment(tmp_path)
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (2, "--port: x is not a port\n")
