"""The ``/list`` pages: text tables that describe the methods, their parameters, types and defaults."""

from __future__ import annotations

from collections.abc import Sequence

import falcon

from spawn.admin.resource import Readable

Row = tuple[str, ...]

_METHODS: Sequence[Row] = (
    ("GET", "/nodes", "all nodes"),
    ("GET", "/nodes/:host", "nodes of a host"),
    ("GET", "/nodes/:host/:port", "one node"),
    ("PUT", "/nodes", "create or change many nodes (JSON array)"),
    ("PUT", "/nodes/:host/:port", "create, change or move one node"),
    ("DELETE", "/nodes", "remove all nodes"),
    ("DELETE", "/nodes/:host", "remove the nodes of a host"),
    ("DELETE", "/nodes/:host/:port", "remove one node"),
    ("GET", "/queues", "how far every node is"),
    ("GET", "/queues/:host", "how far the nodes of a host are"),
    ("GET", "/queues/:host/:port", "how far one node is"),
    ("PUT", "/queues/:host/:port", "tell a node its position"),
    ("POST", "/queues/:host/:port/resume", "let a held node go on"),
    ("DELETE", "/queues/:host/:port/:sequence", "this node never gets that update"),
    ("POST", "/queues/:host/:port/:sequence/retry", "deliver once more what it refused or skipped"),
    ("POST", "/queues/:host/:port/clear-diverged", "a node is as the others again"),
    ("GET", "/updates/:sequence", "what became of one update"),
    ("POST", "/journal/backup", "copy the journal"),
    ("GET", "/counters", "all counters"),
    ("GET", "/health", "200 when serving, else 503"),
    ("GET", "/info", "release and runtime"),
    ("GET", "/openapi.json", "this API for programs"),
    ("GET", "/list", "this page"),
)
_NODE_PAGES: Sequence[Row] = (
    ("/list/nodes/get", "showing nodes"),
    ("/list/nodes/set", "creating and changing nodes"),
    ("/list/nodes/delete", "removing nodes"),
)
_SELECTION: Sequence[Row] = (
    ("host", "path", "string", "all hosts", "host name or IP address"),
    ("port", "path", "integer", "all ports", "1 to 65535"),
)
_PRETTY: Row = ("pretty", "query", "boolean", "false", "indent the answer")
_PARAMETERS: Row = ("Parameter", "In", "Type", "Default", "Meaning")
_FIELDS: Sequence[Row] = (
    ("host", "path, body", "string", "required", "host name or IP address; in the body: where to move"),
    ("port", "path, body", "integer", "required", "1 to 65535; in the body: where to move"),
    ("priority", "body", "integer", "0", "sorted 1, 2, 3, then 0, then -1, -2, -3"),
    ("active", "body", "boolean", "false", "false: no reads, no updates, no queue"),
    ("maintenance", "body", "boolean", "false", "true: no reads, updates wait in the queue"),
    ("position", "body", "integer, string", "none", 'a sequence or "head": where a node that is out of sync goes on'),
    _PRETTY,
)


def table(head: Row, rows: Sequence[Row]) -> str:
    """Rows in columns as wide as they need, a line under the head."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = [head, tuple("-" * width for width in widths), *rows]
    padded = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "".join(line.rstrip() + "\n" for line in padded)


def _routes(method: str) -> str:
    rows = [row for row in _METHODS if row[0] == method and row[1].startswith("/nodes")]
    return table(("Method", "Path", "Meaning"), rows)


def pages() -> dict[str, str]:
    """Path → text."""
    set_note = "What is left out keeps its value, or takes its default in a new node.\n"
    return {
        "/list": table(("Method", "Path", "Meaning"), _METHODS) + "\nMore: /list/nodes\n",
        "/list/nodes": table(("Page", "Meaning"), _NODE_PAGES),
        "/list/nodes/get": _routes("GET") + "\n" + table(_PARAMETERS, (*_SELECTION, _PRETTY)),
        "/list/nodes/set": _routes("PUT") + "\n" + table(_PARAMETERS, _FIELDS) + "\n" + set_note,
        "/list/nodes/delete": _routes("DELETE") + "\n" + table(_PARAMETERS, (*_SELECTION, _PRETTY)),
    }


class Page(Readable):
    """One constant text."""

    def __init__(self, text: str) -> None:
        self._text = text

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        resp.content_type = "text/plain; charset=utf-8"
        resp.text = self._text
