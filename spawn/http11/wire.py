"""The codec of message heads: bytes in, a checked head or one clear refusal out. No I/O.

Strategy: find the end of the head here (bounded), check the request or status line here, and give llhttp
(``httptools``) exactly one block of field lines behind a start line of our own. It is strict about names, values and
line ends; but it refuses unknown methods, lets ``gzip, chunked`` and Transfer-Encoding in HTTP/1.0 pass, reads on
behind the head and swallows what follows an ``Upgrade``. Hence our own start line, and the framing rules (RFC 9112 §6)
below.

Invariants: nothing but ``ProtocolError`` (for a request) or ``BadAnswer`` (for an answer) is raised, whatever the
bytes; a head that is returned has at most one framing, and a request of HTTP/1.1 has exactly one valid Host.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from spawn.errors import ProtocolError, SpawnError
from spawn.http11.bodies import (
    LAST_CHUNK,
    BodyDecoder,
    ChunkedDecoder,
    LengthDecoder,
    UntilCloseDecoder,
    chunk,
    decoder_for,
)
from spawn.http11.message import NO_BODY, Framing, Header, Headers, RequestHead, ResponseHead

__all__ = [
    "LAST_CHUNK",
    "BadAnswer",
    "BodyDecoder",
    "ChunkedDecoder",
    "HeadLimits",
    "LengthDecoder",
    "UntilCloseDecoder",
    "check_partial_head",
    "chunk",
    "decoder_for",
    "find_head_end",
    "parse_request_head",
    "parse_response_head",
]

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([^\x00-\x20\x7f]+) HTTP/([0-9])\.([0-9])\r\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*))?\r\n")
_ABSOLUTE_FORM = re.compile(rb"https?://([^/?]*)(.*)", re.IGNORECASE)
# Narrower than RFC 3986's reg-name: no comma, no sub-delimiters, no user info. Nothing that has a name needs them.
_AUTHORITY = re.compile(rb"(?:[A-Za-z0-9\-._~]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{0,5})?")
_CODING = re.compile(_TOKEN + rb"(?:[ \t]*;.*)?")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_BARE_LF = re.compile(rb"(?<!\r)\n")

_START_LINE = b"POST / HTTP/1.1\r\n"  # what llhttp sees in place of any start line: field lines are alike in all heads
_SPECIAL = frozenset({b"host", b"content-length", b"transfer-encoding", b"connection", b"expect"})
_PLAIN = [b"host"]  # the special fields of most requests


class BadAnswer(SpawnError, ValueError):
    """A node's answer head is not HTTP/1.x, or breaks a limit."""


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """Bounds on one head, its start line and its fields."""

    head_bytes: int = 65_536
    headers: int = 100
    line_bytes: int = 8_192  # RFC 9112 §3 asks for 8000 at least


class _Fields:
    """What llhttp calls. The names it need not call are None, so that it does not look for them one by one."""

    __slots__ = ("complete", "found")

    on_message_begin = on_url = on_body = on_message_complete = on_chunk_header = on_chunk_complete = None

    def __init__(self) -> None:
        self.found: Headers = []
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.found.append((name, value))

    def on_headers_complete(self) -> None:
        self.complete = True


def find_head_end(buffer: bytes | bytearray, start: int = 0) -> int:
    """The index just past the first empty line at or after ``start``, or -1.

    A caller that got more bytes passes ``start`` = the previous length less 3, so that no byte is searched twice.
    """
    found = buffer.find(b"\r\n\r\n", max(start, 0))
    return found if found < 0 else found + 4


def check_partial_head(buffer: bytes | bytearray, start: int, limits: HeadLimits) -> None:
    """Refuse a request head that has no end yet but cannot become right any more, instead of waiting for its rest.

    Bytes before ``start`` were in an earlier call. Raises ``ProtocolError``: 400, 414, 431 or what the request line
    merits.
    """
    if _BARE_LF.search(buffer, start):  # looks behind start for the CR
        raise ProtocolError(400, "a line ends without CR")
    begin = 2 if buffer.startswith(b"\r\n") else 0
    line_end = buffer.find(b"\r\n", begin, begin + limits.line_bytes + 2)
    if line_end < 0:
        if len(buffer) > begin + limits.line_bytes + 1:
            raise ProtocolError(414, "the request line is too long")
        if len(buffer) > begin and not (33 <= buffer[begin] < 127 or buffer == b"\r"):
            raise ProtocolError(400, "this is not an HTTP request")
    elif line_end + 2 > start:
        _parse_request_line(bytes(buffer[begin : line_end + 2]), limits)
    if len(buffer) > limits.head_bytes:
        raise ProtocolError(431, "the request head is too long")


