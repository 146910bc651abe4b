"""``/nodes``: showing, creating, changing, moving and deleting nodes.

A PUT is a partial record. Everything about it is checked before the backend is asked, for an array of records about
all of them, so that a fault in the last one changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import falcon
import msgspec
from msgspec import UNSET, Meta, UnsetType

from spawn.admin.backend import AdminBackend
from spawn.admin.ownaddress import refuse_own_listener
from spawn.admin.parameters import MAX_SEQUENCE, empty_record, parse_host, parse_port, read_json, unrecognised
from spawn.admin.rendering import no_records, reply, reply_results
from spawn.admin.resource import Readable, peer_of
from spawn.admin.settings import AdminSettings
from spawn.config.addresses import host_key
from spawn.delivery.types import NodeChange, PutResult

MAX_RECORDS = 1000  # in one PUT; each one becomes a worker and a health checker
PRIORITY_LIMIT = 2**31 - 1

# Zero passes the decoder because the original has a message of its own for it.
Port = Annotated[int, Meta(ge=0, le=65_535)]
Priority = Annotated[int, Meta(ge=-PRIORITY_LIMIT, le=PRIORITY_LIMIT)]
PositionBody = Annotated[int, Meta(ge=0, le=MAX_SEQUENCE)] | Literal["head"]


class NodeItem(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A record in the body of ``PUT /nodes``; there, host and port are required."""

    host: str | UnsetType = UNSET
    port: Port | UnsetType = UNSET
    priority: Priority | UnsetType = UNSET
    active: bool | UnsetType = UNSET
    maintenance: bool | UnsetType = UNSET


class NodeBody(NodeItem, frozen=True, kw_only=True):
    """The body of a node's own PUT; host or port, if they differ from the path's, move the node."""

    position: PositionBody | UnsetType = UNSET


NodeItems = Annotated[list[NodeItem], Meta(max_length=MAX_RECORDS)]


class Nodes(Readable):
    """``/nodes``"""

    def __init__(self, backend: AdminBackend, settings: AdminSettings) -> None:
        self._backend = backend
        self._settings = settings

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        show(self._backend, req, resp)

    def on_put(self, req: falcon.Request, resp: falcon.Response) -> None:
        items: list[NodeItem] = read_json(req, NodeItems)
        checked = [self._check(item) for item in items]
        keys = {(host_key(host), port) for host, port, _ in checked}
        if len(keys) < len(checked):
            raise unrecognised("Two records name the same node")
        done = self._backend.put_nodes(checked, peer_of(req))
        notes = [f"{result.record.authority}: {result.note}" for result in done if result.note]
        reply_put(req, resp, done, 202, "; ".join(notes))

    def on_delete(self, req: falcon.Request, resp: falcon.Response) -> None:
        self._backend.delete_nodes(None, None, peer_of(req))
        reply(req, resp, 200, {"success": True})

    def _check(self, item: NodeItem) -> tuple[str, int, NodeChange]:
        if item.host is UNSET or item.port is UNSET:
            raise empty_record()
        change = checked_change(item)
        assert isinstance(change.host, str)
        assert isinstance(change.port, int)
        refuse_own_listener(change.host, change.port, self._settings)
        return change.host, change.port, change


class HostNodes(Readable):
    """``/nodes/:host``"""

    def __init__(self, backend: AdminBackend) -> None:
        self._backend = backend

    def on_get(self, req: falcon.Request, resp: falcon.Response, host: str) -> None:
        show(self._backend, req, resp, parse_host(host))

    def on_delete(self, req: falcon.Request, resp: falcon.Response, host: str) -> None:
        remove(self._backend, req, resp, parse_host(host))


class OneNode(Readable):
    """``/nodes/:host/:port``"""

    def __init__(self, backend: AdminBackend, settings: AdminSettings) -> None:
        self._backend = backend
        self._settings = settings

    def on_get(self, req: falcon.Request, resp: falcon.Response, host: str, port: str) -> None:
        show(self._backend, req, resp, parse_host(host), parse_port(port))

    def on_put(self, req: falcon.Request, resp: falcon.Response, host: str, port: str) -> None:
        own_host, own_port = parse_host(host), parse_port(port)
        body: NodeBody = read_json(req, NodeBody)
        change = checked_change(body)
        target = (own_host if change.host is UNSET else change.host, own_port if change.port is UNSET else change.port)
        refuse_own_listener(*target, self._settings)
        position = None if body.position is UNSET else body.position
        result = self._backend.put_node(own_host, own_port, change, position, peer_of(req))
        reply_put(req, resp, [result], 201 if result.created else 202, result.note)

    def on_delete(self, req: falcon.Request, resp: falcon.Response, host: str, port: str) -> None:
        remove(self._backend, req, resp, parse_host(host), parse_port(port))


def show(
    backend: AdminBackend, req: falcon.Request, resp: falcon.Response, host: str | None = None, port: int | None = None
) -> None:
    records = backend.nodes(host, port)
    if not records:
        raise no_records()
    reply_results(req, resp, records)


def remove(
    backend: AdminBackend, req: falcon.Request, resp: falcon.Response, host: str, port: int | None = None
) -> None:
    if not backend.delete_nodes(host, port, peer_of(req)):
        raise no_records()
    reply(req, resp, 200, {"success": True})


def reply_put(req: falcon.Request, resp: falcon.Response, done: Sequence[PutResult], status: int, note: str) -> None:
    """The success shape, with ``info`` in it when there is something to say (a node is out of sync, say)."""
    more = {"info": note} if note else {}
    reply_results(req, resp, [result.record for result in done], status, **more)


def checked_change(item: NodeItem) -> NodeChange:
    """The change that a body asks for, its host normalised; or a 400."""
    if item.port == 0:
        raise empty_record()
    return NodeChange(
        host=item.host if item.host is UNSET else parse_host(item.host),
        port=item.port,
        priority=item.priority,
        active=item.active,
        maintenance=item.maintenance,
    )
