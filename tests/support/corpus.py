"""The corpus: messages as clients and nodes send them, one file each, with what Spawn makes of them and why.

``tests/wire/corpus/README.md`` explains the format. A file that breaks it, by a misspelt key or an escape that does not
exist, raises ``CorpusError`` with its name and line: a case that silently means something else is worse than none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

CORPUS = Path(__file__).parents[1] / "wire" / "corpus"

Line = tuple[int, str]  # number in the file (0: none) and text
Headers = tuple[tuple[bytes, bytes], ...]
Fate = Literal["accept", "incomplete"] | int  # an int is the status of a refusal

_FIELD = re.compile(r"([a-z]+):(?: (.*))?")
_REPEAT = re.compile(r"%repeat ([1-9][0-9]{0,6}) (.+)")
_ESCAPED = re.compile(r"(?:[^\\]|\\[rnt\\]|\\x[0-9a-f]{2})*")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
_SHORT = {"r": b"\r", "n": b"\n", "t": b"\t", "\\": b"\\"}


class CorpusError(ValueError):
    """A file of the corpus is malformed."""


@dataclass(frozen=True, slots=True)
class RequestCase:
    """All that one client sends on its connection, and what becomes of the first request in it."""

    name: str  # group/name
    data: bytes
    expect: Fate
    why: str
    rfc: str
    laxer: str  # the reason to accept what HAProxy and nginx refuse, else empty
    limits: Mapping[str, int]  # settings of the section ``limits`` that this case needs
    # The rest says what an accepted request is. Its head:
    method: bytes = b""
    target: bytes = b""
    host: bytes = b""
    headers: Headers = ()  # these reach the application, in this order; others may
    absent: tuple[bytes, ...] = ()  # names, in lower case, of which none does
    body: bytes = b""
    close: bool = True  # the connection ends with the answer
    # And what follows it:
    rest: bytes = b""
    then: Fate = "accept"  # what becomes of ``rest``, a request of its own

    @property
    def group(self) -> str:
        return self.name.partition("/")[0]

    @property
    def accepted(self) -> int:
        """How many requests an application gets to see."""
        return (self.expect == "accept") + (bool(self.rest) and self.then == "accept")

    @property
    def refusal(self) -> int:
        """The status of the one answer that refuses something and ends the connection, else 0."""
        if isinstance(self.expect, int):
            return self.expect
        return self.then if self.expect == "accept" and self.rest and isinstance(self.then, int) else 0


@dataclass(frozen=True, slots=True)
class AnswerCase:
    """All that a node sends when it is asked, and what its client gets."""

    name: str
    data: bytes
    expect: str  # "pass", "502" or "cut"
    why: str
    rfc: str
    method: bytes  # of the request
    then: str  # "wait", "close" or "reset": what the node does after its last byte
    update: str  # "pass", "again", "502" or "cut": what comes of it as the answer to a POST; "": not tried
    # What the client gets of an answer that passes, or is cut behind its head:
    status: int = 0
    reason: bytes = b""
    headers: Headers = ()
    absent: tuple[bytes, ...] = ()
    body: bytes = b""
    reused: bool | None = None  # whether the next request comes on the same connection; None: not looked at

    @property
    def group(self) -> str:
        return self.name.partition("/")[0]


def request_cases(directory: Path = CORPUS / "requests") -> list[RequestCase]:
    """Every case below ``directory``, by name."""
    return [_request_case(name, fields, data) for name, fields, data in _files(directory)]


def answer_cases(directory: Path = CORPUS / "answers") -> list[AnswerCase]:
    """Every case below ``directory``, by name."""
    return [_answer_case(name, fields, data) for name, fields, data in _files(directory)]


def name_of(case: RequestCase | AnswerCase) -> str:
    return case.name


def parse_bytes(lines: list[Line], path: object = "?") -> bytes:
    """What escaped lines stand for. Their own ends count for nothing."""
    return b"".join(_line_bytes(line, number, path) for number, line in lines)


def _line_bytes(line: str, number: int, path: object) -> bytes:
    if line != line.strip() or not line:
        raise _fault(path, number, r"an empty line, or white space at an end of one (write \x20)")
    count = 1
    if line.startswith("%"):
        match = _REPEAT.fullmatch(line)
        if match is None:
            raise _fault(path, number, r"neither '%repeat COUNT TEXT' nor, for a percent sign, \x25")
        count, line = int(match[1]), match[2]
    if not line.isascii() or not line.isprintable() or not _ESCAPED.fullmatch(line):
        raise _fault(path, number, r"only printable ASCII and the escapes \r \n \t \\ \xNN (in lower case)")
    return re.sub(rb"\\(x..|.)", _unescape, line.encode("ascii")) * count


def _unescape(match: re.Match[bytes]) -> bytes:
    code = match[1].decode()
    return _SHORT[code] if code in _SHORT else bytes([int(code[1:], 16)])


class _Fields:
    """The head of a file. Every value is asked for by what it has to be; what nobody asked for is a fault."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values: dict[str, list[Line]] = {}

    def add(self, number: int, line: str) -> None:
        if line.startswith((" ", "\t")):
            if not self.values:
                raise _fault(self.path, number, "a continuation line of nothing")
            self.values[next(reversed(self.values))].append((number, line.strip()))
            return
        match = _FIELD.fullmatch(line)
        if match is None:
            raise _fault(self.path, number, "not a line 'key: value'")
        if match[1] in self.values:
            raise _fault(self.path, number, f"a second '{match[1]}'")
        self.values[match[1]] = [(number, match[2])] if match[2] else []

    def text(self, key: str, default: str | None = None) -> str:
        """Prose, or one word. None as default: it must be there."""
        lines = self.values.pop(key, None)
        if lines is None:
            if default is None:
                raise _fault(self.path, 1, f"there is no '{key}'")
            return default
        value = " ".join(line for _, line in lines).strip()
        if not value:
            raise _fault(self.path, 1, f"'{key}' is empty")
        return value

    def number(self, key: str, default: int) -> int:
        value = self.text(key, str(default))
        if not value.isdigit():
            raise _fault(self.path, 1, f"'{key}' is '{value}' and not a number")
        return int(value)

    def choice(self, key: str, default: str, *values: str) -> str:
        value = self.text(key, default)
        if value not in values:
            raise _fault(self.path, 1, f"'{key}' is '{value}' and none of {', '.join(values)}")
        return value

    def raw(self, key: str, default: bytes = b"") -> bytes:
        return parse_bytes(self.values.pop(key), self.path) if key in self.values else default

    def headers(self) -> Headers:
        """One header a line."""
        pairs = []
        for number, line in self.values.pop("headers", []):
            name, colon, value = _line_bytes(line, number, self.path).partition(b":")
            if not colon:
                raise _fault(self.path, number, "a header without a colon")
            pairs.append((name, value.removeprefix(b" ")))
        return tuple(pairs)

    def names(self, key: str) -> tuple[bytes, ...]:
        return tuple(self.text(key, "-").lower().encode().split()) if key in self.values else ()

    def limits(self) -> Mapping[str, int]:
        limits = {}
        for part in self.text("limits").split() if "limits" in self.values else []:
            name, _, value = part.partition("=")
            if name not in ("head", "headers", "body") or not value.isdigit():
                raise _fault(self.path, 1, "limits are head=N, headers=N and body=N")
            limits[name] = int(value)
        return limits

    def done(self) -> None:
        for key in self.values:
            raise _fault(self.path, 1, f"'{key}' does not belong here")


