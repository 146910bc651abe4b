"""How a connection to a node ends: in order when it is through with its request, reset when that was given up.

The kernel would go on for minutes to get the request across: an update that was given up in a partition would reach
the node late, behind newer ones.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from socket import IPPROTO_TCP, TCP_INFO

import gevent
import pytest

from spawn.errors import AnswerCut, Unknown
from tests.support.scriptednode import ClientUnderTest, Peer, Script, ScriptedNode, get, post, read_all, until

TCP_CLOSE = 7  # of linux/tcp_states.h; an end in order leaves CLOSE_WAIT (8)


class Endings:
    """What the node sees at the end of each connection."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def after(self, script: Script) -> Script:
        def play(peer: Peer) -> None:
            script(peer)
            with contextlib.suppress(ConnectionResetError):
                assert peer.sock.recv(1) == b""
            self.seen.append("reset" if was_reset(peer) else "closed")

        return play

    def wait(self, *expected: str) -> None:
        until(lambda: len(self.seen) >= len(expected))
        assert tuple(self.seen) == expected


def was_reset(peer: Peer) -> bool:
    """Soon after the end of file: a deadline shuts the connection down before it is reset."""
    with gevent.Timeout(0.3, False):
        while peer.sock.getsockopt(IPPROTO_TCP, TCP_INFO, 1)[0] != TCP_CLOSE:
            gevent.sleep(0.01)
        return True
    return False


def silent(peer: Peer) -> None:
    peer.read_request()


def half_head(peer: Peer) -> None:
    peer.read_request()
    peer.send(b"HTTP/1.1 200 OK\r\nX-")


def garbage(peer: Peer) -> None:
    peer.read_request()
    peer.send(b"+OK POP3 ready\r\n")


def good(peer: Peer) -> None:
    peer.read_request()
    peer.answer(b"hello")


def last_good(peer: Peer) -> None:
    peer.read_request()
    peer.answer(b"hello", headers=b"Connection: close\r\n")


@pytest.mark.parametrize("script", [silent, half_head, garbage])
def test_a_request_without_answer_ends_in_a_reset(script: Callable[[Peer], None]) -> None:
    endings = Endings()
    with ScriptedNode(endings.after(script)) as node, ClientUnderTest() as client:
        with pytest.raises(Unknown):
            client.send(node, post(b"body"), progress_timeout_s=0.1)
        endings.wait("reset")


def test_a_request_whose_sender_is_killed_ends_in_a_reset() -> None:
    endings = Endings()
    with ScriptedNode(endings.after(silent)) as node, ClientUnderTest() as client:
        sending = gevent.spawn(client.send, node, post(b"body"))
        until(lambda: node.requests)
        sending.kill()
        endings.wait("reset")


def test_a_second_request_on_a_kept_connection_is_no_exception() -> None:
    endings = Endings()

    def one_of_two(peer: Peer) -> None:
        good(peer)
        silent(peer)

    with ScriptedNode(endings.after(one_of_two)) as node, ClientUnderTest() as client:
        assert client.fetch(node)[0] == 200
        with pytest.raises(Unknown):
            client.send(node, get(), progress_timeout_s=0.1)
        endings.wait("reset")


def test_a_connection_that_is_through_with_its_request_is_closed_in_order() -> None:
    endings = Endings()
    with ScriptedNode(endings.after(last_good), endings.after(good)) as node, ClientUnderTest() as client:
        assert client.fetch(node) == (200, b"hello")  # the node wants no more
        endings.wait("closed")
        assert client.fetch(node) == (200, b"hello")  # kept, until nobody wants it any more
        client.client.forget("node")
        endings.wait("closed", "closed")


def test_an_answer_that_nobody_reads_to_its_end_does_not_keep_the_connection() -> None:
    endings = Endings()

    def endless(peer: Peer) -> None:
        peer.read_request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")

    with ScriptedNode(endings.after(endless)) as node, ClientUnderTest() as client:
        with client.send(node, progress_timeout_s=0.1) as answer, contextlib.suppress(AnswerCut):
            read_all(answer)
        endings.wait("closed")
