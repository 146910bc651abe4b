"""Waiting until a socket can be read, or until it is time to write to it, each at the price of a switch of greenlets.

gevent's own ``recv`` first tries in vain, then starts and stops a watcher around every wait: an exception, two changes
of what epoll watches and four layers of calls, which is half of what a small request costs. Here the watcher stays
started while its socket is used. When something comes that nobody waits for, it stops itself until somebody does, so
that the event loop does not spin; and that something did come is remembered.

A send to a process that sleeps on another core has to wake it, which costs more than the send; it sleeps again long
before Python has the next thing to send. So whoever wants to send a little waits for ``turn``: all of them go one after
the other when the event loop has dealt with what was ready. The first wakes the receiver, which then is still awake.

Only for sockets with one owner at a time. The owner closes this before it closes the socket.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from gevent import get_hub, getcurrent
from gevent.hub import Hub
from gevent.socket import socket
from greenlet import greenlet

_READ = 1  # what libev calls it


class RawSocket(Protocol):
    """What gevent wraps: never waits, raises ``BlockingIOError`` instead."""

    def recv(self, limit_bytes: int, flags: int = 0, /) -> bytes: ...
    def send(self, data: bytes | memoryview, /) -> int: ...
    def shutdown(self, how: int, /) -> None: ...


def raw_socket(sock: socket) -> RawSocket:
    """The kernel's socket inside of gevent's."""
    raw: RawSocket = sock._sock  # type: ignore[attr-defined]  # the stubs lack it
    return raw


def receive(raw: RawSocket, readiness: Readiness, limit_bytes: int, first_wait: bool) -> bytes:
    """The next bytes, ``b""`` at the end. ``first_wait``: do not even look before waiting. Raises ``OSError``."""
    if first_wait:
        readiness.wait()
    while True:
        try:
            return raw.recv(limit_bytes)
        except BlockingIOError:
            readiness.wait()


class _Turns:
    """Of all who want to send, on one hub."""

    def __init__(self, hub: Hub) -> None:
        self._hub_switch: Callable[[], Any] = hub.switch
        self._run_callback = hub.loop.run_callback
        self._waiting: deque[greenlet] = deque()

    def wait(self) -> None:
        me, waiting = getcurrent(), self._waiting
        if not waiting:
            self._run_callback(self._go)
        waiting.append(me)
        try:
            self._hub_switch()
        except BaseException:  # killed: it is somewhere else when its turn comes
            with suppress(ValueError):
                waiting.remove(me)
            raise

    def _go(self) -> None:
        waiting, self._waiting = self._waiting, deque()
        while waiting:
            waiting.popleft().switch()


_turns: WeakKeyDictionary[Hub, _Turns] = WeakKeyDictionary()


def _turns_of(hub: Hub) -> _Turns:
    turns = _turns.get(hub)
    if turns is None:
        turns = _turns[hub] = _Turns(hub)
    return turns


class Readiness:
    """Of one socket."""

    __slots__ = ("_hub_switch", "_resume", "_started", "_watcher", "turn", "unasked")

    def __init__(self, sock: socket) -> None:
        hub = get_hub()
        self.turn = _turns_of(hub).wait  # return when it is time to send
        self._hub_switch: Callable[[], Any] = hub.switch
        self._watcher = hub.loop.io(sock.fileno(), _READ)
        self._started = False
        self._resume: Callable[[], Any] | None = None  # the greenlet that waits
        self.unasked = False  # bytes, an end or an error came since the last wait, and nobody was waiting

    def wait(self) -> None:
        """Return when bytes, an end of file or an error are there to be read; rarely also without a reason."""
        self.unasked = False
        if not self._started:
            self._started = True
            self._watcher.start(self._ready)
        self._resume = getcurrent().switch
        try:
            self._hub_switch()
        finally:
            self._resume = None

    def close(self) -> None:
        """May be called twice."""
        self._started = False
        self._watcher.stop()
        self._watcher.close()

    def _ready(self) -> None:
        if self._resume is not None:
            self._resume()
        else:
            self.unasked = True
            self._started = False
            self._watcher.stop()
