"""An update as it is sent to one node: the client's own request plus what Spawn says about it.

Every delivery of an update carries the same ``Idempotency-Key``, ``Spawn-Sequence`` and ``Spawn-Time``, so that an
application can recognise a repeat, and can make identical ids and dates on every node.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache

from spawn.http11.forwarding import method_override_in, replace_headers
from spawn.http11.message import OutgoingRequest
from spawn.journal.base import Entry


@lru_cache(maxsize=16)  # one for all updates of a commit
def spawn_time(time_s: float) -> str:
    """RFC 3339 in UTC with microseconds, such as ``2026-11-23T21:00:41.250000Z``."""
    second, microsecond = divmod(round(time_s * 1_000_000), 1_000_000)
    return f"{_second(second)}.{microsecond:06d}Z"


@lru_cache(maxsize=16)
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def effective_method(entry: Entry) -> bytes:
    """The method by which to judge whether sending twice does harm; a method override may mean anything."""
    method = entry.method
    return b"POST" if method != b"POST" and method_override_in(entry.head) else method


def outgoing(entry: Entry, journal_uuid: str, authority: str, replaced: Mapping[str, str]) -> OutgoingRequest:
    """The request for the node at ``authority``; ``replaced`` are the headers of ``delivery.set-headers``."""
    lines = replace_headers(entry.head, replaced)
    if not lines.startswith(b"Host:") and b"\r\nhost:" not in b"\r\n" + lines.lower():
        lines += b"Host: %b\r\n" % authority.encode()  # an HTTP/1.0 client need not have named one
    lines += _spawn_lines(journal_uuid, entry.sequence, entry.time_s, entry.key is not None)
    return OutgoingRequest(entry.method, entry.target, lines, entry.body)


@lru_cache(maxsize=64)  # all nodes get an update at about the same time
def _spawn_lines(journal_uuid: str, sequence: int, time_s: float, keyed: bool) -> bytes:
    """What Spawn says of an update. ``keyed``: the client gave it an ``Idempotency-Key``."""
    lines = f"Spawn-Sequence: {sequence}\r\nSpawn-Time: {spawn_time(time_s)}\r\n"
    if not keyed:
        lines = f"Idempotency-Key: {journal_uuid}-{sequence}\r\n" + lines
    return lines.encode()