def _files(directory: Path) -> Iterator[tuple[str, _Fields, bytes]]:
    for path in sorted(directory.rglob("*")):
        if path.is_dir():
            continue
        group, stem = path.parent.relative_to(directory).as_posix(), path.stem
        if path.suffix != ".txt" or not _NAME.fullmatch(group) or not _NAME.fullmatch(stem):
            raise _fault(path, 0, "a case is group/name.txt, its names of a-z, 0-9 and -")
        fields, data = _read(path)
        yield f"{group}/{stem}", fields, data


def _read(path: Path) -> tuple[_Fields, bytes]:
    text = path.read_bytes()
    if b"\r" in text or not text.endswith(b"\n") or b"\n\n" not in text:
        raise _fault(path, 1, "not lines that end with LF, with an empty line behind the head")
    try:
        lines = list(enumerate(text.decode("utf-8")[:-1].split("\n"), 1))
    except UnicodeDecodeError as error:
        raise _fault(path, text.count(b"\n", 0, error.start) + 1, "not UTF-8") from None
    border = next(index for index, (_, line) in enumerate(lines) if not line)
    fields = _Fields(path)
    for number, line in lines[:border]:
        fields.add(number, line)
    return fields, parse_bytes(lines[border + 1 :], path)


def _request_case(name: str, fields: _Fields, data: bytes) -> RequestCase:
    expect = _fate(fields, "expect")
    case = RequestCase(
        name=name,
        data=data,
        expect=expect,
        why=fields.text("why"),
        rfc=fields.text("rfc"),
        laxer=fields.text("laxer", ""),
        limits=fields.limits(),
        **(_accepted(fields) if expect == "accept" else {}),
    )
    fields.done()
    if not data:
        raise _fault(fields.path, 0, "no bytes")
    if case.rest and not data.endswith(case.rest):
        raise _fault(fields.path, 0, "the bytes do not end with 'rest'")
    return case


def _accepted(fields: _Fields) -> dict[str, Any]:
    has_rest = "rest" in fields.values
    return {
        "method": fields.raw("method", b"GET"),
        "target": fields.raw("target", b"/"),
        "host": fields.raw("host", b"localhost"),
        "headers": fields.headers(),
        "absent": fields.names("absent"),
        "body": fields.raw("body"),
        "close": fields.choice("close", "no", "no", "yes") == "yes",
        "rest": fields.raw("rest"),
        "then": _fate(fields, "then") if has_rest else "accept",
    }


def _fate(fields: _Fields, key: str) -> Fate:
    value = fields.text(key)
    if value == "accept":
        return "accept"
    if value == "incomplete":
        return "incomplete"
    if re.fullmatch("[45][0-9][0-9]", value):
        return int(value)
    raise _fault(fields.path, 1, f"'{key}' is '{value}': neither accept, incomplete nor the status of a refusal")


def _answer_case(name: str, fields: _Fields, data: bytes) -> AnswerCase:
    expect = fields.choice("expect", "", "pass", "502", "cut")
    case = AnswerCase(
        name=name,
        data=data,
        expect=expect,
        why=fields.text("why"),
        rfc=fields.text("rfc"),
        method=fields.raw("method", b"GET"),
        then=fields.choice("then", "wait", "wait", "close", "reset"),
        update=fields.choice("update", "", "", "pass", "again", "502", "cut"),
        **(_passed(fields) if expect != "502" else {}),
    )
    fields.done()
    return case


def _passed(fields: _Fields) -> dict[str, Any]:
    return {
        "reused": {"": None, "yes": True, "no": False}[fields.choice("reused", "", "", "yes", "no")],
        "status": fields.number("status", 200),
        "reason": fields.raw("reason", b"OK"),
        "headers": fields.headers(),
        "absent": fields.names("absent"),
        "body": fields.raw("body"),
    }


def _fault(path: object, number: int, what: str) -> CorpusError:
    return CorpusError(f"{path}:{number}: {what}")
