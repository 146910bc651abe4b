"""Hypothesis strategies for messages: good ones of every shape, and ones that are good but for one small change.

A message is made of ``Part``s, so that a change can be made where it does harm for sure: in a size, in a colon, in the
end of a line. ``CHANGES`` is the list of what is done to which parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hypothesis import assume
from hypothesis import strategies as st

from spawn.http11.message import Headers
from tests.support.strictreader import HEX_DIGITS, HOST_NAME, TARGET, TEXT, TOKEN

EOL = b"\r\n"
# Names that mean something to a hop; headers of any other name only have to arrive.
MEANT = frozenset(
    b"host content-length transfer-encoding connection expect upgrade via keep-alive te trailer forwarded x-real-ip "
    b"proxy-connection http2-settings idempotency-key date".split()
)


class Part(NamedTuple):
    kind: str
    data: bytes


@dataclass(frozen=True)
class Message:
    """A good message and what it says."""

    parts: tuple[Part, ...]
    start: tuple[bytes, ...]  # method, target / status, reason
    minor: int
    headers: Headers
    body: bytes
    framing: str  # "none", "length" or "chunked"

    @property
    def data(self) -> bytes:
        return b"".join(part.data for part in self.parts)


def of(allowed: frozenset[int], at_most: int, at_least: int = 0) -> st.SearchStrategy[bytes]:
    """Bytes out of a set; made of one draw each, because heads have many of them."""
    choice = sorted(allowed)
    table = bytes(choice[byte % len(choice)] for byte in range(256))
    return st.binary(min_size=at_least, max_size=at_most).map(lambda raw: raw.translate(table))


def any_case(word: bytes) -> st.SearchStrategy[bytes]:
    cases = [word, word.upper(), word.title(), word.swapcase()]
    mixed = bytes(byte ^ 0x20 if number % 3 == 1 and 97 <= byte <= 122 else byte for number, byte in enumerate(word))
    return st.sampled_from([*cases, mixed])


white = st.sampled_from([b"", b" ", b"\t", b"  ", b" \t "])
tokens = of(TOKEN - frozenset(b"_"), 12, 1)
names = tokens.filter(
    lambda name: name.lower() not in MEANT and not name.lower().startswith((b"spawn-", b"x-forwarded-"))
)
values = st.one_of(of(TEXT, 24), st.sampled_from([b"a, b", b'"q\\"uoted"', b"text/html; q=0.1", b"\xc3\xa4"])).map(
    lambda value: value.strip(b" \t")
)
targets = of(TARGET - frozenset(b"#"), 20).map(lambda rest: b"/" + rest) | st.just(
    b"/a%2fb%7e/../x|y//z?q=%zz&w=a+b%20"
)
methods = st.sampled_from([b"GET", b"POST", b"DELETE", b"PROPFIND"]) | tokens.filter(
    lambda method: method not in (b"CONNECT", b"HEAD")
)
hosts = st.sampled_from([b"a.test", b"A.test:80", b"[::1]:8080", b"[2001:db8::1]", b"127.0.0.1"]) | of(HOST_NAME, 20, 2)


@st.composite
def fields(draw: st.DrawFn, name: bytes | None = None, value: bytes | None = None, kind: str = "value") -> list[Part]:
    """One field line; its last part but one is the value."""
    return [
        Part("name", draw(names) if name is None else draw(any_case(name))),
        Part("colon", b":"),
        Part("white", draw(white)),
        Part(kind, draw(values) if value is None else value),
        Part("white", draw(white)),
        Part("eol", EOL),
    ]


@st.composite
def chunked_bodies(draw: st.DrawFn) -> tuple[list[Part], bytes]:
    """A body in chunked coding and what it holds. No data looks like framing."""
    plain = TOKEN - HEX_DIGITS
    parts: list[Part] = []
    longer = st.integers(250, 600).map(lambda size: b"x" * size)
    data = draw(st.lists(of(plain, 40, 1) | longer, max_size=4))
    for piece in data:
        parts += [*draw(size_lines(len(piece))), Part("data", piece), Part("eol", EOL)]
    parts += draw(size_lines(0))
    for line in draw(st.lists(fields(), max_size=2)):
        parts += line
    return [*parts, Part("end", EOL)], b"".join(data)


@st.composite
def size_lines(draw: st.DrawFn, size: int) -> list[Part]:
    digits = draw(st.sampled_from([b"%x", b"%X"])) % size
    digits = digits.rjust(draw(st.integers(len(digits), 15)), b"0") if draw(st.booleans()) else digits
    extension = draw(st.just(b"") | st.tuples(st.sampled_from([b"", b" ", b"\t"]), of(TEXT, 12)).map(b";".join))
    return [Part("size", digits), Part("extension", extension), Part("eol", EOL)]


def possible(framings: Sequence[str], minor: int) -> Sequence[str]:
    return framings if minor else [framing for framing in framings if framing != "chunked"]


@st.composite
def bodies(draw: st.DrawFn, framings: Sequence[str]) -> tuple[str, list[Part], list[Part], bytes]:
    """Framing, the field line that tells it, the body's parts and the body."""
    framing = draw(st.sampled_from(framings))
    if framing == "chunked":
        parts, body = draw(chunked_bodies())
        coding = draw(any_case(b"chunked"))
        return framing, draw(fields(b"transfer-encoding", coding, "coding")), parts, body
    if framing == "length":
        body = draw(st.binary(max_size=60))
        length = b"%d" % len(body)
        length = length.rjust(draw(st.integers(len(length), 18)), b"0") if draw(st.booleans()) else length
        return framing, draw(fields(b"content-length", length, "length")), [Part("body", body)], body
    return framing, [], [], b""


