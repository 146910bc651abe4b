"""``/queues``: how far every node is in the journal, and what an operator does to a node's queue."""

from __future__ import annotations

import falcon
import msgspec

from spawn.admin.backend import AdminBackend
from spawn.admin.nodes import PositionBody
from spawn.admin.parameters import parse_host, parse_port, read_json, read_nothing
from spawn.admin.rendering import no_records, reply_results
from spawn.admin.resource import Readable, peer_of
from spawn.admin.updates import checked_sequence
from spawn.delivery.types import QueueChange


class PositionChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of ``PUT /queues/:host/:port``."""

    position: PositionBody


class Queues(Readable):
    """``/queues``: 200 even without a node, since the head is worth knowing."""

    def __init__(self, backend: AdminBackend) -> None:
        self._backend = backend

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        reply_results(req, resp, self._backend.queues(), head=self._backend.head())


class HostQueues(Readable):
    """``/queues/:host``"""

    def __init__(self, backend: AdminBackend) -> None:
        self._backend = backend

    def on_get(self, req: falcon.Request, resp: falcon.Response, host: str) -> None:
        show(self._backend, req, resp, parse_host(host))


class OneQueue(Readable):
    """``/queues/:host/:port``"""

    def __init__(self, backend: AdminBackend) -> None:
        self._backend = backend

    def on_get(self, req: falcon.Request, resp: falcon.Response, host: str, port: str) -> None:
        show(self._backend, req, resp, parse_host(host), parse_port(port))

    def on_put(self, req: falcon.Request, resp: falcon.Response, host: str, port: str) -> None:
        own_host, own_port = parse_host(host), parse_port(port)
        body: PositionChange = read_json(req, PositionChange)
        change = self._backend.set_position(own_host, own_port, body.position, peer_of(req))
        reply_change(self._backend, req, resp, change)


class Resume:
    """``/queues/:host/:port/resume``"""

    def __init__(self, backend: AdminBackend) -> None:
        self._backend = backend

    def on_post(self, req: falcon.Request, resp: falcon.Response, host: str, port: str) -> None:
        node = parse_host(host), parse_port(port)
        read_nothing(req)
        reply_change(self._backend, req, resp, self._backend.resume(*node, peer_of(req)))


class ClearDiverged:
    """``/queues/:host/:port/clear-diverged``"""

    def __init__(self, backend: AdminBackend) -> None:
        self._backend = backend

    def on_post(self, req: falcon.Request, resp: falcon.Response, host: str, port: str) -> None:
        node = parse_host(host), parse_port(port)
        read_nothing(req)
        reply_change(self._backend, req, resp, self._backend.clear_diverged(*node, peer_of(req)))


class QueuedUpdate:
    """``/queues/:host/:port/:sequence``"""

    def __init__(self, backend: AdminBackend) -> None:
        self._backend = backend

    def on_delete(self, req: falcon.Request, resp: falcon.Response, host: str, port: str, sequence: str) -> None:
        node = parse_host(host), parse_port(port)
        number = checked_sequence(sequence)
        reply_change(self._backend, req, resp, self._backend.skip(*node, number, peer_of(req)))


class Retry:
    """``/queues/:host/:port/:sequence/retry``"""

    def __init__(self, backend: AdminBackend) -> None:
        self._backend = backend

    def on_post(self, req: falcon.Request, resp: falcon.Response, host: str, port: str, sequence: str) -> None:
        node = parse_host(host), parse_port(port)
        number = checked_sequence(sequence)
        read_nothing(req)
        reply_change(self._backend, req, resp, self._backend.retry(*node, number, peer_of(req)))


def reply_change(backend: AdminBackend, req: falcon.Request, resp: falcon.Response, change: QueueChange) -> None:
    more = {"info": change.note} if change.note else {}
    reply_results(req, resp, [change.row], 202, head=backend.head(), **more)


def show(backend: AdminBackend, req: falcon.Request, resp: falcon.Response, host: str, port: int | None = None) -> None:
    rows = backend.queues(host, port)
    if not rows:
        raise no_records()
    reply_results(req, resp, rows, head=backend.head())
