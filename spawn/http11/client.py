"""Requests to nodes over kept connections, and how sure one can be of what became of them.

``send`` has three ends, and that there are three is the point of this module:

* it returns an ``Answer``: a complete final head came;
* ``NotSent``: not one byte of the request was written on a connection that lived. A kept connection that turns out to
  be closed before the first byte is no error: the next one, or a new one, is used;
* ``Unknown``: at least one byte was written and no complete final head came back.

Strategy: ``transaction`` writes the request and reads the head of its answer. ``Answer`` then owns the connection until
the body is read, and gives it back or closes it by itself.

Invariants: a connection goes back only when request and answer were both whole, the node keeps it, and not a byte more
than the answer came. On every other path, kills and time-outs included, it is closed, and reset where the request has
no answer. Targets and headers are written as they are given.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import gevent
from gevent.event import Event
from gevent.greenlet import Greenlet

from spawn.errors import AnswerCut, NotSent, ProtocolError
from spawn.http11.connection import RECEIVE_BYTES, Connection, IdlePool, connect
from spawn.http11.deadlines import Deadlines
from spawn.http11.fairness import Share
from spawn.http11.message import OutgoingRequest, ResponseHead
from spawn.http11.outgoing import BodyUnreadable
from spawn.http11.resolver import Resolver
from spawn.http11.transaction import Transaction, text_of
from spawn.http11.wire import BadAnswer, decoder_for

__all__ = ["Answer", "BodyUnreadable", "Client", "OutgoingRequest"]

DRAIN_S = 5.0  # ``finish`` spends no more time than this on a body nobody wants
REAP_EVERY_S = 15.0


class Client:
    """Sends requests; keeps up to ``max_idle_per_node`` connections per key. ``key`` is the node's id."""

    def __init__(
        self, resolver: Resolver, deadlines: Deadlines, *, connect_timeout_s: float, max_idle_per_node: int = 32
    ) -> None:
        self.connect_timeout_s = connect_timeout_s  # may be changed at run time
        self._resolver = resolver
        self._deadlines = deadlines
        self._idle = IdlePool(max_idle_per_node)
        self._in_use: set[Connection] = set()
        self._unused = Event()  # set once nothing is in use any more; only ``stop`` cares
        self._reaper: Greenlet[[], None] | None = None
        self._stopping = False

    def send(
        self,
        key: str,
        host: str,
        port: int,
        request: OutgoingRequest,
        *,
        progress_timeout_s: float,
        max_idle_s: float,
        careful: bool = True,
        on_sent: Callable[[], None] | None = None,
        on_slow: Callable[[str], None] | None = None,
    ) -> Answer:
        """Send and wait for the final head. Raises ``NotSent`` or ``Unknown``.

        ``progress_timeout_s`` bounds every pause in either direction, not the whole; but after that long a large body
        has to be taken at no less than ``FLOOR_BYTES_PER_S`` on average, and the final head has no more than that
        altogether, from the end of sending or from its own first byte, and once more after a 1xx. A kept connection is
        used when it was idle for less than ``max_idle_s`` (0: never); ``careful``: and when the kernel says at this
        moment that it is still open, otherwise a close just now may show only as an ``Unknown`` of a connection that
        was reused and is silent. ``on_sent`` is called once all of the request is written, so not when the node answers
        before that. ``on_slow`` is called, at most once and maybe by the sweeper, when after ``progress_timeout_s``
        there is still something to be taken, with how much was.
        """
        while True:
            connection = self._obtain(key, host, port, max_idle_s)
            transaction = Transaction(connection, request, host, port, progress_timeout_s, careful, on_slow)
            try:
                head = transaction.run(on_sent)
                connection.progress = None
                sent_all, received = transaction.sent_all, transaction.surplus
                connection.in_order = sent_all
                return Answer(self, key, connection, head, received, progress_timeout_s, sent_all)
            except NotSent:
                self._drop(connection)
                if not connection.reused or connection.woken:
                    raise
            except BaseException:  # kills and time-outs of the caller too: the connection is of no use to anybody else
                self._drop(connection)
                raise

    def forget(self, key: str) -> None:
        """Drop the idle connections of a node, and later those in use as they become idle."""
        self._idle.forget(key)

    def stop(self, deadline_s: float) -> None:
        """Drop what is idle, wait for what is in use, then cut it. Later calls of ``send`` raise ``NotSent``."""
        self._stopping = True
        self._idle.clear()
        if self._reaper is not None:
            self._reaper.kill()
            self._reaper = None
        if self._in_use:
            self._unused.clear()
            self._unused.wait(deadline_s)
        for connection in list(self._in_use):
            connection.wake()

    # What answers use.

    def _give_back(self, key: str, connection: Connection) -> None:
        self._no_longer_in_use(connection)
        if self._stopping:
            connection.close()
            return
        self._idle.put(key, connection)
        if self._reaper is None:
            self._reaper = gevent.spawn(self._reap)

    def _drop(self, connection: Connection) -> None:
        self._no_longer_in_use(connection)
        connection.close()

    def _no_longer_in_use(self, connection: Connection) -> None:
        self._in_use.discard(connection)
        if self._stopping and not self._in_use:
            self._unused.set()

    def _obtain(self, key: str, host: str, port: int, max_idle_s: float) -> Connection:
        if self._stopping:
            raise NotSent("stopping")
        connection = self._idle.take(key, (host, port), max_idle_s)
        if connection is None:
            connection = connect(self._resolver, self._deadlines, host, port, self.connect_timeout_s)
            if self._stopping:
                connection.close()
                raise NotSent("stopping")
            self._idle.adopt(key, connection)
        self._in_use.add(connection)
        return connection

    def _reap(self) -> None:
        """Lives only while something is kept."""
        while len(self._idle):
            gevent.sleep(REAP_EVERY_S)
            self._idle.reap()
        self._reaper = None


