"""Backups of a whole service, and services that are started on one."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import gevent
import pytest

from spawn.errors import JournalError, StartError
from spawn.service import Service
from spawn.state.directory import StateDirectory
from tests.support.inprocess import Cluster, settings, until
from tests.support.node import AppNode


@pytest.fixture
def nodes() -> list[AppNode]:
    return [AppNode("one"), AppNode("two")]


class RestoredCluster(Cluster):
    """A service on the copy of another's state."""

    def __init__(self, directory: Path, nodes: list[AppNode], state_dir: str, **changes: Any) -> None:
        self._restored_dir = state_dir
        super().__init__(directory, nodes, all_up=False, **changes)

    def _new_service(self) -> Service:
        self.state_dir = self._restored_dir
        return Service(self.config, state_dir=self.state_dir, restored=True)


def test_a_backup_can_be_used_as_a_state_directory_as_it_is(tmp_path: Path, nodes: list[AppNode]) -> None:
    # Given a backup of a service with two nodes
    with Cluster(tmp_path, nodes) as old:
        old.post(b"one")
        old.post(b"x" * 300_000)
        old.until_applied(2)
        backup = old.service.backup()
        uuid = old.service._journal.uuid
        old.post(b"three")
        old.until_applied(3)
    assert Path(backup.path).parent == Path(old.state_dir) / "backups"
    assert backup.path.endswith("Z-2")
    assert backup.head == 2
    # When a service is started on it as restored
    again = RestoredCluster(tmp_path, nodes, backup.path)
    for node in nodes:
        node.come()
    with again:
        # Then it goes on behind the last update, and all nodes are out of sync
        assert (again.service._journal.head, again.service._journal.uuid == uuid) == (2, False)
        assert [again.queue(node)["out-of-sync"] for node in nodes] == [True, True]
        for node in nodes:
            assert again.api("PUT", f"/queues/127.0.0.1/{node.port}", {"position": "head"}).status == 202
        again.until_serving(*nodes)
        assert again.post(b"another three").sequence == 3
        again.until_applied(3)
        # And a restart, also of the same object, does not do it again
        uuid = again.service._journal.uuid
        again.service.stop(2.0)
        again.service.start()
        assert again.service._journal.uuid == uuid
        assert [again.queue(node)["out-of-sync"] for node in nodes] == [False, False]


def test_without_the_nodes_file_the_configured_nodes_join_out_of_sync(tmp_path: Path, nodes: list[AppNode]) -> None:
    with Cluster(tmp_path, nodes) as old:
        old.post(b"one")
        old.until_applied(1)
        backup = old.service.backup()
    os.unlink(Path(backup.path) / "nodes.json")
    for node in nodes:
        node.come()
    with RestoredCluster(tmp_path, nodes, backup.path) as again:
        assert [again.queue(node)["out-of-sync"] for node in nodes] == [True, True]
        assert again.api("PUT", f"/queues/127.0.0.1/{nodes[0].port}", {"position": 0}).status == 202
        until(lambda: again.live(nodes[0]).position == 1, "a node that is told an old position gets what it lacks")


def test_restored_holds_even_where_the_nodes_file_names_no_journal(tmp_path: Path, nodes: list[AppNode]) -> None:
    """As one of a journal in memory does: its positions are not to be trusted."""
    with Cluster(tmp_path, nodes) as old:
        old.post(b"one")
        old.until_applied(1)
        backup = old.service.backup()
    path = Path(backup.path) / "nodes.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"journal": "", "checksum": None}))
    with RestoredCluster(tmp_path, nodes, backup.path) as again:
        assert [again.queue(node)["out-of-sync"] for node in nodes] == [True, True]


