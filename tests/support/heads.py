"""Heads made of names and values, without the bytes of a message, and rendered lines taken apart again."""

from __future__ import annotations

from collections.abc import Iterable

from spawn.http11.field import Header
from spawn.http11.fields import connection_options, make_field, special
from spawn.http11.message import NO_BODY, Headers, RequestHead, ResponseHead


def request_head(
    headers: Iterable[Header] = (),
    *,
    method: bytes = b"GET",
    target: bytes = b"/",
    minor: int = 1,
    host: bytes = b"app.test",
) -> RequestHead:
    fields = [make_field(*header) for header in headers]
    found = special(fields)
    return RequestHead(method, target, minor, fields, found, connection_options(found), host, NO_BODY, keep_alive=True)


def response_head(headers: Iterable[Header] = (), *, status: int = 200, minor: int = 1) -> ResponseHead:
    fields = [make_field(*header) for header in headers]
    found = special(fields)
    return ResponseHead(status, b"OK", minor, fields, found, connection_options(found), NO_BODY, keep_alive=True)


def pairs(lines: bytes) -> Headers:
    """Names and values of rendered header lines."""
    found = []
    for line in lines.split(b"\r\n")[:-1]:
        name, _, value = line.partition(b": ")
        found.append((name, value))
    return found
