"""One TCP connection to a node, and the connections that are kept for later.

A connection belongs to one greenlet at a time, and only its owner closes it: whoever else wants it to end calls
``wake``, which shuts the socket down so that the owner comes back from whatever it waits for. So no descriptor is
closed, and then given to somebody else, under a greenlet that still waits for it.

Waits for progress are bounded by the one sweeper of ``deadlines``, which ends them in the same way. A full send buffer
hides progress: megabytes may have to reach a slow node before the kernel takes another byte. So when such a wait is
over, the kernel is asked whether it still gets bytes across, and more time given if it does, and not too slowly
(``progress``).

A request that was given up must not arrive later. The kernel goes on for minutes to get the bytes of a closed socket
across; after a partition they would reach the node behind what was sent anew meanwhile, and an old update would be
applied over newer ones. So a connection whose request has no answer is reset (RFC 9293 §3.10.5), which drops what is on
its way, also when this process is killed: only a connection that is through with its request is closed in order.
"""

from __future__ import annotations

import fcntl
import struct
import termios
import time
from select import POLLIN, POLLOUT
from socket import IPPROTO_TCP, SHUT_RDWR, SO_LINGER, SOL_SOCKET, TCP_NODELAY

from gevent import socket
from gevent.select import poll

from spawn.errors import NotSent
from spawn.http11.deadlines import Deadlines, wake
from spawn.http11.progress import Progress
from spawn.http11.readiness import Readiness, raw_socket
from spawn.http11.resolver import Address, Resolver

RECEIVE_BYTES = 65_536
RESET, CLOSE = struct.pack("ii", 1, 0), struct.pack("ii", 0, 0)  # what the kernel does at close, as in socket(7)
KEEP_IDLE_S = 60.0  # most servers close an idle connection after 5 to 75 s; there is no use in keeping it longer


class Connection:
    """A connected socket with a deadline for each wait."""

    __slots__ = (
        "_raw",
        "_readiness",
        "_sock",
        "_timeout_s",
        "_watch",
        "bucket",
        "closed",
        "expired",
        "idle_since_s",
        "in_order",
        "peer",
        "progress",
        "reused",
        "wait_turn",
        "woken",
    )

    def __init__(self, sock: socket.socket, deadlines: Deadlines, peer: tuple[str, int]) -> None:
        self._sock = sock
        self._raw = raw_socket(sock)
        self._readiness = Readiness(sock)
        self.wait_turn = self._readiness.wait_turn  # before something small is sent
        self._watch = deadlines.watch(sock, SHUT_RDWR)
        self._watch.renew = self._more_time_s
        self._timeout_s = 0.0
        self.progress: Progress | None = None  # of the request in hand, once it has filled the send buffer
        self.bucket: list[Connection] | None = None  # where it is kept while idle; see IdlePool
        self.peer = peer
        self.reused = False
        self.closed = False
        self.woken = False
        self.expired = False  # stays true, other than the watch's, which is about the last wait only
        self.idle_since_s = 0.0
        self.in_order = True  # nothing that was sent is still to be answered

    @property
    def cut_short(self) -> bool:
        """Whether an end of file is of our own making: the deadline passed, or ``wake`` was called."""
        return self.expired or self.woken

    def is_quiet(self, *, now: bool = True) -> bool:
        """Whether an idle connection may be used: there is neither an end of file nor a byte nobody asked for.

        ``now``: ask the kernel in any case, else what the event loop saw when it last looked will do, which costs
        nothing. What it saw may be the end of the last answer, read since without a wait: then only the kernel knows.
        """
        return not (now or self._readiness.unasked) or self._readiness.is_quiet()

    def receive_now(self) -> bytes | None:
        """What has arrived, ``b""`` at the end, None when there is nothing yet. Raises ``OSError``."""
        try:
            return self._raw.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return None

    def receive(self, timeout_s: float, limit_bytes: int = RECEIVE_BYTES, *, first_wait: bool = False) -> bytes:
        """Wait for bytes; ``b""`` at the end or when time is up (see ``cut_short``). Raises ``OSError``.

        ``first_wait``: they are not expected to be there, so that a look before the wait would be in vain.
        """
        self._timeout_s = timeout_s
        watch = self._watch
        watch.arm(timeout_s)
        try:
            return self._readiness.receive(limit_bytes, first_wait)
        finally:
            watch.disarm()
            if watch.expired:
                self.expired = True

    def ask(self, data: bytes, timeout_s: float, only_if_quiet: bool) -> bytes:
        """Send something small and ``receive``. Raises ``Unsent`` too: ``take_unsent`` has what is left to send.

        ``only_if_quiet``: not a byte is sent unless the connection ``is_quiet`` at that moment.
        """
        self.in_order = False
        self._readiness.send_soon(data, only_if_quiet)
        return self.receive(timeout_s, first_wait=True)

    def take_unsent(self) -> bytes:
        """See ``ask``."""
        return self._readiness.take_unsent()

    def send_now(self, data: bytes | memoryview) -> int:
        """How many bytes the kernel took, 0 when it takes none now. Raises ``OSError``."""
        self.in_order = False
        try:
            return self._raw.send(data)
        except BlockingIOError:
            return 0

    def wait_either(self, timeout_s: float, progress: Progress) -> None:
        """Wait until bytes can be sent or have arrived, or time is up (the next send fails then).

        Comes back at once when the node is ``too_slow``.
        """
        self.progress = progress
        progress.look(_unsent_bytes(self._sock))
        if progress.too_slow:
            return
        both = poll()
        both.register(self._sock, POLLIN | POLLOUT)
        self._timeout_s = timeout_s
        self._watch.arm(timeout_s)
        try:
            both.poll()
        finally:
            self._watch.disarm()
            if self._watch.expired:
                self.expired = True

    def wake(self) -> None:
        """Make the owner come back with an error."""
        self.woken = True
        if not self.closed:
            wake(self._sock, SHUT_RDWR)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._watch.cancel()
            self._readiness.close()
            if self.in_order:
                self._sock.setsockopt(SOL_SOCKET, SO_LINGER, CLOSE)
            self._sock.close()

    def _more_time_s(self) -> float:
        """Asked by the sweeper when time is up: some more if the node still takes the request, and fast enough."""
        if self.progress is None:
            return 0.0
        return self._timeout_s if self.progress.look(_unsent_bytes(self._sock)) else 0.0


