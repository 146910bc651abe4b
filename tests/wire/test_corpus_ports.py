"""Every request of the corpus over sockets, on both ports of a whole service with a journal and nodes.

Each is sent whole, in three pieces, and in single bytes where most depends on them. What is bad is answered with its
status and nothing else, the connection closes, and neither journal nor nodes nor the API's state has noticed. What is
good reaches the nodes byte for byte, as often as it was sent.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from spawn.http11.channel import Channel
from spawn.http11.exchange import CONTINUE
from spawn.service.compose import ADMIN_BODY_BYTES
from tests.support.corpus import RequestCase, name_of, request_cases
from tests.support.inprocess import Cluster, until
from tests.support.rawhttp import RawAnswer, RawClient, let_sockets_be_served
from tests.support.rawnode import RawNode, RawRequest
from tests.support.splits import Pieces, dripped, in_thirds

CASES = request_cases()
REFUSAL_KEYS = {"error", "message"}  # the JSON of an answer of the server's own; the API's have an envelope

WAYS: Mapping[str, Callable[[bytes], Pieces]] = {
    "whole": lambda data: [data],
    "in three pieces": in_thirds,
    "dripped": dripped,
}


@dataclass
class Site:
    """A service and its two nodes."""

    cluster: Cluster
    nodes: tuple[RawNode, RawNode]
    seen: dict[str, int] = field(default_factory=dict)  # how many requests a node had before the case

    @property
    def state(self) -> Any:
        """All that a request could have changed: the journal's head, the nodes, and how far each of them is."""
        api = self.cluster.api
        queues, nodes = api("GET", "/queues").json()["data"], api("GET", "/nodes").json()["data"]
        return queues["head"], queues["results"], nodes["results"]

    def begin(self) -> None:
        self.seen = {node.name: len(node.seen) for node in self.nodes}

    def new(self) -> list[list[RawRequest]]:
        """What each node has been sent since ``begin``."""
        return [node.seen[self.seen[node.name] :] for node in self.nodes]

    def until_settled(self) -> None:
        for node in self.nodes:
            self.cluster.until_applied(self.head, node)

    @property
    def head(self) -> int:
        return self.cluster.service._journal.head

    def counter(self, name: str) -> int:
        return self.cluster.service.counters.value(name)


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Mapping[str, int]], Site]]:
    """One service for all cases that need the same settings."""
    running: dict[str, Site] = {}

    def site_for(limits: Mapping[str, int]) -> Site:
        key = json.dumps(limits)
        if key not in running:
            running[key] = _start(tmp_path_factory.mktemp("site"), limits)
        return running[key]

    yield site_for
    for site in running.values():
        site.cluster.__exit__(None, None, None)


def _start(directory: Path, limits: Mapping[str, int]) -> Site:
    nodes = (RawNode("one"), RawNode("two"))
    return Site(Cluster(directory, nodes, limits=limits, health_check={"seconds": 5.0}).__enter__(), nodes)


