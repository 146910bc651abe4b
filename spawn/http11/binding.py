"""Listening sockets: bound before anything is promised, and every failure said in one line with what to do about it."""

from __future__ import annotations

import errno
import socket as stdlib
from typing import Any

from gevent import socket

from spawn.errors import StartError

BACKLOG = 1_024
# What the kernel takes of an answer beyond what the client has room for. Unasked it takes up to 4 MB (1.6 MB on
# loopback) for each client that does not read: fetched from a node for nothing, in memory that all of TCP shares.
UNSENT_BYTES = 262_144


def listen(host: str, port: int, hint: str) -> socket.socket:
    """A non-blocking listening socket on ``host`` (an IPv4 or IPv6 address or a name) and ``port`` (0: any free one).

    ``hint`` names the flag and key of the port for the operator, such as ``--port / "port"``; the host's are called
    alike. Raises ``StartError``.
    """
    family, address = _resolve(host, port, hint)
    sock = socket.socket(family, stdlib.SOCK_STREAM)
    try:
        sock.setsockopt(stdlib.SOL_SOCKET, stdlib.SO_REUSEADDR, 1)
        sock.setsockopt(stdlib.IPPROTO_TCP, stdlib.TCP_NOTSENT_LOWAT, UNSENT_BYTES)  # accepted sockets inherit it
        if family == stdlib.AF_INET6:
            # "::" serves IPv4 clients too, whatever the system's default
            sock.setsockopt(stdlib.IPPROTO_IPV6, stdlib.IPV6_V6ONLY, 0 if address[0] == "::" else 1)
        sock.bind(address)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise StartError(_explain(error, host, port, hint)) from None
    return sock


def _resolve(host: str, port: int, hint: str) -> tuple[int, Any]:
    try:
        found = socket.getaddrinfo(host, port, type=stdlib.SOCK_STREAM, flags=stdlib.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "not a host name"
        raise StartError(
            f"cannot listen on {host!r}: {reason}; give an address of this machine with {_of_host(hint)}"
        ) from None
    # a name like localhost has both; clients that know only IPv4 are the common kind
    found.sort(key=lambda entry: entry[0] != stdlib.AF_INET)
    return found[0][0], found[0][4]


def _explain(error: OSError, host: str, port: int, hint: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use: stop the other program or choose another with {hint}"
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f"no permission to listen on port {port} of {host}: start as root (or with CAP_NET_BIND_SERVICE), "
            f"or choose a port of 1024 or above with {hint}"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is not an address of this machine: choose one that is with {_of_host(hint)}"
    return f"cannot listen on port {port} of {host}: {error.strerror}; choose another with {hint}"


def _of_host(hint: str) -> str:
    return hint.replace("port", "host")
