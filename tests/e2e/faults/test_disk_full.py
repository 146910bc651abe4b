"""A disk that is really full, by a small tmpfs: updates are refused, all else goes on, and it ends by itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from tests.support.api import session
from tests.support.cluster import Cluster
from tests.support.disks import fill, free_bytes, small_disk
from tests.support.history import WINDOW, Tolerance, check
from tests.support.load import BIG_BYTES, Load
from tests.support.waiting import eventually

Make = Callable[..., Cluster]
DISK_MIB = 44  # 32 of them are ballast
OWN_MIB = 144  # so that the backlog is more than the ballast
INLINE = b"y" * 200_000  # in the database, many pages of it
BACKLOG = 200
FULL = "the disk that holds the journal is full"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", DISK_MIB) as path:
        yield path


@pytest.fixture
def made(cluster: Make, disk: Path) -> Iterator[Cluster]:
    """Two nodes, and a state directory on the small disk."""
    made = cluster((), (), settings={"state-dir": str(disk / "state")})
    yield made
    made.spawn.kill()


def put(made: Cluster, name: str, body: bytes = b"x") -> requests.Response:
    with session() as client:
        return client.put(f"{made.spawn.url}/items/{name}", data=body, timeout=30)


def lines(made: Cluster, *words: str) -> list[str]:
    return [line for line in made.spawn.process.output().splitlines() if all(word in line for word in words)]


def fill_until_refused(made: Cluster, disk: Path) -> Path:
    """Somebody else takes the room; what is left in files that SQLite has made already is used up."""
    other = fill(disk)
    eventually(lambda: put(made, "refused", b"r" * 20_000).status_code == 507, timeout_s=20, what="updates are refused")
    return other


def fill_to_the_brim(made: Cluster, disk: Path) -> Path:
    """Somebody else takes the ballast's room too."""
    other = fill_until_refused(made, disk)
    eventually(lambda: free_bytes(disk) > 30 << 20, timeout_s=5, what="the ballast is let go")
    fill(disk)
    return other


def test_a_full_disk_refuses_updates_and_all_else_goes_on(made: Cluster, disk: Path) -> None:
    # Given a node with a long backlog, and a disk that somebody else fills
    steady, late = made.nodes
    late.kill()
    with Load(made.spawn.url, total=BACKLOG, clients=8) as load:
        load.join()
    assert load.failures == []
    other = fill_until_refused(made, disk)

    # When clients go on, with small updates and large ones
    refused = [put(made, "refused"), put(made, "refused", b"r" * BIG_BYTES)]

    # Then they are refused, nothing is left of them, reads are answered, and the backlog is delivered
    assert [answer.status_code for answer in refused] == [507, 507]
    assert [text for answer in refused if str(disk) in (text := answer.text)] == [], "paths are the operator's"
    journal = disk / "state" / "journal"
    eventually(lambda: not any((journal / "spool").iterdir()), timeout_s=5, what="the spool is empty")
    assert not (journal / "ballast").exists(), "its room is for positions"
    with session() as client:
        assert client.get(f"{made.spawn.url}/items/k0", timeout=10).status_code == 200
    late.start()
    eventually(lambda: len(late.applied()) >= BACKLOG, timeout_s=20, what="the backlog is delivered")

    # And positions are durable: a kill -9 and a start, the disk still full, deliver no more than the window again
    made.spawn.kill()
    fill(disk, leave_bytes=1 << 20)
    made.spawn.start()
    assert put(made, "refused").status_code == 507
    assert "ERROR" in lines(made, FULL)[-1], "a start on a full disk says so"
    made.spawn.api.wait_settled()
    assert len(late.applied()) - BACKLOG <= WINDOW

    # And it takes updates again by itself once there is room, the ballast first
    other.unlink()
    eventually(lambda: put(made, "after").status_code == 201, timeout_s=20, what="updates are taken again")
    assert (journal / "ballast").stat().st_size == 32 << 20
    made.spawn.api.wait_settled()
    assert len(lines(made, "has room again")) == 1
    assert len(lines(made, FULL)) == 2, "once for each start"
    attempted = [*load.attempted, *(one.update for one in steady.applied() if "/items/after" in one.update)]
    attempted += [one.update for one in steady.applied() if one.sequence and "/items/refused" in one.update]
    assert check(made.logs(), attempted, load.acknowledged, Tolerance(spawn_kills=1)) == []
    assert steady.items() == late.items()
    assert made.spawn.stop() == 0


