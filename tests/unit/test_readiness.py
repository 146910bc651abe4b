"""Waits for sockets and for turns: who is woken, by what, and that nobody is woken who has gone."""

from __future__ import annotations

from collections.abc import Iterator
from socket import SO_RCVBUF, SO_SNDBUF, SOL_SOCKET

import gevent
import pytest
from gevent import socket

from spawn.http11.readiness import Readiness, Unsent

WAIT_S = 5.0


@pytest.fixture(autouse=True)
def deadline() -> Iterator[None]:
    with gevent.Timeout(WAIT_S):
        yield


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def theirs(pair: tuple[socket.socket, socket.socket]) -> socket.socket:
    return pair[1]


@pytest.fixture
def readiness(pair: tuple[socket.socket, socket.socket]) -> Iterator[Readiness]:
    made = Readiness(pair[0])
    yield made
    made.close()


def test_a_wait_ends_with_bytes_and_with_the_end(readiness: Readiness, theirs: socket.socket) -> None:
    gevent.spawn_later(0.01, theirs.sendall, b"one")
    assert readiness.receive(10, first_wait=True) == b"one"
    theirs.sendall(b"two")
    assert readiness.receive(10, first_wait=False) == b"two"
    gevent.spawn_later(0.01, theirs.shutdown, 1)
    assert readiness.receive(10, first_wait=True) == b""


def test_what_nobody_waits_for_is_remembered_and_does_not_spin(readiness: Readiness, theirs: socket.socket) -> None:
    theirs.sendall(b"one")
    assert readiness.receive(10, first_wait=True) == b"one"
    assert not readiness.unasked
    theirs.sendall(b"two")
    gevent.sleep(0.01)
    assert readiness.unasked
    iterations = []
    watch = gevent.get_hub().loop.check()
    watch.start(lambda: iterations.append(1))
    gevent.sleep(0.05)
    watch.stop()
    watch.close()
    assert len(iterations) < 20
    assert readiness.receive(10, first_wait=True) == b"two"


def test_turns_come_in_order_after_all_that_was_ready(readiness: Readiness) -> None:
    order: list[str] = []

    def sender(name: str) -> None:
        order.append(f"{name} wants")
        readiness.wait_turn()
        order.append(f"{name} sends")

    gevent.joinall([gevent.spawn(sender, name) for name in "abc"], raise_error=True)
    assert order == ["a wants", "b wants", "c wants", "a sends", "b sends", "c sends"]


def test_who_is_killed_before_its_turn_is_not_woken_later(readiness: Readiness) -> None:
    """It waits for something else by then, which must not end early."""
    seen: list[object] = []

    def killed() -> None:
        try:
            readiness.wait_turn()
        except gevent.GreenletExit:
            seen.append(gevent.sleep(0.05))
            seen.append("slept")

    victim = gevent.spawn(killed)
    others = [gevent.spawn(readiness.wait_turn) for _ in range(3)]
    gevent.get_hub().loop.run_callback(victim.throw, gevent.GreenletExit)  # when it waits, before the turns
    gevent.joinall(others, timeout=0.02)
    assert all(other.successful() for other in others)
    assert not seen
    gevent.sleep(0.1)
    assert seen == [None, "slept"]


def test_a_turn_that_fails_does_not_stop_those_behind_it(readiness: Readiness, theirs: socket.socket) -> None:
    class Broken(Exception):
        pass

    def fail() -> None:
        raise Broken

    shown: list[object] = []
    hub = gevent.get_hub()
    hub.handle_error = lambda context, kind, value, tb: shown.append(kind)
    try:
        readiness._add_turn(fail)
        readiness.send_soon(b"behind")
        assert theirs.recv(10) == b"behind"
    finally:
        del hub.handle_error
    assert shown == [Broken]


def test_what_is_sent_soon_is_sent_while_its_sender_waits(readiness: Readiness, theirs: socket.socket) -> None:
    readiness.send_soon(b"ask")

    def answer() -> None:
        assert theirs.recv(10) == b"ask"
        theirs.sendall(b"answer")

    gevent.spawn(answer)
    assert readiness.receive(10, first_wait=True) == b"answer"
    assert not readiness.unsent


def test_what_cannot_be_sent_at_once_comes_back(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    ours.setsockopt(SOL_SOCKET, SO_SNDBUF, 4_096)
    theirs.setsockopt(SOL_SOCKET, SO_RCVBUF, 4_096)
    readiness = Readiness(ours)
    try:
        readiness.send_soon(b"x" * 1_000_000)
        with pytest.raises(Unsent):
            readiness.receive(10, first_wait=True)
        rest = readiness.take_unsent()
        assert 0 < len(rest) < 1_000_000
        assert not readiness.unsent
        theirs.close()
        readiness.send_soon(rest)
        with pytest.raises(Unsent):
            readiness.receive(10, first_wait=True)
        assert readiness.take_unsent() == rest, "it failed, and whoever sends it sees why"
    finally:
        readiness.close()


def test_what_is_taken_back_is_not_sent(readiness: Readiness, theirs: socket.socket) -> None:
    readiness.send_soon(b"no")
    assert readiness.take_unsent() == b"no"
    gevent.sleep(0.01)
    theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        theirs.recv(10)


def test_what_came_before_its_turn_keeps_back_what_is_sent_only_if_quiet(
    readiness: Readiness, theirs: socket.socket
) -> None:
    assert readiness.is_quiet()
    theirs.sendall(b"x")
    assert not readiness.is_quiet()
    readiness.send_soon(b"question", only_if_quiet=True)
    with pytest.raises(Unsent):
        readiness.receive(10, first_wait=True)
    assert readiness.take_unsent() == b"question"


def test_a_look_that_fails_is_not_quiet_and_keeps_nobody_waiting(readiness: Readiness) -> None:
    def fails(timeout_ms: int) -> list[object]:
        raise OSError(12, "Cannot allocate memory")

    readiness._look = fails
    readiness.send_soon(b"question", only_if_quiet=True)
    with pytest.raises(Unsent):
        readiness.receive(10, first_wait=True)
    assert readiness.take_unsent() == b"question"