def parse_request_head(data: bytes, limits: HeadLimits) -> RequestHead:
    """Check and take apart one whole request head, its final empty line included.

    One empty line before it is allowed (RFC 9112 §2.2). Raises ``ProtocolError``: 400 for what is malformed, 414 and
    431 for what is too long, 417 for an unknown expectation, 501 for CONNECT and unknown transfer codings, 505 for
    HTTP/2.
    """
    if data[:2] == b"\r\n":
        data = data[2:]
    method, target, minor, line_end = _parse_request_line(data, limits)
    if len(data) > limits.head_bytes:
        raise ProtocolError(431, "the request head is too long")
    if data.count(b"\n") > limits.headers + 2:  # counted before any of them costs an object
        raise ProtocolError(431, "too many headers")
    authority = None
    if target[0] != 0x2F:  # not origin-form
        target, authority = _reduce_target(method, target)
    if b"#" in target:
        raise ProtocolError(400, "the target has a fragment")
    block = data[line_end:]
    try:
        headers, sound = _parse_fields(block)
    except HttpParserError as error:
        raise ProtocolError(400, f"malformed header: {error}") from None
    dropped = 0
    if b"_" in block:
        count = len(headers)
        headers = [header for header in headers if b"_" not in header[0]]
        dropped = count - len(headers)
    names, special = _special(headers)
    host = _check_host([v for k, v in special if k == b"host"], minor)
    head = RequestHead(method, target, minor, headers, host, NO_BODY, minor == 1, dropped_headers=dropped)
    if names != _PLAIN:
        _apply_special(head, special)
    if not sound:  # llhttp objected to the framing in a way that _apply_special did not
        raise ProtocolError(400, "the length of the body is not clear")
    if authority is not None:
        _replace_host(head, authority)
    return head


def parse_response_head(data: bytes, request_method: bytes, limits: HeadLimits) -> ResponseHead:
    """Check and take apart one whole answer head, its final empty line included. Interim (1xx) heads are returned too.

    ``request_method`` decides whether there is a body. Raises ``BadAnswer``.
    """
    match = _STATUS_LINE.match(data)
    if match is None:
        raise BadAnswer("malformed status line")
    if len(data) > limits.head_bytes or data.count(b"\n") > limits.headers + 2:
        raise BadAnswer("the head is too long")
    minor, status = int(match[1]), int(match[2])
    try:
        headers, _ = _parse_fields(data[match.end() :])
    except HttpParserError as error:
        raise BadAnswer(f"malformed header: {error}") from None
    _, special = _special(headers)
    framing = _response_framing(special, minor)
    if request_method == b"HEAD" or status < 200 or status == 204 or status == 304:
        framing = NO_BODY
    keep_alive = _persists(special, minor) and not framing.until_close
    return ResponseHead(status, match[3] or b"", minor, headers, framing, keep_alive)


def _parse_request_line(data: bytes, limits: HeadLimits) -> tuple[bytes, bytes, int, int]:
    """Method, target, minor version and the index just past the line."""
    match = _REQUEST_LINE.match(data)
    if match is None or match.end() > limits.line_bytes + 2:
        if data.find(b"\r\n", 0, limits.line_bytes + 2) < 0:
            raise ProtocolError(414, "the request line is too long")
        raise ProtocolError(400, "malformed request line")
    method, target, major, minor = match.groups()
    if major != b"1" or minor > b"1":
        if major >= b"2":
            raise ProtocolError(505, "only HTTP/1.0 and HTTP/1.1 are spoken here")
        raise ProtocolError(400, "there is no such version of HTTP")
    if method == b"CONNECT":
        raise ProtocolError(501, "CONNECT is not supported")
    return method, target, 1 if minor == b"1" else 0, match.end()


def _reduce_target(method: bytes, target: bytes) -> tuple[bytes, bytes | None]:
    """The origin form of a target that is not in it, and the authority that it named (RFC 9112 §3.2)."""
    if target == b"*" and method == b"OPTIONS":
        return target, None
    match = _ABSOLUTE_FORM.fullmatch(target)
    if match is None or not _AUTHORITY.fullmatch(match[1]):
        raise ProtocolError(400, "malformed target")
    authority, rest = match[1], match[2]
    if not rest and method == b"OPTIONS":
        return b"*", authority  # §3.2.4
    return (rest if rest.startswith(b"/") else b"/" + rest), authority