@st.composite
def requests(
    draw: st.DrawFn, minors: Sequence[int] = (1, 0), framings: Sequence[str] = ("none", "length", "chunked")
) -> Message:
    """A good request in origin form. No Expect, no Connection: what they do is not a matter of shape."""
    minor = draw(st.sampled_from(minors)) if "length" in framings else 1
    method, target, host = draw(methods), draw(targets), draw(hosts)
    framing, told, body_parts, body = draw(bodies(possible(framings, minor)))
    start = [
        Part("method", method),
        Part("space", b" "),
        Part("target", target),
        Part("space", b" "),
        Part("version", b"HTTP/1.%d" % minor),
        Part("eol", EOL),
    ]
    lines = draw(st.lists(fields(), max_size=6))
    lines = draw(st.permutations([*lines, draw(fields(b"host", host, "host")), *([told] if told else [])]))
    parts = (*start, *(part for line in lines for part in line), Part("end", EOL), *body_parts)
    return Message(parts, (method, target, host), minor, _said(lines), body, framing)


@st.composite
def answers(draw: st.DrawFn, framings: Sequence[str] = ("length", "chunked")) -> Message:
    """A good final answer to GET whose body does not end with the connection."""
    minor = draw(st.sampled_from([1, 0])) if "length" in framings else 1
    status, reason = b"%d" % draw(st.integers(200, 599).filter(lambda code: code not in (204, 304))), draw(values)
    framing, told, body_parts, body = draw(bodies(possible(framings, minor)))
    start = [
        Part("version", b"HTTP/1.%d" % minor),
        Part("space", b" "),
        Part("status", status),
        Part("reason", b" " + reason),
        Part("eol", EOL),
    ]
    lines = draw(st.permutations([*draw(st.lists(fields(), max_size=6)), told]))
    parts = (*start, *(part for line in lines for part in line), Part("end", EOL), *body_parts)
    return Message(parts, (status, reason), minor, _said(lines), body, framing)


def _said(lines: Sequence[list[Part]]) -> Headers:
    return [(line[0].data, line[3].data) for line in lines]


@st.composite
def splits(draw: st.DrawFn, data: bytes) -> list[int]:
    """Places to cut at: few, many or all."""
    if draw(st.booleans()):
        return list(range(1, len(data), draw(st.integers(1, 9))))
    return draw(st.lists(st.integers(1, max(1, len(data) - 1)), max_size=5))


# -- one small change

CONTROLS = frozenset(range(32)) - frozenset(b"\t") | {0x7F}
Change = Callable[[st.DrawFn, bytes], bytes]


def inserted(allowed: frozenset[int], inside: bool = False) -> Change:
    """One of these bytes somewhere, or, ``inside``, neither first nor last."""

    def change(draw: st.DrawFn, data: bytes) -> bytes:
        at = draw(st.integers(1, len(data) - 1) if inside else st.integers(0, len(data)))
        return data[:at] + bytes([draw(st.sampled_from(sorted(allowed)))]) + data[at:]

    return change


def replaced(*others: bytes) -> Change:
    """One of these in its place."""
    return lambda draw, data: draw(st.sampled_from(others))


def _another_version(draw: st.DrawFn, data: bytes) -> bytes:
    at = draw(st.integers(0, len(data) - 1))
    other = st.integers(0, 255).filter(lambda byte: byte != data[at] and not (at == len(data) - 1 and byte in b"01"))
    return data[:at] + bytes([draw(other)]) + data[at + 1 :]


