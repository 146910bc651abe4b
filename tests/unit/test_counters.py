"""docs/counters.md names what the code counts, no more and no less."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from spawn.config.shape import leaves
from spawn.counters import Counters

ROOT = Path(__file__).parents[2]
DOCUMENTED = set(
    re.findall(
        r"`([a-z]+\.[a-z-]+)`",
        "\n".join(
            line.split("|")[1]
            for line in (ROOT / "docs" / "counters.md").read_text("utf-8").splitlines()
            if line.startswith("|")
        ),
    )
)


@functools.cache
def counted() -> set[str]:
    """The names given to ``counters.add`` anywhere, with ``*`` where a part is a variable."""
    found: set[str] = set()
    for path in (ROOT / "spawn").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("counters.add"):
                found.update(names(node.args[0]))
    return found


def names(argument: ast.expr) -> Iterator[str]:
    if isinstance(argument, ast.IfExp):
        yield from names(argument.body)
        yield from names(argument.orelse)
    elif isinstance(argument, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in argument.values)
    else:
        yield str(ast.literal_eval(argument))


def test_all_that_is_counted_is_documented() -> None:
    assert len(counted()) > 20
    missing = {name for name in counted() if not any(fnmatchcase(known, name) for known in DOCUMENTED)}
    assert not missing
    for name in counted():
        if name.startswith("*."):
            assert {f"proxy{name[1:]}", f"api{name[1:]}"} <= DOCUMENTED


def test_all_that_is_documented_is_counted() -> None:
    assert not {known for known in DOCUMENTED if not any(fnmatchcase(known, name) for name in counted())}


def test_the_guarantees_name_settings_and_counters_that_are_there() -> None:
    text = (ROOT / "docs" / "guarantees.md").read_text("utf-8")
    tables = "\n".join(line for line in text.splitlines() if line.startswith("|"))
    named = set(re.findall(r"`((?:delivery|timeouts|limits|journal|updates|reads)\.[a-z-]+)`", text))
    named |= {f"delivery{short}" for short in re.findall(r"`(\.[a-z-]+)`", tables)}
    assert len(named) > 10
    assert named <= DOCUMENTED | set(dict(leaves()))


def test_a_count_is_a_sum_and_a_snapshot_is_sorted() -> None:
    counters = Counters()
    counters.add("b.two")
    counters.add("a.one")
    counters.add("b.two", 2)
    snapshot = counters.snapshot()
    assert list(snapshot.items()) == [("a.one", 1), ("b.two", 3)]
    counters.add("a.one")
    assert snapshot["a.one"] == 1
    assert counters.value("c.none") == 0
    assert "c.none" not in counters.snapshot()
