"""What a hop must not pass on, written from the RFCs and apart from ``spawn.http11``, and headers as pairs."""

from __future__ import annotations

from collections.abc import Iterable

Header = tuple[bytes, bytes]

# RFC 9110 §7.6.1 and §11.7, RFC 7540 §3.2.1; Proxy-Connection is in no RFC, but in the world.
HOP_BY_HOP = frozenset(
    b"connection proxy-connection keep-alive te trailer upgrade http2-settings proxy-authenticate "
    b"proxy-authentication-info proxy-authorization".split()
)
FRAMING = frozenset((b"content-length", b"transfer-encoding"))
NOT_CONNECTIONS_BUSINESS = frozenset((b"host", b"content-length", b"cookie", b"via", b"idempotency-key"))


def pairs(headers: bytes | Iterable[Header]) -> list[Header]:
    """Names and values of rendered header lines, or of headers that are pairs already."""
    if not isinstance(headers, bytes):
        return list(headers)
    return [(name, value) for name, _, value in (line.partition(b": ") for line in headers.split(b"\r\n")[:-1])]


def rendered(headers: bytes | Iterable[Header]) -> bytes:
    """The other way round."""
    return headers if isinstance(headers, bytes) else b"".join(b"%b: %b\r\n" % header for header in headers)


def named_by_connection(headers: Iterable[Header]) -> set[bytes]:
    """Names, in lower case, that Connection lists and has a say about."""
    lists = [value.lower() for name, value in headers if name.lower() == b"connection"]
    names = {name.strip(b" \t") for value in lists for name in value.split(b",")} - NOT_CONNECTIONS_BUSINESS
    return {name for name in names if not name.startswith(b"x-forwarded-")}
