"""An update as it is sent to one node: the client's own request plus what Spawn says about it.

Every delivery of an update carries the same ``Idempotency-Key``, ``Spawn-Sequence`` and ``Spawn-Time``, so that an
application can recognise a repeat, and can make identical ids and dates on every node.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from spawn.http11.forwarding import method_override_in, replace_headers
from spawn.http11.outgoing import OutgoingRequest
from spawn.journal.base import Entry


def spawn_time(time_s: float) -> str:
    """RFC 3339 in UTC with microseconds, such as ``2026-11-23T21:00:41.250000Z``."""
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def effective_method(entry: Entry) -> bytes:
    """The method by which to judge whether sending twice does harm; a method override may mean anything."""
    return b"POST" if method_override_in(entry.head) else entry.method


def outgoing(entry: Entry, journal_uuid: str, authority: str, replaced: Mapping[str, str]) -> OutgoingRequest:
    """The request for the node at ``authority``; ``replaced`` are the headers of ``delivery.set-headers``."""
    head = replace_headers(entry.head, replaced)
    lowered = b"\r\n" + head.lower()
    lines = [head]
    if b"\r\nhost:" not in lowered:  # an HTTP/1.0 client need not have named one
        lines.append(b"Host: %b\r\n" % authority.encode())
    if entry.key is None:
        lines.append(b"Idempotency-Key: %b-%d\r\n" % (journal_uuid.encode(), entry.sequence))
    lines.append(b"Spawn-Sequence: %d\r\nSpawn-Time: %b\r\n" % (entry.sequence, spawn_time(entry.time_s).encode()))
    return OutgoingRequest(method=entry.method, target=entry.target, headers=b"".join(lines), body=entry.body)
