"""The codec of message heads: bytes in, a checked head or one clear refusal out. No I/O.

Strategy: find the end of the head (bounded), then check each part of it with one regular expression that is the
grammar of RFC 9112 as it stands there, without what RFC 9112 lets a lenient recipient put up with: the request or
status line (§3, §4), the block of field lines (§5), and behind it the rules of Host (§3.2) and framing (§6). Possessive
quantifiers keep every one of them linear. A parser that calls back for each field (llhttp was used here before) costs
several times as much, and has to be told apart from what follows the head, upgrades and unknown methods.

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
from spawn.http11.message import NO_BODY, Framing, Headers, RequestHead, ResponseHead, lower_names

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

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([^\x00-\x20\x7f]++) HTTP/([0-9])\.([0-9])\r\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*))?\r\n")
_ABSOLUTE_FORM = re.compile(rb"https?://([^/?]*)(.*)", re.IGNORECASE)
# Narrower than RFC 3986's reg-name: no comma, no sub-delimiters, no user info. Nothing that has a name needs them.
_AUTHORITY = re.compile(rb"(?:[A-Za-z0-9\-._~]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{0,5})?")
_CODING = re.compile(_TOKEN + rb"(?:[ \t]*;.*)?")
_LENGTH_DIGITS = 18  # less than 2**63, which is what the rest of the world computes with
_BARE_LF = re.compile(rb"(?<!\r)\n")

_FIELD_LINES = re.compile(rb"(?:" + _TOKEN + rb":[\t\x20-\x7e\x80-\xff]*+\r\n)*+\r\n")
_FIELD = re.compile(rb"([^:]++):[ \t]*+([^\r]*+)\r\n")  # of lines that are right

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
    headers, names, dropped = _request_fields(data, line_end)
    framing = _framing(headers, names, minor) or NO_BODY
    keep_alive = minor == 1 and _persists(headers, names, minor)
    host = _only_host(headers, names, minor)
    expects = b"expect" in names and _expects_continue(headers, names) and minor == 1 and framing.has_body
    head = RequestHead(method, target, minor, headers, host, framing, keep_alive, expects, dropped, names)
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
    headers = _parse_fields(data, match.end())
    if headers is None:
        raise BadAnswer("malformed header")
    names = lower_names(headers)
    try:
        framing = _framing(headers, names, minor) or _UNTIL_CLOSE
    except ProtocolError as fault:
        raise BadAnswer(fault.reason) from None
    if request_method == b"HEAD" or status < 200 or status == 204 or status == 304:
        framing = NO_BODY
    keep_alive = _persists(headers, names, minor) and not framing.until_close
    return ResponseHead(status, match[3] or b"", minor, headers, framing, keep_alive, names)


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


def _parse_fields(data: bytes, start: int) -> Headers | None:
    """The fields of the lines from ``start`` to the end of ``data``, which is their empty line; None: malformed."""
    match = _FIELD_LINES.match(data, start)
    if match is None or match.end() != len(data):
        return None
    headers = _FIELD.findall(data, start)
    if b" \r\n" in data or b"\t" in data:
        headers = [(name, value.rstrip(b" \t")) for name, value in headers]
    return headers


def _request_fields(data: bytes, start: int) -> tuple[Headers, list[bytes], int]:
    """Fields, their names in lower case, and how many more were dropped because of an underscore in their name."""
    headers = _parse_fields(data, start)
    if headers is None:
        raise ProtocolError(400, "malformed header")
    names = lower_names(headers)
    if b"_" not in data or b"_" not in b"".join(names):
        return headers, names, 0
    kept = [header for header in headers if b"_" not in header[0]]
    return kept, lower_names(kept), len(headers) - len(kept)


def _only_host(headers: Headers, names: list[bytes], minor: int) -> bytes:
    count = names.count(b"host")
    if count != 1:
        if not count and minor == 0:
            return b""
        raise ProtocolError(400, "more than one Host header" if count else "the Host header is missing")
    host = headers[names.index(b"host")][1]
    if not _AUTHORITY.fullmatch(host):
        raise ProtocolError(400, "malformed Host header")
    return host


def _replace_host(head: RequestHead, authority: bytes) -> None:
    """The authority of an absolute-form target wins over Host (RFC 9112 §3.2.2)."""
    had_host = bool(head.host)
    head.host = authority
    if had_host:
        head.headers = [(name, authority if name.lower() == b"host" else value) for name, value in head.headers]
    else:
        head.headers = [(b"Host", authority), *head.headers]
        head.names = [b"host", *head.names]


def _framing(headers: Headers, names: list[bytes], minor: int) -> Framing | None:
    """What the headers say of the length of the body; None: nothing. Raises ``ProtocolError``."""
    if b"transfer-encoding" in names:
        return _coded_framing(headers, names, minor)
    count = names.count(b"content-length")
    if not count:
        return None
    value = headers[names.index(b"content-length")][1]
    if count > 1 or not value.isdigit() or len(value) > _LENGTH_DIGITS:
        raise ProtocolError(400, "malformed Content-Length")
    return Framing(int(value))


def _coded_framing(headers: Headers, names: list[bytes], minor: int) -> Framing:
    if b"content-length" in names:
        raise ProtocolError(400, "both Content-Length and Transfer-Encoding")
    if minor == 0:
        raise ProtocolError(400, "Transfer-Encoding in HTTP/1.0")
    if names.count(b"transfer-encoding") > 1:
        raise ProtocolError(400, "more than one Transfer-Encoding")
    value = headers[names.index(b"transfer-encoding")][1]
    if value.lower() != b"chunked":
        raise _coding_fault(value)
    return Framing(chunked=True)


def _coding_fault(value: bytes) -> ProtocolError:
    """501 when a coding is one that we do not know (RFC 9112 §6.1), 400 when the field makes no sense at all."""
    codings = [coding.strip(b" \t").lower() for coding in value.split(b",")]
    if all(_CODING.fullmatch(coding) for coding in codings) and b"chunked" not in codings[:-1]:
        return ProtocolError(501, "the only transfer coding supported is chunked")
    return ProtocolError(400, "malformed Transfer-Encoding")


def _expects_continue(headers: Headers, names: list[bytes]) -> bool:
    """True, for a request with Expect; raises ``ProtocolError`` when it expects anything else."""
    for name, (_, value) in zip(names, headers, strict=True):
        if name == b"expect" and value.lower() != b"100-continue":
            raise ProtocolError(417, "the only expectation met here is 100-continue")
    return True


def _persists(headers: Headers, names: list[bytes], minor: int) -> bool:
    """Whether the connection may be used again (RFC 9112 §9.3)."""
    if b"connection" not in names:
        return minor == 1
    if names.count(b"connection") == 1:
        values = [headers[names.index(b"connection")][1].lower()]
        if values == [b"keep-alive"]:  # what most say who say anything
            return True
    else:
        values = [value.lower() for name, (_, value) in zip(names, headers, strict=True) if name == b"connection"]
    options = {option.strip(b" \t") for value in values for option in value.split(b",")}
    if b"close" in options:
        return False
    return minor == 1 or b"keep-alive" in options
