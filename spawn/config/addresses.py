"""Hosts and ports as a configuration or the admin API names them: reading, normalising, comparing. Pure.

An IP address is kept in its canonical text without brackets, a host name as it was written; names compare without
regard to case and to a final dot. No name is resolved here: a name that happens to point at this machine is found
out by nobody until it is used.
"""

from __future__ import annotations

import ipaddress
import re

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_NUMERIC = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")
_ZONE = re.compile(r"[A-Za-z0-9._-]{1,32}")
_BROADCAST = ipaddress.IPv4Address("255.255.255.255")
# ``localhost`` may be either of the two; which one is known only when it is used.
_LOCAL = {"127.0.0.1", "::1"}


def parse_ip(host: str) -> IPAddress | None:
    """The address that ``host`` is written as (IPv6 with or without brackets), None for anything else."""
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if ":" not in host:
            return None
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    zone = getattr(address, "scope_id", None)
    return address if zone is None or _ZONE.fullmatch(zone) else None


def parse_host(text: str) -> str:
    """A plausible host name or IP address, normalised; ValueError with what was expected otherwise.

    A name whose last label is a number is refused unless it is an IPv4 address (``127.1`` and ``0x7f000001`` mean
    127.0.0.1 to some resolvers), as the URL standard does: https://url.spec.whatwg.org/#ends-in-a-number-checker
    """
    address = parse_ip(text)
    if address is not None:
        return str(address)
    name = text[:-1] if text.endswith(".") else text
    labels = name.split(".")
    if len(name) > 253 or _NUMERIC.fullmatch(labels[-1]) or not all(map(_LABEL.fullmatch, labels)):
        raise ValueError("a host name or an IP address")
    return text


def parse_node_host(text: str) -> str:
    """``parse_host`` for what can be a node: no multicast, broadcast or unspecified address."""
    host = parse_host(text)
    address = _unmapped(host)
    if address is not None and (address.is_multicast or address.is_unspecified or address == _BROADCAST):
        raise ValueError("the address of one machine")
    return host


def parse_listener_host(text: str) -> str:
    """``parse_host`` for what can be listened on: an unspecified address means all, multicast means nothing."""
    host = parse_host(text)
    address = _unmapped(host)
    if address is not None and (address.is_multicast or address == _BROADCAST):
        raise ValueError("an address to listen on")
    return host


def parse_authority(text: str) -> str:
    """``host:port`` of a node, normalised; ValueError otherwise."""
    host, colon, port = text.rpartition(":")
    bare_ipv6 = ":" in host and not host.startswith("[")
    number = int(port) if re.fullmatch(r"[0-9]{1,5}", port) else 0
    if not colon or bare_ipv6 or not 1 <= number <= 65_535:
        raise ValueError('the "host:port" of a node')
    return authority(parse_node_host(host), number)


def authority(host: str, port: int) -> str:
    """``host:port``, an IPv6 address in brackets (RFC 3986 §3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def same_host(one: str, other: str) -> bool:
    """Whether both certainly name the same host."""
    return host_key(one) == host_key(other)


def host_key(host: str) -> str:
    """A host in the form in which equal hosts are equal."""
    address = _unmapped(host)
    return str(address) if address is not None else host.lower().removesuffix(".")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a listener on ``host``."""
    address = _unmapped(host)
    return address.is_loopback if address is not None else host_key(host) == "localhost"


def is_wildcard(host: str) -> bool:
    """Whether a listener on ``host`` listens on every address."""
    address = _unmapped(host)
    return address is not None and address.is_unspecified


def listeners_collide(one: str, other: str) -> bool:
    """Whether listeners on the two hosts cannot share a port number."""
    return same_host(one, other) or _both_local(one, other) or _covers(one, other) or _covers(other, one)


def reaches_listener(host: str, listener: str) -> bool:
    """Whether a connection to ``host`` would come to a listener on ``listener`` of this machine."""
    if is_wildcard(listener):
        return is_loopback(host)
    return same_host(host, listener) or _both_local(host, listener)


def _covers(wildcard: str, other: str) -> bool:
    """An IPv4 wildcard leaves IPv6 addresses alone; an IPv6 one may take both families."""
    if not is_wildcard(wildcard):
        return False
    address = _unmapped(other)
    return ":" in host_key(wildcard) or address is None or address.version == 4


def _both_local(one: str, other: str) -> bool:
    keys = {host_key(one), host_key(other)}
    return "localhost" in keys and keys <= _LOCAL | {"localhost"}


def _unmapped(host: str) -> IPAddress | None:
    """Like ``parse_ip``, an IPv4 address mapped into IPv6 (RFC 4291 §2.5.5.2) as the IPv4 address that it reaches."""
    address = parse_ip(host)
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped if mapped is not None else address
