"""The slice of the configuration that the admin API works with."""

from __future__ import annotations

from dataclasses import dataclass

Listener = tuple[str, int]  # host as configured (perhaps a wildcard), port as bound


@dataclass(frozen=True, slots=True)
class AdminSettings:
    """Values only; ``listeners`` holds the ports as they were bound, so it is made after binding."""

    version: str
    release_date: str  # YYYY-MM-DD
    listeners: tuple[Listener, ...] = ()  # Spawn's own: none of them may become a node
    own_hosts: tuple[str, ...] = ()  # further names and addresses of this machine, for listeners on all addresses
    hosts: tuple[str, ...] = ()  # ``api.host`` and ``api.hosts``: accepted in Host beside IP literals and localhost
    origins: tuple[str, ...] = ()  # ``api.origins``: get CORS headers and may change state
    via: bytes = b""  # this Spawn's name in Via; a request that bears it came in through the proxy
    compiled: bool = False  # Spawn itself, by mypyc
