"""An HTTP/1.1 reader that knows the grammar and nothing else: what Spawn reads and writes is compared with it.

Written from RFC 9112 and apart from ``spawn.http11``: a byte at a time, no regular expression, no parser library, no
limits, no thought of speed. It takes no liberty that the RFCs leave to a recipient (bare LF, folded lines, a list of
equal lengths), because each is one that two readers may take differently. Where Spawn is narrower than the RFCs it is
as narrow: targets and Host (``_authority``), at most 18 digits of a length and 15 of a chunk's size, no coding but
``chunked``, and that not in HTTP/1.0. What a chunk extension says is nobody's business, so that is any text.

A fault is noticed at its byte, before anything behind it is looked at: ``Incomplete`` means that there are bytes which
would make it right.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

DIGITS = frozenset(b"0123456789")
HEX_DIGITS = DIGITS | frozenset(b"abcdefABCDEF")
LETTERS = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
TOKEN = LETTERS | DIGITS | frozenset(b"!#$%&'*+-.^_`|~")
TARGET = frozenset(range(0x21, 0x100)) - {0x7F}
TEXT = TARGET | frozenset(b"\t ")
HOST_NAME = LETTERS | DIGITS | frozenset(b"-._~")
WHITE = frozenset(b"\t ")

CHUNKED = -1  # in place of a length

Header = tuple[bytes, bytes]


class Refused(Exception):
    """Not HTTP/1.x, whatever would follow."""


class Incomplete(Exception):
    """Right so far."""


@dataclass(frozen=True)
class Reading:
    """One message. A request has a method and a target, an answer a status and a reason."""

    minor: int
    headers: list[Header]
    body: bytes
    size: int  # of the message in bytes; what follows belongs to another one
    method: bytes = b""
    target: bytes = b""
    host: bytes = b""  # the authority of an absolute-form target, else Host, else nothing
    status: int = 0
    reason: bytes = b""

    def values(self, name: bytes) -> list[bytes]:
        """All values of a header; ``name`` is lower-case."""
        return values(self.headers, name)


class Reader:
    """What is left of some bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def peek(self) -> int:
        if self.at == len(self.data):
            raise Incomplete
        return self.data[self.at]

    def byte(self, allowed: Container[int]) -> int:
        found = self.peek()
        if found not in allowed:
            raise Refused(f"{bytes([found])!r} at {self.at}")
        self.at += 1
        return found

    def literal(self, text: bytes) -> None:
        for byte in text:
            self.byte((byte,))

    def some(self, allowed: Container[int], at_most: int | None = None) -> bytes:
        """One or more of the allowed bytes, as many as there are."""
        start = self.at
        self.byte(allowed)
        while self.peek() in allowed:
            if self.at - start == at_most:
                raise Refused(f"too much at {self.at}")
            self.at += 1
        return self.data[start : self.at]

    def maybe_some(self, allowed: Container[int]) -> bytes:
        return self.some(allowed) if self.peek() in allowed else b""

    def exactly(self, count: int) -> bytes:
        if len(self.data) - self.at < count:
            raise Incomplete
        self.at += count
        return self.data[self.at - count : self.at]

    def rest(self) -> bytes:
        return self.exactly(len(self.data) - self.at)


def read_request(data: bytes) -> Reading:
    """The request at the start of ``data``; one empty line before it is allowed. Raises Refused and Incomplete."""
    reader = Reader(data)
    if data[:1] == b"\r":
        reader.literal(b"\r\n")
    method = reader.some(TOKEN)
    reader.literal(b" ")
    target = reader.some(TARGET)
    reader.literal(b" HTTP/1.")
    minor = reader.byte(b"01") - 0x30
    reader.literal(b"\r\n")
    target, authority = _reduce(method, target)
    headers = read_fields(reader)
    host = _named_host(headers, minor)
    framing = _framing(headers, minor)
    body = b"" if framing is None else _body(reader, framing)
    return Reading(minor, headers, body, reader.at, method=method, target=target, host=authority or host)


def read_answer(data: bytes, method: bytes) -> Reading:
    """The final answer to ``method`` at the start of ``data``, after which the connection was closed in order.

    Interim ones before it are skipped. Raises Refused and Incomplete.
    """
    reader = Reader(data)
    minor, status, reason, headers = read_answer_head(reader)
    framing = _framing(headers, minor)
    if method == b"HEAD" or status in (204, 304):
        body = b""
    else:
        body = reader.rest() if framing is None else _body(reader, framing)
    return Reading(minor, headers, body, reader.at, status=status, reason=reason)


