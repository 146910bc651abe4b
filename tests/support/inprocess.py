"""A whole ``Service`` in the test's process, in front of nodes that share its hub, and a client that does too."""

from __future__ import annotations

import http.client
import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import gevent
import msgspec
from gevent import socket

from spawn.config.load import load
from spawn.config.schema import ApiConfig, Config, HealthCheckConfig, NodeConfig
from spawn.nodes.node import Node, NodeState
from spawn.service import Service
from spawn.state.nodes import NodeStore
from tests.support.node import HEALTH

T = TypeVar("T")


class ClusterNode(Protocol):
    """What a cluster wants of a node; ``node.AppNode`` is the usual one."""

    name: str
    port: int

    def come(self) -> None:
        """Listen."""

    def go_away(self) -> None:
        """Close everything, without failing if there is nothing."""


def until(condition: Callable[[], T], what: str, timeout_s: float = 10.0) -> T:
    """Wait, letting greenlets run, until ``condition`` gives something true, and return that."""
    deadline_s = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline_s, f"not within {timeout_s:g} s: {what}"
        gevent.sleep(0.005)
    return value


@dataclass(frozen=True, slots=True)
class Got:
    """A client's answer; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def sequence(self) -> int:
        return int(self.headers.get("spawn-sequence", 0))

    def json(self) -> Any:
        return json.loads(self.body)


def fetch(
    port: int, method: str, target: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> Got:
    """One request on a connection of its own, over gevent's sockets."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.sock = socket.create_connection(("127.0.0.1", port), timeout=20)
    try:
        connection.request(method, target, body, dict(headers or {}))
        answer = connection.getresponse()
        return Got(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
    finally:
        connection.close()


def settings(**sections: Mapping[str, Any] | Any) -> dict[str, Any]:
    return dict(sections)


def make_config(nodes: Sequence[ClusterNode], changes: Mapping[str, Any]) -> Config:
    """A quick configuration on free ports; ``changes`` are fields of ``Config``, sections as maps of their fields."""
    config = Config(
        host="127.0.0.1",
        port=0,
        api=ApiConfig(port=0),
        nodes=tuple(NodeConfig(host="127.0.0.1", port=node.port) for node in nodes),
        health_check=HealthCheckConfig(seconds=0.1, url=HEALTH, timeout=1.0, fall=2),
    )
    for name, value in changes.items():
        old = getattr(config, name)
        if isinstance(value, Mapping) and isinstance(old, msgspec.Struct):
            value = msgspec.structs.replace(old, **value)
        config = msgspec.structs.replace(config, **{name: value})
    return config


class Cluster:
    """Nodes and a running service; everything a test wants to ask of them."""

    def __init__(self, directory: Path, nodes: Sequence[ClusterNode], *, all_up: bool = True, **changes: Any) -> None:
        self.nodes = nodes
        self.state_dir = str(directory / "state")
        self.config = make_config(nodes, changes)
        self.service = self._new_service()
        self._all_up = all_up
        self._errors = io.StringIO()

    def _new_service(self) -> Service:
        return Service(self.config, state_dir=self.state_dir)

    def __enter__(self) -> Self:
        self._stream_before = gevent.get_hub().exception_stream
        gevent.get_hub().exception_stream = self._errors  # tracebacks of greenlets
        if self._all_up:
            for node in self.nodes:
                node.come()
        try:
            self.service.start()
            if self._all_up:
                self.until_serving(*self.nodes)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
        gevent.get_hub().exception_stream = self._stream_before
        if error is None:
            service = self.service
            until(lambda: not service._client._in_use, "no connection to a node is left")
            until(lambda: not len(service._deadlines), "no connection is watched any more")
            until(lambda: not service._budget.used_bytes, "no body is kept")
            assert not self._errors.getvalue(), f"a greenlet died:\n{self._errors.getvalue()}"

    def close(self) -> None:
        self.service.stop(2.0)
        for node in self.nodes:
            node.go_away()

    def restart(self) -> None:
        """Stop the service and start another one on the same state directory."""
        self.service.stop(2.0)
        self.service = self._new_service()
        self.service.start()

    def crash(self) -> None:
        """``restart`` without what an orderly stop stores about the nodes."""
        self.service.stop(2.0)
        store = NodeStore(self.state_dir)
        stored = store.load()
        assert stored is not None
        nodes = [msgspec.structs.replace(node, settled=False) for node in stored.nodes]
        store.save(msgspec.structs.replace(stored, nodes=nodes))
        self.service = self._new_service()
        self.service.start()

    # -- as a client

    @property
    def port(self) -> int:
        return self.service.proxy_address[1]

    def get(self, target: str = "/", headers: Mapping[str, str] | None = None) -> Got:
        return fetch(self.port, "GET", target, headers=headers)

    def post(self, body: bytes = b"x", target: str = "/items", headers: Mapping[str, str] | None = None) -> Got:
        return fetch(self.port, "POST", target, body, headers)

    def background(self, function: Callable[..., T], *args: Any, **more: Any) -> gevent.Greenlet[..., T]:
        return gevent.spawn(function, *args, **more)

    # -- as an operator

    def api(self, method: str, target: str, body: Any = None) -> Got:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if data is not None else {}
        return fetch(self.service.api_address[1], method, target, data, headers)

    def change(self, node: ClusterNode, **record: Any) -> Got:
        got = self.api("PUT", f"/nodes/127.0.0.1/{node.port}", record)
        assert got.status < 300, (got.status, got.body)
        return got

    def queue(self, node: ClusterNode) -> dict[str, Any]:
        got = self.api("GET", f"/queues/127.0.0.1/{node.port}")
        assert got.status == 200, (got.status, got.body)
        return dict(got.json()["data"]["results"][0])

    def fate(self, sequence: int) -> Any:
        got = self.api("GET", f"/updates/{sequence}")
        assert got.status == 200, (got.status, got.body)
        return got.json()["data"]["results"][0]

    def status_on(self, sequence: int, node: ClusterNode) -> str:
        return next(str(each["status"]) for each in self.fate(sequence)["nodes"] if each["port"] == node.port)

    # -- as somebody who looks inside

    def live(self, node: ClusterNode) -> Node:
        return self.service._registry.find("127.0.0.1", node.port)[0]

    def until_serving(self, *nodes: ClusterNode) -> None:
        for node in nodes:
            until(lambda node=node: self.live(node).state is NodeState.SERVING, f"{node.name} serves")  # type: ignore[misc]

    def until_state(self, node: ClusterNode, state: NodeState) -> None:
        until(lambda: self.live(node).state is state, f"{node.name} is {state.value}")

    def until_applied(self, sequence: int, *nodes: ClusterNode) -> None:
        for node in nodes or self.nodes:
            until(lambda node=node: self.live(node).position >= sequence, f"{node.name} is at {sequence}")  # type: ignore[misc]


def load_config(path: Path) -> Config:
    return load(str(path)).config
