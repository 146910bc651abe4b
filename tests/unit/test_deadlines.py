"""The sweeper: on time, never early, and only what is armed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from socket import SHUT_RD, SHUT_RDWR

import gevent
import pytest
from gevent import socket

from spawn.http11.deadlines import Deadlines


@pytest.fixture
def deadlines() -> Iterator[Deadlines]:
    made = Deadlines(resolution_s=0.02)
    made.start()
    yield made
    made.stop(1)
    made.stop(1)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    left = socket.create_connection(listener.getsockname())
    right, _ = listener.accept()
    for sock in (left, right):
        sock.settimeout(5)
    yield left, right
    for sock in (left, right, listener):
        sock.close()


Pair = tuple[socket.socket, socket.socket]


def test_a_receive_comes_back_with_an_end_of_file_and_the_socket_can_still_send(
    deadlines: Deadlines, pair: Pair
) -> None:
    left, right = pair
    watch = deadlines.watch(left)
    began = time.monotonic()
    watch.arm(0.1, SHUT_RD)
    assert left.recv(10) == b""
    assert watch.expired
    assert time.monotonic() - began >= 0.1
    left.sendall(b"late")
    assert right.recv(10) == b"late"


def test_a_send_fails(deadlines: Deadlines, pair: Pair) -> None:
    left, _ = pair
    watch = deadlines.watch(left, SHUT_RDWR)
    watch.arm(0.1)
    with pytest.raises(OSError):
        while True:
            left.sendall(b"x" * 65_536)
    assert watch.expired


def test_no_stray_error_reaches_a_later_wait(deadlines: Deadlines, pair: Pair) -> None:
    """gevent's own shutdown throws into whoever waits for the socket a moment later."""
    left, _ = pair
    watch = deadlines.watch(left)
    for _ in range(5):
        watch.arm(0.0, SHUT_RD)
        assert left.recv(10) == b""
        gevent.sleep(0)


def test_what_is_disarmed_rearmed_or_cancelled_does_not_expire(deadlines: Deadlines, pair: Pair) -> None:
    left, right = pair
    disarmed, cancelled = deadlines.watch(left), deadlines.watch(right)
    disarmed.arm(0.01)
    disarmed.disarm()
    cancelled.arm(0.01)
    cancelled.cancel()
    cancelled.cancel()
    rearmed = deadlines.watch(left)
    rearmed.arm(0.01)
    rearmed.arm(60)
    gevent.sleep(0.15)
    assert [disarmed.expired, cancelled.expired, rearmed.expired] == [False] * 3
    right.sendall(b"x")
    assert left.recv(10) == b"x"
    assert len(deadlines) == 2


def test_arming_again_forgets_an_old_expiry(deadlines: Deadlines, pair: Pair) -> None:
    watch = deadlines.watch(pair[0])
    watch.arm(0.01, SHUT_RD)
    assert pair[0].recv(10) == b""
    watch.arm(60)
    assert not watch.expired


def test_a_watch_may_renew_itself(deadlines: Deadlines, pair: Pair) -> None:
    watch = deadlines.watch(pair[0])
    answers = [0.02, 0.02, 0.0]
    watch.renew = lambda: answers.pop(0)
    watch.arm(0.02, SHUT_RD)
    assert pair[0].recv(10) == b""
    assert answers == []


def test_a_peer_that_was_quicker_is_no_fault(
    deadlines: Deadlines, pair: Pair, capfd: pytest.CaptureFixture[str]
) -> None:
    watch = deadlines.watch(pair[0])
    pair[0].close()  # against the rules, and still harmless
    watch.arm(0.01)
    gevent.sleep(0.1)
    assert watch.expired
    assert capfd.readouterr().err == ""


def test_watches_made_before_the_start_expire_after_it(pair: Pair) -> None:
    deadlines = Deadlines(resolution_s=0.02)
    watch = deadlines.watch(pair[0])
    watch.arm(0.0, SHUT_RD)
    deadlines.start()
    deadlines.start()
    assert pair[0].recv(10) == b""
    deadlines.stop(1)