def read_answer_head(reader: Reader) -> tuple[int, int, bytes, list[Header]]:
    """Minor version, status, reason and headers of the final answer."""
    while True:
        reader.literal(b"HTTP/1.")
        minor = reader.byte(b"01") - 0x30
        reader.literal(b" ")
        status = 100 * (reader.byte(b"12345") - 0x30) + 10 * (reader.byte(DIGITS) - 0x30) + reader.byte(DIGITS) - 0x30
        reason = b""
        if reader.peek() == 0x20:
            reader.literal(b" ")
            reason = reader.maybe_some(TEXT)
        reader.literal(b"\r\n")
        headers = read_fields(reader)
        if status == 101:
            raise Refused("an upgrade nobody asked for")
        _framing(headers, minor)  # it has to be right even where there is no body
        if status >= 200:
            return minor, status, reason, headers


def read_fields(reader: Reader) -> list[Header]:
    """Field lines up to the empty line and with it (RFC 9112 §5)."""
    headers = []
    while reader.peek() != 0x0D:
        name = reader.some(TOKEN)
        reader.literal(b":")
        value = reader.maybe_some(TEXT)
        reader.literal(b"\r\n")
        headers.append((name, value.strip(b"\t ")))
    reader.literal(b"\r\n")
    return headers


def read_chunks(reader: Reader) -> bytes:
    """A body in chunked coding with its trailers (RFC 9112 §7.1)."""
    parts = []
    while size := _chunk_size(reader):
        parts.append(reader.exactly(size))
        reader.literal(b"\r\n")
    read_fields(reader)
    return b"".join(parts)


def values(headers: list[Header], name: bytes) -> list[bytes]:
    return [value for key, value in headers if key.lower() == name]


def _chunk_size(reader: Reader) -> int:
    digits = reader.some(HEX_DIGITS, at_most=15)
    white = reader.maybe_some(WHITE)
    if white or reader.peek() == 0x3B:
        reader.literal(b";")
        reader.maybe_some(TEXT)
    reader.literal(b"\r\n")
    return int(digits, 16)


def _framing(headers: list[Header], minor: int) -> int | None:
    """A length, ``CHUNKED``, or None where nothing is said (RFC 9112 §6.3)."""
    codings, lengths = values(headers, b"transfer-encoding"), values(headers, b"content-length")
    if codings:
        if lengths or minor == 0 or len(codings) > 1 or codings[0].lower() != b"chunked":
            raise Refused("Transfer-Encoding")
        return CHUNKED
    if not lengths:
        return None
    if len(lengths) > 1 or not 1 <= len(lengths[0]) <= 18 or not DIGITS.issuperset(lengths[0]):
        raise Refused("Content-Length")
    return int(lengths[0])


def _body(reader: Reader, framing: int) -> bytes:
    return read_chunks(reader) if framing == CHUNKED else reader.exactly(framing)


def _named_host(headers: list[Header], minor: int) -> bytes:
    hosts = values(headers, b"host")
    if not hosts and minor == 0:
        return b""
    if len(hosts) != 1 or not _authority(hosts[0]):
        raise Refused("Host")
    return hosts[0]


def _reduce(method: bytes, target: bytes) -> tuple[bytes, bytes]:
    """Origin form, and the authority if the target names one (RFC 9112 §3.2)."""
    if method == b"CONNECT" or b"#" in target:
        raise Refused("target")
    if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS"):
        return target, b""
    scheme, _, rest = target.partition(b"://")
    end = min(at if at >= 0 else len(rest) for at in (rest.find(b"/"), rest.find(b"?")))
    if scheme.lower() not in (b"http", b"https") or not _authority(rest[:end]):
        raise Refused("target")
    path = rest[end:]
    if not path and method == b"OPTIONS":
        return b"*", rest[:end]
    return path if path.startswith(b"/") else b"/" + path, rest[:end]


def _authority(text: bytes) -> bool:
    """A host name or an IPv4 address, or something in brackets that may be an IPv6 one, and maybe a port."""
    if text.startswith(b"["):
        name, bracket, port = text[1:].partition(b"]")
        good = bool(bracket) and 2 <= len(name) <= 45 and all(byte in HEX_DIGITS or byte in b":." for byte in name)
    else:
        name, colon, port = text.partition(b":")
        good = 1 <= len(name) <= 255 and HOST_NAME.issuperset(name)
        port = colon + port
    return good and (not port or (port[:1] == b":" and len(port) <= 6 and DIGITS.issuperset(port[1:])))
