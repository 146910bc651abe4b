"""Every answer of the corpus from a node behind a whole service: whole, byte by byte and in three pieces.

What passes reaches the client as it was; what does not is a 502, or a cut where the head has gone already. Never does
a byte of one answer become part of another one. Some are the answers to an update, too.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
from gevent.event import Event

from spawn.http11.connection import Connection
from tests.support.corpus import AnswerCase, answer_cases, name_of
from tests.support.inprocess import Cluster
from tests.support.rawhttp import WAIT_S, RawAnswer, RawClient, let_sockets_be_served
from tests.support.rawnode import RawNode, answer_well
from tests.support.scriptednode import Peer
from tests.support.splits import Pieces, in_thirds, one_by_one

CASES = answer_cases()

WAYS: Mapping[str, Callable[[bytes], Pieces]] = {
    "whole": lambda data: [data],
    "in three pieces": in_thirds,
    "byte by byte": lambda data: one_by_one(data, 3_000),
}


@dataclass
class Site:
    cluster: Cluster
    node: RawNode

    def ask(self, method: bytes) -> RawClient:
        """A connection on which a request has been sent."""
        client = RawClient(self.cluster.port)
        length = b"Content-Length: 2\r\n" if method == b"POST" else b""
        return client.send(
            method + b" /x HTTP/1.1\r\nHost: localhost\r\n" + length + b"\r\n" + b"ab"[: 2 * bool(length)]
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    node = RawNode()
    with Cluster(tmp_path_factory.mktemp("site"), [node], health_check={"seconds": 5.0}) as cluster:
        yield Site(cluster, node)


@pytest.fixture(autouse=True)
def node_is_well_again(site: Site) -> Iterator[None]:
    site.node.behave = answer_well
    site.node.seen.clear()
    yield
    site.node.behave = answer_well


class Sending:
    """What a node does that gives this answer. ``done`` once its last byte is on its way, or nobody wants it."""

    def __init__(self, case: AnswerCase, pieces: Pieces) -> None:
        self._case = case
        self._pieces = pieces
        self.done = Event()

    def __call__(self, peer: Peer) -> None:
        try:
            with suppress(ConnectionError):  # Spawn may have had enough
                for piece in self._pieces:
                    peer.send(piece)
                    let_sockets_be_served()  # Spawn's too, which is on the same hub
        finally:
            self.done.set()
        if self._case.then != "wait":
            peer.reset() if self._case.then == "reset" else peer.close()
            raise EOFError


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_to_a_read(case: AnswerCase, site: Site) -> None:
    for split in WAYS.values():
        site.node.behave = sending = Sending(case, split(case.data))
        with site.ask(case.method) as client:
            if case.expect == "cut":
                check_cut(case, client)
            else:
                check_answer(case, client.answer(case.method))
                assert sending.done.wait(WAIT_S)  # what comes too late cannot be told from what is asked for next
                site.node.behave = answer_well
                check_next(case, client, site.node)
        site.node.seen.clear()


def check_answer(case: AnswerCase, answer: RawAnswer) -> None:
    if case.expect == "502":
        assert answer.status == 502
        assert case.method == b"HEAD" or set(answer.json) == {"error", "message"}
    else:
        check_passed(case, answer)


def check_passed(case: AnswerCase, answer: RawAnswer) -> None:
    assert (answer.status, answer.reason, answer.body) == (case.status, case.reason, case.body)
    arrived = iter(answer.headers)
    assert all(wanted in arrived for wanted in case.headers), answer.headers  # in this order
    names = [name.lower() for name, _ in answer.headers]
    assert not set(names).intersection(case.absent)
    assert names.count(b"date") == 1
    framing = names.count(b"content-length") + names.count(b"transfer-encoding")
    assert framing == 1 or (not framing and answer.status in (204, 304)) or case.method == b"HEAD"


def check_next(case: AnswerCase, client: RawClient, node: RawNode) -> None:
    """The client's connection is as good as before, and the next answer is the next request's."""
    answer = client.send(b"GET /next HTTP/1.1\r\nHost: localhost\r\n\r\n").answer()
    assert (answer.status, answer.body) == (200, b"well")
    first, second = node.seen[-2:]
    if case.reused is not None:
        assert (first.peer is second.peer) is case.reused


def check_cut(case: AnswerCase, client: RawClient) -> None:
    """A head, as much of the body as was sound, and no clean end."""
    raw = client.rest()
    head, end, body = raw.partition(b"\r\n\r\n")
    assert end, raw
    assert head.startswith(b"HTTP/1.1 %d %b\r\n" % (case.status, case.reason))
    if b"\r\nTransfer-Encoding: chunked" in head:
        assert not body.endswith(b"0\r\n\r\n"), "a clean end"
        body = dechunked(body)
    assert case.body.startswith(body)


def dechunked(data: bytes) -> bytes:
    parts = []
    while data:
        size, _, data = data.partition(b"\r\n")
        parts.append(data[: int(size, 16)])
        data = data[int(size, 16) + 2 :]
    return b"".join(parts)


@pytest.mark.parametrize("case", [case for case in CASES if case.update], ids=name_of)
def test_to_an_update(case: AnswerCase, site: Site) -> None:
    for split in (WAYS["whole"], WAYS["byte by byte"]):
        attempts = itertools.chain([Sending(case, split(case.data))], itertools.repeat(answer_well))
        site.node.behave = lambda peer, attempts=attempts: next(attempts)(peer)  # type: ignore[misc]
        with site.ask(b"POST") as client:
            answer = client.answer()
            site.cluster.until_applied(int(answer.get(b"spawn-sequence") or 0))
        if case.update == "pass":
            check_passed(case, answer)
        elif case.update == "again":
            assert (answer.status, answer.body) == (200, b"well")
        else:
            assert answer.status == 502
            assert "cut short" in answer.json["message"]
        assert len(site.node.seen) == (2 if case.update == "again" else 1)
        assert len({request.get(b"idempotency-key") for request in site.node.seen}) == 1
        site.node.seen.clear()


def test_a_body_until_close_that_is_cut_is_reset_for_a_client_of_1_0(site: Site) -> None:
    """Whose only end of a body is the end of the connection, so that must not look clean."""
    case = next(case for case in CASES if case.name == "body/until-close-reset")
    site.node.behave = Sending(case, [case.data])
    with RawClient(site.cluster.port) as client:
        client.send(b"GET /x HTTP/1.0\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            while client.sock.recv(65_536):
                pass


@pytest.mark.patches_source
def test_pieces_arrive_one_by_one(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the tests above would try one and the same way three times."""
    received: defaultdict[Connection, list[bytes]] = defaultdict(list)  # a health check may come between
    receive = Connection.receive

    def record(connection: Connection, *arguments: Any, **more: Any) -> bytes:
        data = receive(connection, *arguments, **more)
        received[connection].append(data)
        return data

    monkeypatch.setattr(Connection, "receive", record)
    case = next(case for case in CASES if case.name == "framing/chunked-trailers")
    site.node.behave = Sending(case, one_by_one(case.data))
    with site.ask(b"GET") as client:
        assert client.answer().body == case.body
    assert one_by_one(case.data) in received.values()
