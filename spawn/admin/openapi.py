"""``/openapi.json``: the API described for programs (OpenAPI 3.1), and meant to be true to the letter.

Schemas of bodies and rows are derived from the structs that are decoded and rendered, so that they cannot drift; only
what a type cannot say (which hosts, a port that is not zero) is put in by hand. The tests let schemathesis compare the
document with what the API does.
"""

from __future__ import annotations

from typing import Any

import falcon
import msgspec

from spawn.admin.nodes import MAX_RECORDS, NodeBody, NodeItem
from spawn.admin.parameters import Nothing
from spawn.admin.queues import PositionChange
from spawn.admin.rendering import reply_bare
from spawn.admin.resource import Readable
from spawn.admin.settings import AdminSettings
from spawn.delivery.report import STATES
from spawn.delivery.types import BackupMade, QueueStatus, UpdateFate
from spawn.nodes.node import NodeRecord

Json = dict[str, Any]

# Strings of spawn.config.addresses.parse_node_host, as patterns. IPv4: neither 0.0.0.0, nor multicast, nor broadcast.
_OCTET = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = rf"^([1-9]|[1-9][0-9]|1[0-9][0-9]|2[01][0-9]|22[0-3])(\.{_OCTET}){{3}}$"
_NO_IPV6 = r"^[0:.]*$|^[Ff]{2}[0-9A-Fa-f]{2}:"  # unspecified, multicast
_LABEL = "[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_LAST_LABEL = "[A-Za-z_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = rf"^({_LABEL}\.)*{_LAST_LABEL}$"

HOST: Json = {
    "description": "A host name or an IP address; IPv6 with or without brackets. Not multicast, not unspecified.",
    "type": "string",
    "anyOf": [
        {"pattern": _NAME, "maxLength": 253},
        {"pattern": _IPV4},
        {"format": "ipv6", "not": {"pattern": _NO_IPV6}},
    ],
}
PORT: Json = {"type": "integer", "minimum": 1, "maximum": 65_535}

_STRUCTS = (NodeRecord, NodeItem, NodeBody, QueueStatus, PositionChange, Nothing, UpdateFate, BackupMade)
_REASONS = {
    400: "Bad parameter or body",
    403: "Host or Origin is not configured",
    404: "Nothing matches",
    409: "Conflict with another node, a position that is not retained, or nothing that can be done to this update",
    410: "The update, or its record, is no longer retained",
    413: "The body is larger than 1 MiB",
    415: "The body is not JSON",
    503: "Not possible at the moment",
    504: "The node gave no complete answer",
    508: "The request came through Spawn's own proxy: a node leads back here",
}


class Document(Readable):
    """The document, made once."""

    def __init__(self, value: Json) -> None:
        self._value = value

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        reply_bare(req, resp, 200, self._value)


def document(settings: AdminSettings) -> Json:
    return {
        "openapi": "3.1.0",
        "info": {"title": "Spawn admin API", "version": settings.version, "license": {"name": "MIT"}},
        "paths": _paths(),
        "components": {"schemas": _schemas(), "responses": _responses()},
    }


def _paths() -> Json:
    """One line for each operation: what it is for, its answers, the statuses that say no."""
    host = (_path_parameter("host", HOST),)
    node = (*host, _path_parameter("port", PORT))
    sequence = (_path_parameter("sequence", {"type": "integer", "minimum": 1}),)
    nodes, queues, done = _ref("Nodes"), _ref("Queues"), _ref("Done")
    return {
        "/nodes": {
            "get": _operation("All nodes", {200: nodes}, 404),
            "put": _operation("Create or change many nodes", {202: nodes}, 400, body=_many_records()),
            "delete": _operation("Remove all nodes", {200: done}),
        },
        "/nodes/{host}": {
            "parameters": host,
            "get": _operation("Nodes of a host", {200: nodes}, 400, 404),
            "delete": _operation("Remove the nodes of a host", {200: done}, 400, 404),
        },
        "/nodes/{host}/{port}": {
            "parameters": node,
            "get": _operation("One node", {200: nodes}, 400, 404),
            "put": _operation(
                "Create, change or move a node", {201: nodes, 202: nodes}, 400, 409, body=_ref("NodeBody")
            ),
            "delete": _operation("Remove a node", {200: done}, 400, 404),
        },
        "/queues": {"get": _operation("How far every node is", {200: queues})},
        "/queues/{host}": {"parameters": host, "get": _operation("Queues of a host", {200: queues}, 400, 404)},
        "/queues/{host}/{port}": {
            "parameters": node,
            "get": _operation("One queue", {200: queues}, 400, 404),
            "put": _operation("Set a node's position", {202: queues}, 400, 404, 409, body=_ref("PositionChange")),
        },
        "/queues/{host}/{port}/resume": {
            "parameters": node,
            "post": _verb("Let a held node go on", {202: queues}, 404),
        },
        "/queues/{host}/{port}/clear-diverged": {
            "parameters": node,
            "post": _verb("A node is as the others again", {202: queues}, 404),
        },
        "/queues/{host}/{port}/{sequence}": {
            "parameters": (*node, *sequence),
            "delete": _operation("Take an update out of a node's queue", {202: queues}, 400, 404, 409),
        },
        "/queues/{host}/{port}/{sequence}/retry": {
            "parameters": (*node, *sequence),
            "post": _verb("Deliver an update to a node once more", {202: queues}, 404, 409, 410, 504),
        },
        "/journal/backup": {"post": _verb("Copy the journal", {201: _ref("Backups")}, 409)},
        "/updates/{sequence}": {
            "parameters": sequence,
            "get": _operation("What became of an update", {200: _ref("Updates")}, 400, 404, 410),
        },
        "/counters": {"get": _operation("All counters", {200: _ref("Counters")})},
        "/health": {"get": _operation("Whether Spawn is serving", {200: done}, 503)},
        "/info": {"get": _operation("Release and runtime", {200: _ref("Info")})},
        "/openapi.json": {"get": _operation("This document", {200: {"type": "object"}})},
        **{path: {"get": _text_page(title)} for path, title in _TEXT_PAGES.items()},
    }


_TEXT_PAGES = {
    "/list": "All methods",
    "/list/nodes": "Pages about nodes",
    "/list/nodes/get": "How to show nodes",
    "/list/nodes/set": "How to create and change nodes",
    "/list/nodes/delete": "How to remove nodes",
}


def _verb(summary: str, answers: dict[int, Json], *refusals: int) -> Json:
    """A POST that says all in its path: it has no body, or an empty object."""
    operation = _operation(summary, answers, 400, *refusals, body=_ref("Nothing"))
    operation["requestBody"]["required"] = False
    return operation


def _operation(summary: str, answers: dict[int, Json], *refusals: int, body: Json | None = None) -> Json:
    """An operation; what every one may be answered with (403, 503, 508, and 413 and 415 for bodies) is added."""
    statuses = sorted({403, 503, 508, *refusals, *((413, 415) if body else ())})
    responses = {str(status): _json_answer("Done", schema) for status, schema in answers.items()}
    responses |= {str(status): {"$ref": f"#/components/responses/{status}"} for status in statuses}
    operation: Json = {"summary": summary, "parameters": [_PRETTY], "responses": responses}
    if body:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return operation


def _text_page(summary: str) -> Json:
    page = {"description": "Text tables", "content": {"text/plain": {"schema": {"type": "string"}}}}
    refusals = {str(status): {"$ref": f"#/components/responses/{status}"} for status in (403, 508)}
    return {"summary": summary, "responses": {"200": page, **refusals}}


def _schemas() -> Json:
    _, schemas = msgspec.json.schema_components(_STRUCTS, ref_template="#/components/schemas/{name}")
    for name in ("NodeItem", "NodeBody"):
        schemas[name]["properties"] |= {"host": HOST, "port": PORT}
    schemas["NodeItem"]["required"] = ["host", "port"]
    schemas["QueueStatus"]["properties"]["state"] = {"type": "string", "enum": list(STATES)}
    info = {"type": "string"}
    return {
        **schemas,
        "Nodes": _envelope(_results("NodeRecord", info=info)),
        "Queues": _envelope(_results("QueueStatus", head={"type": "integer", "minimum": 0}, info=info)),
        "Backups": _envelope(_results("BackupMade")),
        "Updates": _envelope(_results("UpdateFate")),
        "Counters": _envelope(_results("Counter")),
        "Counter": _record(name={"type": "string"}, value={"type": "integer"}),
        "Done": _envelope(
            {**_record(success={"const": True}), "properties": {"success": {"const": True}, "info": info}}
        ),
        "Failure": _envelope(
            _record(error={"type": "integer"}, info=info, message={"type": "string"}, success={"const": False})
        ),
        "Info": _info(),
    }


def _responses() -> Json:
    """A body that is too large is refused by the server, which knows nothing of envelopes."""
    short = _record(error={"type": "integer"}, message={"type": "string"})
    shapes = {status: _ref("Failure") for status in _REASONS} | {413: {"anyOf": [short, _ref("Failure")]}}
    return {str(status): _json_answer(reason, shapes[status]) for status, reason in _REASONS.items()}


def _many_records() -> Json:
    return {"type": "array", "maxItems": MAX_RECORDS, "uniqueItems": True, "items": _ref("NodeItem")}


def _envelope(data: Json) -> Json:
    return _record(duration={"type": "integer", "minimum": 0}, took={"type": "string"}, data=data)


def _results(name: str, **more: Json) -> Json:
    """The success shape; ``info`` is optional, anything else is there always."""
    results = {"type": "array", "items": _ref(name)}
    record = _record(results=results, success={"const": True}, total={"type": "integer"}, **more)
    record["required"] = [key for key in record["required"] if key != "info"]
    return record


def _record(**properties: Json) -> Json:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _info() -> Json:
    text, number = {"type": "string"}, {"type": "integer", "minimum": 1}
    runtime = _record(
        CPU=number, Compiler=text, Memory={"type": "string", "pattern": r"^[0-9]+\.[0-9]{2}MB$"}, Threads=number
    )
    service = _record(Host=text, Release=_record(Date=text, Number=text), Runtime=runtime)
    return _record(**{"Spawn Sync Service": service})


def _json_answer(description: str, schema: Json) -> Json:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _path_parameter(name: str, schema: Json) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


_PRETTY: Json = {
    "name": "pretty",
    "in": "query",
    "description": "`true` indents the answer; anything else does nothing",
    "schema": {"type": "string"},
}
