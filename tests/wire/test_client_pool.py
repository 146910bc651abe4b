"""Kept connections: used again when that is safe, checked before, bounded, and never mixed up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from socket import SHUT_WR

import gevent
import psutil
import pytest
from gevent import socket

from spawn.errors import Unknown
from spawn.http11.message import OutgoingRequest
from spawn.http11.readiness import Readiness, raw_socket
from spawn.http11.spool import SpooledFile
from spawn.http11.threads import in_thread
from tests.support.scriptednode import ClientUnderTest, Peer, ScriptedNode, get, post, read_all, until


@pytest.fixture(autouse=True)
def deadline() -> Iterator[None]:
    with gevent.Timeout(60):
        yield


@pytest.fixture
def client() -> Iterator[ClientUnderTest]:
    with ClientUnderTest(max_idle_per_node=3) as under_test:
        yield under_test
    assert not under_test.client._in_use


@pytest.fixture(autouse=True)
def no_socket_stays_open() -> Iterator[None]:
    before = len(psutil.Process().net_connections("tcp"))
    yield
    until(lambda: len(psutil.Process().net_connections("tcp")) <= before)


def once(peer: Peer) -> None:
    """Answers one request as if it would keep the connection, then closes it."""
    peer.read_request()
    peer.answer(b"once")


def test_one_connection_serves_many_requests(client: ClientUnderTest) -> None:
    with ScriptedNode() as node:
        for _ in range(20):
            assert client.fetch(node, post(b"x")) == (200, b"hello")
        assert node.connections == 1


def test_no_idle_time_allowed_means_a_new_connection(client: ClientUnderTest) -> None:
    with ScriptedNode() as node:
        for _ in range(3):
            client.fetch(node, max_idle_s=0)
        assert node.connections == 3


def test_a_connection_idle_for_too_long_is_left_for_the_less_careful(client: ClientUnderTest) -> None:
    with ScriptedNode() as node:
        client.fetch(node)
        gevent.sleep(0.1)
        with client.send(node, max_idle_s=0.05) as answer:
            read_all(answer)
            assert node.connections == 2
        client.fetch(node, max_idle_s=30)
        assert node.connections == 2


def test_a_connection_that_the_node_closed_is_replaced_in_silence(client: ClientUnderTest) -> None:
    with ScriptedNode(once) as node:
        for count in range(1, 4):
            assert client.fetch(node, post(b"x")) == (200, b"once")
            until(lambda: node.open == 0)
            assert node.connections == count


@pytest.mark.parametrize("on_sent", [None, lambda: None], ids=["in its turn", "with a call when sent"])
@pytest.mark.parametrize("last_words", [b"", b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"])
def test_one_that_ends_before_its_turn_to_send_is_not_sent_on(
    client: ClientUnderTest, last_words: bytes, on_sent: Callable[[], None] | None
) -> None:
    """The kernel is asked last of all: other turns come between the choice of a connection and the send."""
    peers: list[Peer] = []

    def script(peer: Peer) -> None:
        peers.append(peer)
        while True:
            peer.read_request()
            peer.answer(b"hello")

    def end() -> None:
        raw = raw_socket(peers[0].sock)
        if last_words:
            raw.send(last_words)
        raw.shutdown(SHUT_WR)

    with ScriptedNode(script) as node, socket.socket() as other:
        assert client.fetch(node, post(b"1")) == (200, b"hello")
        earlier = Readiness(other)
        earlier._add_turn(end)
        earlier.close()
        with client.send(node, post(b"2"), on_sent=on_sent) as answer:
            assert read_all(answer) == b"hello"
        assert node.connections == 2


def test_one_that_ends_while_a_body_is_read_from_disk_is_not_sent_on(
    client: ClientUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "body"
    path.write_bytes(b"x" * 400_000)
    peers: list[Peer] = []
    ended: list[bool] = []

    def script(peer: Peer) -> None:
        peers.append(peer)
        while True:
            peer.read_request()
            peer.answer(b"hello")

    def slow_disk(function: Callable[..., object], *arguments: object) -> object:
        if not ended:
            ended.append(True)
            raw_socket(peers[0].sock).shutdown(SHUT_WR)
        return in_thread(function, *arguments)

    monkeypatch.setattr("spawn.http11.outgoing.in_thread", slow_disk)
    with ScriptedNode(script) as node:
        assert client.fetch(node) == (200, b"hello")
        request = OutgoingRequest(b"PUT", b"/", b"Host: a\r\n", SpooledFile(str(path), 400_000))
        assert client.fetch(node, request) == (200, b"hello")
        assert node.connections == 2


def test_a_node_that_ends_an_idle_connection_with_408_has_not_answered_a_read() -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.answer(b"hello")
        peer.read_request()
        peer.answer(status=b"408 Request Timeout", headers=b"Connection: close\r\n")

    with ClientUnderTest(careful=False) as client, ScriptedNode(script, script) as node:
        assert client.fetch(node) == (200, b"hello")
        with pytest.raises(Unknown) as caught:
            client.fetch(node)
        assert caught.value.reused_and_silent
        assert client.fetch(node) == (200, b"hello"), "on a connection of its own it is answered"


def test_several_stale_connections_are_passed_over(client: ClientUnderTest) -> None:
    with ScriptedNode(once, once, once) as node:
        answers = [client.send(node) for _ in range(3)]
        for answer in answers:
            read_all(answer)
        until(lambda: node.open == 0)
        assert client.fetch(node) == (200, b"once")
        assert node.connections == 4


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_kept_connection_dropped_after_the_request_says_so(client: ClientUnderTest, how: str) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.answer(b"first")
        peer.read_request()
        getattr(peer, how)()

    with ScriptedNode(script) as node:
        client.fetch(node)
        with pytest.raises(Unknown) as caught:
            client.send(node)
        assert caught.value.reused_and_silent
        assert len(node.requests) == 2  # the client itself never repeats what was written


@pytest.mark.parametrize("half", [b"H", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_a_kept_connection_that_spoke_is_not_silent(client: ClientUnderTest, half: bytes) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.answer(b"first")
        peer.read_request()
        peer.send(half)

    with ScriptedNode(script) as node:
        client.fetch(node)
        with pytest.raises(Unknown) as caught:
            client.send(node)
        assert not caught.value.reused_and_silent


@pytest.mark.parametrize("size", [1, 20_000_000])
def test_a_kept_connection_that_hangs_is_not_called_dropped(client: ClientUnderTest, size: int) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.answer(b"first")
        peer.read_head()
        until(lambda: done)

    done: list[int] = []
    with ScriptedNode(script) as node:
        client.fetch(node)
        with pytest.raises(Unknown, match="no progress") as caught:
            client.send(node, post(b"x" * size), progress_timeout_s=0.1)
        done.append(1)
        assert not caught.value.reused_and_silent


def test_idle_connections_are_bounded_and_the_last_used_comes_first(client: ClientUnderTest) -> None:
    def script(peer: Peer) -> None:
        while True:
            peer.read_request()
            until(lambda: len(node.requests) >= 5)
            peer.answer(b"%d" % node.connections)

    with ScriptedNode(script) as node:
        asking = [gevent.spawn(client.fetch, node) for _ in range(5)]
        assert [greenlet.get(timeout=5) for greenlet in asking] == [(200, b"5")] * 5
        until(lambda: node.open == 3)
        kept = client.client._idle._buckets["node"]
        assert len(kept) == 3
        last = kept[-1]
        client.fetch(node)
        assert kept[-1] is last


def test_forget_drops_idle_connections_and_those_that_come_back(client: ClientUnderTest) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
        until(lambda: go)
        peer.send(b"hello")
        peer.read_to_end()

    go: list[int] = []
    with ScriptedNode(script) as node, ScriptedNode() as other:
        client.fetch(other)
        client.fetch(other, key="kept")
        in_use = client.send(node)
        client.client.forget("node")
        until(lambda: other.open == 1)
        go.append(1)
        assert read_all(in_use) == b"hello"
        until(lambda: node.open == 0)
        client.client.forget("unknown")
        client.fetch(other, key="kept")
        assert other.connections == 2


def test_a_node_that_moved_gets_no_request_over_an_old_connection(client: ClientUnderTest) -> None:
    with ScriptedNode() as old, ScriptedNode() as new:
        client.fetch(old)
        client.fetch(new)
        assert (len(old.requests), len(new.requests)) == (1, 1)


def test_many_at_once_get_their_own_answers(client: ClientUnderTest) -> None:
    def script(peer: Peer) -> None:
        while True:
            target = peer.read_request().split(b" ")[1]
            gevent.sleep(0.001 * (target[-1] % 5))
            if target[-1] % 2:
                peer.answer(target)
            else:
                chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in target)
                peer.trickle(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%b0\r\n\r\n" % chunks, 0, step=7)

    def ask(number: int) -> None:
        for turn in range(10):
            target = b"/%d/%d" % (number, turn)
            assert client.fetch(node, get(target)) == (200, target)

    with ScriptedNode(script) as node:
        asking = [gevent.spawn(ask, number) for number in range(30)]
        gevent.joinall(asking, timeout=30, raise_error=True)
        assert all(greenlet.successful() for greenlet in asking)
        assert node.connections < 300


def test_idle_connections_are_reaped(client: ClientUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spawn.http11.client.REAP_EVERY_S", 0.02)
    monkeypatch.setattr("spawn.http11.connection.KEEP_IDLE_S", 0.05)
    with ScriptedNode() as node:
        client.fetch(node)
        until(lambda: node.open == 0)
        until(lambda: client.client._reaper is None)
        client.fetch(node)
        assert client.client._reaper is not None


def test_connections_that_nodes_closed_are_reaped(client: ClientUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spawn.http11.client.REAP_EVERY_S", 0.02)
    with ScriptedNode(once) as node:
        client.fetch(node)
        until(lambda: len(client.client._idle) == 0)