def test_what_was_restored_is_said_once_and_is_no_alarm(
    tmp_path: Path, nodes: list[AppNode], caplog: pytest.LogCaptureFixture
) -> None:
    with Cluster(tmp_path, nodes) as old:
        old.post(b"one")
        backup = old.service.backup()
    caplog.clear()
    with RestoredCluster(tmp_path, nodes, backup.path):
        pass
    said = [record for record in caplog.records if "--restored" in record.getMessage()]
    assert [record.levelname for record in said] == ["WARNING"]
    assert "without --restored" in said[0].getMessage()
    assert not [record for record in caplog.records if record.levelno >= logging.CRITICAL]


def test_an_update_that_is_accepted_during_a_backup_does_not_wait(tmp_path: Path, nodes: list[AppNode]) -> None:
    with Cluster(tmp_path, nodes) as cluster:
        for _ in range(5):
            backing_up = cluster.background(cluster.service.backup)
            assert cluster.post().status < 300
            assert backing_up.get(timeout=20).head >= 1
        found = sorted(os.listdir(Path(cluster.state_dir) / "backups"))
        assert len(found) == 5, found
        assert not [name for name in found if name.endswith(".partial")]


def test_only_one_at_a_time_and_a_failure_leaves_nothing(tmp_path: Path, nodes: list[AppNode]) -> None:
    with Cluster(tmp_path, nodes) as cluster:
        one = gevent.spawn(cluster.service.backup)
        gevent.sleep(0)
        with pytest.raises(JournalError, match="under way"):
            cluster.service.backup()
        one.get(timeout=20)
        backups = Path(cluster.state_dir) / "backups"
        (made,) = backups.iterdir()
        made.rename(tmp_path / "kept")
        backups.rmdir()
        backups.write_text("in the way")
        with pytest.raises(JournalError, match="failed") as caught:
            cluster.service.backup()
        assert "\n" not in str(caught.value)
        backups.unlink()
        assert cluster.post().status < 300


def test_leftovers_of_a_crash_are_swept_at_start_and_complete_ones_are_not(
    tmp_path: Path, nodes: list[AppNode]
) -> None:
    with Cluster(tmp_path, nodes) as cluster:
        cluster.post()
        made = Path(cluster.service.backup().path)
        leftover = made.with_name("20261124T000512Z.partial")
        (leftover / "journal.partial" / "bodies").mkdir(parents=True)
        (leftover / "journal.partial" / "journal.db").write_bytes(b"half")
        cluster.restart()
        assert [path.name for path in made.parent.iterdir()] == [made.name]


def test_a_journal_in_memory_has_no_backups_and_cannot_be_restored(tmp_path: Path, nodes: list[AppNode]) -> None:
    with Cluster(tmp_path, nodes, **settings(journal={"durability": "none"})) as cluster:
        with pytest.raises(JournalError, match="in memory"):
            cluster.service.backup()
        assert list((Path(cluster.state_dir) / "backups").iterdir()) == []
        restored = Service(cluster.config, state_dir=str(tmp_path / "other"), restored=True)
        with pytest.raises(StartError, match="durability"):
            restored.start()


def test_a_stop_during_a_backup_ends_both(tmp_path: Path, nodes: list[AppNode]) -> None:
    with Cluster(tmp_path, nodes) as cluster:
        cluster.post()

        def backup() -> Any:
            try:
                return cluster.service.backup()
            except JournalError as error:
                return error

        backing_up = cluster.background(backup)
        gevent.sleep(0)
        cluster.service.stop(5.0)
        came = backing_up.get(timeout=10)
        names = os.listdir(Path(cluster.state_dir) / "backups")
        if isinstance(came, JournalError):
            assert names == []
        else:
            assert names == [Path(came.path).name]


def test_a_copy_of_a_backup_that_lost_its_permissions_is_still_taken_for_a_state(
    tmp_path: Path, nodes: list[AppNode]
) -> None:
    """scp and unzip make directories that all may read; what is in them is Spawn's all the same."""
    with Cluster(tmp_path, nodes) as cluster:
        cluster.post()
        path = cluster.service.backup().path
    os.chmod(path, 0o755)
    directory = StateDirectory(path)
    directory.open()
    directory.close()
    assert os.stat(path).st_mode & 0o777 == 0o700
