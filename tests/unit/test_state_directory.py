"""The state directory: made, tightened, locked; every refusal is one line that says what to do."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from spawn.errors import StateError
from spawn.state.directory import StateDirectory

HOLDER = """
import sys
from spawn.state.directory import StateDirectory
StateDirectory(sys.argv[1]).open()
print("locked", flush=True)
sys.stdin.read()
"""


def refusal(path: Path) -> str:
    directory = StateDirectory(str(path))
    with pytest.raises(StateError) as caught:
        directory.open()
    assert "\n" not in str(caught.value)
    assert directory._lock is None
    return str(caught.value)


def test_it_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    directory = StateDirectory(str(tmp_path / "a" / "b"))
    directory.open()
    assert stat.S_IMODE(os.stat(directory.path).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(tmp_path / "a" / "b" / "lock").st_mode) == 0o600
    assert os.listdir(directory.path) == ["lock"]
    directory.close()
    directory.close()


def test_one_that_is_open_to_others_is_tightened_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tmp_path.chmod(0o755)
    directory = StateDirectory(str(tmp_path))
    with caplog.at_level(logging.WARNING, "spawn.state"):
        directory.open()
    directory.close()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700
    assert "0755" in caplog.text
    caplog.clear()
    directory.open()
    directory.close()
    assert not caplog.records


@pytest.mark.parametrize("mode", [0o755, 0o1777])
def test_one_that_is_somebody_elses_is_not_touched(tmp_path: Path, mode: int) -> None:
    (tmp_path / "thesis.txt").write_text("")
    (tmp_path / "lock").write_text("of another program")
    tmp_path.chmod(mode)
    said = refusal(tmp_path)
    assert said.startswith(f"state directory {tmp_path} ")
    assert said.endswith(f"such as --state-dir={tmp_path}/spawn")
    assert stat.S_IMODE(tmp_path.stat().st_mode) == mode
    assert (tmp_path / "lock").read_text() == "of another program"


def test_one_that_is_shared_is_never_spawns(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    assert "is shared by all users" in refusal(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o1777


@pytest.mark.parametrize("names", [("lost+found",), ("spawn.log", "spawn.pid"), ("lock", "nodes.json", "my.log")])
def test_one_that_is_spawns_or_new_is_tightened(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (tmp_path / name).write_text("")
    tmp_path.chmod(0o755)
    directory = StateDirectory(str(tmp_path))
    directory.open()
    directory.close()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_the_spool_lies_in_the_journals_directory(tmp_path: Path) -> None:
    directory = StateDirectory(str(tmp_path))
    assert directory.spool_path == os.path.join(directory.journal_path, "spool")


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "state")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "locked\n"
        yield child
        child.kill()


def test_a_second_spawn_is_told_who_has_it(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    said = refusal(tmp_path / "state")
    assert said == (
        f"state directory {tmp_path / 'state'} is in use by another Spawn (pid {holder.pid}): "
        "stop it first, or give this one its own with --state-dir"
    )


def test_the_lock_ends_with_its_process_however_that_ends(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    directory = StateDirectory(str(tmp_path / "state"))
    directory.open()
    assert (tmp_path / "state" / "lock").read_text() == f"{os.getpid()}\n"
    directory.close()


def test_two_in_one_process_exclude_each_other_too(tmp_path: Path) -> None:
    first = StateDirectory(str(tmp_path))
    first.open()
    assert "in use" in refusal(tmp_path)
    first.close()
    second = StateDirectory(str(tmp_path))
    second.open()
    second.close()


def test_a_file_is_not_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "is not a directory" in refusal(tmp_path / "file")
    assert "is not a directory" in refusal(tmp_path / "file" / "below")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
@pytest.mark.parametrize(("options", "said"), [("ro", "read-only"), ("size=4k,nr_inodes=1", "disk is full")])
def test_a_disk_that_takes_nothing_is_said(tmp_path: Path, options: str, said: str) -> None:
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"mode=755,{options}", "tmpfs", tmp_path], capture_output=True
    ).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        assert said in refusal(tmp_path)
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user's directory")
def test_a_directory_of_somebody_else_is_said(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(0o700)
    for path in (tmp_path, *tmp_path.parents[:2]):
        path.chmod(0o755)
    script = (
        f"import os; from spawn.state.directory import StateDirectory as S; os.setuid(65534); S({str(state)!r}).open()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "cannot be written by this user (uid 65534)" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may write another user's files")
def test_root_does_not_go_on_from_the_state_of_another_user(tmp_path: Path) -> None:
    state = tmp_path / "state"
    first = StateDirectory(str(state))
    first.open()
    first.close()
    os.chown(state / "lock", 12_345, 12_345)
    os.chown(state, 12_345, 12_345)
    assert "is that of user 12345: run Spawn as that user" in refusal(state)
    assert sorted(os.listdir(state)) == ["lock"], "nothing of root's is left in it"


def test_delete_takes_what_is_spawns_and_nothing_else(tmp_path: Path) -> None:
    state = tmp_path / "state"
    here = StateDirectory(str(state))
    here.open()
    for name in ("journal/spool", "backups/20260101T000000Z-1"):
        (state / name).mkdir(parents=True)
    for name in ("nodes.json", "journal/journal.db", "precious", "spawn.log", "spawn.log.1.gz"):
        (state / name).touch()
    with pytest.raises(StateError, match="in use by another Spawn"):
        StateDirectory(str(state)).delete()
    assert (state / "journal/journal.db").exists(), "what is in use is left alone"
    here.close()
    assert StateDirectory(str(state)).delete() == ["precious"]
    assert os.listdir(state) == ["precious"]
    (state / "precious").unlink()
    assert StateDirectory(str(state)).delete() == []
    assert not state.exists()
    assert StateDirectory(str(state)).delete() == [], "nothing to delete is no error"


@pytest.mark.parametrize("names", [("journal",), ("lock",), ("lock", "journal"), ("nodes.json",), ("cat.jpg",)])
def test_what_only_looks_a_little_like_a_state_is_not_deleted(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (tmp_path / name).mkdir()  # /var has a "lock" too
        (tmp_path / name / "precious").touch()
    assert StateDirectory(str(tmp_path)).delete() == sorted(names)
    assert all((tmp_path / name / "precious").exists() for name in names)


def test_links_in_a_state_are_deleted_and_not_what_they_name(tmp_path: Path) -> None:
    state, elsewhere = tmp_path / "state", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").touch()
    state.mkdir()
    for name in ("lock", "nodes.json"):
        (state / name).touch()
    (state / "journal").symlink_to(elsewhere)
    assert StateDirectory(str(state)).delete() == []
    assert (elsewhere / "precious").exists()
