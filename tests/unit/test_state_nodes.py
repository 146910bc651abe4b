"""The stored nodes: what is saved is loaded, whole or not at all."""

from __future__ import annotations

import json
import stat
import zlib
from pathlib import Path

import gevent
import pytest

from spawn.errors import StateError
from spawn.state.nodes import NodeStore, Stored, StoredNode

STORED = Stored(
    nodes=[
        StoredNode(id="a1", host="::1", port=8080, priority=-2, active=True, out_of_sync=True, refused=3),
        StoredNode(id="b2", host="app.example", port=80, maintenance=True, diverged=True, held=True),
    ],
    seen_in_file=["[::1]:8080"],
    journal="f" * 32,
)


def test_before_the_first_save_there_is_nothing(tmp_path: Path) -> None:
    assert NodeStore(str(tmp_path)).load() is None


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    NodeStore(str(tmp_path)).save(STORED)
    assert NodeStore(str(tmp_path)).load() == STORED
    (file,) = tmp_path.iterdir()
    assert file.name == "nodes.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(file.read_text())["nodes"][0]["out-of-sync"] is True, "an operator can read it"


def test_the_last_of_many_saves_wins(tmp_path: Path) -> None:
    store = NodeStore(str(tmp_path))
    many = [Stored(seen_in_file=[str(n)]) for n in range(30)]
    gevent.joinall([gevent.spawn(store.save, stored) for stored in many], timeout=30, raise_error=True)
    assert store.load() == many[-1]


def test_a_killed_saver_leaves_a_whole_file(tmp_path: Path) -> None:
    store = NodeStore(str(tmp_path))
    saving = gevent.spawn(store.save, STORED)
    gevent.sleep(0)
    saving.kill()
    store.save(Stored())
    assert store.load() == Stored()


def test_the_hub_goes_on_while_a_save_runs(tmp_path: Path) -> None:
    saving = gevent.spawn(NodeStore(str(tmp_path)).save, STORED)
    gevent.sleep(0)
    assert not saving.ready()
    saving.get(timeout=10)


def test_a_save_that_fails_is_said_and_keeps_the_old_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    store = NodeStore(str(tmp_path))
    store.save(STORED)
    (tmp_path / "nodes.json.new").mkdir()
    with pytest.raises(StateError, match=r"cannot save .*nodes\.json"):
        store.save(Stored())
    assert store.load() == STORED
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"nodes": 3}', b'{"nodes": [{"host": "a"}]}', b"\xff\xfe", b'{"version": "x"}']
)
def test_a_damaged_file_is_refused_with_what_to_do(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "nodes.json").write_bytes(content)
    with pytest.raises(StateError, match=r"nodes\.json is damaged .*restore it from a backup") as caught:
        NodeStore(str(tmp_path)).load()
    assert "\n" not in str(caught.value)


def test_a_newer_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "nodes.json").write_text('{"version": 2, "nodes": {"in": "a new shape"}}')
    with pytest.raises(StateError, match="its version is 2, this one knows 1"):
        NodeStore(str(tmp_path)).load()


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "nodes.json").mkdir()
    with pytest.raises(StateError, match="cannot read"):
        NodeStore(str(tmp_path)).load()


def test_no_flipped_bit_changes_what_is_loaded(tmp_path: Path) -> None:
    store = NodeStore(str(tmp_path))
    store.save(STORED)
    content = Path(store.path).read_bytes()
    refused = 0
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        Path(store.path).write_bytes(damaged)
        try:
            assert store.load() == STORED, f"byte {place}"
        except StateError as error:
            refused += 1
            assert "\n" not in str(error)  # noqa: PT017 — most, but not all of them are refused
    assert refused > len(content) / 2


def test_a_file_of_a_version_without_checksum_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "nodes.json").write_text('{"nodes": [{"id": "a", "host": "h", "port": 1}], "version": 1}')
    assert NodeStore(str(tmp_path)).load() == Stored(nodes=[StoredNode(id="a", host="h", port=1)])


def test_a_file_with_fewer_fields_than_this_version_knows_is_loaded(tmp_path: Path) -> None:
    """An upgrade that adds a flag must not take every older file for damaged."""
    contents = {"nodes": [{"id": "a", "host": "h", "port": 1}], "version": 1, "checksum": None}
    contents["checksum"] = zlib.crc32(json.dumps(contents, separators=(",", ":")).encode())
    (tmp_path / "nodes.json").write_text(json.dumps(contents, indent=1))
    assert NodeStore(str(tmp_path)).load() == Stored(nodes=[StoredNode(id="a", host="h", port=1)])
