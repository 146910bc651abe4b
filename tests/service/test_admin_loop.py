"""The API cannot be driven through the proxy, even when a node leads to it by a way that nobody can recognise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gevent
from gevent import socket
from gevent.server import StreamServer

from tests.support.inprocess import Cluster, fetch, until


def relay(target: tuple[str, int]) -> StreamServer:
    """Pass everything on to ``target``: for Spawn another address, as a name in DNS would be."""

    def pump(source: socket.socket, sink: socket.socket) -> None:
        while data := source.recv(65_536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)

    def handle(client: socket.socket, _address: object) -> None:
        with socket.create_connection(target) as server:
            gevent.joinall([gevent.spawn(pump, client, server), gevent.spawn(pump, server, client)])

    return StreamServer(("127.0.0.1", 0), handle)


@contextmanager
def api_as_a_node(tmp_path: Path) -> Iterator[Cluster]:
    checks = {"url": "/health", "seconds": 0.1}
    with Cluster(tmp_path, [], health_check=checks) as cluster:
        door = relay(cluster.service.api_address)
        door.start()
        try:
            made = cluster.api("PUT", f"/nodes/127.0.0.1/{door.server_port}", {"active": True, "priority": 7})
            assert made.status == 201
            until(lambda: cluster.api("GET", "/queues").json()["data"]["results"][0]["state"] == "serving", "it serves")
            yield cluster
        finally:
            door.stop(2.0)


def test_the_api_cannot_be_read_through_the_proxy(tmp_path: Path) -> None:
    with api_as_a_node(tmp_path) as cluster:
        got = cluster.get("/nodes", {"Host": "localhost"})
        assert got.status >= 500
        assert b'"priority":7' not in got.body


def test_the_api_cannot_be_changed_through_the_proxy(tmp_path: Path) -> None:
    with api_as_a_node(tmp_path) as cluster:
        before = cluster.api("GET", "/nodes").json()["data"]["results"]
        got = fetch(cluster.port, "PUT", "/nodes/127.0.0.1/9", b"{}", {"Host": "localhost"})
        assert got.status >= 500
        assert cluster.api("GET", "/nodes").json()["data"]["results"] == before
