"""Files of services: whole or not at all, and never where somebody else decides which file is meant."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from spawnctl import files
from spawnctl.files import Owner

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="files are given to other users: needs root")
SERVICE = Owner(54_321, 54_321)


def test_a_file_of_root_in_directories_of_root_is_safe(tmp_path: Path) -> None:
    assert files.is_safe(tmp_path / "log", SERVICE), "though /tmp is on the way, whose names are protected"
    assert not files.is_safe(Path("/tmp/log"), SERVICE)


@pytest.mark.parametrize("which", ["owner", "group", "everybody"])
def test_what_the_service_may_write_is_not(tmp_path: Path, which: str) -> None:
    middle = tmp_path / "middle"
    (middle / "inner").mkdir(parents=True)
    assert files.is_safe(middle / "inner" / "log", SERVICE)
    os.chown(middle, SERVICE.uid if which == "owner" else 0, SERVICE.gid if which == "group" else 0)
    middle.chmod({"owner": 0o755, "group": 0o775, "everybody": 0o777}[which])
    assert not files.is_safe(middle / "inner" / "log", SERVICE), "it can put another directory in its place"


def test_a_link_is_as_safe_as_who_made_it_and_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real")
    assert files.is_safe(link / "log", SERVICE)
    os.chown(link, SERVICE.uid, SERVICE.gid, follow_symlinks=False)
    assert not files.is_safe(link / "log", SERVICE)
    os.chown(link, 0, 0, follow_symlinks=False)
    os.chown(tmp_path / "real", SERVICE.uid, SERVICE.gid)
    assert not files.is_safe(link / "log", SERVICE)


def test_a_link_in_place_of_a_new_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to(tmp_path / "victim")
    files.create_empty(tmp_path / "log", 0o640, SERVICE)
    assert not (tmp_path / "victim").exists()


def test_what_was_made_is_undone_and_nothing_else(tmp_path: Path) -> None:
    with contextlib.ExitStack() as undo:
        files.make_directory(tmp_path / "a" / "b", undo, 0o700, SERVICE)
        files.write(tmp_path / "a" / "b" / "file", "text", 0o600, undo)
        files.create_empty(tmp_path / "log", 0o640, SERVICE, undo)
        assert (tmp_path / "a" / "b").stat().st_uid == SERVICE.uid
        assert (tmp_path / "a").stat().st_uid == 0, "the way there is nobody's in particular"
        assert sorted(os.listdir(tmp_path / "a" / "b")) == ["file"], "no draft is left"
    assert os.listdir(tmp_path) == []
    (tmp_path / "a" / "b").mkdir(parents=True)
    with contextlib.ExitStack() as undo:
        files.make_directory(tmp_path / "a" / "b" / "c", undo)
    assert (tmp_path / "a" / "b").is_dir(), "what was there before stays"


def test_only_files_that_name_their_maker_are_ours(tmp_path: Path) -> None:
    (tmp_path / "ours").write_text('# Written by "spawnctl install"\n')
    (tmp_path / "theirs").write_text("# Written by hand\n")
    assert files.is_ours(tmp_path / "ours")
    assert not files.is_ours(tmp_path / "theirs")
    assert not files.is_ours(tmp_path / "missing")
