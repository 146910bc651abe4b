"""Read or update: how a request is classified.

By method, unless a rule of the configuration says otherwise; a request with a method override is always an update.
What is forwarded stays as it came, and nodes differ in what they make of ``/x/../delete``. So rules look at the decoded
target twice, with its path as it came and normalised: a rule for updates matches when either does, a rule for reads
only when both do. To take a read for an update costs time; the other way round, all nodes but one lack the update.
"""

from __future__ import annotations

import enum
import posixpath
from collections.abc import Sequence
from urllib.parse import unquote_to_bytes

from spawn.config.kinds import BytesPattern, compile_rule
from spawn.config.schema import RuleConfig
from spawn.http11.forwarding import method_override
from spawn.http11.message import RequestHead

# RFC 9110 §9.2.1, RFC 4918 (PROPFIND), RFC 3253 (REPORT), RFC 5323 (SEARCH)
READS = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PROPFIND", b"REPORT", b"SEARCH"})


class Kind(enum.Enum):
    READ = "read"
    UPDATE = "update"


class Classifier:
    def __init__(self, rules: Sequence[RuleConfig]) -> None:
        self._rules: list[tuple[bytes, BytesPattern, Kind]] = [
            (rule.method.encode(), compile_rule(rule.url), Kind(rule.as_)) for rule in rules
        ]

    def classify(self, head: RequestHead) -> Kind:
        if method_override(head):
            return Kind.UPDATE
        if self._rules:
            spellings = decoded(head.target), normalised(head.target)
            for method, pattern, kind in self._rules:
                if (not method or method == head.method) and _matches(pattern, kind, spellings):
                    return kind
        return Kind.READ if head.method in READS else Kind.UPDATE


def _matches(pattern: BytesPattern, kind: Kind, spellings: tuple[bytes, bytes]) -> bool:
    found = [pattern.search(spelling) is not None for spelling in spellings]
    return all(found) if kind is Kind.READ else any(found)


def decoded(target: bytes) -> bytes:
    """Path and query percent-decoded, once, and nothing else."""
    path, mark, query = target.partition(b"?")
    return unquote_to_bytes(path) + mark + unquote_to_bytes(query)


def normalised(target: bytes) -> bytes:
    """Path and query percent-decoded, the path without dot segments and doubled slashes (RFC 3986 §6.2.2)."""
    path, mark, query = target.partition(b"?")
    plain = unquote_to_bytes(path)
    if plain.startswith(b"/"):
        trailing = b"/" if plain.endswith((b"/", b"/.", b"/..")) and len(plain) > 1 else b""
        plain = b"/" + posixpath.normpath(plain).lstrip(b"/")
        if trailing and not plain.endswith(b"/"):
            plain += trailing
    return plain + mark + unquote_to_bytes(query)
