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
from select import POLLIN
from typing import Any, Protocol

from gevent import get_hub, getcurrent
from gevent.hub import Hub
from gevent.monkey import get_original
from gevent.socket import socket

_READ = 1  # what libev calls it
_poll = get_original("select", "poll")  # whatever the embedding program has patched


class RawSocket(Protocol):
    """What gevent wraps: never waits, raises ``BlockingIOError`` instead."""

    def recv(self, limit_bytes: int, flags: int = 0, /) -> bytes: ...
    def send(self, data: bytes | memoryview, /) -> int: ...
    def fileno(self) -> int: ...
    def shutdown(self, how: int, /) -> None: ...


def raw_socket(sock: socket) -> RawSocket:
    """The kernel's socket inside of gevent's."""
    raw: RawSocket = sock._sock  # type: ignore[attr-defined]  # the stubs lack it
    return raw


class Unsent(Exception):
    """Of what was to be sent soon something is left: the kernel did not take it, or bytes or an end came first.

    ``Readiness.take_unsent`` has it.
    """


class _Turns:
    """Of all who want to send, on one hub."""

    def __init__(self, hub: Hub) -> None:
        self._hub_switch: Callable[[], Any] = hub.switch
        self._run_callback = hub.loop.run_callback
        self._waiting: deque[Callable[[], Any]] = deque()

    def add(self, call: Callable[[], Any]) -> None:
        """Have ``call`` called when it is its turn."""
        if not self._waiting:
            self._run_callback(self._go)
        self._waiting.append(call)

    def wait(self) -> None:
        """Return when it is the caller's turn."""
        switch, waiting = getcurrent().switch, self._waiting
        self.add(switch)
        try:
            self._hub_switch()
        except BaseException:  # killed: it is somewhere else when its turn comes
            for queue in (waiting, self._waiting):
                with suppress(ValueError):
                    queue.remove(switch)
            raise

    def _go(self) -> None:
        waiting, self._waiting = self._waiting, deque()
        try:
            while waiting:
                waiting.popleft()()
        finally:
            if waiting:  # one of them failed, which must not stop the others
                self._waiting.extendleft(reversed(waiting))
                self._run_callback(self._go)


def _turns_of(hub: Hub) -> _Turns:
    """Kept with the hub, so that it goes with it."""
    turns: _Turns | None = getattr(hub, "spawn_turns", None)
    if turns is None:
        turns = hub.spawn_turns = _Turns(hub)  # type: ignore[attr-defined]
    return turns


class Readiness:
    """Of one socket."""

    __slots__ = ("_add_turn", "_fileno", "_hub_switch", "_look", "_only_if_quiet", "_receive", "_resume", "_send",
                 "_started", "_stuck", "_watcher", "unasked", "unsent", "wait_turn")  # fmt: skip

    def __init__(self, sock: socket) -> None:
        raw, hub = raw_socket(sock), get_hub()
        self._receive, self._send = raw.recv, raw.send
        self._add_turn = _turns_of(hub).add
        self.wait_turn = _turns_of(hub).wait  # return when it is time to send
        self._hub_switch: Callable[[], Any] = hub.switch
        self._watcher = hub.loop.io(sock.fileno(), _READ)
        self._started = False
        self._resume: Callable[[], Any] | None = None  # the greenlet that waits
        self.unsent = b""  # what is to be sent soon
        self._only_if_quiet = False
        self._stuck = False  # its turn has come in vain, and nobody was waiting
        self._fileno = raw.fileno()
        self._look: Callable[[int], list[Any]] | None = None  # most never do
        self.unasked = False  # bytes, an end or an error came since the last wait, and nobody was waiting

    def is_quiet(self) -> bool:
        """Whether there is nothing to be read now, as the kernel knows it: no byte, no end of file, no error."""
        look = self._look
        if look is None:
            made = _poll()
            made.register(self._fileno, POLLIN)
            look = self._look = made.poll
        try:
            return not look(0)
        except OSError:  # no memory
            return False

    def send_soon(self, data: bytes, only_if_quiet: bool = False) -> None:
        """Have ``data`` sent in its turn, without waiting for that: for whoever receives next.

        Until then whoever does anything else with the socket takes back what is ``unsent`` first. ``only_if_quiet``:
        nothing is sent when, right before, something is there to be read.
        """
        self.unsent = data
        self._only_if_quiet = only_if_quiet
        self._add_turn(self._send_now)

    def take_unsent(self) -> bytes:
        """All of ``unsent``, which is the caller's to send from now on."""
        data, self.unsent, self._stuck = self.unsent, b"", False
        return data

    def receive(self, limit_bytes: int, first_wait: bool) -> bytes:
        """Wait for the next bytes; ``b""`` at the end. Raises ``OSError``, and ``Unsent`` after ``send_soon``.

        ``first_wait``: they are not expected to be there, so that a look before the wait would be in vain.
        """
        if first_wait:
            self._wait()
            if self.unsent:
                raise Unsent
        while True:
            try:
                return self._receive(limit_bytes)
            except BlockingIOError:
                self._wait()
                if self.unsent:
                    raise Unsent from None

    def _wait(self) -> None:
        """Return when bytes, an end of file or an error are there to be read; rarely also without a reason."""
        if self._stuck:
            raise Unsent
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
        self.unsent = b""
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

    def _send_now(self) -> None:
        data = self.unsent
        if data:
            if not self._only_if_quiet or self.is_quiet():
                with suppress(OSError):  # the kernel takes nothing now, or never more; whoever sends the rest will see
                    data = data[self._send(data) :]
            self.unsent = data
            if data:
                if self._resume is not None:
                    self._resume()
                else:
                    self._stuck = True
