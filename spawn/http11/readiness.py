"""Waiting until a socket can be read, at the price of a switch of greenlets.

gevent's own ``recv`` first tries in vain, then starts and stops a watcher around every wait: an exception, two changes
of what epoll watches and four layers of calls, which is half of what a small request costs. Here the watcher stays
started while its socket is used. When something comes that nobody waits for, it stops itself until somebody does, so
that the event loop does not spin; and that something did come is remembered.

Only for sockets with one owner at a time. The owner closes this before it closes the socket.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from gevent import get_hub, getcurrent
from gevent.socket import socket

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


class Readiness:
    """Of one socket."""

    __slots__ = ("_hub_switch", "_resume", "_started", "_watcher", "unasked")

    def __init__(self, sock: socket) -> None:
        hub = get_hub()
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
