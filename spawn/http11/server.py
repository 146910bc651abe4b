"""An HTTP/1.1 port: listener, connections, limits, and an orderly end.

``gevent.pywsgi.WSGIServer`` accepts connections and gives each a greenlet; everything HTTP is our own handler class,
``serving.Connection``. The accept loop is changed so that no failure of it prints a traceback, and so that running out
of descriptors pauses accepting instead of spinning.

Invariants: at most ``limits.connections`` connections are served, the others get 503; ``limits`` and ``timeouts`` may
be replaced at any time and hold from a connection's next request on; after ``stop`` no greenlet of the server is left.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from socket import SHUT_RDWR
from typing import Any, cast

import gevent
from gevent.event import Event
from gevent.pywsgi import WSGIServer
from gevent.socket import socket

from spawn.counters import Counters
from spawn.http11.binding import listen
from spawn.http11.deadlines import Deadlines, wake
from spawn.http11.message import Request, ResponseWriter
from spawn.http11.serving import Connection
from spawn.http11.wire import HeadLimits

log = logging.getLogger("spawn.http")

Handle = Callable[[Request, ResponseWriter], None]

HALF_HEAD_S = 1.0  # a stop gives a request that is just arriving so long to become one
CUT_S = 1.0  # and what is cut at its deadline so long to clean up
ACCEPT_PAUSE_S = 0.5


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What is refused with a clear status."""

    head: int = 65_536  # bytes of a request head: 431
    headers: int = 100  # 431
    body: int = 1_073_741_824  # bytes of a request body: 413
    connections: int = 10_000  # 503


@dataclass(frozen=True, slots=True)
class ServerTimeouts:
    """In seconds; each is a deadline for the client."""

    head: float = 10.0  # from a connection's beginning or a request's first byte to the end of its head
    body: float = 30.0  # a pause in a body, and the window in which its rate is judged
    idle: float = 75.0  # between requests
    send: float = 30.0  # the client takes nothing, and the window in which its rate is judged


class Acceptor(WSGIServer):
    """pywsgi's accept loop, with failures that are handled quietly."""

    def __init__(self, listener: socket, http: HttpServer) -> None:
        self.http = http
        self._complained = False
        super().__init__(listener, log=None, error_log=None, handler_class=cast(Any, Connection))

    def update_environ(self) -> None:
        """There is no base environ, and a look-up of our own name could take long."""

    def do_read(self) -> Any:
        try:
            accepted = super().do_read()
        except OSError as error:
            if error.errno != errno.ECONNABORTED:
                self._pause(error)
            return None
        self._complained = False
        return accepted

    def _pause(self, error: OSError) -> None:
        self.stop_accepting()
        self._timer: Any = self.loop.timer(ACCEPT_PAUSE_S)
        self._timer.start(self._resume)
        if not self._complained:
            self._complained = True
            log.warning("%s port: cannot accept connections (%s); trying on", self.http.name, error.strerror)

    def _resume(self) -> None:
        if self.started:
            self.start_accepting()


class HttpServer:
    """One port and its connections. ``handle`` is called once for each good request, in the connection's greenlet."""

    def __init__(
        self,
        listener: socket | tuple[str, int],
        handle: Handle,
        *,
        limits: ServerLimits,
        timeouts: ServerTimeouts,
        deadlines: Deadlines,
        counters: Counters,
        name: str,
        hint: str = '--port / "port"',
    ) -> None:
        self._address = listener if isinstance(listener, tuple) else None
        self._listener = None if isinstance(listener, tuple) else listener
        self._port = 0
        self._hint = hint
        self._acceptor: Acceptor | None = None
        self._limits = limits
        self.head_limits = HeadLimits(limits.head, limits.headers)
        self._second = 0
        self._date = b""
        self._empty = Event()
        self.handle = handle
        self.timeouts = timeouts
        self.deadlines = deadlines
        self.counters = counters
        self.name = name
        self.stopping = False
        self.refusing = 0  # connections beyond the limit that are just being told so
        self.connections: set[Connection] = set()

    @property
    def limits(self) -> ServerLimits:
        return self._limits

    @limits.setter
    def limits(self, limits: ServerLimits) -> None:
        self._limits = limits
        self.head_limits = HeadLimits(limits.head, limits.headers)

    @property
    def port(self) -> int:
        """The port listened on, once bound; 0 before."""
        return self._port

    def bind(self) -> None:
        """Take the port; clients may connect and wait from now on. Raises ``StartError``."""
        if self._listener is None and self._address is not None:
            self._listener = listen(*self._address, self._hint)
        if self._listener is not None and not self.stopping:
            self._port = self._listener.getsockname()[1]

    def start(self) -> None:
        """Begin to accept."""
        if self._acceptor is None:
            self.bind()
            assert self._listener is not None
            self._acceptor = Acceptor(self._listener, self)
            self._acceptor.start()

    def stop(self, deadline_s: float) -> None:
        """Refuse new connections at once, close idle ones, let requests finish, cut what is left at the deadline."""
        ends_s = time.monotonic() + deadline_s
        self.stopping = True
        if self._acceptor is not None:
            self._acceptor.close()
        if self._listener is not None:
            self._listener.close()
        for connection in list(self.connections):
            connection.wind_up(min(HALF_HEAD_S, deadline_s))
        self._wait_until_empty(ends_s - time.monotonic())
        self._cut()

    def opened(self, connection: Connection) -> bool:
        """Take a connection in; False when there are too many, or no more are wanted."""
        if self.stopping or len(self.connections) >= self._limits.connections:
            return False
        self.connections.add(connection)
        return True

    def closed(self, connection: Connection) -> None:
        self.connections.discard(connection)
        if not self.connections:
            self._empty.set()

    def date(self) -> bytes:
        """The value of a Date header, made once a second."""
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._date = formatdate(second, usegmt=True).encode()
        return self._date

    def _wait_until_empty(self, timeout_s: float) -> None:
        self._empty.clear()
        if self.connections and timeout_s > 0:
            self._empty.wait(timeout_s)

    def _cut(self) -> None:
        left = list(self.connections)
        greenlets = [connection.greenlet for connection in left]
        for connection in left:
            wake(connection.channel.sock, SHUT_RDWR)
        gevent.killall(greenlets, block=False)
        gevent.joinall(greenlets, timeout=CUT_S)
