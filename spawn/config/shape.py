"""A JSON tree against the schema: every value checked, every fault noted, the rest kept.

msgspec stops at the first fault and names no valid key, so the walk is done here; the keys, types and ranges it goes
by are the structs' own (``msgspec.inspect``). The result is a *draft*: plain dicts and lists under the file's keys,
with ``INVALID`` where a value was faulty, so that checks across values can still run on the rest.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec
from msgspec import inspect

from spawn.config.document import BadNumber, Fault, Path, is_unicode, shortened, shown
from spawn.config.kinds import KINDS, Wrong
from spawn.config.schema import Config


class _Invalid:
    def __repr__(self) -> str:
        return "INVALID"


INVALID: Final = _Invalid()
ROOT = inspect.type_info(Config)
_TRUTH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def read(kind: inspect.Type, value: Any, path: Path, faults: list[Fault]) -> Any:
    """The draft of ``value``; what is wrong with it is added to ``faults``."""
    inner, _ = _unwrap(kind)
    if isinstance(value, BadNumber) or (isinstance(value, str) and not is_unicode(value)):
        return INVALID  # reported by ``document.tree_faults`` already
    try:
        if isinstance(inner, inspect.StructType):
            return _read_struct(inner, value, path, faults)
        if isinstance(inner, inspect.VarTupleType):
            _expect(isinstance(value, list), "a list")
            return [read(inner.item_type, item, (*path, index), faults) for index, item in enumerate(value)]
        if isinstance(inner, inspect.DictType):
            return _read_dict(inner, value, path, faults)
        return leaf(kind, value)
    except Wrong as wrong:
        faults.append(Fault(path, wrong.detail, wrong.expected, shown(value)))
        return INVALID


def leaf(kind: inspect.Type, value: Any) -> Any:
    """A single value in its normal form. Raises ``Wrong``."""
    inner, extra = _unwrap(kind)
    expected = expectation(kind)
    if isinstance(inner, inspect.IntType | inspect.FloatType):
        return _number(inner, value, expected)
    if isinstance(inner, inspect.BoolType):
        _expect(isinstance(value, bool), expected)
    elif isinstance(inner, inspect.LiteralType):
        _expect(isinstance(value, str) and value in inner.values, expected)
    elif isinstance(inner, inspect.StrType):
        _expect(isinstance(value, str), expected)
        check = KINDS.get(extra.get("kind", ""))
        return check(value) if check else value
    return value


def from_text(kind: inspect.Type, text: str) -> Any:
    """A flag's text as the JSON value it stands for; the text itself where it stands for none of that type."""
    inner, _ = _unwrap(kind)
    if isinstance(inner, inspect.BoolType):
        return _TRUTH.get(text.lower(), text)
    if isinstance(inner, inspect.IntType):
        return int(text) if re.fullmatch(r"[+-]?[0-9]{1,20}", text) else text
    if isinstance(inner, inspect.FloatType):
        return float(text) if re.fullmatch(r"[+-]?([0-9]{1,20}(\.[0-9]{0,20})?|\.[0-9]{1,20})", text) else text
    if isinstance(inner, inspect.VarTupleType):
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def expectation(kind: inspect.Type) -> str:
    """A noun phrase for what a key takes: ``a port number (1–65535)``."""
    inner, extra = _unwrap(kind)
    if isinstance(inner, inspect.IntType | inspect.FloatType):
        noun = extra.get("noun") or ("a whole number" if isinstance(inner, inspect.IntType) else "a number")
        if inner.gt is not None:
            return f"{noun} (more than {inner.gt}, at most {inner.le})"
        return f"{noun} ({inner.ge}–{inner.le})" if inner.ge is not None else str(noun)
    if isinstance(inner, inspect.LiteralType):
        return "one of " + ", ".join(f'"{value}"' for value in inner.values)
    if isinstance(inner, inspect.BoolType):
        return "true or false"
    if isinstance(inner, inspect.VarTupleType):
        return "a list"
    return "a string" if isinstance(inner, inspect.StrType) else "an object"


def find(path: Iterable[str]) -> inspect.Type | None:
    """The type of the key at ``path`` (no list items), None when there is no such key."""
    kind: inspect.Type = ROOT
    for step in path:
        inner, _ = _unwrap(kind)
        fields = inner.fields if isinstance(inner, inspect.StructType) else ()
        kind_or_none = next((field.type for field in fields if field.encode_name == step), None)
        if kind_or_none is None:
            return None
        kind = kind_or_none
    return kind


def leaves(kind: inspect.Type = ROOT, path: str = "") -> Iterator[tuple[str, inspect.Field]]:
    """Every key that takes a value, as ``log.level`` or ``nodes[].port``, except those without effect."""
    inner, _ = _unwrap(kind)
    if not isinstance(inner, inspect.StructType):
        return
    for field in inner.fields:
        here = f"{path}.{field.encode_name}" if path else field.encode_name
        below, _ = _unwrap(field.type)
        if isinstance(below, inspect.StructType):
            yield from leaves(below, here)
        elif isinstance(below, inspect.VarTupleType) and isinstance(below.item_type, inspect.StructType):
            yield from leaves(below.item_type, f"{here}[]")
        elif not isinstance(below, inspect.AnyType):
            yield here, field