def _one_less_or_more(draw: st.DrawFn, data: bytes) -> bytes:
    return b"%x" % max(0, int(data, 16) + draw(st.sampled_from([-1, 1] if int(data, 16) > 1 else [1])))


def _one_byte_less(draw: st.DrawFn, data: bytes) -> bytes:
    return data[1:]


EVERY_BYTE = frozenset(range(256))
NO_LINE = (b"\n", b"\r", b"\r\r\n", b"\n\r", b" \n")

# What makes a good message a bad one: the parts that are changed, what happens to them, and how.
CHANGES: dict[str, tuple[str, Change]] = {
    "a byte in the method that no token has": ("method", inserted(EVERY_BYTE - TOKEN)),
    "a space of the start line doubled, missing or another white space": (
        "space",
        replaced(b"  ", b"", b"\t", b"\x0b", b"\x0c", b"\xa0"),
    ),
    "a byte in the target that no target has": ("target", inserted(EVERY_BYTE - TARGET | frozenset(b"#"))),
    "another version": ("version", _another_version),
    "a status that is none": ("status", replaced(b"20", b"2000", b"099", b"999", b"2x0", b"-20", b"")),
    "a control byte in the reason": ("reason", inserted(CONTROLS)),
    "a line end that is none": ("eol", replaced(*NO_LINE)),
    "a line end doubled in part": ("eol", replaced(b"\r\n\n", b"\r\n\r")),
    "a folded line": ("eol", replaced(b"\r\n ", b"\r\n\t")),
    "an end of a head or body that is none": ("end", replaced(b"\n", b"\n\n", b" \r\n", b"\r\r\n", b"")),
    "a byte in a name that no token has": ("name", inserted(EVERY_BYTE - TOKEN - frozenset(b":"))),
    "something else for a colon": ("colon", replaced(b" ", b"=", b"\t", b"\x00", b";")),
    "white space before a colon": ("colon", replaced(b" :", b"\t:", b"\x0b:", b"\xa0:")),
    "a control byte in a value": ("value", inserted(CONTROLS)),
    "a byte in Host that no authority has": ("host", inserted(frozenset(b"@,/\\?#<>\"' %") | CONTROLS, inside=True)),
    "a byte in a length that is no digit": ("length", inserted(EVERY_BYTE - frozenset(b"0123456789\t "))),
    "a length of white space or too many digits": ("length", replaced(b"", b"1" * 19, b"3, 3", b"3 3", b"+3", b"0x3")),
    "a second length": ("length", lambda draw, data: data + b"\r\nContent-Length: " + data),
    "a coding besides the length": ("length", lambda draw, data: data + b"\r\ntransfer-encoding: chunked"),
    "a length besides the coding": ("coding", lambda draw, data: data + b"\r\ncontent-length: 3"),
    "a second coding": ("coding", lambda draw, data: data + b"\r\nTransfer-Encoding: " + data),
    "a second Host": ("host", lambda draw, data: data + b"\r\nHost: " + data),
    "a byte in a coding": ("coding", inserted(EVERY_BYTE, inside=True)),
    "another coding": ("coding", replaced(b"gzip, chunked", b"identity", b"chunked, chunked", b"chunked,", b"")),
    "a byte in a chunk's size that is no digit": ("size", inserted(EVERY_BYTE - HEX_DIGITS - frozenset(b"; \t"))),
    "white space before a chunk's size": ("size", lambda draw, data: b" " + data),
    "a chunk's size of too many digits": ("size", lambda draw, data: data.rjust(16, b"0")),
    "a chunk's size off by one": ("size", _one_less_or_more),
    "a control byte in an extension": ("extension", inserted(CONTROLS)),
    "a byte too many in a chunk": ("data", inserted(EVERY_BYTE)),
    "a byte too few in a chunk": ("data", _one_byte_less),
}


@st.composite
def spoilt(draw: st.DrawFn, message: Message, what: str) -> bytes:
    """The message's bytes with this change, which is made to one of the parts that it is for."""
    kind, change = CHANGES[what]
    fitting = [number for number, part in enumerate(message.parts) if part.kind == kind]
    assume(fitting)
    at = draw(st.sampled_from(fitting))
    parts = [part.data for part in message.parts]
    parts[at] = change(draw, parts[at])
    return b"".join(parts)


def framings_for(what: str) -> Sequence[str]:
    """Of the messages to which this change can be made."""
    kind = CHANGES[what][0]
    if kind in ("coding", "size", "extension", "data"):
        return ["chunked"]
    return ["length"] if kind == "length" else ["length", "chunked"]