def _parse_fields(block: bytes) -> tuple[Headers, bool]:
    """The fields of a block of lines up to its empty line, and whether llhttp was content with the framing, too.

    Raises ``HttpParserError`` for malformed lines.
    """
    fields = _Fields()
    sound = True
    try:
        HttpRequestParser(fields).feed_data(_START_LINE + block)
    except HttpParserUpgrade:
        pass  # it would have upgraded; we do not
    except HttpParserError:
        if not fields.complete:
            raise
        sound = False
    headers = fields.found
    if b" \r\n" in block or b"\t\r\n" in block:
        headers = [(name, value.rstrip(b" \t")) for name, value in headers]
    return headers, sound


def _special(headers: Headers) -> tuple[list[bytes], Headers]:
    """The fields that this module has to understand, names in lower case."""
    special = [(key, value) for name, value in headers if (key := name.lower()) in _SPECIAL]
    return [key for key, _ in special], special


def _check_host(hosts: list[bytes], minor: int) -> bytes:
    if len(hosts) != 1:
        if not hosts and minor == 0:
            return b""
        raise ProtocolError(400, "more than one Host header" if hosts else "the Host header is missing")
    if not _AUTHORITY.fullmatch(hosts[0]):
        raise ProtocolError(400, "malformed Host header")
    return hosts[0]


def _replace_host(head: RequestHead, authority: bytes) -> None:
    """The authority of an absolute-form target wins over Host (RFC 9112 §3.2.2)."""
    had_host = bool(head.host)
    head.host = authority
    if had_host:
        head.headers = [(name, authority if name.lower() == b"host" else value) for name, value in head.headers]
    else:
        head.headers = [(b"Host", authority), *head.headers]


def _apply_special(head: RequestHead, special: Headers) -> None:
    head.keep_alive = _persists(special, head.minor) and head.minor == 1
    head.framing = _request_framing(special, head.minor)
    for key, value in special:
        if key == b"expect":
            if value.lower() != b"100-continue":
                raise ProtocolError(417, "the only expectation met here is 100-continue")
            head.expect_continue = head.minor == 1 and head.framing.has_body


def _request_framing(special: Headers, minor: int) -> Framing:
    codings = [value for key, value in special if key == b"transfer-encoding"]
    lengths = [value for key, value in special if key == b"content-length"]
    if codings:
        if lengths:
            raise ProtocolError(400, "both Content-Length and Transfer-Encoding")
        if minor == 0:
            raise ProtocolError(400, "Transfer-Encoding in HTTP/1.0")
        if len(codings) > 1:
            raise ProtocolError(400, "more than one Transfer-Encoding")
        if codings[0].lower() != b"chunked":
            raise _coding_fault(codings[0])
        return Framing(chunked=True)
    if not lengths:
        return NO_BODY
    if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]):
        raise ProtocolError(400, "malformed Content-Length")
    return Framing(length=int(lengths[0]))


def _coding_fault(value: bytes) -> ProtocolError:
    """501 when a coding is one that we do not know (RFC 9112 §6.1), 400 when the field makes no sense at all."""
    codings = [coding.strip(b" \t").lower() for coding in value.split(b",")]
    if all(_CODING.fullmatch(coding) for coding in codings) and b"chunked" not in codings[:-1]:
        return ProtocolError(501, "the only transfer coding supported is chunked")
    return ProtocolError(400, "malformed Transfer-Encoding")


def _response_framing(special: Headers, minor: int) -> Framing:
    codings = [value for key, value in special if key == b"transfer-encoding"]
    lengths = [value for key, value in special if key == b"content-length"]
    if codings:
        if lengths or minor == 0 or len(codings) > 1 or codings[0].lower() != b"chunked":
            raise BadAnswer("the length of the body is not clear")
        return Framing(chunked=True)
    if not lengths:
        return Framing(until_close=True)
    if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]):
        raise BadAnswer("malformed Content-Length")
    return Framing(length=int(lengths[0]))


def _persists(special: Iterable[Header], minor: int) -> bool:
    """Whether the connection may be used again (RFC 9112 §9.3)."""
    options: set[bytes] = set()
    for key, value in special:
        if key == b"connection":
            options.update(option.strip(b" \t") for option in value.lower().split(b","))
    if b"close" in options:
        return False
    return minor == 1 or b"keep-alive" in options