def without_effect() -> list[str]:
    """Keys that are accepted for the original's sake only."""
    assert isinstance(ROOT, inspect.StructType)
    return [field.encode_name for field in ROOT.fields if isinstance(field.type, inspect.AnyType)]


def _read_struct(kind: inspect.StructType, value: Any, path: Path, faults: list[Fault]) -> dict[str, Any]:
    _expect(isinstance(value, dict), "an object")
    fields = {field.encode_name: field for field in kind.fields}
    draft: dict[str, Any] = {}
    for key, item in value.items():
        if key in fields:
            draft[key] = read(fields[key].type, item, (*path, key), faults)
        elif is_unicode(key):
            faults.append(Fault((*path, key), unknown_key(fields, key)))
    for name, field in fields.items():
        if field.required and name not in value:
            faults.append(Fault((*path, name), f"missing, expected {_missing(field.type)}"))
            draft[name] = INVALID
    return draft


def _read_dict(kind: inspect.DictType, value: Any, path: Path, faults: list[Fault]) -> dict[str, Any]:
    """All free keys of the schema (nodes, headers) mean the same whatever their case."""
    _expect(isinstance(value, dict), "an object")
    draft: dict[str, Any] = {}
    first: dict[str, str] = {}
    for key, item in value.items():
        here = (*path, key)
        name = read(kind.key_type, key, here, faults)
        drafted = read(kind.value_type, item, here, faults)
        if name is INVALID:
            continue
        earlier = first.setdefault(name.lower(), key)
        if earlier != key:
            faults.append(Fault(here, f'means the same as "{shortened(earlier)}", which is there as well'))
        draft[name] = drafted
    return draft


def unknown_key(fields: Iterable[str], key: str) -> str:
    """The message for a key that is not there: the nearest that is, here or in another section."""
    here = [name for name in fields if name not in without_effect() or _plain(name) == _plain(key)]
    plain = {_plain(name): name for name in here}
    near = difflib.get_close_matches(_plain(key), plain, n=1, cutoff=0.6)
    hints = [f'did you mean "{plain[near[0]]}"?'] if near and "." not in key else []
    if not near or near[0] != _plain(key):
        hints += _elsewhere(key)
    return "unknown key; " + (" ".join(hints) if hints else f"valid here: {', '.join(here)}")


def _elsewhere(key: str) -> list[str]:
    """Where in the file the key would be valid."""
    everywhere = [path for path, _ in leaves()] + [field.encode_name for field in _sections()]
    if "." in key and key in everywhere:
        section, _, name = key.rpartition(".")
        return [f'write it as "{name}" inside of "{section}"']
    found = [path for path in everywhere if path.rpartition(".")[2] in (key, _kebab(key))]
    owners = [f'"{path.rpartition(".")[0]}"' if "." in path else "the top level" for path in found]
    return [f'"{_kebab(key)}" belongs in {" or ".join(owners)}'] if owners else []


def _sections() -> list[inspect.Field]:
    assert isinstance(ROOT, inspect.StructType)
    leafs = {path for path, _ in leaves()}
    return [f for f in ROOT.fields if f.encode_name not in leafs and not isinstance(f.type, inspect.AnyType)]


def _kebab(key: str) -> str:
    """``roundRobin`` and ``round_robin`` as ``round-robin``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", key).replace("_", "-").lower()


def _plain(key: str) -> str:
    return _kebab(key).replace("-", "")


def _missing(kind: inspect.Type) -> str:
    _, extra = _unwrap(kind)
    try:  # the check of a kind knows best what it wants
        KINDS[extra["kind"]]("")
    except (KeyError, Wrong) as error:
        return error.expected if isinstance(error, Wrong) else expectation(kind)
    return expectation(kind)


def _number(kind: inspect.IntType | inspect.FloatType, value: Any, expected: str) -> int | float:
    whole = isinstance(kind, inspect.IntType)
    _expect(type(value) is int or (not whole and type(value) is float), expected)
    _expect(kind.ge is None or value >= kind.ge, expected)
    _expect(kind.gt is None or value > kind.gt, expected)
    _expect(kind.le is None or value <= kind.le, expected)
    return int(value) if whole else float(value)


def _unwrap(kind: inspect.Type) -> tuple[inspect.Type, dict[str, Any]]:
    if isinstance(kind, inspect.Metadata):
        return kind.type, kind.extra or {}
    return kind, {}


def _expect(true: bool, expected: str) -> None:
    if not true:
        raise Wrong(expected)


def to_config(draft: dict[str, Any]) -> Config:
    """The finished value; msgspec checks it once more. Raises ``msgspec.ValidationError``."""
    return msgspec.convert(draft, Config, strict=True)
