"""A node that takes a large body slowly: how slowly it may, and what is said of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from socket import SO_RCVBUF, SOL_SOCKET

import gevent
import pytest

from spawn.errors import Unknown
from spawn.http11.message import OutgoingRequest
from spawn.http11.outgoing import pieces
from tests.support.scriptednode import ClientUnderTest, Peer, Script, ScriptedNode, post, serve

MIB = 1_048_576
FLOOR = "spawn.http11.progress.FLOOR_BYTES_PER_S"
SIZE = 20 * MIB  # more than the kernel keeps for both ends
DRIP_BYTES, DRIP_S = 65_536, 0.1  # less than a MB/s


@pytest.fixture(autouse=True)
def deadline() -> Iterator[None]:
    with gevent.Timeout(15):  # the whole body would take twice as long
        yield


@pytest.fixture
def client() -> Iterator[ClientUnderTest]:
    with ClientUnderTest() as under_test:
        yield under_test
    assert not under_test.client._in_use


def drip(size: int, count: int, pause_s: float = DRIP_S) -> Script:
    """So many pieces of the body slowly, then the rest at once, then an answer."""

    def script(peer: Peer) -> None:
        peer.read_head()
        for _ in range(count):
            peer.read_exactly(DRIP_BYTES)
            gevent.sleep(pause_s)
        peer.read_exactly(size - count * DRIP_BYTES)
        peer.answer(b"ok")

    return script


def test_a_node_below_the_floor_is_given_up_although_it_makes_progress(
    client: ClientUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FLOOR, 8 * MIB)
    sent: list[bool] = []
    with ScriptedNode(drip(SIZE, SIZE // DRIP_BYTES)) as node:
        with pytest.raises(Unknown, match=r"too slow: it took \d+\.\d of 21\.0 MB in [1-9]") as caught:
            client.send(node, post(b"x" * SIZE), progress_timeout_s=0.4, on_sent=lambda: sent.append(True))
        assert caught.value.timed_out
        assert not caught.value.malformed
        assert not sent
        assert node.connections == 1


def test_the_floor_holds_where_no_pause_is_ever_too_long(
    client: ClientUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel takes more again and again, so the sweeper is never asked."""
    monkeypatch.setattr(FLOOR, 64 * MIB)
    client.deadlines.stop()
    with ScriptedNode(drip(SIZE, SIZE // DRIP_BYTES, 0.01)) as node, pytest.raises(Unknown, match="too slow") as caught:
        client.send(node, post(b"x" * SIZE), progress_timeout_s=0.4)
    assert caught.value.timed_out


def test_the_floor_holds_for_what_the_kernel_has_already(
    client: ClientUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All is written, and only the sweeper sees how slowly it goes on."""
    sent: list[bool] = []

    def script(peer: Peer) -> None:
        peer.sock.setsockopt(SOL_SOCKET, SO_RCVBUF, DRIP_BYTES)  # the rest waits on the client's side
        peer.read_head()
        while not sent:
            peer.read_exactly(DRIP_BYTES)
            gevent.sleep(0)
        monkeypatch.setattr(FLOOR, 1024 * MIB)
        while True:
            peer.read_exactly(
                DRIP_BYTES // 64
            )  # the kernel takes most of the rest in at once, and must not get all of it
            gevent.sleep(DRIP_S / 2)

    with ScriptedNode(script) as node, pytest.raises(Unknown, match="too slow") as caught:
        client.send(node, post(b"x" * SIZE), progress_timeout_s=0.4, on_sent=lambda: sent.append(True))
    assert sent
    assert caught.value.timed_out


def test_a_slow_node_above_the_floor_is_spoken_of_once_and_gets_all_of_it(client: ClientUnderTest) -> None:
    said: list[str] = []
    with ScriptedNode(drip(SIZE, 20)) as node:
        answer = client.fetch(node, post(b"x" * SIZE), progress_timeout_s=0.4, on_slow=said.append)
    assert answer == (200, b"ok")
    assert len(said) == 1
    assert re.fullmatch(r"\d+\.\d of 21\.0 MB in \d s", said[0])


def test_a_quick_node_and_a_small_body_are_not_spoken_of(
    client: ClientUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FLOOR, 1024 * MIB)
    said: list[str] = []

    def slow_to_answer(peer: Peer) -> None:
        peer.read_request()
        gevent.sleep(0.6)
        peer.answer()

    with ScriptedNode(serve) as node:
        assert client.fetch(node, post(b"x" * SIZE), progress_timeout_s=5.0, on_slow=said.append) == (200, b"hello")
    with ScriptedNode(slow_to_answer) as node, suppress(Unknown):
        client.fetch(node, post(b"x" * 1000), progress_timeout_s=0.3, on_slow=said.append)
    assert not said


@pytest.mark.patches_source
def test_a_slow_disk_of_ours_is_not_the_nodes_fault(client: ClientUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FLOOR, 40 * MIB)
    said: list[str] = []

    def slow_pieces(request: OutgoingRequest, node: tuple[str, int]) -> Iterator[bytes]:
        whole = b"".join(pieces(request, node))
        yield whole[: SIZE // 2]
        gevent.sleep(1.5)
        yield whole[SIZE // 2 :]

    monkeypatch.setattr("spawn.http11.transaction.pieces", slow_pieces)
    with ScriptedNode(serve) as node:
        assert client.fetch(node, post(b"x" * SIZE), progress_timeout_s=0.5, on_slow=said.append) == (200, b"hello")
    assert not said


def test_what_was_slow_says_nothing_about_the_next_request(client: ClientUnderTest) -> None:
    """On the same connection: it has only its own time."""
    said: list[str] = []

    def script(peer: Peer) -> None:
        drip(SIZE, 12)(peer)
        peer.read_request()
        peer.read_to_end()

    with ScriptedNode(script) as node:
        client.fetch(node, post(b"x" * SIZE), progress_timeout_s=0.4, on_slow=said.append)
        assert len(said) == 1
        with pytest.raises(Unknown, match="no progress for 1 s"), gevent.Timeout(1.8):
            client.fetch(node, post(b"x"), progress_timeout_s=1.0, on_slow=said.append)
        assert node.connections == 1
    assert len(said) == 1
