"""docs/configuration.md is complete and true: keys, defaults, flags, what needs a restart, and its examples."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from spawn.config import FLAGS, Config, load
from spawn.config.reload import is_live
from spawn.config.shape import leaves

TEXT = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text("utf-8")
# | `key` | meaning | unit | default | why | takes effect |
ROW = re.compile(r"^\| `([^`]+)` \| (.+?) \| (.+?) \| (.+?) \| (.+?) \| (reload|restart|by API) \|$", re.M)
ROWS = {match[1]: match.groups() for match in ROW.finditer(TEXT)}
FIELDS = dict(leaves())


@pytest.mark.parametrize("key", FIELDS)
def test_a_key_is_documented_with_its_default(key: str) -> None:
    assert key in ROWS, f"docs/configuration.md has no row for {key}"
    written = ROWS[key][3]
    if FIELDS[key].required:
        assert written == "required"
        return
    found = re.match(r"`([^`]*)`", written)
    assert found, f"the default of {key} is not in backquotes"
    assert json.loads(found[1]) == default(key)


@pytest.mark.parametrize("key", FIELDS)
def test_a_key_says_when_a_change_takes_effect(key: str) -> None:
    top = key.replace("[]", "")
    assert ROWS[key][5] == ("by API" if top.startswith("nodes") else "reload" if is_live(top) else "restart")


def test_nothing_is_documented_that_is_not_there() -> None:
    assert list(ROWS) == list(FIELDS)


def test_every_flag_is_documented_with_its_key() -> None:
    flags = dict(re.findall(r"^\| `(--[a-z-]+)(?:=[A-Z]+)?` \| `([^`]+)` \|", TEXT, re.M))
    assert flags == FLAGS


def test_every_example_loads(tmp_path: Path) -> None:
    examples = [block for block in re.findall(r"```json\n(.*?)```", TEXT, re.S) if block.startswith("{")]
    assert len(examples) >= 2
    for block in examples:
        (tmp_path / "spawn.conf").write_text(block, "utf-8")
        assert load(str(tmp_path / "spawn.conf")).warnings == ()


def test_the_report_of_faults_is_what_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```(?:text|json)\n(.*?)```", TEXT[TEXT.index("## How faults are reported") :], re.S)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spawn.conf").write_text(blocks[0], "utf-8")
    with pytest.raises(Exception, match="spawn") as caught:
        load(None, {"port": "abc"})
    assert str(caught.value) == blocks[1].strip()


def default(key: str) -> Any:
    field = FIELDS[key]
    if field.default is msgspec.NODEFAULT:
        return field.default_factory()
    return json.loads(msgspec.json.encode(field.default))


def test_the_defaults_of_the_fields_are_those_of_the_whole() -> None:
    config = json.loads(msgspec.json.encode(Config()))
    for key in FIELDS:
        if "[]" in key:
            continue
        value = config
        for part in key.split("."):
            value = value[part]
        assert default(key) == value