def test_a_disk_without_any_room_is_said_and_loses_nothing(made: Cluster, disk: Path) -> None:
    # Given an update to come that one node will answer unlike the others, and a disk where even the ballast is eaten
    steady, late = made.nodes
    with session() as client:
        assert client.put(f"{late.url}/items/only-there", data=b"x", timeout=10).status_code == 201
    late.kill()
    made.spawn.api.wait_state(late.port, "down")
    with session() as client:
        assert client.delete(f"{made.spawn.url}/items/only-there", timeout=30).status_code == 404
    assert put(made, "a").status_code == 201
    other = fill_to_the_brim(made, disk)

    # When the node returns and differs, which cannot be stored
    late.start()
    eventually(lambda: lines(made, "CRITICAL"), timeout_s=20, what="it is said")
    (line,) = lines(made, "CRITICAL")
    assert "the states of the nodes cannot be stored" in line
    assert "No space left" in line
    assert "trying again" in line

    # Then an operator is told that a change is not stored, and the node's position does not outlive the flag
    answer = made.spawn.api.call("PUT", f"/nodes/127.0.0.1/{late.port}", {"maintenance": True})
    assert answer.status_code == 503, answer.text
    assert "No space left" in answer.text
    assert "a restart would undo it" in answer.text
    assert made.spawn.api.queue(late.port)["position"] == 0
    assert "a" not in late.items(), "what comes after it waits"

    # And a start on such a disk says in one line what to do
    made.spawn.kill()
    before = len(lines(made, ""))
    made.spawn.start(wait=False)
    assert made.spawn.process.wait(20) == 1
    (line,) = lines(made, "")[before:]
    assert str(disk / "state") in line
    assert "disk is full" in line
    assert "make room" in line

    # And with room everything is as it was
    other.unlink()
    made.spawn.start()
    made.spawn.api.wait_queue(late.port, lambda row: row["backlog"] == 0, what="all is delivered")
    eventually(lambda: put(made, "after").status_code == 201, timeout_s=20, what="updates are taken again")
    eventually(lambda: late.items() == steady.items(), timeout_s=10, what="both nodes have the same")


def test_states_of_nodes_are_stored_once_there_is_room(made: Cluster, disk: Path) -> None:
    # Given a disk without any room, and a change of a node that has to be stored
    late = made.nodes[1]
    with session() as client:
        client.put(f"{late.url}/items/only-there", data=b"x", timeout=10)
    late.kill()
    with session() as client:
        assert client.delete(f"{made.spawn.url}/items/only-there", timeout=30).status_code == 404
    other = fill_to_the_brim(made, disk)
    late.start()
    eventually(lambda: lines(made, "CRITICAL"), timeout_s=20, what="it is said")

    # When room is made, then it is stored without anybody doing anything, and that is said
    other.unlink()
    eventually(lambda: lines(made, "stored again"), timeout_s=20, what="it is stored")
    stored = json.loads((disk / "state" / "nodes.json").read_text("utf-8"))
    (node,) = (node for node in stored["nodes"] if node["port"] == late.port)
    assert node["diverged"]
    assert len(lines(made, "CRITICAL")) == 1, "once, not per retry"


def test_a_disk_that_a_backlog_has_filled_has_room_again_once_it_is_delivered(cluster: Make, tmp_path: Path) -> None:
    """Nobody has to make room: what was delivered is pruned, and given back to the file system."""
    with small_disk(tmp_path / "disk", OWN_MIB) as disk:
        # Given a node that is down, and updates until the disk is full of what it has to get
        made = cluster((), (), settings={"state-dir": str(disk / "state")})
        late = made.nodes[1]
        late.kill()
        accepted = 0
        while (answer := put(made, f"k{accepted % 5}", INLINE)).status_code < 300:
            accepted += 1
        assert (answer.status_code, accepted > 300) == (507, True)

        # When it comes back, then it gets all of them, and updates are taken again by themselves
        late.start()
        made.spawn.api.wait_queue(late.port, lambda row: row["backlog"] == 0, what="all is delivered")
        eventually(lambda: put(made, "after", INLINE).status_code < 300, timeout_s=30, what="updates are taken again")
        assert (disk / "state" / "journal" / "ballast").stat().st_size == 32 << 20
        assert (len(lines(made, FULL)), len(lines(made, "has room again"))) == (1, 1)
        assert lines(made, "pruning failed") == []
        made.spawn.api.wait_settled()
        assert made.nodes[0].items() == late.items()
        assert made.spawn.stop() == 0
