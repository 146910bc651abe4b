"""Who may ask, and when: Via against a way in through the proxy, Host against DNS rebinding, Origin, CORS.

A page that a browser shows can send requests to a service on the same machine. Two things keep it out without access
control: a name that is not ours in Host (somebody pointed his domain at our address) is refused for every request,
since reading is what rebinding is for; an Origin that is not configured is refused for everything that may change
state. Answers carry CORS headers for configured origins only.

A node whose name leads back to the API would open it to everybody who reaches the proxy's port. So what the proxy
passed on, which its name in Via tells, is refused before anything else.
"""

from __future__ import annotations

import re

import falcon

from spawn.admin.backend import AdminBackend
from spawn.admin.rendering import Failure, mark_start, shown
from spawn.admin.settings import AdminSettings
from spawn.config.addresses import host_key, parse_ip
from spawn.errors import ProtocolError
from spawn.http11.fields import make_field
from spawn.http11.forwarding import refuse_loop

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
PREFLIGHT_SECONDS = "600"
STARTING = "starting"  # a phase of the service, as ``AdminBackend.health`` tells it

# host[:port] (RFC 9110 §7.2); the host of an IPv6 address is in brackets
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._\-]+)(?::[0-9]*)?")


class Guard:
    """Falcon middleware: before routing the checks, after it the headers."""

    def __init__(self, settings: AdminSettings, backend: AdminBackend) -> None:
        self._via = settings.via
        self._backend = backend
        self._hosts = frozenset(host_key(host) for host in (*settings.hosts, "localhost"))
        self._origins = frozenset(settings.origins)

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        mark_start(req)
        resp.set_header("Cache-Control", "no-store")
        resp.set_header("X-Content-Type-Options", "nosniff")  # answers repeat what was asked
        self._check_via(req.env.get("HTTP_VIA", ""))
        self._check_host(req.env.get("HTTP_HOST", ""))
        if req.method not in SAFE_METHODS:
            self._check_origin(req.env.get("HTTP_ORIGIN"))
            self._check_phase()

    def process_response(self, req: falcon.Request, resp: falcon.Response, resource: object, succeeded: bool) -> None:
        allowed = resp.get_header("Allow", default="GET")
        if req.method == "OPTIONS" and resource is not None:
            resp.set_header("Allow", f"{allowed}, OPTIONS")  # the framework names only the others
        if not self._origins:
            return
        resp.append_header("Vary", "Origin")
        origin = req.env.get("HTTP_ORIGIN")
        if origin not in self._origins:
            return
        resp.set_header("Access-Control-Allow-Origin", origin)
        if req.method == "OPTIONS":
            resp.set_header("Access-Control-Allow-Methods", allowed)
            resp.set_header("Access-Control-Allow-Headers", "Content-Type")
            resp.set_header("Access-Control-Max-Age", PREFLIGHT_SECONDS)

    def _check_via(self, value: str) -> None:
        if not (self._via and value):
            return
        try:
            refuse_loop([make_field(b"Via", value.encode("latin-1"))], self._via)
        except ProtocolError as error:
            raise Failure(error.status, "Could not accept the Via header", "The API is not served as a node") from None

    def _check_phase(self) -> None:
        serving, reason = self._backend.health()
        if not serving and reason == STARTING:
            raise Failure(503, "Spawn is starting", "Nothing can be changed yet; GET /health tells when Spawn serves")

    def _check_host(self, value: str) -> None:
        """No Host at all passes: HTTP/1.0 has none, and a browser always sends one."""
        if not value:
            return
        match = _AUTHORITY.fullmatch(value)
        host = match.group(1) if match else ""
        if not host or (parse_ip(host) is None and host_key(host) not in self._hosts):
            raise Failure(
                403, "Could not accept the Host header", f"'{shown(value)}' is not one of api.host and api.hosts"
            )

    def _check_origin(self, value: str | None) -> None:
        if value is not None and value not in self._origins:
            raise Failure(403, "Could not accept the Origin header", f"'{shown(value)}' is not one of api.origins")
