"""The configuration file as a JSON tree, and the faults that need no schema to be seen.

JSON's grammar leaves open what matters here: a key given twice, ``NaN``, a number no machine can hold, half a
surrogate pair. Each is kept in the tree as something the schema cannot mistake for a value, and reported once.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

LIMIT_BYTES = 4_194_304  # a thousand nodes need a tenth of it; a log file given by mistake is refused
LIMIT_DEPTH = 64  # the schema needs five
_LIMIT_DIGITS = 64
_SHOWN = 48
_SECRETS = ("delivery", "set-headers")  # credentials
_NOT_SHOWN = "a value that is not shown"
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]*")  # of a header, RFC 9110 §5.6.2

Path = tuple[str | int, ...]


class Unreadable(ValueError):
    """The file cannot be used at all; ``place`` is ``:line:column`` or empty."""

    def __init__(self, reason: str, place: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.place = place


class Object(dict[str, Any]):
    """A JSON object that remembers which of its keys were given more than once."""

    twice: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BadNumber:
    """A number that is not finite or absurdly long, as it was written."""

    text: str


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong. With ``expected`` the message is put together from it and ``got``."""

    path: Path
    text: str = ""
    expected: str = ""
    got: str = ""

    def of_file(self, name: str) -> str:
        """The line that is shown for a fault of the file ``name``."""
        detail = f": {self.text}" if self.text else ""
        message = f"expected {self.expected}, got {self.got}{detail}" if self.expected else self.text
        where = f"{path_text(self.path)}: " if self.path else ""
        return one_line(f"{name}: {where}{message}")

    def of_flag(self, flag: str) -> str:
        """The line that is shown for a fault of a flag; the path is the one inside its value."""
        detail = f": {self.text}" if self.text else ""
        where = f"{path_text(self.path)}: " if self.path else ""
        message = f"{self.got} is not {self.expected}{detail}" if self.expected else self.text
        return one_line(f"{flag}: {where}{message}")


def without_secrets(fault: Fault, below: Path = ()) -> Fault:
    """The fault as it may be shown: nothing that was written as a value below ``delivery.set-headers``.

    A header's name is cut where it stops to be one: ``"Authorization: Basic …"`` is a value in the wrong place.
    ``below`` is where the fault's own path begins.
    """
    whole = (*below, *fault.path)
    if whole[: len(_SECRETS)] != _SECRETS:
        return fault
    path, name = fault.path, len(_SECRETS) + 1 - len(below)
    if len(path) > name >= 0:
        path = (*path[:name], _visible(path[name]), *path[name + 1 :])
    return replace(fault, path=path, got=_NOT_SHOWN)


def _visible(step: str | int) -> str:
    text = str(step)
    found = _NAME.match(text)
    name = found[0] if found else ""
    return text if name == text else f"{name}…"


def read_document(path: str) -> Any:
    """The JSON value of a file. Raises ``Unreadable`` (also for a missing file; see ``exists``)."""
    return parse_document(_read(path))


def exists(path: str) -> bool:
    """Whether there is anything at ``path``; what cannot be looked at counts as there, so that it is reported."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def parse_document(data: bytes) -> Any:
    """The JSON value of the bytes. Raises ``Unreadable`` with a place when they are not UTF-8 or not JSON."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable("not UTF-8", _place(data, error.start)) from None
    if not text.strip():
        raise Unreadable("the file is empty; the least that will do is {}")
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        reason = error.msg[:1].lower() + error.msg[1:]
        reason = f"{reason[:-3]} here" if reason.endswith(" at") else reason
        raise Unreadable(f"not JSON: {one_line(reason)}", f":{error.lineno}:{error.colno}") from None
    except RecursionError:
        raise Unreadable(f"nested more than {LIMIT_DEPTH} levels deep") from None


