"""The live set of nodes and its stored form."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from spawn.config.schema import NodeConfig
from spawn.errors import StateError
from spawn.nodes.node import NodeRecord, NodeState
from spawn.nodes.registry import Registry
from spawn.state.nodes import NodeStore


def registry(directory: Path) -> Registry:
    made = Registry(NodeStore(str(directory)))
    made.load()
    return made


def config(*ports: int) -> list[NodeConfig]:
    return [NodeConfig(host="h", port=port) for port in ports]


def ports(records: Iterable[NodeRecord]) -> list[int]:
    return [record.port for record in records]


def take_in(made: Registry, *in_file: int) -> list[int]:
    """What a start or a reload does."""
    new = made.new_in_file(config(*in_file))
    for record in new:
        made.add(record)
    made.save()
    return ports(new)


def test_the_file_seeds_the_first_start(tmp_path: Path) -> None:
    assert take_in(registry(tmp_path), 1, 2) == [1, 2]


def test_what_is_stored_comes_back(tmp_path: Path) -> None:
    made = registry(tmp_path)
    node = made.add(NodeRecord(host="::1", port=8, priority=-3, active=True, maintenance=True))
    node.held, node.diverged, node.out_of_sync, node.refused, node.settled = True, True, True, 7, True
    made.save()
    [again] = registry(tmp_path).nodes
    assert (again.id, again.record) == (node.id, node.record)
    assert (again.held, again.diverged, again.out_of_sync, again.refused, again.settled) == (True, True, True, 7, True)
    assert again.state is NodeState.INACTIVE
    assert again.name == "[::1]:8"


def test_later_only_what_the_file_names_anew_is_added(tmp_path: Path) -> None:
    made = registry(tmp_path)
    assert take_in(made, 1, 2) == [1, 2]
    made.remove(made.find("h", 2)[0])
    assert take_in(made, 1, 2, 3) == [3]
    again = registry(tmp_path)  # a restart
    assert take_in(again, 1, 2, 3, 4) == [4]
    assert ports(node.record for node in again.nodes) == [1, 3, 4]
    assert take_in(again, 1, 3, 4) == []
    assert take_in(again, 1, 2) == [2]  # it was not in the file when that was last read


def test_a_node_made_through_the_api_is_not_made_twice(tmp_path: Path) -> None:
    made = registry(tmp_path)
    made.add(NodeRecord(host="h", port=5))
    assert take_in(made, 5) == []


def test_finding(tmp_path: Path) -> None:
    made = registry(tmp_path)
    for host, port in (("one", 1), ("one", 2), ("Two", 1)):
        made.add(NodeRecord(host=host, port=port))
    assert ports(node.record for node in made.find("ONE")) == [1, 2]
    assert ports(node.record for node in made.find(port=1)) == [1, 1]
    assert len(made.find("two", 1)) == 1
    assert len(made.find()) == 3
    assert made.find("three") == []
    assert made.by_id(made.nodes[2].id) is made.nodes[2]
    assert made.by_id("nobody") is None


def test_damage_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "nodes.json").write_text("{")
    with pytest.raises(StateError, match=r"nodes\.json is damaged"):
        registry(tmp_path)
