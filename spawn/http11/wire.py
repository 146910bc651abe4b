"""The codec of message heads: bytes in, a checked head or one clear refusal out. No I/O.

Strategy: find the end of the head (bounded), then check each part of it with one regular expression that is the
grammar of RFC 9112 as it stands there, without what RFC 9112 lets a lenient recipient put up with: the request or
status line (§3, §4), the field lines (§5, in ``fields``); behind them come the rules of Host (§3.2) and framing (§6).
Possessive quantifiers keep every expression linear. A parser that calls back for each field (llhttp was used here
before) costs several times as much, and knows other methods, upgrades and versions of HTTP than are wanted here.

Invariants: nothing but ``ProtocolError`` (for a request) or ``BadAnswer`` (for an answer) is raised, whatever the
bytes; a head that is returned has at most one framing, and a request of HTTP/1.1 has exactly one valid Host.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

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
from spawn.http11.field import Field
from spawn.http11.fields import NO_OPTIONS, TOKEN, FieldKind, connection_options, make_field, parse_fields, special
from spawn.http11.message import NO_BODY, Framing, RequestHead, ResponseHead

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

_REQUEST_LINE = re.compile(rb"(" + TOKEN + rb") ([^\x00-\x20\x7f]++) HTTP/([0-9])\.([0-9])\r\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*))?\r\n")
_ABSOLUTE_FORM = re.compile(rb"https?://([^/?]*)(.*)", re.IGNORECASE)
# Narrower than RFC 3986's reg-name: no comma, no sub-delimiters, no user info. Nothing that has a name needs them.
_AUTHORITY = re.compile(rb"(?:[A-Za-z0-9\-._~]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{0,5})?")
_CODING = re.compile(TOKEN + rb"(?:[ \t]*;.*)?")
_LENGTH_DIGITS = 18  # less than 2**63, which is what the rest of the world computes with
_BARE_LF = re.compile(rb"(?<!\r)\n")

_UNTIL_CLOSE = Framing(until_close=True)


class BadAnswer(SpawnError, ValueError):
    """A node's answer head is not HTTP/1.x, or breaks a limit."""


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """Bounds on one head, its start line and its fields."""

    head_bytes: int = 65_536
    headers: int = 100
    line_bytes: int = 8_192  # RFC 9112 §3 asks for 8000 at least


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
    if len(buffer) > begin + limits.head_bytes:
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
    fields = parse_fields(data[line_end:])
    if fields is None:
        raise ProtocolError(400, "malformed header")
    found = special(fields)
    if len(found) == 1 and found[0].kind == FieldKind.HOST:
        host = _checked_host(found[0].value)
        head = RequestHead(method, target, minor, fields, found, NO_OPTIONS, host, NO_BODY, minor == 1)
    else:
        head = _request_head(method, target, minor, fields, found)
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
    fields = parse_fields(data[match.end() :])
    if fields is None:
        raise BadAnswer("malformed header")
    found = special(fields)
    try:
        framing = _framing(found, minor) or _UNTIL_CLOSE
    except ProtocolError as fault:
        raise BadAnswer(fault.reason) from None
    if request_method == b"HEAD" or status < 200 or status == 204 or status == 304:
        framing = NO_BODY
    options = connection_options(found)
    keep_alive = _persists(options, minor) and not framing.until_close
    return ResponseHead(status, match[3] or b"", minor, fields, found, options, framing, keep_alive)


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


def _request_head(method: bytes, target: bytes, minor: int, fields: list[Field], found: list[Field]) -> RequestHead:
    """A head with more than Host to look at; ``found`` are the fields that are not plain."""
    dropped = 0
    if any(field.kind == FieldKind.UNDERSCORE for field in found):
        count = len(fields)
        fields = [field for field in fields if field.kind != FieldKind.UNDERSCORE]
        found = special(fields)
        dropped = count - len(fields)
    hosts = [field.value for field in found if field.kind == FieldKind.HOST]
    if len(hosts) > 1:
        raise ProtocolError(400, "more than one Host header")
    if not hosts and minor != 0:
        raise ProtocolError(400, "the Host header is missing")
    host = _checked_host(hosts[0]) if hosts else b""
    framing = _framing(found, minor) or NO_BODY
    options = connection_options(found)
    keep_alive = minor == 1 and _persists(options, minor)
    expects = _expects_continue(found) and minor == 1 and framing.has_body
    return RequestHead(method, target, minor, fields, found, options, host, framing, keep_alive, expects, dropped)


def _checked_host(host: bytes) -> bytes:
    if not _AUTHORITY.fullmatch(host):
        raise ProtocolError(400, "malformed Host header")
    return host


def _replace_host(head: RequestHead, authority: bytes) -> None:
    """The authority of an absolute-form target wins over Host (RFC 9112 §3.2.2)."""
    if head.host:
        head.fields = [
            make_field(field.header[0], authority) if field.kind == FieldKind.HOST else field for field in head.fields
        ]
    else:
        head.fields = [make_field(b"Host", authority), *head.fields]
    head.special = special(head.fields)
    head.host = authority


def _framing(found: list[Field], minor: int) -> Framing | None:
    """What the fields say of the length of the body; None: nothing. Raises ``ProtocolError``."""
    length: bytes | None = None
    coding: bytes | None = None
    for field in found:
        if field.kind == FieldKind.LENGTH:
            if length is not None:
                raise ProtocolError(400, "more than one Content-Length")
            length = field.value
        elif field.kind == FieldKind.CODING:
            if coding is not None:
                raise ProtocolError(400, "more than one Transfer-Encoding")
            coding = field.value
    if coding is not None:
        return _coded_framing(coding, length, minor)
    if length is None:
        return None
    if not length.isdigit() or len(length) > _LENGTH_DIGITS:
        raise ProtocolError(400, "malformed Content-Length")
    return Framing(int(length))


def _coded_framing(coding: bytes, length: bytes | None, minor: int) -> Framing:
    if length is not None:
        raise ProtocolError(400, "both Content-Length and Transfer-Encoding")
    if minor == 0:
        raise ProtocolError(400, "Transfer-Encoding in HTTP/1.0")
    if coding.lower() != b"chunked":
        raise _coding_fault(coding)
    return Framing(chunked=True)


def _coding_fault(value: bytes) -> ProtocolError:
    """501 when a coding is one that we do not know (RFC 9112 §6.1), 400 when the field makes no sense at all."""
    codings = [coding.strip(b" \t").lower() for coding in value.split(b",")]
    if all(_CODING.fullmatch(coding) for coding in codings) and b"chunked" not in codings[:-1]:
        return ProtocolError(501, "the only transfer coding supported is chunked")
    return ProtocolError(400, "malformed Transfer-Encoding")


def _expects_continue(found: list[Field]) -> bool:
    """Whether the client waits for 100 (Continue). Raises ``ProtocolError`` 417 when it expects anything else."""
    values = [field.value for field in found if field.kind == FieldKind.EXPECT]
    if any(value.lower() != b"100-continue" for value in values):
        raise ProtocolError(417, "the only expectation met here is 100-continue")
    return bool(values)


def _persists(options: frozenset[bytes], minor: int) -> bool:
    """Whether the connection may be used again (RFC 9112 §9.3)."""
    return b"close" not in options and (minor == 1 or b"keep-alive" in options)
