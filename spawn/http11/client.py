"""Requests to nodes over kept connections, and how sure one can be of what became of them.

``send`` has three ends, and that there are three is the point of this module:

* it returns an ``Answer``: a complete final head came;
* ``NotSent``: not one byte of the request was written on a connection that lived. A kept connection that turns out to
  be closed before the first byte is no error: the next one, or a new one, is used;
* ``Unknown``: at least one byte was written and no complete final head came back.

Strategy: ``_Exchange`` writes the request and looks for an answer between the pieces of a large body, because a node
may refuse it (413) before it has read it. When writing fails, an answer that has arrived already still counts. A head
that has begun, or that is all that is missing, has one deadline for the whole of it: progress byte by byte would keep
a node's queue waiting. ``Answer`` then owns the connection until the body is read, and gives it back or closes it by
itself.

Invariants: a connection goes back only when request and answer were both whole, the node keeps it, and not a byte more
than the answer came. On every other path, kills and time-outs included, it is closed, and reset where the request has
no answer. Targets and headers are written as they are given.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from contextlib import closing
from types import TracebackType
from typing import Self

import gevent
from gevent.event import Event
from gevent.greenlet import Greenlet

from spawn.errors import AnswerCut, NotSent, ProtocolError, Unknown
from spawn.http11.connection import RECEIVE_BYTES, Connection, IdlePool, connect
from spawn.http11.deadlines import Deadlines
from spawn.http11.fairness import Share
from spawn.http11.message import ResponseHead
from spawn.http11.outgoing import BodyUnreadable, OutgoingRequest, body_bytes, pieces
from spawn.http11.progress import FLOOR_BYTES_PER_S, Progress
from spawn.http11.resolver import Resolver
from spawn.http11.wire import BadAnswer, HeadLimits, decoder_for, find_head_end, parse_response_head

__all__ = ["Answer", "BodyUnreadable", "Client", "OutgoingRequest"]

ANSWER_HEAD = HeadLimits(head_bytes=65_536, headers=200, line_bytes=65_536)
MAX_INTERIM = 20  # 1xx heads before the final one; HTTP sets no limit, patience does
DRAIN_S = 5.0  # ``finish`` spends no more time than this on a body nobody wants
REAP_EVERY_S = 15.0

_BARE_LF = re.compile(rb"(?<!\r)\n")


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
        self._unused = Event()  # set while nothing is in use; only ``stop`` cares
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
        on_sent: Callable[[], None] | None = None,
        on_slow: Callable[[str], None] | None = None,
    ) -> Answer:
        """Send and wait for the final head. Raises ``NotSent`` or ``Unknown``.

        ``progress_timeout_s`` bounds every pause in either direction, not the whole; but after that long a large body
        has to be taken at no less than ``FLOOR_BYTES_PER_S`` on average, and the final head has no more than that
        altogether, from the end of sending or from its own first byte, and once more after a 1xx. A kept connection is
        used when it was idle for less than ``max_idle_s`` (0: never). ``on_sent`` is called once all of the request is
        written, so not when the node answers before that. ``on_slow`` is called, at most once and maybe by the
        sweeper, when after ``progress_timeout_s`` there is still something to be taken, with how much was.
        """
        while True:
            connection = self._obtain(key, host, port, max_idle_s)
            exchange = _Exchange(connection, request, host, port, progress_timeout_s, on_slow)
            try:
                head = exchange.run(on_sent)
                connection.progress = None
                connection.in_order = exchange.sent_all
                return Answer(self, key, connection, head, exchange.surplus, progress_timeout_s, exchange.sent_all)
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
        if not self._in_use:
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


class _Exchange:
    """One request written and one final head read, on one connection."""

    def __init__(
        self,
        connection: Connection,
        request: OutgoingRequest,
        host: str,
        port: int,
        progress_timeout_s: float,
        on_slow: Callable[[str], None] | None,
    ) -> None:
        self.sent_all = False
        self._connection = connection
        self._request = request
        self._node = (host, port)
        self._timeout_s = progress_timeout_s
        self._on_slow = on_slow
        self._written = 0  # bytes that the kernel has taken
        self._progress: Progress | None = None
        self._received_any = False
        self._received = bytearray()
        self._searched = 0  # how much of it holds no end of a head
        self._interim = 0
        self._head_deadline_s = math.inf  # for the final head: runs while it is all that is waited for, or has begun
        self._waiting = False  # for the final head only
        self._renewed = False
        self._head: ResponseHead | None = None

    @property
    def surplus(self) -> bytes:
        """What came behind the final head."""
        return bytes(self._received)

    def run(self, on_sent: Callable[[], None] | None) -> ResponseHead:
        lost = self._write_all()
        if self.sent_all and on_sent is not None:
            on_sent()
        self._waiting = True
        self._start_head_clock()
        while self._head is None:
            try:
                data = self._connection.receive(self._head_time_left_s(), first_wait=True)
            except OSError as error:
                raise self._unknown(lost or _text(error)) from None
            if not data:
                raise self._unknown(lost or self._why_ended())
            self._take_in(data)
        return self._head

    def _write_all(self) -> str:
        """Write until all is written, the final head is there, or writing fails: then the reason is returned."""
        try:
            with closing(pieces(self._request, self._node)) as steps:
                for piece in steps:
                    if self._written and self._answered_already():
                        return ""
                    if not self._write(memoryview(piece)):
                        return ""
            self.sent_all = True
            if self._progress is not None:
                self._progress.written = self._written
        except BodyUnreadable as error:
            if self._written and not error.lost:
                raise Unknown(str(error)) from None
            raise
        except OSError as error:
            reason = self._why_ended() if self._connection.cut_short else f"while sending: {_text(error)}"
            if not self._written:
                raise NotSent(reason) from None
            return reason
        return ""

    def _write(self, piece: memoryview) -> bool:
        """Write one piece. False when the final head came before it was all written."""
        if self._progress is not None:
            self._progress.resume()
        while piece:
            count = self._connection.send_now(piece)
            if count:
                self._written += count
                piece = piece[count:]
            elif not self._await_room():
                return False
        if self._progress is not None:
            self._progress.pause()
        return True

    def _await_room(self) -> bool:
        """Wait until the kernel takes more. False when the final head has come."""
        progress = self._progress
        if progress is None:
            total_bytes = body_bytes(self._request)
            progress = self._progress = Progress(self._written, total_bytes, self._timeout_s, self._on_slow)
        progress.written = self._written
        self._connection.wait_either(min(self._timeout_s, self._head_time_left_s()), progress)
        if self._answered_already():
            return False
        if progress.too_slow:
            raise Unknown(self._why_late(), timed_out=True)
        return True

    def _answered_already(self) -> bool:
        """Look, without waiting, whether the final head has come. Raises ``OSError`` when the node has hung up."""
        data = self._connection.receive_now()
        if data == b"":
            raise ConnectionAbortedError(103, "the node closed the connection")
        if data:
            self._take_in(data)
            if self._received:
                self._start_head_clock()
        if self._head is None:
            self._head_time_left_s()
        return self._head is not None

    def _start_head_clock(self) -> None:
        if self._head_deadline_s == math.inf:
            self._head_deadline_s = time.monotonic() + self._timeout_s

    def _head_time_left_s(self) -> float:
        left_s = self._head_deadline_s - time.monotonic()
        if left_s <= 0:
            raise Unknown(self._why_late(), timed_out=True)
        return left_s

    def _take_in(self, data: bytes) -> None:
        if not self._received_any and self._head_deadline_s < time.monotonic():
            # The wait went on because the kernel still got bytes of the request across: sending ended only now.
            self._head_deadline_s = time.monotonic() + self._timeout_s
        self._received_any = True
        self._received += data
        while self._head is None:
            end = find_head_end(self._received, self._searched)
            if end < 0:
                self._check_start()
                self._searched = max(0, len(self._received) - 3)
                return
            head = self._parse(bytes(self._received[:end]))
            del self._received[:end]
            self._searched = 0
            if head.status >= 200:
                self._head = head
            else:
                self._interim += 1
                self._after_interim()
                if head.status == 101 or self._interim > MAX_INTERIM:
                    raise self._malformed("an upgrade nobody asked for" if head.status == 101 else "1xx without end")

    def _after_interim(self) -> None:
        """While sending, nothing has to come after a 1xx; later it is a sign of life that counts once."""
        if not self._waiting:
            self._head_deadline_s = math.inf
        elif not self._renewed:
            self._renewed = True
            self._head_deadline_s = time.monotonic() + self._timeout_s

    def _parse(self, head: bytes) -> ResponseHead:
        try:
            return parse_response_head(head, self._request.method, ANSWER_HEAD)
        except (BadAnswer, ProtocolError) as error:
            raise self._malformed(str(error)) from None

    def _check_start(self) -> None:
        """Do not wait for the end of a head that is none (another protocol's greeting) or has none."""
        if self._received[:5] != b"HTTP/"[: len(self._received)]:
            raise self._malformed("it does not begin with HTTP/")
        if _BARE_LF.search(self._received, self._searched):  # looks behind for the CR
            raise self._malformed("a line ends without CR")
        if len(self._received) > ANSWER_HEAD.head_bytes:
            raise self._malformed(f"a head of more than {ANSWER_HEAD.head_bytes} bytes")

    def _malformed(self, reason: str) -> Unknown:
        return Unknown(f"node answered with something that is not HTTP: {reason}", malformed=True)

    def _why_ended(self) -> str:
        if self._connection.woken:
            return "stopped while waiting for the node's answer"
        if self._connection.expired:
            return self._why_late()
        return "the node closed the connection " + (
            "amid the answer's head" if self._received_any else "without answer"
        )

    def _why_late(self) -> str:
        if self._progress is not None and self._progress.too_slow:
            return f"too slow: it took {self._progress.too_slow}, less than {FLOOR_BYTES_PER_S / 1024:g} KiB/s"
        if self._received:
            return f"the head of the node's answer was not complete after {self._timeout_s:g} s"
        return f"no progress for {self._timeout_s:g} s while waiting for the node's answer"

    def _unknown(self, reason: str) -> Unknown:
        silent = self._connection.reused and not self._received_any and not self._connection.cut_short
        timed_out = self._connection.expired and not self._connection.woken
        return Unknown(reason, reused_and_silent=silent, timed_out=timed_out)


class Answer:
    """A node's answer: the final head, and the body as it comes. Use it as a context manager, or ``close`` it."""

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
        self._share = Share()
        self._decoder = decoder_for(head.framing, endless=True)
        self._ready = b""
        self._cut = ""
        if self._decoder is None:
            self._end(surplus=received)
        else:
            self._decode(received)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def whole(self) -> bool:
        """Whether nothing of the body has to be waited for any more."""
        return self._connection is None

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
            self._fail(f"the answer broke off: {_text(error)}")
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
        assert self._decoder is not None
        if connection.woken:
            self._fail("stopped amid the answer")
        elif connection.expired:
            self._fail(f"the answer stalled for {timeout_s:g} s")
        elif self._decoder.eof():
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


def _text(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__
