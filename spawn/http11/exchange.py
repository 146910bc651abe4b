"""One request's body and one answer, as a handler sees them (the contracts of ``message``).

The body is read from the connection only when the handler asks for it, which is also the moment when a client that
expects it is told to go on. The answer gets exactly one framing, chosen here, and its head leaves together with the
first bytes of its body in one send.

Invariants: a fault of the body is raised again by every later read, and closes the connection after the answer; an
answer cannot carry a header that was not given as one (CR, LF and NUL are refused), nor more bytes than announced.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable
from http import HTTPStatus
from socket import SHUT_RD
from typing import Protocol

from spawn.errors import ClientGone, ProtocolError, SpawnError
from spawn.http11.bodies import LAST_CHUNK, BodyDecoder
from spawn.http11.channel import MIN_BYTES_PER_S, RECEIVE_BYTES, Channel, TimedOut
from spawn.http11.field import Header
from spawn.http11.message import RequestHead, render

DRAIN_BYTES = 65_536  # of a body nobody read are swallowed to keep a connection; beyond that a new one is cheaper
JOIN_BYTES = 65_536  # a head is copied in front of at most so much body to save a send

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}

_DATE = re.compile(rb"(?:^|\n)date:", re.IGNORECASE)
_REASON = re.compile(rb"[^\r\n\x00]*")
_OURS = (b"\ncontent-length:", b"\ntransfer-encoding:", b"\nconnection:")


class EmptyBody:
    """The body of a request without one. One object serves all."""

    __slots__ = ()

    done = True
    failed = False
    waits_for_continue = False

    def read(self, limit_bytes: int = RECEIVE_BYTES) -> bytes:
        return b""

    def likely_drained(self) -> bool:
        return True

    def drain(self) -> bool:
        return True


EMPTY_BODY = EmptyBody()


class RequestBody:
    """A body as it arrives, within its size, pause and rate limits."""

    __slots__ = ("_channel", "_decoder", "_fault", "_left", "_length", "_send_s", "_timeout_s", "_waited_s", "_window",
                 "waits_for_continue")  # fmt: skip

    def __init__(
        self,
        channel: Channel,
        decoder: BodyDecoder,
        head: RequestHead,
        *,
        limit_bytes: int,
        timeout_s: float,
        send_s: float,
    ) -> None:
        self._channel = channel
        self._decoder = decoder
        self._left = limit_bytes
        self._length = head.framing.length
        self._timeout_s = timeout_s
        self._send_s = send_s
        self._fault: SpawnError | None = None
        self._waited_s = 0.0  # for the client, in the current window of timeout_s
        self._window = 0  # bytes that came in it
        self.waits_for_continue = head.expect_continue

    @property
    def done(self) -> bool:
        return self._decoder.done

    @property
    def failed(self) -> bool:
        return self._fault is not None

    def read(self, limit_bytes: int = RECEIVE_BYTES) -> bytes:
        """See ``message.BodyReader``."""
        if self._fault is not None:
            raise self._fault
        try:
            return self._read(limit_bytes)
        except (ProtocolError, ClientGone) as fault:
            self._fault = fault
            raise

    def likely_drained(self) -> bool:
        """Whether the connection can probably be kept, asked before the answer's head is made."""
        if self.done:
            return True
        if self.failed or self.waits_for_continue:
            return False
        return self._length is None or getattr(self._decoder, "remaining", 0) <= DRAIN_BYTES

    def drain(self) -> bool:
        """Swallow what the handler did not read; False when that is too much, or failed."""
        if self.waits_for_continue:
            return self.done  # whether a body will come at all is not known
        swallowed = 0
        try:
            while not self.done and swallowed <= DRAIN_BYTES:
                swallowed += len(self.read(DRAIN_BYTES))
        except (ProtocolError, ClientGone):
            return False
        return self.done

    def _read(self, limit_bytes: int) -> bytes:
        decoder, channel = self._decoder, self._channel
        while not decoder.done:
            limit_bytes = channel.share.limit(limit_bytes)
            raw = channel.buffer
            if raw:
                channel.buffer = raw[limit_bytes:]
                raw = raw[:limit_bytes]
            else:
                raw = self._receive(min(limit_bytes, RECEIVE_BYTES))
            self.waits_for_continue = False
            data = decoder.feed(raw)
            if decoder.done:
                channel.buffer = decoder.leftover + channel.buffer
            channel.share.decoded(len(raw) - len(decoder.leftover), len(data))
            if data:
                self._left -= len(data)
                if self._left < 0:
                    raise ProtocolError(413, "the body is too large")
                return data
        return b""

    def _receive(self, limit_bytes: int) -> bytes:
        channel = self._channel
        if self.waits_for_continue:
            channel.send(CONTINUE, self._send_s)
        began_s = time.monotonic()
        channel.watch.arm(self._timeout_s, SHUT_RD)
        try:
            raw = channel.receive(limit_bytes)
        except TimedOut:
            raise ProtocolError(408, "the body pauses for too long") from None
        finally:
            channel.watch.disarm()
        if not raw:
            raise ClientGone("the body was cut short")
        self._check_rate(len(raw), time.monotonic() - began_s)
        return raw

    def _check_rate(self, count: int, waited_s: float) -> None:
        self._waited_s += waited_s
        self._window += count
        if self._waited_s >= self._timeout_s:
            if self._window < MIN_BYTES_PER_S * self._timeout_s:
                raise ProtocolError(408, "the body comes too slowly")
            self._waited_s, self._window = 0.0, 0


