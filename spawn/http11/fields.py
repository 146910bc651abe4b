"""Field lines of a head: checked, told apart, and what a hop does with each (RFC 9110 §5 and §7.6.1).

The grammar is one expression for a line. Most lines were seen before: clients and nodes repeat theirs, so what came of
a line is remembered, and the next head that has it pays a look-up. What is remembered is bounded, in lines and in their
length, and never Authorization or a cookie.

Invariant: a ``Field`` is made of one whole line without CR, LF or NUL, with a token for a name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from spawn.http11.field import Field

MAX_REMEMBERED = 2_048
MAX_REMEMBERED_BYTES = 256  # of one line
MAX_REMEMBERED_NAME_BYTES = 64

# RFC 9110 §7.6.1, and: Trailer, because trailers are dropped; HTTP2-Settings (RFC 7540 §3.2.1), because it belongs to
# an upgrade; the Proxy-* fields of RFC 9110 §11.7, because they concern the next hop only (a client's
# Proxy-Authorization is consumed here).
HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"proxy-connection",
        b"keep-alive",
        b"te",
        b"trailer",
        b"upgrade",
        b"http2-settings",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-authorization",
    )
)
FRAMING = frozenset((b"content-length", b"transfer-encoding"))
METHOD_OVERRIDES = frozenset((b"x-http-method-override", b"x-method-override", b"x-http-method"))

# Claims about the client that only a trusted proxy may make. X-Forwarded-* are matched by prefix.
_CLAIMS = frozenset((b"forwarded", b"x-real-ip"))
_SET_ANEW = frozenset((b"host", b"x-forwarded-for"))  # by a hop
_NEVER_REMEMBERED = frozenset((b"authorization", b"proxy-authorization", b"cookie", b"set-cookie"))

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_LINE = re.compile(rb"(" + TOKEN + rb"):[ \t]*+([\t\x20-\x7e\x80-\xff]*+)")


class FieldKind:
    """Fields that say something about the message or its way. Plain numbers: members of an Enum are slow to look up."""

    PLAIN: Final = 0
    HOST: Final = 1
    LENGTH: Final = 2
    CODING: Final = 3
    CONNECTION: Final = 4
    EXPECT: Final = 5
    VIA: Final = 6
    METHOD_OVERRIDE: Final = 7
    UNDERSCORE: Final = 8  # in the name: some servers take it for a hyphen


def make_field(name: bytes, value: bytes) -> Field:
    """A field with a name and a value that are right; ``value`` is stripped already."""
    traits = _remembered_traits if len(name) <= MAX_REMEMBERED_NAME_BYTES else _traits
    lower, kind, to_node, to_client, claim = traits(name)
    return Field(lower, value, b"%b: %b\r\n" % (name, value), kind, to_node, to_client, claim)


def _traits(name: bytes) -> tuple[bytes, int, bool, bool, bool]:
    """All of a field but its value."""
    lower = name.lower()
    dropped = lower in HOP_BY_HOP or lower in FRAMING or lower.startswith(b"spawn-")
    anew = lower in _SET_ANEW or lower == b"expect" or b"_" in lower
    claim = not anew and (lower.startswith(b"x-forwarded-") or lower in _CLAIMS)
    return lower, _kind(lower), not (dropped or anew or claim), not dropped, claim


_remembered_traits = lru_cache(maxsize=MAX_REMEMBERED)(_traits)


def _kind(lower: bytes) -> int:
    if b"_" in lower:
        return FieldKind.UNDERSCORE
    if lower in METHOD_OVERRIDES:
        return FieldKind.METHOD_OVERRIDE
    return _KINDS.get(lower, FieldKind.PLAIN)


_KINDS = {
    b"host": FieldKind.HOST,
    b"content-length": FieldKind.LENGTH,
    b"transfer-encoding": FieldKind.CODING,
    b"connection": FieldKind.CONNECTION,
    b"expect": FieldKind.EXPECT,
    b"via": FieldKind.VIA,
}
_remembered: dict[bytes, Field] = {}


NO_OPTIONS: frozenset[bytes] = frozenset()
_KEEP_ALIVE = frozenset((b"keep-alive",))


def connection_options(special: list[Field]) -> frozenset[bytes]:
    """What Connection lists, in lower case."""
    options = NO_OPTIONS
    for field in special:
        if field.kind == FieldKind.CONNECTION:
            value = field.value.lower()
            options |= _KEEP_ALIVE if value == b"keep-alive" else {option.strip(b" \t") for option in value.split(b",")}
    return options


def special(fields: list[Field]) -> list[Field]:
    """Those that are not plain."""
    return [field for field in fields if field.kind]


def parse_fields(block: bytes) -> list[Field] | None:
    """The fields of a block of lines up to its empty line, which is the end of ``block``; None: malformed."""
    lines = block.split(b"\r\n")
    if len(lines) < 2 or lines.pop() or lines.pop():
        return None
    remembered = _remembered
    try:
        return [remembered[line] for line in lines]
    except KeyError:
        return _parse_lines(lines)


def _parse_lines(lines: Iterable[bytes]) -> list[Field] | None:
    fields = []
    for line in lines:
        field = _remembered.get(line)
        if field is None:
            match = _LINE.fullmatch(line)
            if match is None:
                return None
            name, value = match.groups()
            field = make_field(name, value.rstrip(b" \t"))
            if len(line) <= MAX_REMEMBERED_BYTES and field.name not in _NEVER_REMEMBERED:
                _remember(line, field)
        fields.append(field)
    return fields


def _remember(line: bytes, field: Field) -> None:
    if len(_remembered) >= MAX_REMEMBERED:
        _remembered.clear()
    _remembered[line] = field
