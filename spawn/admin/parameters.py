"""Reading what a request says: path parameters and JSON bodies, checked, with the original's messages for faults.

Nothing here trusts its input: a body is read to its bound, decoded into a typed struct, and looked through for
duplicate keys, about which decoders differ silently.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import falcon
import gevent
import msgspec

from spawn.admin.rendering import Failure, shown
from spawn.config.addresses import parse_node_host

MAX_BODY_BYTES = 1_048_576
MAX_SEQUENCE = 2**63 - 1  # what a journal can count to
INLINE_BYTES = 65_536  # a larger body takes up to 0.2 s to decode, which is not for the hub
# The original's users send what curl's -d says by itself; it is JSON all the same.
BODY_TYPES = frozenset({"", "application/json", "application/x-www-form-urlencoded"})

_HOST = re.compile(r"[A-Za-z0-9._\-\[\]:%]+")
_NUMBER = re.compile(r"[0-9]{1,19}")
# the only fixed words that a body may hold are a position's
_POSITION_FAULT = re.compile(r"\AInvalid enum value '.*'(?= - at )|\AExpected `int \| str`", re.DOTALL)
_REASON_START, _REASON_END = 72, 40  # of a decoder's reason: its words, what was sent, the place


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An empty object."""


def empty_record() -> Failure:
    return Failure(400, "The parameter 'host/port' could not be empty", "A node is named by its host and its port")


def unrecognised(reason: str) -> Failure:
    """A 400 with a decoder's reason, which may quote a key or a value of any length."""
    if len(reason) > _REASON_START + _REASON_END:
        reason = f"{reason[:_REASON_START]}…{reason[-_REASON_END:]}"
    return Failure(400, "Could not recognize parameters", reason)


def parse_host(text: str) -> str:
    """The host of a node, normalised, or a 400."""
    if not text:
        raise empty_record()
    message = f"Could not recognize {shown(text)} parameter"
    if not _HOST.fullmatch(text):
        raise Failure(400, message, "A host consists of letters, digits, '.', '_' and '-', or is an IP address")
    try:
        return parse_node_host(text)
    except ValueError as error:
        raise Failure(400, message, f"Expected {error}") from None


def parse_port(text: str) -> int:
    """The port of a node, or a 400."""
    if not text:
        raise empty_record()
    if _NUMBER.fullmatch(text) and not int(text):
        raise Failure(400, "The parameter ':port' could not be zero value", "A port is a number from 1 to 65535")
    if not _NUMBER.fullmatch(text) or int(text) > 65_535:
        raise Failure(400, "Could not recognize :port parameter", "A port is a number from 1 to 65535")
    return int(text)


def parse_sequence(text: str) -> int:
    """The sequence of an update, or a 400."""
    if not text.isascii() or not text.isdecimal():
        raise Failure(400, "Could not recognize :sequence parameter", "A sequence is a number from 1 on")
    digits = text.lstrip("0")
    if not digits:
        raise Failure(400, "The parameter ':sequence' could not be zero value", "A sequence is a number from 1 on")
    return int(digits) if len(digits) <= 19 else MAX_SEQUENCE + 1


def read_json(req: falcon.Request, kind: Any) -> Any:
    """The request's body as a ``kind``; 413, 415, or a 400 with the decoder's reason."""
    if media_type(req) not in BODY_TYPES:
        raise Failure(415, "Unsupported media type", "The body is to be sent as application/json")
    body = _read_body(req)
    if not body.strip():
        raise unrecognised(f"The body is empty: expected a JSON {'object' if isinstance(kind, type) else 'array'}")
    if len(body) > INLINE_BYTES:
        value = gevent.get_hub().threadpool.apply(_decode, (body, kind))
    else:
        value = _decode(body, kind)
    if isinstance(value, Failure):
        raise value
    return value


def read_nothing(req: falcon.Request) -> None:
    """Of a request that says all in its path: no body or an empty object, else as ``read_json``."""
    if req.env.get("CONTENT_LENGTH", "0") != "0":
        read_json(req, Nothing)


def _decode(body: bytes, kind: Any) -> Any:
    """The value, or the ``Failure`` to raise (a pool of threads would print an exception).

    Two decoders have to agree: msgspec is the strict one about the text, the other one shows every key and number.
    """
    try:
        msgspec.json.decode(body)
        value = json.loads(body, object_pairs_hook=_without_duplicates, parse_float=_number)
        return msgspec.convert(value, kind)
    except RecursionError:
        return unrecognised("The JSON is nested too deeply")
    except ValueError as error:  # all of msgspec's errors are, and those of the strings in it
        return unrecognised(_POSITION_FAULT.sub('Expected a number or "head"', str(error)))


def _number(text: str) -> float | int:
    """An integral number is an integer however it is written (JSON Schema 2020-12 §6.1.1; Lua writes 3.0)."""
    value = float(text)
    return int(value) if value.is_integer() else value


def media_type(req: falcon.Request) -> str:
    return (req.content_type or "").partition(";")[0].strip().lower()


def _without_duplicates(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"Object contains the key `{shown(key)}` twice")
        found[key] = value
    return found


def _read_body(req: falcon.Request) -> bytes:
    """All of the body, at most ``MAX_BODY_BYTES``. The server below decodes chunks and always knows the length."""
    announced = req.env.get("CONTENT_LENGTH") or "0"
    if not _NUMBER.fullmatch(announced) or int(announced) > MAX_BODY_BYTES:
        raise Failure(413, "The body is too large", f"At most {MAX_BODY_BYTES} bytes are accepted")
    body = bytes(req.env["wsgi.input"].read(int(announced)))
    if len(body) < int(announced):
        raise unrecognised("The body was cut short")
    return body
