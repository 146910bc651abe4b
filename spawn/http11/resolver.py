"""Names of nodes to addresses, off the hub.

Strategy: ``getaddrinfo`` runs in a small thread pool of its own, so that a slow name server delays nobody's disk. One
greenlet per name in flight fills the cache and everybody who wants the name waits for that greenlet, each with a
deadline of its own. IP literals never leave the calling greenlet.

Names whose servers hang must not take the others with them: an address that was good is used on for a while when the
name server does not say in time whether it still is (as in RFC 8767), and who finds all threads waiting is told so
soon, with most of his time still left.

Invariants: the cache and the threads are bounded; an answer is used for ``ttl_s``, a failure for ``negative_ttl_s``.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gevent
from gevent.greenlet import Greenlet
from gevent.lock import BoundedSemaphore
from gevent.threadpool import ThreadPool

from spawn.errors import NotSent

SockAddress = tuple[Any, ...]  # (ip, port) or (ip, port, flow, scope)
Address = tuple[int, SockAddress]  # address family, and what connect() takes
Lookup = Callable[..., list[Any]]  # the shape of socket.getaddrinfo

MAX_THREADS = 16
PLACE_S = 1.0  # how long a lookup waits for one of the threads
PATIENCE_S = 1.0  # how long a name that has an old answer waits for a new one
STALE_S = 3_600.0  # how much too old that answer may be
MAX_NAMES = 1024


@dataclass(frozen=True, slots=True)
class _Answer:
    addresses: tuple[Address, ...]  # with port 0
    failure: str
    expires_s: float


_NO_PLACE = _Answer((), f"all {MAX_THREADS} lookups possible at once are waiting for the name server", 0.0)


class Resolver:
    """A caching resolver. ``lookup`` is called in a thread."""

    def __init__(
        self, ttl_s: float = 10.0, *, negative_ttl_s: float = 1.0, lookup: Lookup = socket.getaddrinfo
    ) -> None:
        self._ttl_s = ttl_s
        self._negative_ttl_s = negative_ttl_s
        self._lookup = lookup
        self._cache: dict[str, _Answer] = {}
        self._places = BoundedSemaphore(MAX_THREADS)
        self._in_flight: dict[str, Greenlet[..., _Answer]] = {}
        self._pool: ThreadPool | None = None  # made when the first name comes: many installations use literals only

    def resolve(self, host: str, port: int, timeout_s: float) -> list[Address]:
        """All addresses of ``host``, in the system's order of preference. Raises ``NotSent``."""
        literal = _literal(host)
        if literal is not None:
            return [_with_port(literal, port)]
        answer = self._cache.get(host)
        if answer is None or answer.expires_s <= time.monotonic():
            answer = self._ask(host, timeout_s, answer)
        if answer.failure:
            raise NotSent(f"cannot resolve {host}: {answer.failure}")
        return [_with_port(address, port) for address in answer.addresses]

    def stop(self, deadline_s: float) -> None:
        """End the threads; one that still waits for a name server is left to end by itself after ``deadline_s``."""
        for greenlet in list(self._in_flight.values()):
            greenlet.kill(block=False)
        pool, self._pool = self._pool, None
        if pool is not None:
            gevent.with_timeout(deadline_s, pool.kill, timeout_value=None)

    def _ask(self, host: str, timeout_s: float, old: _Answer | None) -> _Answer:
        """Join the lookup in flight, or start one. It goes on (and fills the cache) when the asker's time is up."""
        usable = old if old is not None and old.addresses and old.expires_s + STALE_S > time.monotonic() else None
        asking = self._in_flight.get(host)
        if asking is None:
            asking = self._in_flight[host] = gevent.spawn(self._fetch, host)
        asking.join(timeout_s if usable is None else min(timeout_s, PATIENCE_S))
        if usable is not None and (not asking.ready() or asking.value is _NO_PLACE):
            return usable
        if not asking.ready():
            raise NotSent(f"cannot resolve {host}: no answer within {timeout_s:g} s")
        if not isinstance(asking.value, _Answer):
            raise NotSent(f"cannot resolve {host}: stopping")
        return asking.value

    def _fetch(self, host: str) -> _Answer:
        try:
            if not self._places.acquire(timeout=PLACE_S):
                return _NO_PLACE
            try:
                if self._pool is None:
                    self._pool = ThreadPool(MAX_THREADS)
                answer = self._pool.apply(self._query, (host,))
            finally:
                self._places.release()
            self._remember(host, answer)
            return answer
        finally:
            del self._in_flight[host]

    def _query(self, host: str) -> _Answer:
        """In a thread."""
        try:
            found = self._lookup(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError, ValueError) as error:  # UnicodeError: no such name can exist (IDNA)
            failure = (error.strerror if isinstance(error, OSError) else "not a host name") or str(error)
            return _Answer((), failure, time.monotonic() + self._negative_ttl_s)
        unique = dict.fromkeys((int(family), tuple(address)) for family, _, _, _, address in found)
        failure = "" if unique else "it has no address"
        return _Answer(tuple(unique), failure, time.monotonic() + (self._ttl_s if unique else self._negative_ttl_s))

    def _remember(self, host: str, answer: _Answer) -> None:
        self._cache.pop(host, None)
        while len(self._cache) >= MAX_NAMES:
            del self._cache[next(iter(self._cache))]
        self._cache[host] = answer


def _literal(host: str) -> Address | None:
    """The address of an IP literal, an IPv6 zone (RFC 4007) included; None for a name."""
    try:
        parsed = ipaddress.ip_address(host)
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv4Address):
        return int(socket.AF_INET), (str(parsed), 0)
    address, _, zone = str(parsed).partition("%")
    try:
        scope = int(zone) if zone.isdigit() else socket.if_nametoindex(zone) if zone else 0
    except OSError:
        raise NotSent(f"cannot resolve {host}: there is no network interface {zone}") from None
    return int(socket.AF_INET6), (address, 0, 0, scope)


def _with_port(address: Address, port: int) -> Address:
    family, (ip, _, *rest) = address
    return family, (ip, port, *rest)