@pytest.fixture(autouse=True)
def no_noise(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Whatever a client sends, it is not worth a warning, and never a traceback."""
    yield
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_on_the_proxy_port(case: RequestCase, sites: Callable[[Mapping[str, int]], Site]) -> None:
    site = sites(case.limits)
    before = site.state
    port = site.cluster.port
    for way, split in WAYS.items():
        site.begin()
        dropped, head = site.counter("proxy.dropped-headers"), site.head
        answers = conversation(port, case, split(case.data))
        assert [answer.status for answer in answers] == [200] * case.accepted, way
        bodies = [b"" if method == b"HEAD" else b"well" for method in methods_of(case)]
        assert [answer.body for answer in answers] == bodies, way
        if case.accepted:
            site.until_settled()
            check_arrived(case, site.new(), site.head - head)
        else:
            assert site.new() == [[], []], way
        if case.group == "underscore" and case.accepted:
            assert site.counter("proxy.dropped-headers") - dropped == len(case.absent)
    if not case.accepted:
        assert site.state == before


@pytest.mark.parametrize("case", [c for c in CASES if c.limits.get("body", 0) in (0, ADMIN_BODY_BYTES)], ids=name_of)
def test_on_the_port_of_the_api(case: RequestCase, sites: Callable[[Mapping[str, int]], Site]) -> None:
    """The API takes bodies of 1 MiB, whatever ``limits.body`` is. No good request of the corpus asks it for anything
    that it has, so not one of them may change its state either."""
    site = sites(case.limits)
    site.begin()
    before = site.state
    port = site.cluster.service.api_address[1]
    for way, split in WAYS.items():
        for answer in conversation(port, case, split(case.data)):
            assert 200 <= answer.status < 500, way
            assert not answer.body or set(answer.json) != REFUSAL_KEYS, way
    assert site.new() == [[], []]
    assert site.state == before


def conversation(port: int, case: RequestCase, pieces: Pieces) -> list[RawAnswer]:
    """Send a case's bytes; the answers to its good requests. What else has to be said of its end is checked here."""
    with RawClient(port) as client:
        drip(client, pieces)
        if not case.refusal:
            with suppress(OSError):  # the server may have closed already
                client.end()
        answers = [final_answer(client, method) for method in methods_of(case)]
        for answer in answers:
            assert answer.closes is case.close
        if case.refusal:
            answer = final_answer(client, b"GET")
            assert (answer.status, answer.closes) == (case.refusal, True)
            assert set(answer.json) == REFUSAL_KEYS
            assert answer.json["error"] == case.refusal
        told = CONTINUE if case.expect == "incomplete" and b"100-continue" in case.data else b""
        assert client.rest() in (b"", told), "nothing else is answered"
    return answers


def methods_of(case: RequestCase) -> list[bytes]:
    """Of its good requests, as far as an answer's framing depends on them."""
    return [case.method, b"GET"][: case.accepted]


def drip(client: RawClient, pieces: Pieces) -> None:
    """Send pieces so that each is received on its own; the server may have had enough before the last."""
    client.try_send(pieces[0])
    for piece in pieces[1:]:
        let_sockets_be_served()
        client.try_send(piece)


def final_answer(client: RawClient, method: bytes) -> RawAnswer:
    while (answer := client.answer(method)).status < 200:
        assert answer.status == 100
    return answer


def check_arrived(case: RequestCase, new: list[list[RawRequest]], journalled: int) -> None:
    """Reads went to one node, updates to both, and into the journal: neither one less nor one more."""
    updates = [[request for request in requests if request.is_update] for requests in new]
    reads = [request for requests in new for request in requests if not request.is_update]
    assert [len(each) for each in updates] == [journalled, journalled]
    assert len(reads) + journalled == case.accepted
    arrived = [request for request in [*reads, *updates[0], *updates[1]] if request.line.startswith(first_line(case))]
    assert len(arrived) in (1, 2)
    for request in arrived:
        check_request(case, request)


def first_line(case: RequestCase) -> bytes:
    return b"%b %b HTTP/1.1" % (case.method, case.target)


def check_request(case: RequestCase, request: RawRequest) -> None:
    assert request.line == first_line(case)
    assert request.body == case.body
    host = request.get(b"host") or b""
    assert host == case.host or (not case.host and host.startswith(b"127.0.0.1:"))  # HTTP/1.1 wants one in any case
    names = {name.lower() for name, _ in request.headers}
    assert not names.intersection(case.absent)
    arrived = iter(request.headers)
    assert all(wanted in arrived for wanted in case.headers), request.headers  # in this order


@pytest.mark.patches_source
def test_pieces_arrive_one_by_one(sites: Callable[[Mapping[str, int]], Site], monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the tests above would try one and the same way three times."""
    received: list[bytes] = []
    monkeypatch.setattr("spawn.http11.channel.Channel.receive", spy(received))
    data = b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc"
    pieces = dripped(data)
    with RawClient(sites({}).cluster.port) as client:
        drip(client, pieces)
        assert client.answer().status == 200
    assert received == list(pieces)


def spy(received: list[bytes]) -> Callable[..., bytes]:
    receive = Channel.receive

    def record(channel: Channel, *arguments: Any, **more: Any) -> bytes:
        data = receive(channel, *arguments, **more)
        received.append(data)
        return data

    return record


def test_nobody_is_connected_any_more(sites: Callable[[Mapping[str, int]], Site]) -> None:
    service = sites({}).cluster.service
    until(lambda: not service._proxy_server.connections and not service._api_server.connections, "all closed")
