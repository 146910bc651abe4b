"""What a string of the configuration has to look like, by the kind that the schema gives it. Pure.

Each check returns the value in its normal form or raises ``Wrong`` with a noun phrase for what was expected, which
reads well in both sentences: "expected X, got 5" and "'5' is not X".
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Protocol

import re2

from spawn.config import addresses

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 §5.6.2
_ORIGIN = re.compile(r"(https?)://([^/?#@\s]+)", re.IGNORECASE)
_DEFAULT_PORTS = {"http": "80", "https": "443"}
# Headers that Spawn writes itself, so that replacing them would break framing, the order of updates or the promise
# that every delivery of an update carries the same Idempotency-Key.
_OURS = frozenset(
    {"connection", "content-length", "expect", "host", "http2-settings", "idempotency-key", "keep-alive"}
    | {"proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding"}
    | {"upgrade", "via"}
)


class Wrong(ValueError):
    """A value is not what its key wants: ``expected`` is a noun phrase, ``detail`` may say why."""

    def __init__(self, expected: str, detail: str = "") -> None:
        super().__init__(expected)
        self.expected = expected
        self.detail = detail


class BytesPattern(Protocol):
    def search(self, text: bytes) -> object: ...


def compile_rule(url: str) -> BytesPattern:
    """The pattern of a rule, for bytes: a dot stands for any byte, so that neither a line break nor bytes that are
    not UTF-8 keep a target from matching. Raises ``re2.error``."""
    options = re2.Options()
    options.log_errors = False  # it would print to standard error by itself
    options.encoding = re2.Options.Encoding.LATIN1
    options.dot_nl = True
    pattern: BytesPattern = re2.compile(url.encode("utf-8", "surrogatepass"), options)
    return pattern


def _compile_text(text: str) -> None:
    options = re2.Options()
    options.log_errors = False
    re2.compile(text, options)


def _pattern(text: str) -> str:
    if not text:
        raise Wrong("a regular expression that is not empty")
    return _compiles(text, compile_rule)


def _pattern_or_none(text: str) -> str:
    return _compiles(text, _compile_text)


def _compiles(text: str, compile_: Callable[[str], object]) -> str:
    """RE2 is used as it is later on, so what compiles here compiles there."""
    try:
        compile_(text)
    except re2.error as error:
        reason = error.args[0] if error.args else ""
        detail = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise Wrong("a regular expression of RE2", detail) from None
    return text


def _check_url(text: str) -> str:
    if not re.fullmatch(r"/[!-~]*", text) or "#" in text:
        raise Wrong('a path that starts with "/" and has no spaces, control or non-ASCII characters and no "#"')
    return text


def _method(text: str) -> str:
    if text and not _TOKEN.fullmatch(text):
        raise Wrong("a method such as POST")
    return text


def _path(text: str) -> str:
    if "\0" in text:
        raise Wrong("a path (without NUL characters)")
    return text


def _accepted_host(text: str) -> str:
    return addresses.parse_host(text).lower()


def _origin(text: str) -> str:
    """RFC 6454 §6.2: what a browser sends has no path, no user and no default port."""
    expected = 'an origin such as "https://admin.example.com"'
    match = _ORIGIN.fullmatch(text)
    if match is None:
        raise Wrong(expected)
    scheme, rest = match[1].lower(), match[2].lower()
    ported = re.fullmatch(r"(.*[^:]):([0-9]{1,5})", rest) if not rest.endswith("]") else None
    host, port = (ported[1], ported[2]) if ported else (rest, "")
    if ":" in host and not host.startswith("["):
        raise Wrong(expected)
    try:
        name = addresses.parse_host(host)
    except ValueError:
        raise Wrong(expected) from None
    if port and not 1 <= int(port) <= 65_535:
        raise Wrong(expected)
    shown = f"[{name}]" if ":" in name else name
    return f"{scheme}://{shown}" + (f":{int(port)}" if port and port != _DEFAULT_PORTS[scheme] else "")


def _network(text: str) -> str:
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        return str(ipaddress.ip_network(bare))
    except ValueError:
        pass
    try:
        detail = f"did you mean {ipaddress.ip_network(bare, strict=False)}?"
    except ValueError:
        detail = ""
    raise Wrong('an IP address or a network such as "10.0.0.0/8"', detail)


def _header_name(text: str) -> str:
    if not _TOKEN.fullmatch(text):
        raise Wrong("the name of a header")
    if text.lower() in _OURS or text.lower().startswith("spawn-"):
        raise Wrong("a header that may be replaced", "Spawn sets or removes it itself")
    return text


def _header_value(text: str) -> str:
    if not re.fullmatch(r"(?:[!-~](?:[\t -~]*[!-~])?)?", text):
        raise Wrong("the value of a header (printable ASCII, no white space around it)")
    return text


def _phrased(check: Callable[[str], str]) -> Callable[[str], str]:
    """The checks of ``addresses`` know nothing of ``Wrong``: their ValueError is the noun phrase."""

    def checked(text: str) -> str:
        try:
            return check(text)
        except ValueError as error:
            raise Wrong(str(error)) from None

    return checked


KINDS: Mapping[str, Callable[[str], str]] = {
    "listener-host": _phrased(addresses.parse_listener_host),
    "node-host": _phrased(addresses.parse_node_host),
    "accepted-host": _phrased(_accepted_host),
    "authority": _phrased(addresses.parse_authority),
    "origin": _origin,
    "network": _network,
    "check-url": _check_url,
    "pattern": _pattern,
    "pattern-or-none": _pattern_or_none,
    "method": _method,
    "path": _path,
    "header-name": _header_name,
    "header-value": _header_value,
}
