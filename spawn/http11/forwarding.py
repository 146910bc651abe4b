"""What becomes of the headers of a message that Spawn passes on: pure rules, no I/O.

Strategy: one walk over the headers keeps what is end-to-end; what a hop must add (Host, X-Forwarded-*, Via) is put
behind it. Invariants:

* No hop-by-hop header, no framing header and no ``Spawn-*`` header ever comes out (except that nothing here adds
  framing: whoever writes the message does).
* Values are copied, never built from parts of a message, apart from X-Forwarded-For and Via. So no line break can come
  out that did not go in, and ``wire`` lets none in.
* A client that is not a trusted proxy cannot say where a request came from.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from functools import lru_cache

from spawn.errors import ProtocolError
from spawn.http11.field import Field
from spawn.http11.fields import METHOD_OVERRIDES, FieldKind
from spawn.http11.message import Request, RequestHead, ResponseHead

# Connection may not name these: a client that could have them removed could hide whom it is or what it asks for from
# the application, or make two copies of it see different requests.
_NEVER_BY_CONNECTION = frozenset((b"host", b"content-length", b"cookie", b"via", b"idempotency-key"))

_NOTHING: frozenset[bytes] = frozenset()
_NO_NAMES = frozenset((b"close", b"keep-alive"))  # what Connection says that is not the name of a header to drop


class TrustedProxies:
    """The addresses whose X-Forwarded-* headers are believed.

    ``networks`` are addresses or networks in CIDR notation; raises ``ValueError`` for anything else.
    """

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks = tuple(ipaddress.ip_network(network, strict=False) for network in networks)
        self._known = lru_cache(maxsize=1024)(self._lookup)  # usually the same few load balancers ask all the time

    def __contains__(self, ip: str) -> bool:
        return bool(self._networks) and self._known(ip)

    def _lookup(self, ip: str) -> bool:
        try:
            address = ipaddress.ip_address(plain_ip(ip))
        except ValueError:
            return False
        return any(address in network for network in self._networks)


def via_name(uuid: str) -> bytes:
    """The pseudonym that stands for this Spawn in Via (RFC 9110 §7.6.3); tells nothing about the host."""
    return b"spawn-" + uuid.replace("-", "")[:8].encode("ascii")


def plain_ip(ip: str) -> str:
    """An address as X-Forwarded-For has it: no zone, no brackets, an IPv4 client of a dual-stack socket as IPv4."""
    ip = ip.partition("%")[0]
    return ip[7:] if ip[:7].lower() == "::ffff:" and "." in ip else ip


def method_override(head: RequestHead) -> bool:
    """Whether the request asks to be treated as another method than the one in its request line."""
    for field in head.special:  # noqa: SIM110 (a loop costs half of what any() with a generator does)
        if field.kind == FieldKind.METHOD_OVERRIDE:
            return True
    return False


def method_override_in(lines: bytes) -> bool:
    """The same for rendered header lines."""
    lowered = b"\r\n" + lines.lower()
    return b"-method" in lowered and any(b"\r\n%b:" % name in lowered for name in METHOD_OVERRIDES)


def forward_request_headers(request: Request, trusted: TrustedProxies, via_name: bytes) -> bytes:
    """The header lines a node gets, without framing. Raises ``ProtocolError(508)`` for a request that was here before.

    ``Host`` is the one the client named, and absent when it named none (HTTP/1.0).
    """
    head = request.head
    refuse_loop(head.special, via_name)
    believed = request.peer in trusted
    named = _named(head.connection)
    host, hop = _hop_lines(request.peer, request.scheme, head.host, head.minor, via_name)
    lines = [host]
    if named or believed:
        lines += [
            field.line
            for field in head.fields
            if (field.to_node and field.name not in named) or (believed and field.claim)
        ]
    else:
        lines += [field.line for field in head.fields if field.to_node]
    lines.append(_hop_lines_believed(request, via_name) if believed else hop)
    return b"".join(lines)


def forward_response_headers(head: ResponseHead, via_name: bytes) -> bytes:
    """The header lines of a node's answer that its client gets, without framing."""
    named = _named(head.connection)
    lines = [field.line for field in head.fields if field.to_client]
    if named:
        lines = [field.line for field in head.fields if field.to_client and field.name not in named]
    lines.append(b"Via: 1.%d %b\r\n" % (head.minor, via_name))
    return b"".join(lines)


def replace_headers(lines: bytes, replaced: Mapping[str, str]) -> bytes:
    """Rendered header lines (each ended by CRLF) in which ``replaced`` stands for whatever had one of its names."""
    if not replaced:
        return lines
    names = {name.lower().encode() for name in replaced}
    kept = [line for line in lines.split(b"\r\n") if line and line.partition(b":")[0].lower() not in names]
    kept += [f"{name}: {value}".encode("latin-1") for name, value in replaced.items()]
    return b"".join([line + b"\r\n" for line in kept])


def _named(connection: frozenset[bytes]) -> frozenset[bytes]:
    """The names that Connection lists, but for those it has no say about."""
    if connection <= _NO_NAMES:  # as nearly always
        return _NOTHING
    return frozenset(name for name in connection - _NEVER_BY_CONNECTION if not name.startswith(b"x-forwarded-"))


@lru_cache(maxsize=1024)
def _hop_lines(peer: str, scheme: bytes, host: bytes, minor: int, via_name: bytes) -> tuple[bytes, bytes]:
    """What comes before and what behind the headers of a client that is no trusted proxy."""
    lines = b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\n" % (_plain_bytes(peer), scheme)
    if host:
        lines += b"X-Forwarded-Host: %b\r\n" % host
    return b"Host: %b\r\n" % host if host else b"", lines + b"Via: 1.%d %b\r\n" % (minor, via_name)


def _hop_lines_believed(request: Request, via_name: bytes) -> bytes:
    """What comes behind the headers of a trusted proxy: -Proto and -Host only if it has not said them itself."""
    head = request.head
    said = {field.name for field in head.fields}
    chain = [field.value for field in head.fields if field.name == b"x-forwarded-for" and field.value]
    lines = b"X-Forwarded-For: %b\r\n" % b", ".join([*chain, _plain_bytes(request.peer)])
    if b"x-forwarded-proto" not in said:
        lines += b"X-Forwarded-Proto: %b\r\n" % request.scheme
    if head.host and b"x-forwarded-host" not in said:
        lines += b"X-Forwarded-Host: %b\r\n" % head.host
    return lines + b"Via: 1.%d %b\r\n" % (head.minor, via_name)


def _plain_bytes(peer: str) -> bytes:
    return plain_ip(peer).encode("ascii", "replace")


def refuse_loop(fields: list[Field], via_name: bytes) -> None:
    """Raises ``ProtocolError(508)`` when Via says that ``via_name`` has passed this request on already."""
    for field in fields:
        if field.kind == FieldKind.VIA and any(_received_by(hop) == via_name for hop in field.value.split(b",")):
            raise ProtocolError(508, "this request has been here before: a node leads back to Spawn")


def _received_by(hop: bytes) -> bytes:
    """The second word of one element of Via: ``[protocol/]version received-by [comment]``."""
    words = hop.split(None, 2)
    return words[1].lower() if len(words) > 1 else b""