def tree_faults(tree: Any) -> list[Fault]:
    """Keys given twice, broken Unicode, numbers that are none, too much depth: anywhere in the tree."""
    faults = []
    for path, value in walk(tree):
        if isinstance(value, Object):
            faults += [Fault((*path, key), "the key is given more than once") for key in value.twice]
            faults += [Fault((*path, key), "the key is not valid Unicode") for key in value if not is_unicode(key)]
        elif isinstance(value, BadNumber):
            digits = value.text.lstrip("-").isdigit()
            expected = f"a number of at most {_LIMIT_DIGITS} digits" if digits else "a finite number"
            faults.append(Fault(path, expected=expected, got=shown(value)))
        elif isinstance(value, str) and not is_unicode(value):
            faults.append(Fault(path, expected="valid Unicode", got=shown(value)))
        if len(path) == LIMIT_DEPTH and isinstance(value, Object | list):
            faults.append(Fault(path[:1], f"nested more than {LIMIT_DEPTH} levels deep"))
            break
    return faults


def walk(tree: Any) -> Iterator[tuple[Path, Any]]:
    """Every value with its path, in the document's order, down to ``LIMIT_DEPTH``."""
    stack: list[tuple[Path, Any]] = [((), tree)]
    while stack:
        path, value = stack.pop()
        yield path, value
        if len(path) >= LIMIT_DEPTH:
            continue
        if isinstance(value, dict):
            stack += [((*path, key), item) for key, item in reversed(value.items())]
        elif isinstance(value, list):
            stack += [((*path, index), item) for index, item in reversed(list(enumerate(value)))]


def is_unicode(text: str) -> bool:
    """False for a lone surrogate: half a ``\\u`` pair in JSON, or a byte of a flag that is not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(value: object) -> str:
    """A value as a fault shows it: JSON, shortened, containers only named."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, BadNumber):
        return shortened(value.text)
    if isinstance(value, str):
        return f'"{shortened(value)}"'
    try:
        return shortened(json.dumps(value, default=repr))
    except ValueError:  # a typed override of more digits than Python converts
        return "a huge number"


def shortened(text: str) -> str:
    return one_line(text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…")


def one_line(text: str) -> str:
    """Whatever could break a line or hide in one is escaped."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def path_text(path: Path) -> str:
    """``nodes[1].port``; keys that need it are quoted: ``delivery.set-headers["a:80"]``."""
    parts: list[str] = []
    for step in path:
        if isinstance(step, int):
            parts.append(f"[{step}]")
        elif step and all(char.isascii() and (char.isalnum() or char in "-_") for char in step):
            parts.append(f".{shortened(step)}" if parts else shortened(step))
        else:
            parts.append(f'["{shortened(step)}"]')
    return "".join(parts)


def _read(path: str) -> bytes:
    """The bytes of a regular file; nothing else is opened, since a pipe would wait for ever."""
    try:
        found = os.stat(path)
        if stat.S_ISDIR(found.st_mode):
            raise Unreadable("is a directory, not a file")
        if not stat.S_ISREG(found.st_mode):
            raise Unreadable("is not a regular file")
        with open(path, "rb") as file:
            data = file.read(LIMIT_BYTES + 1)
    except OSError as error:
        raise Unreadable(f"cannot be read: {(error.strerror or str(error)).lower()}") from None
    except ValueError as error:  # a NUL character in the path
        raise error if isinstance(error, Unreadable) else Unreadable(f"cannot be read: {error}") from None
    if len(data) > LIMIT_BYTES:
        raise Unreadable(f"is larger than {LIMIT_BYTES // 1_048_576} MiB, which no configuration is")
    return data


def _object(pairs: list[tuple[str, Any]]) -> Object:
    value = Object(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        value.twice = tuple(dict.fromkeys(key for key, _ in pairs if key in seen or seen.add(key)))  # type: ignore[func-returns-value]
    return value


def _int(text: str) -> int | BadNumber:
    """Python refuses to convert more than 4,300 digits, and nothing here needs more than 16."""
    return int(text) if len(text) <= _LIMIT_DIGITS else BadNumber(text)


def _float(text: str) -> float | BadNumber:
    value = float(text)
    return value if math.isfinite(value) else BadNumber(text)


def _place(data: bytes, offset: int) -> str:
    line = data.count(b"\n", 0, offset) + 1
    start = data.rfind(b"\n", 0, offset) + 1
    return f":{line}:{len(data[start:offset].decode('utf-8', 'replace')) + 1}"


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_int, parse_float=_float, parse_constant=BadNumber)
