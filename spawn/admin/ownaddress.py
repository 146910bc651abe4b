"""Keeping Spawn from being its own node: updates would go round in a circle.

Only what is written is judged, no name is resolved: a request that a name leads back here is found out by its Via, by
the proxy and by ``guard``.
"""

from __future__ import annotations

import socket

from spawn.admin.rendering import Failure
from spawn.admin.settings import AdminSettings
from spawn.config.addresses import authority, is_loopback, is_wildcard, parse_ip, reaches_listener, same_host


def refuse_own_listener(host: str, port: int, settings: AdminSettings) -> None:
    """A 400 when ``host:port`` is a listener of this service."""
    if any(port == own_port and _reaches(host, own, settings) for own, own_port in settings.listeners):
        raise Failure(400, "The node could not be used", f"{authority(host, port)} is Spawn's own listener")


def _reaches(host: str, listener: str, settings: AdminSettings) -> bool:
    if reaches_listener(host, listener):
        return True
    is_own = any(same_host(host, own) for own in settings.own_hosts)
    if is_wildcard(listener):
        return is_own or is_own_ip(host)
    # a machine's own name is often one for its loopback address (/etc/hosts); an address says which one it is
    return is_own and is_loopback(listener) and parse_ip(host) is None


def is_own_ip(host: str) -> bool:
    """Whether ``host`` is an IP address of this machine: the kernel binds a socket to no other."""
    address = parse_ip(host)
    if address is None:
        return False
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:  # not ours, or the machine has no such family
        return False
    return True
