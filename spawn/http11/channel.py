"""A client's connection as bytes: what has arrived and was not used yet, and sends and receives that end in time.

Receiving is bounded by whoever waits: it arms ``watch`` first. Sending bounds itself: nothing is armed while the kernel
takes everything at once, which is nearly always. Once it does not, each ``timeout_s`` must see the client acknowledge
at least ``MIN_BYTES_PER_S`` on average. Acknowledged, because the kernel takes more only when a third of its buffer is
free, so that an honest client of 10 kB/s can make it look busy for minutes.

Every failure of the socket is a ``ClientGone``; no ``OSError`` comes out of here.
"""

from __future__ import annotations

import contextlib
import struct
import time
from fcntl import ioctl
from socket import IPPROTO_TCP, SHUT_RD, SHUT_RDWR, SHUT_WR, SO_LINGER, SOL_SOCKET, TCP_NODELAY
from termios import TIOCOUTQ

from gevent.socket import socket

from spawn.errors import ClientGone
from spawn.http11.deadlines import Deadlines
from spawn.http11.fairness import Share
from spawn.http11.readiness import Readiness, Unsent, raw_socket

MIN_BYTES_PER_S = 500  # slower clients, either way, are cut after their time-out
RECEIVE_BYTES = 65_536
SMALL_BYTES = 16_384  # what costs little beside waking who gets it
LINGER_S = 2.0
LINGER_BYTES = 1_048_576

_RESET = struct.pack("ii", 1, 0)


class TimedOut(Exception):
    """The armed time passed while waiting for the client's bytes."""


class Channel:
    """One accepted socket. Belongs to one greenlet."""

    __slots__ = ("_handed", "_queued", "_raw", "_readiness", "_unsent_s", "_window_s", "buffer", "reading_head",
                 "share", "sock", "watch")  # fmt: skip

    def __init__(self, sock: socket, deadlines: Deadlines) -> None:
        self.sock = sock
        self._raw = raw_socket(sock)
        self._readiness = Readiness(sock)
        self.buffer = b""  # received and not used yet
        self.reading_head = False  # some bytes of a head are there, and more are waited for
        self.watch = deadlines.watch(sock, SHUT_RD)
        self.share = Share()
        self._unsent_s = 0.0  # for what is to be sent soon
        self._window_s = 0.0  # while a send waits: see _more_time
        self._queued = 0
        self._handed = 0
        with contextlib.suppress(OSError):  # gone already; the first receive will say so
            sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)

    def receive(self, limit_bytes: int = RECEIVE_BYTES, *, first_wait: bool = False) -> bytes:
        """Wait for bytes from the socket (not from ``buffer``); ``b""`` at the end. Raises TimedOut and ClientGone.

        ``first_wait``: they are not expected to be there, so that a look before the wait would be in vain.
        """
        try:
            data = self._readiness.receive(limit_bytes, first_wait)
        except Unsent:
            self._send_unsent()
            return self.receive(limit_bytes)
        except OSError as error:
            if self.watch.expired:
                raise TimedOut from None
            raise ClientGone(f"receiving: {error.strerror}") from None
        if self.watch.expired:
            raise TimedOut
        return data

    def send_soon(self, data: bytes, timeout_s: float) -> None:
        """``send`` without waiting, for the end of an answer on a connection that is kept.

        What goes wrong, and waiting for a client that does not take it, is left to the next ``receive`` or ``send``.
        """
        if len(data) > SMALL_BYTES or self._readiness.unsent:
            self.send(data, timeout_s)
        else:
            self._unsent_s = timeout_s
            self._readiness.send_soon(data)

    def send(self, data: bytes, timeout_s: float) -> None:
        """Hand all of ``data`` to the kernel. Raises ClientGone."""
        if self._readiness.unsent:
            self._send_unsent()
        if len(data) <= SMALL_BYTES:
            self._readiness.wait_turn()
        self._send(data, timeout_s)

    def flush(self) -> None:
        """Send what was to be sent soon, if its turn was in vain or has not come. Raises ClientGone."""
        if self._readiness.unsent:
            self._send_unsent()

    def _send_unsent(self) -> None:
        """Send what was to be sent soon; the deadline that is armed begins anew behind it."""
        late, left_s = self.watch.expired, self.watch.deadline_s - time.monotonic()
        self._send(self._readiness.take_unsent(), self._unsent_s)
        self.watch.arm(left_s, SHUT_RD)
        self.watch.expired = late

    def _send(self, data: bytes, timeout_s: float) -> None:
        try:
            sent = self._raw.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise ClientGone(f"sending: {error.strerror}") from None
        if sent < len(data):
            self._send_slowly(memoryview(data)[sent:], timeout_s)
        else:
            self.share.use(sent)

    def linger(self) -> None:
        """Let the client read the last answer before the socket is closed although it may still be sending.

        Closing with unread bytes makes the kernel send a reset, which would throw that answer away on its side.
        """
        wrote = 0
        try:
            if self._readiness.unsent:
                self._send_unsent()
            self.sock.shutdown(SHUT_WR)
            self.watch.arm(LINGER_S, SHUT_RD)
            while wrote < LINGER_BYTES and not self.watch.expired:
                data = self.sock.recv(RECEIVE_BYTES)
                if not data:
                    break
                wrote += len(data)
        except (OSError, ClientGone):
            pass  # it is gone, which is what we wait for
        self.watch.disarm()

    def reset(self) -> None:
        """Make the coming close a reset, which nobody takes for a clean end."""
        with contextlib.suppress(OSError):
            self.sock.setsockopt(SOL_SOCKET, SO_LINGER, _RESET)

    def close(self) -> None:
        self.watch.cancel()
        self._send_now()
        self._readiness.close()
        self.sock.close()

    def _send_now(self) -> None:
        """Send what was to be sent soon, as far as the kernel takes it."""
        data = self._readiness.take_unsent()
        if data:
            with contextlib.suppress(OSError):
                self._raw.send(data)

    def _send_slowly(self, rest: memoryview, timeout_s: float) -> None:
        self._window_s = timeout_s
        self._queued, self._handed = self._unacknowledged(), 0
        watch = self.watch
        watch.renew = self._more_time
        watch.arm(timeout_s, SHUT_RDWR)
        try:
            while rest:
                sent = self.sock.send(rest)
                rest = rest[sent:]
                self._handed += sent
        except OSError as error:
            if watch.expired:
                self.reset()
                raise ClientGone("takes its answer too slowly") from None
            raise ClientGone(f"sending: {error.strerror}") from None
        finally:
            watch.renew = None
            watch.disarm()
            self.share.spent = 0

    def _more_time(self) -> float:
        """Another window if the client acknowledged enough in the last one."""
        queued = self._unacknowledged()
        drained = self._queued + self._handed - queued
        self._queued, self._handed = queued, 0
        return self._window_s if drained >= MIN_BYTES_PER_S * self._window_s else 0.0

    def _unacknowledged(self) -> int:
        """Bytes in the kernel's send queue."""
        try:
            count: int = struct.unpack("i", ioctl(self.sock.fileno(), TIOCOUTQ, b"\0\0\0\0"))[0]
        except OSError:
            return 0
        return count
