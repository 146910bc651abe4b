"""The vocabulary of HTTP/1.1 messages as Spawn sees them: raw bytes, ordered headers, one explicit framing.

Nothing here does I/O. A target is the exact bytes of the request line, header names keep their case, values are
stripped of the optional white space around them (RFC 9110 §5.5) and otherwise untouched.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from msgspec import Struct

from spawn.http11.field import Field, Header

Headers = list[Header]


class Framing(Struct, frozen=True, gc=False):
    """How the length of a body is known (RFC 9112 §6.3). At most one of the three is set; none: no body at all."""

    length: int | None = None  # Content-Length, 0 included
    chunked: bool = False
    until_close: bool = False  # only ever in a response

    @property
    def has_body(self) -> bool:
        return self.chunked or self.until_close or bool(self.length)


NO_BODY = Framing()


class RequestHead(Struct):
    """A request line and headers that passed every check of ``wire``."""

    method: bytes
    target: bytes  # origin-form, or ``*``; an absolute-form target is reduced to this, its authority in ``host``
    minor: int  # HTTP/1.<minor>, 0 or 1
    fields: list[Field]
    special: list[Field]  # those of them that are not plain
    connection: frozenset[bytes]  # the options that Connection lists, in lower case
    host: bytes  # authority the client named; b"" for HTTP/1.0 without one
    framing: Framing
    keep_alive: bool
    expect_continue: bool = False
    dropped_headers: int = 0  # names with an underscore, removed

    @property
    def headers(self) -> Headers:
        """Names, their case as it came, and values."""
        return [field.header for field in self.fields]


class ResponseHead(Struct, frozen=True):
    """A status line and headers of a node's answer. One object may stand for many answers: nothing in it is changed."""

    status: int
    reason: bytes
    minor: int
    fields: list[Field]
    special: list[Field]  # this and the next as of a ``RequestHead``
    connection: frozenset[bytes]
    framing: Framing  # NO_BODY for HEAD, 204 and 304 whatever the headers say
    keep_alive: bool

    @property
    def headers(self) -> Headers:
        """As of a ``RequestHead``."""
        return [field.header for field in self.fields]


class BodyFile(Protocol):
    """A request's body in a file."""

    @property
    def path(self) -> str: ...

    @property
    def size(self) -> int: ...


class OutgoingRequest(Struct, frozen=True):
    """A request as it goes out. ``headers`` are whole lines with Host and without framing; body None: no framing."""

    method: bytes
    target: bytes
    headers: bytes
    body: bytes | BodyFile | None = None


class BodyReader(Protocol):
    """A body as it arrives."""

    def read(self, limit_bytes: int = 65_536) -> bytes:
        """The next bytes, at most ``limit_bytes``; ``b""`` at the end.

        A request's body raises ``ProtocolError`` (malformed, too large, too slow) or ``ClientGone``; an answer's body
        raises ``AnswerCut``.
        """


class Request(Struct):
    """A request as the proxy's handler gets it."""

    head: RequestHead
    body: BodyReader
    peer: str  # the client's IP address, without a port
    scheme: bytes = b"http"


class ResponseWriter(Protocol):
    """What a handler answers with. Exactly one answer per request."""

    @property
    def started(self) -> bool:
        """Whether a byte of the answer's head may have left."""

    @property
    def status(self) -> int:
        """The status of the answer that has begun, else 0."""

    def start(self, status: int, reason: bytes, headers: Iterable[Header], length: int | None) -> None:
        """Queue the head. ``headers`` are without framing and hop-by-hop ones; those are added here.

        ``length`` None means: not known, so chunked for an HTTP/1.1 client and ended by close for HTTP/1.0. For an
        answer to HEAD, ``length`` is announced and nothing may be written. For 204 and 304 no body is framed.
        A head is sent together with the first ``write`` or at ``finish``, whichever comes first.
        """

    def pass_on(self, status: int, reason: bytes, lines: bytes, length: int | None) -> None:
        """``start`` with rendered headers that passed every check of ``wire`` in another message."""

    def write(self, data: bytes) -> None:
        """Send a part of the body. Raises ``ClientGone`` when the client is gone or takes nothing for too long."""

    def flush(self) -> None:
        """Send the head now even though no body is there yet (endless answers)."""

    def finish(self, data: bytes = b"") -> None:
        """End the answer cleanly, after a last ``write`` of ``data``."""

    def abort(self) -> None:
        """End without a clean end: the client sees a cut connection. For answers that broke after their first byte."""

    def reply(self, status: int, message: str, headers: Iterable[Header] = ()) -> None:
        """A whole small answer of Spawn's own, JSON ``{"error": status, "message": message}``."""


def get_all(headers: Headers, name: bytes) -> list[bytes]:
    """All values of a header, in order; ``name`` is lower-case."""
    return [value for key, value in headers if key.lower() == name]


def get(headers: Headers, name: bytes) -> bytes | None:
    """The first value of a header, or None; ``name`` is lower-case."""
    for key, value in headers:
        if key.lower() == name:
            return value
    return None


def render(headers: Iterable[Header]) -> bytes:
    """Header lines as they go on the wire, each ended by CRLF."""
    lines = b"\r\n".join(map(b": ".join, headers))
    return lines + b"\r\n" if lines else b""
