"""How every answer of the API looks: the envelope, the two shapes of ``data``, the failure.

The envelope and its order are the original's: ``duration`` (nanoseconds), ``took`` (the same in the notation of Go),
``data`` with its keys sorted. Structs inside ``data`` (a node, a queue) keep the order of their fields. Answers are
compact unless the query says ``pretty=true``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import falcon
import msgspec

JSON = "application/json"
PRETTY_INDENT = 2
SHOWN_CHARACTERS = 80  # of what a client sent, in the answer that refuses it

_UNITS = ((1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "µs"))
_encoder = msgspec.json.Encoder(order="deterministic")  # sorts the keys of dicts, not the fields of structs


class Envelope(msgspec.Struct, frozen=True):
    duration: int
    took: str
    data: dict[str, Any]


class Failure(Exception):
    """An answer that says no. Raised anywhere in a request, rendered in one place."""

    def __init__(self, status: int, message: str, info: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.info = info
        self.headers = dict(headers or {})


def go_duration(ns: int) -> str:
    """Nanoseconds in the notation of Go's ``time.Duration.String``: ``4.033µs``, ``1.5s``, ``1m0.25s``."""
    minutes, rest = divmod(ns, 60_000_000_000)
    if minutes:
        hours, minutes = divmod(minutes, 60)
        return (f"{hours}h" if hours else "") + f"{minutes}m{_decimal(rest, 1_000_000_000)}s"
    for size, unit in _UNITS:
        if ns >= size:
            return _decimal(ns, size) + unit
    return f"{ns}ns" if ns else "0s"


def _decimal(ns: int, size: int) -> str:
    """``ns / size`` exactly, without trailing zeros."""
    whole, fraction = divmod(ns, size)
    digits = str(fraction).zfill(len(str(size)) - 1).rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)


def shown(text: str) -> str:
    """``text`` as an answer may repeat it."""
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


def mark_start(req: falcon.Request) -> None:
    """Remember when the request began, for ``duration``."""
    req.context.started_ns = time.perf_counter_ns()


def reply(req: falcon.Request, resp: falcon.Response, status: int, data: dict[str, Any]) -> None:
    """Answer with ``data`` in the envelope."""
    took_ns = time.perf_counter_ns() - req.context.started_ns
    reply_bare(req, resp, status, Envelope(took_ns, go_duration(took_ns), data))


def reply_results(
    req: falcon.Request, resp: falcon.Response, results: Sequence[Any], status: int = 200, **more: Any
) -> None:
    """Answer with the success shape; ``more`` are further keys of ``data``."""
    reply(req, resp, status, {"results": results, "success": True, "total": len(results), **more})


def reply_failure(req: falcon.Request, resp: falcon.Response, failure: Failure) -> None:
    """Answer with the failure shape."""
    resp.set_headers(failure.headers)
    data = {"error": failure.status, "info": failure.info, "message": failure.message, "success": False}
    reply(req, resp, failure.status, data)


def reply_bare(req: falcon.Request, resp: falcon.Response, status: int, value: object) -> None:
    """Answer with JSON without an envelope."""
    body = _encoder.encode(value)
    if req.get_param("pretty") == "true":
        body = msgspec.json.format(body, indent=PRETTY_INDENT)
    resp.status = status
    resp.content_type = JSON
    resp.data = body


def no_records() -> Failure:
    """The original's words for a selection that matches nothing."""
    return Failure(404, "Record(s) not found", "Please add a record(s) before using")
