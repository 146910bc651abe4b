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
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from spawn.errors import ProtocolError
from spawn.http11.message import Header, Headers, Request, ResponseHead, get, get_all, lower_names

# RFC 9110 §7.6.1, and: Trailer, because trailers are dropped; HTTP2-Settings (RFC 7540 §3.2.1), because it belongs to
# an upgrade; the Proxy-* fields of RFC 9110 §11.7, because they concern the next hop only (a client's
# Proxy-Authorization is consumed here).
HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"proxy-connection",
        b"keep-alive",
        b"te",
        b"trailer",
        b"upgrade",
        b"http2-settings",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-authorization",
    )
)
FRAMING = frozenset((b"content-length", b"transfer-encoding"))

# Connection may not name these: a client that could have them removed could hide whom it is or what it asks for from
# the application, or make two copies of it see different requests.
_NEVER_BY_CONNECTION = frozenset((b"host", b"content-length", b"cookie", b"via", b"idempotency-key"))

_NOT_FORWARDED = HOP_BY_HOP | FRAMING
_NOT_FORWARDED_REQUEST = _NOT_FORWARDED | {b"expect", b"host", b"x-forwarded-for"}  # the last two are set anew

# Claims about the client that only a trusted proxy may make. X-Forwarded-* are matched by prefix.
_CLAIMS = frozenset((b"forwarded", b"x-real-ip"))

_NOTHING: frozenset[bytes] = frozenset()
_NO_HEADERS: Headers = []

_OVERRIDES = frozenset((b"x-http-method-override", b"x-method-override", b"x-http-method"))


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


def method_override(names: Iterable[bytes]) -> bool:
    """Whether the request asks to be treated as another method than the one in its request line.

    ``names`` are those of its headers, in lower case.
    """
    return not _OVERRIDES.isdisjoint(names)


def method_override_in(lines: bytes) -> bool:
    """The same for rendered header lines."""
    lowered = b"\r\n" + lines.lower()
    return any(b"\r\n%b:" % name in lowered for name in _OVERRIDES)


def forward_request_headers(request: Request, trusted: TrustedProxies, via_name: bytes) -> Headers:
    """The headers a node gets, without framing. Raises ``ProtocolError(508)`` for a request that was here before.

    ``Host`` is the one the client named, and absent when it named none (HTTP/1.0).
    """
    head = request.head
    headers, names = head.headers, head.names
    if b"via" in names:
        refuse_loop(headers, via_name)
    believed = request.peer in trusted
    named = _named_by_connection(headers) if b"connection" in names else _NOTHING
    result: Headers = []
    host = head.host or get(headers, b"host")
    if host is not None:
        result.append((b"Host", host))
    for header, name in zip(headers, names, strict=True):
        if name in _NOT_FORWARDED_REQUEST or name[:6] == b"spawn-" or b"_" in name:
            continue
        if name[:12] == b"x-forwarded-" or name in _CLAIMS:
            if believed:
                result.append(header)
        elif name not in named:
            result.append(header)
    result += _forwarded(request, host, result if believed else _NO_HEADERS)
    result.append((b"Via", b"1.%d %b" % (head.minor, via_name)))
    return result


def forward_response_headers(head: ResponseHead, via_name: bytes) -> Headers:
    """The headers of a node's answer that its client gets, without framing."""
    headers, names = head.headers, head.names
    named = _named_by_connection(headers) if b"connection" in names else _NOTHING
    result = [
        header
        for header, name in zip(headers, names, strict=True)
        if name not in _NOT_FORWARDED and name[:6] != b"spawn-" and name not in named
    ]
    result.append((b"Via", b"1.%d %b" % (head.minor, via_name)))
    return result


def replace_headers(lines: bytes, replaced: Mapping[str, str]) -> bytes:
    """Rendered header lines (each ended by CRLF) in which ``replaced`` stands for whatever had one of its names."""
    if not replaced:
        return lines
    names = {name.lower().encode() for name in replaced}
    kept = [line for line in lines.split(b"\r\n") if line and line.partition(b":")[0].lower() not in names]
    kept += [f"{name}: {value}".encode("latin-1") for name, value in replaced.items()]
    return b"".join([line + b"\r\n" for line in kept])


def _named_by_connection(headers: Headers) -> frozenset[bytes]:
    """The names that Connection lists, but for those it has no say about; ``close`` among them does no harm."""
    values = get_all(headers, b"connection")
    if values == [b"keep-alive"]:  # what most say who say anything
        return _NOTHING
    names = {token.strip(b" \t").lower() for value in values for token in value.split(b",")}
    return frozenset(name for name in names - _NEVER_BY_CONNECTION if not name.startswith(b"x-forwarded-"))


def _forwarded(request: Request, host: bytes | None, believed: Headers) -> list[Header]:
    """X-Forwarded-For, and -Proto and -Host unless a trusted proxy said them (they are in ``believed`` then)."""
    said = lower_names(believed)
    chain = _plain_bytes(request.peer)
    if believed and (values := [value for value in get_all(request.head.headers, b"x-forwarded-for") if value]):
        chain = b", ".join([*values, chain])
    result = [(b"X-Forwarded-For", chain)]
    if b"x-forwarded-proto" not in said:
        result.append((b"X-Forwarded-Proto", request.scheme))
    if host and b"x-forwarded-host" not in said:
        result.append((b"X-Forwarded-Host", host))
    return result


@lru_cache(maxsize=1024)
def _plain_bytes(peer: str) -> bytes:
    return plain_ip(peer).encode("ascii", "replace")


def refuse_loop(headers: Headers, via_name: bytes) -> None:
    """Raises ``ProtocolError(508)`` when Via says that ``via_name`` has passed this request on already."""
    for value in get_all(headers, b"via"):
        if via_name in value.lower() and any(_received_by(hop) == via_name for hop in value.split(b",")):
            raise ProtocolError(508, "this request has been here before: a node leads back to Spawn")


def _received_by(hop: bytes) -> bytes:
    """The second word of one element of Via: ``[protocol/]version received-by [comment]``."""
    words = hop.split(None, 2)
    return words[1].lower() if len(words) > 1 else b""