class AnswerContext(Protocol):
    """What an answer has to know of its server."""

    stopping: bool

    def date(self) -> bytes:
        """The value of a Date header."""


class Answer:
    """A ``message.ResponseWriter`` on a client's connection."""

    # What most answers never change is not set for each of them.
    _queued: bytes | None = None  # a head that has not left yet
    _left: int | None = None  # bytes announced and not written yet
    _status = 0
    _chunked = False
    _bodyless = False
    started = False
    finished = False
    aborted = False

    def __init__(
        self, channel: Channel, head: RequestHead, body: RequestBody | EmptyBody, context: AnswerContext, send_s: float
    ) -> None:
        self._channel = channel
        self._head = head
        self._body = body
        self._context = context
        self._send_s = send_s
        self.close = not head.keep_alive  # whether the connection ends with this answer

    @property
    def status(self) -> int:
        """See ``message.ResponseWriter``."""
        return self._status if self.started else 0

    def start(self, status: int, reason: bytes, headers: Iterable[Header], length: int | None) -> None:
        """See ``message.ResponseWriter``. Raises ``ValueError`` for what must not go on the wire."""
        headers = list(headers)
        text = render(headers)
        lines = len(headers)
        if text.count(b"\n") != lines or text.count(b"\r") != lines or b"\0" in text or not _REASON.fullmatch(reason):
            raise ValueError("a line break or NUL in a header of an answer")
        lower = b"\n" + text.lower()
        for name in _OURS:
            if name in lower:
                raise ValueError(f"the header {name[1:-1].decode()} is the server's to give")
        self._queue(status, reason, text, length)

    def pass_on(self, status: int, reason: bytes, lines: bytes, length: int | None) -> None:
        """See ``message.ResponseWriter``."""
        self._queue(status, reason, lines, length)

    def write(self, data: bytes) -> None:
        """See ``message.ResponseWriter``."""
        if not data:
            return
        left = self._left
        if self._bodyless or self.finished:
            raise ValueError("this answer has no body, or has ended")
        if left is not None:
            if len(data) > left:
                raise ValueError("more body than was announced")
            self._left = left - len(data)
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self._send(data)

    def flush(self) -> None:
        """See ``message.ResponseWriter``."""
        if self._queued is not None:
            self._send(b"")

    def finish(self, data: bytes = b"") -> None:
        """See ``message.ResponseWriter``."""
        head, is_all = self._queued, len(data) == self._left
        if head is not None and is_all and 0 < len(data) <= JOIN_BYTES and not self.close and not self._bodyless:
            self.finished = self.started = True
            self._queued = None
            self._channel.send_soon(head + data, self._send_s)
            return
        if data:
            self.write(data)
        if self.finished:
            return
        if self._queued is None and not self.started:
            raise ValueError("an answer was ended that had not begun")
        if self._left and not self._bodyless:
            raise ValueError("less body than was announced")
        self.finished = True
        if self._queued is not None or self._chunked:
            self._send(LAST_CHUNK if self._chunked else b"")

    def abort(self) -> None:
        """See ``message.ResponseWriter``."""
        if not self.finished:
            self.finished = self.aborted = self.close = True
            if self.started and self._left is None and not self._chunked and not self._bodyless:
                self._channel.reset()  # its end is the end of the connection, so that has to look wrong

    def reply(self, status: int, message: str, headers: Iterable[Header] = ()) -> None:
        """See ``message.ResponseWriter``. Replaces a head that was queued and has not left."""
        body = json.dumps({"error": status, "message": message}).encode() + b"\n"
        self.start(
            status, REASONS.get(status, b"Unknown"), [(b"Content-Type", b"application/json"), *headers], len(body)
        )
        if not self._bodyless:
            self.write(body)
        self.finish()

    def _queue(self, status: int, reason: bytes, lines: bytes, length: int | None) -> None:
        if self.started:
            raise ValueError("the answer has already begun")
        if not 200 <= status <= 599:
            raise ValueError(f"{status} is not the status of a final answer")
        if b"\nDate:" not in lines and not _DATE.search(lines):
            lines += b"Date: %b\r\n" % self._context.date()
        self._queued = b"HTTP/1.1 %d %b\r\n%b%b\r\n" % (status, reason, lines, self._frame(status, length))
        self._status = status

    def _frame(self, status: int, length: int | None) -> bytes:
        """Choose the framing (RFC 9112 §6.3) and return the header lines that tell it."""
        lines = b""
        bodyless = self._bodyless = status == 204 or status == 304 or self._head.method == b"HEAD"
        self._chunked = False
        self._left = length
        if length is not None:
            if status != 204 and (length or status != 304):
                lines = b"Content-Length: %d\r\n" % length
        elif not bodyless:
            if self._head.minor == 1:
                self._chunked = True
                lines = b"Transfer-Encoding: chunked\r\n"
            else:
                self.close = True
        if self._context.stopping or not (self._body.done or self._body.likely_drained()):
            self.close = True
        return lines + b"Connection: close\r\n" if self.close else lines

    def _send(self, data: bytes) -> None:
        head = self._queued
        if head is None:
            if not self.started:
                raise ValueError("a body before its head")
        else:
            self._queued = None
            self.started = True
            if len(data) <= JOIN_BYTES:
                data = head + data
            else:
                self._channel.send(head, self._send_s)
        try:
            self._channel.send(data, self._send_s)
        except ClientGone:
            self.close = True
            raise