def _unsent_bytes(sock: socket.socket) -> int:
    """How many bytes the other end has not acknowledged yet (SIOCOUTQ of tcp(7)); 0 where that cannot be told."""
    try:
        return int(struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))[0])
    except OSError:
        return 0


def connect(resolver: Resolver, deadlines: Deadlines, host: str, port: int, timeout_s: float) -> Connection:
    """Connect to the first address that takes it, each with its share of the time left. Raises ``NotSent``."""
    deadline_s = time.monotonic() + timeout_s
    addresses = resolver.resolve(host, port, timeout_s)
    refused = True
    reason = ""
    for tried, address in enumerate(addresses):
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            reason, refused = reason or "no time left", False
            break
        try:
            sock = _open(address, left_s / (len(addresses) - tried))
        except OSError as error:
            reason = "timed out" if isinstance(error, TimeoutError) else error.strerror or str(error)
            refused = refused and isinstance(error, ConnectionRefusedError)
        else:
            return _wrap(sock, deadlines, (host, port))
    raise NotSent(f"cannot connect to {host} port {port}: {reason}", refused=refused)


def _open(address: Address, timeout_s: float) -> socket.socket:
    family, where = address
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout_s)
        sock.connect(where)
        if sock.getsockname() == sock.getpeername():
            # The kernel may connect a port of the ephemeral range to itself when nobody listens there.
            raise ConnectionRefusedError(111, "Connection refused")
        sock.settimeout(None)
        sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        sock.setsockopt(SOL_SOCKET, SO_LINGER, RESET)
    except BaseException:
        sock.close()
        raise
    return sock


def _wrap(sock: socket.socket, deadlines: Deadlines, peer: tuple[str, int]) -> Connection:
    try:
        return Connection(sock, deadlines, peer)
    except BaseException:
        sock.close()
        raise


class IdlePool:
    """Kept connections, the one used last first, so that those too many grow old and go. Never waits."""

    def __init__(self, max_per_key: int) -> None:
        self._max_per_key = max_per_key
        self._buckets: dict[str, list[Connection]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def take(self, key: str, peer: tuple[str, int], max_idle_s: float) -> Connection | None:
        """A connection that was idle for less than ``max_idle_s`` and whose other end seems to be there."""
        bucket = self._buckets.get(key)
        newest_s = time.monotonic() - max_idle_s
        while bucket and bucket[-1].idle_since_s > newest_s:
            connection = bucket.pop()
            if connection.peer == peer and connection.is_quiet(now=False):
                connection.reused = True
                return connection
            connection.close()
        return None

    def adopt(self, key: str, connection: Connection) -> None:
        """Say where a new connection may come back to; ``forget`` makes that void."""
        connection.bucket = self._buckets.setdefault(key, [])

    def put(self, key: str, connection: Connection) -> None:
        """Keep a connection, or close it when its key was forgotten meanwhile."""
        bucket = self._buckets.get(key)
        if bucket is None or connection.bucket is not bucket:
            connection.close()
            return
        connection.idle_since_s = time.monotonic()
        bucket.append(connection)
        if len(bucket) > self._max_per_key:
            bucket.pop(0).close()

    def reap(self) -> None:
        """Close what is idle for too long, and what the other end has closed."""
        oldest_s = time.monotonic() - KEEP_IDLE_S
        for bucket in self._buckets.values():
            for connection in list(bucket):
                if connection.idle_since_s <= oldest_s or not connection.is_quiet():
                    bucket.remove(connection)
                    connection.close()

    def forget(self, key: str) -> None:
        for connection in self._buckets.pop(key, ()):
            connection.close()

    def clear(self) -> None:
        for key in list(self._buckets):
            self.forget(key)