class Answer:
    """A node's answer: the final head, and the body as it comes. Use it as a context manager, or ``close`` it."""

    _cut = ""  # why there is no more, once it broke off

    def __init__(
        self,
        client: Client,
        key: str,
        connection: Connection,
        head: ResponseHead,
        received: bytes,
        progress_timeout_s: float,
        reusable: bool,
    ) -> None:
        self.head = head
        self._client = client
        self._key = key
        self._connection: Connection | None = connection
        self._timeout_s = progress_timeout_s
        self._reusable = reusable and head.keep_alive
        self._ready = b""
        if head.framing.length == len(received):  # all of it is here, as nearly always
            self._ready = received
            self._end(surplus=b"")
            return
        self._share = Share()
        self._decoder = decoder_for(head.framing, endless=True)
        if self._decoder is None:
            self._end(surplus=received)
        else:
            self._decode(received)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def ended(self) -> bool:
        """Whether nothing of the body has to be waited for any more."""
        return self._connection is None

    @property
    def complete(self) -> bool:
        """Whether all of the body is here, as far as it was not read."""
        return self._connection is None and not self._cut

    def read(self, limit_bytes: int = 65_536) -> bytes:
        """The next bytes of the body, ``b""`` at its end. Raises ``AnswerCut``."""
        while not self._ready:
            if self._cut:
                raise AnswerCut(self._cut)
            if self._connection is None:
                return b""
            self._receive(self._connection, self._timeout_s)
        data, self._ready = self._ready[:limit_bytes], self._ready[limit_bytes:]
        return data

    def finish(self, drain_bytes: int = 65_536) -> None:
        """Be done with the answer: read at most this much of its body so that the connection can be kept, else drop it.

        Never raises because of the node.
        """
        deadline_s = time.monotonic() + DRAIN_S
        drained = len(self._ready)
        self._ready = b""
        while self._connection is not None and drained < drain_bytes:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                break
            self._receive(self._connection, min(self._timeout_s, left_s), min(RECEIVE_BYTES, drain_bytes - drained))
            drained += len(self._ready)
            self._ready = b""
        self.close()

    def close(self) -> None:
        """Drop the connection unless it was given back already. What was not read is lost."""
        if self._connection is not None:
            self._fail("the answer was closed before its end")
        self._ready = b""

    def _receive(self, connection: Connection, timeout_s: float, limit_bytes: int = RECEIVE_BYTES) -> None:
        try:
            data = connection.receive(timeout_s, self._share.limit(limit_bytes))
            if data:
                self._decode(data)
            else:
                self._end_of_file(connection, timeout_s)
        except OSError as error:
            self._fail(f"the answer broke off: {text_of(error)}")
        except BaseException:
            self.close()
            raise

    def _decode(self, data: bytes) -> None:
        decoder = self._decoder
        assert decoder is not None
        try:
            self._ready = decoder.feed(data)
        except (BadAnswer, ProtocolError) as error:
            self._fail(f"the answer's body is malformed: {error}")
            return
        if decoder.done:
            self._end(surplus=decoder.leftover)
        else:
            self._share.decoded(len(data), len(self._ready))

    def _end_of_file(self, connection: Connection, timeout_s: float) -> None:
        decoder = self._decoder
        assert decoder is not None
        if connection.woken:
            self._fail("stopped amid the answer")
        elif connection.expired:
            self._fail(f"the answer stalled for {timeout_s:g} s")
        elif decoder.eof():
            self._reusable = False
            self._end(surplus=b"")
        else:
            self._fail("the node closed the connection amid the answer")

    def _end(self, surplus: bytes) -> None:
        """The body is complete. Surplus bytes answer nothing that was asked, so nothing behind them can be trusted."""
        connection, self._connection = self._connection, None
        assert connection is not None
        if self._reusable and not surplus and not connection.cut_short:
            self._client._give_back(self._key, connection)
        else:
            self._client._drop(connection)

    def _fail(self, reason: str) -> None:
        connection, self._connection = self._connection, None
        assert connection is not None
        self._cut = reason
        self._client._drop(connection)
