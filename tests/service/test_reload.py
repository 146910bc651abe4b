"""A configuration that is read again while the service runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from spawn.config.load import load
from spawn.nodes.node import NodeState
from spawn.service import Service
from tests.support.inprocess import Cluster, fetch, until
from tests.support.node import HEALTH, AppNode
from tests.support.processes import free_port


class FromFile(Cluster):
    """A service with a configuration file."""

    def __init__(self, directory: Path, nodes: list[AppNode]) -> None:
        self.path = directory / "spawn.conf"
        self.ports = free_port(), free_port()
        self.write(nodes)
        super().__init__(directory, nodes)

    def write(self, nodes: list[AppNode], **more: Any) -> None:
        document = {
            "host": "127.0.0.1",
            "port": self.ports[0],
            "api": {"port": self.ports[1]},
            "health-check": {"seconds": 0.1, "url": HEALTH},
            "nodes": [{"host": "127.0.0.1", "port": node.port} for node in nodes],
        }
        self.path.write_text(json.dumps(document | more))

    def _new_service(self) -> Service:
        return Service(load(str(self.path)).config, state_dir=self.state_dir, config_path=str(self.path))

    def reload(self, nodes: list[AppNode], **more: Any) -> None:
        self.write(nodes, **more)
        self.service.reload()


def pair() -> list[AppNode]:
    return [AppNode("a"), AppNode("b")]


def test_what_can_change_changes_at_once(tmp_path: Path) -> None:
    nodes = pair()
    with FromFile(tmp_path, nodes) as cluster:
        assert {cluster.get().body for _ in range(4)} == {b"a"}
        rules = [{"method": "POST", "url": "^/search", "as": "read"}]
        timeouts = {"answer": 0.05}
        cluster.reload(
            nodes, **{"query-mode": {"round-robin": True}, "rules": rules, "timeouts": timeouts, "limits": {"body": 10}}
        )
        assert {cluster.get().body for _ in range(4)} == {b"a", b"b"}
        assert cluster.post(b"q", "/search").sequence == 0
        assert cluster.post(b"0123456789A").status == 413
        assert cluster.service.config.timeouts.answer == 0.05


def test_the_limits_of_a_head_change_on_both_ports(tmp_path: Path) -> None:
    nodes = pair()
    with FromFile(tmp_path, nodes) as cluster:
        ports = [cluster.port, cluster.service.api_address[1]]
        long, many = {"X-Long": "x" * 500}, {f"X-{number}": "" for number in range(10)}
        assert 431 not in [fetch(port, "GET", "/", headers=sent).status for port in ports for sent in (long, many)]
        cluster.reload(nodes, limits={"head": 400, "headers": 8})
        assert {fetch(port, "GET", "/", headers=sent).status for port in ports for sent in (long, many)} == {431}


def test_the_health_check_changes(tmp_path: Path) -> None:
    nodes = pair()
    with FromFile(tmp_path, nodes) as cluster:
        check = {"seconds": 0.05, "url": HEALTH, "regexp": "never this", "fall": 1}
        cluster.reload(nodes, **{"health-check": check})
        cluster.until_state(nodes[0], NodeState.DOWN)
        cluster.reload(nodes)
        cluster.until_serving(*nodes)


def test_the_headers_of_a_node_change_in_checks_and_reads(tmp_path: Path) -> None:
    nodes = pair()
    with FromFile(tmp_path, nodes) as cluster:
        own = {f"127.0.0.1:{nodes[0].port}": {"Authorization": "Basic new"}}
        cluster.reload(nodes, delivery={"set-headers": own})
        until(lambda: nodes[0].last_check and "authorization" in nodes[0].last_check.headers, "it is checked with them")
        cluster.get()
        assert nodes[0].reads[-1].headers["authorization"] == "Basic new"


def test_nodes_of_the_file(tmp_path: Path) -> None:
    nodes = pair()
    with FromFile(tmp_path, nodes) as cluster, AppNode("c") as new:
        cluster.reload([nodes[0], new])
        cluster.until_serving(*nodes, new)  # the one that is no longer named stays; operators delete
        assert cluster.api("DELETE", f"/nodes/127.0.0.1/{new.port}").status < 300
        cluster.reload([nodes[0], new])
        assert cluster.api("GET", f"/nodes/127.0.0.1/{new.port}").status == 404  # what was deleted stays deleted
        cluster.restart()
        assert cluster.api("GET", f"/nodes/127.0.0.1/{new.port}").status == 404
        cluster.reload(nodes[:1])
        cluster.reload([nodes[0], new])
        cluster.until_serving(new)  # named anew


@pytest.mark.parametrize("text", ["", "{", '{"prot": 1}', '{"port": 99999}', "[]", '{"rules": [{"url": "("}]}'])
def test_a_bad_file_changes_nothing(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    nodes = pair()
    with FromFile(tmp_path, nodes) as cluster:
        before = cluster.service.config
        cluster.path.write_text(text)
        cluster.service.reload()
        assert cluster.service.config is before
        assert cluster.get().status == 200
        cluster.path.unlink()
        cluster.service.reload()
        assert cluster.get().status == 200
    assert sum("not taken over" in record.getMessage() for record in caplog.records) == 2


def test_what_needs_a_restart_is_said_and_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    nodes = pair()
    with FromFile(tmp_path, nodes) as cluster:
        port = cluster.port
        cluster.reload(nodes, port=free_port(), journal={"max-bytes": 1_000_000})
        assert cluster.service.proxy_address == ("127.0.0.1", port)
        assert cluster.get().status == 200
    messages = [record.getMessage() for record in caplog.records]
    assert sum("takes effect at the next start" in message for message in messages) == 2


def test_a_reload_under_load_loses_nothing(tmp_path: Path) -> None:
    nodes = pair()
    with FromFile(tmp_path, nodes) as cluster:
        clients = [cluster.background(lambda: [cluster.post().status for _ in range(20)]) for _ in range(5)]
        reloads = 0
        while not all(client.ready() for client in clients):
            cluster.reload(nodes, timeouts={"answer": 5.0 + reloads % 2})
            reloads += 1
        assert reloads > 1
        assert all(set(client.get()) == {200} for client in clients)
        cluster.until_applied(100)
        until(lambda: nodes[0].applied == nodes[1].applied == list(range(1, 101)), "both have everything")
