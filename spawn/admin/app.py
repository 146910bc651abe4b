"""The admin API as one WSGI application: the routes, and what every kind of error is answered with.

The framework routes and parses; how answers look is ``rendering``'s business alone, so every error handler below ends
there. Nothing that comes from outside may end in a traceback: what is not answered here on purpose is a fault of
Spawn, logged with its traceback and answered with 500.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

import falcon

from spawn.admin.backend import AdminBackend
from spawn.admin.backup import Backups
from spawn.admin.guard import Guard
from spawn.admin.info import CountersPage, Health, Info
from spawn.admin.listing import Page, pages
from spawn.admin.nodes import HostNodes, Nodes, OneNode
from spawn.admin.openapi import Document, document
from spawn.admin.queues import ClearDiverged, HostQueues, OneQueue, QueuedUpdate, Queues, Resume, Retry
from spawn.admin.rendering import Failure, reply_bare, reply_failure, shown
from spawn.admin.settings import AdminSettings
from spawn.admin.updates import OneUpdate
from spawn.delivery.types import (
    NodeConflict,
    NoSuchNode,
    NoSuchUpdate,
    NotPossibleNow,
    PositionConflict,
    StillUnknown,
    VerbConflict,
)
from spawn.errors import NoBackup, Pruned, SpawnError

Environ = dict[str, Any]
App = falcon.App[falcon.Request, falcon.Response]
WsgiApp = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]

KNOWN_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "POST", "PATCH", "TRACE"})
UNROUTED_METHOD = "TRACE"  # known to the framework, served by no route

log = logging.getLogger("spawn.admin")


def build(backend: AdminBackend, settings: AdminSettings) -> WsgiApp:
    """The application over ``backend``."""
    app = falcon.App(middleware=[Guard(settings, backend)])
    app.resp_options.default_media_type = None  # type: ignore[assignment]  # an empty answer (OPTIONS) is of no type
    _add_routes(app, backend, settings)
    _add_error_handlers(app)

    def call(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """The framework answers a method it has never heard of with 400; this way it is 404 or 405 as for any other."""
        if environ["REQUEST_METHOD"] not in KNOWN_METHODS:
            environ = {**environ, "REQUEST_METHOD": UNROUTED_METHOD}
        return app(environ, start_response)

    return call


def _add_routes(app: App, backend: AdminBackend, settings: AdminSettings) -> None:
    app.add_route("/nodes", Nodes(backend, settings))
    app.add_route("/nodes/{host}", HostNodes(backend))
    app.add_route("/nodes/{host}/{port}", OneNode(backend, settings))
    app.add_route("/queues", Queues(backend))
    app.add_route("/queues/{host}", HostQueues(backend))
    app.add_route("/queues/{host}/{port}", OneQueue(backend))
    app.add_route("/queues/{host}/{port}/resume", Resume(backend))
    app.add_route("/queues/{host}/{port}/clear-diverged", ClearDiverged(backend))
    app.add_route("/queues/{host}/{port}/{sequence}", QueuedUpdate(backend))
    app.add_route("/queues/{host}/{port}/{sequence}/retry", Retry(backend))
    app.add_route("/updates/{sequence}", OneUpdate(backend))
    app.add_route("/journal/backup", Backups(backend))
    app.add_route("/counters", CountersPage(backend))
    app.add_route("/health", Health(backend))
    app.add_route("/info", Info(settings))
    app.add_route("/openapi.json", Document(document(settings)))
    for path, text in pages().items():
        app.add_route(path, Page(text))


def _add_error_handlers(app: App) -> None:
    app.add_error_handler(Exception, _on_fault)
    app.add_error_handler(SpawnError, _on_spawn_error)
    app.add_error_handler(Failure, _on_failure)
    app.add_error_handler(falcon.HTTPError, _on_http_error)
    app.add_error_handler(falcon.HTTPRouteNotFound, _on_unknown_path)


def _on_failure(req: falcon.Request, resp: falcon.Response, failure: Failure, params: object) -> None:
    reply_failure(req, resp, failure)


def _on_spawn_error(req: falcon.Request, resp: falcon.Response, error: SpawnError, params: object) -> None:
    match error:
        case NoSuchNode():
            failure = Failure(404, "Record(s) not found", str(error))
        case NoSuchUpdate():
            failure = Failure(404, "Update not found", str(error))
        case VerbConflict() | NoBackup():
            failure = Failure(409, "It could not be done", str(error))
        case NotPossibleNow():
            failure = Failure(503, "Not possible at the moment", str(error))
        case StillUnknown():
            failure = Failure(504, "The node gave no answer", str(error))
        case NodeConflict():
            failure = Failure(409, "The node could not be moved", str(error))
        case PositionConflict():
            failure = Failure(409, "The position could not be set", str(error))
        case Pruned():
            failure = Failure(410, "Update is no longer recorded", str(error))
        case _:
            log.error("admin API: %s %s failed: %s", req.method, req.path, error)
            failure = Failure(503, "Not possible at the moment", str(error))
    reply_failure(req, resp, failure)


def _on_http_error(req: falcon.Request, resp: falcon.Response, error: falcon.HTTPError, params: object) -> None:
    """What the framework refuses by itself: in practice a method, sometimes a malformed request."""
    headers = dict(error.headers or {})
    if error.status_code == 405:
        failure = Failure(405, "Method not allowed", f"Allowed: {headers.get('Allow', '')}", headers)
    else:
        failure = Failure(error.status_code, error.title or str(error.status), error.description or "", headers)
    reply_failure(req, resp, failure)


def _on_unknown_path(req: falcon.Request, resp: falcon.Response, error: Exception, params: object) -> None:
    """The original's shape, which is nothing like its others."""
    message = {
        "Error": f"Method not found for {shown(req.path)}",
        "Information": "Please see list of the methods by using /list",
    }
    reply_bare(req, resp, 404, {"Message": message})


def _on_fault(req: falcon.Request, resp: falcon.Response, error: Exception, params: object) -> None:
    log.error("admin API: %s %s failed, a fault of Spawn", req.method, req.path, exc_info=error)
    reply_failure(req, resp, Failure(500, "Internal error", "Spawn's log says more"))
