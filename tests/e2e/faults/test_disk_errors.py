"""A disk that fails under a running Spawn (EIO, ENOSPC), by errors injected into its system calls.

A commit whose outcome nobody knows ends Spawn: clients are told so, the next start finds what the journal holds. A disk
without room is a state that ends by itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from tests.support.api import session
from tests.support.cluster import Cluster, LoggingNode
from tests.support.history import Tolerance, check
from tests.support.injection import failing, injected, need_tracing
from tests.support.load import BIG_BYTES, Load
from tests.support.waiting import eventually

Make = Callable[..., Cluster]
SHORT = {"timeouts": {"fresh": 0.2, "answer": 5}}


@pytest.fixture(autouse=True)
def _tracing(tmp_path: Path) -> None:
    need_tracing(tmp_path)


class Clients:
    """A few threads that each send one update; what they were told, by the update's text."""

    def __init__(self, url: str, count: int, size: int = 10) -> None:
        self._url = url
        self._size = size
        self.told: dict[str, tuple[int, str]] = {}
        self.cut: list[str] = []
        self._threads = [threading.Thread(target=self._send, args=(f"client{n}",), daemon=True) for n in range(count)]
        for thread in self._threads:
            thread.start()

    def _send(self, name: str) -> None:
        with session() as client:
            try:
                answer = client.put(f"{self._url}/items/{name}", data=name.ljust(self._size, "."), timeout=30)
            except requests.RequestException as error:
                self.cut.append(f"{name}: {error}")
            else:
                self.told[name] = (answer.status_code, answer.text)

    def join(self) -> Clients:
        for thread in self._threads:
            thread.join(40)
            assert not thread.is_alive(), "a client was left without an answer"
        return self


def put(url: str, name: str, body: bytes = b"x") -> requests.Response:
    with session() as client:
        return client.put(f"{url}/items/{name}", data=body, timeout=30)


def wal(made: Cluster) -> Path:
    return made.spawn.state_dir / "journal" / "journal.db-wal"


def lines(made: Cluster, *words: str) -> list[str]:
    return [line for line in made.spawn.process.output().splitlines() if all(word in line for word in words)]


@pytest.mark.parametrize(("call", "error"), [("fdatasync", "EIO"), ("pwrite64", "EIO"), ("pwrite64", "EROFS")])
def test_a_commit_that_fails_is_said_and_ends_spawn(cluster: Make, tmp_path: Path, call: str, error: str) -> None:
    # Given clients that send one update after the other, and a node that gets them later
    made = cluster((), ())
    late = made.nodes[1]
    late.kill()
    with Load(made.spawn.url, total=100_000, clients=8) as load:
        load.wait_acknowledged(40)

        # When the disk fails under the WAL
        with failing(made.spawn.process.pid, call, error, tmp_path, wal(made)):
            eventually(lambda: lines(made, "CRITICAL"), timeout_s=20, what="it is said")
            said_s = time.monotonic()
            code = made.spawn.process.wait(10)
            took_s = time.monotonic() - said_s
    assert injected(tmp_path) >= 1

    # Then Spawn says once what happened and ends, and the clients in flight are told what is known: nothing
    assert code == 1
    assert took_s < 5, "one second, but the machine is a busy one"
    (line,) = lines(made, "CRITICAL")
    assert "journal has failed" in line
    assert "disk I/O error" in line
    assert "Spawn stops" in line
    answered = [failure for failure in load.failures if ": 503 " in failure]
    assert answered, load.failures[:8]
    assert all("outcome is unknown" in failure for failure in answered), answered

    # And nothing acknowledged is lost; recovery decides what becomes of the others, the same for all nodes
    late.start()
    made.spawn.start()
    made.spawn.api.wait_settled()
    assert put(made.spawn.url, "last").status_code == 201
    made.spawn.api.wait_settled()
    last = made.nodes[0].applied()[-1].update
    assert check(made.logs(), [*load.attempted, last], load.acknowledged, Tolerance(spawn_kills=1)) == []
    assert made.nodes[0].items() == late.items()


def test_a_body_that_cannot_be_made_durable_ends_spawn_too(cluster: Make, tmp_path: Path) -> None:
    made = cluster((), ())
    assert put(made.spawn.url, "a").status_code == 201
    with failing(made.spawn.process.pid, "fsync", "EIO", tmp_path):
        clients = Clients(made.spawn.url, 1, size=BIG_BYTES).join()
        assert made.spawn.process.wait(10) == 1
    assert [status for status, _ in clients.told.values()] == [503], (clients.told, clients.cut)
    (line,) = lines(made, "CRITICAL", "the journal has failed")
    assert "Input/output error" in line
    made.spawn.start()
    made.spawn.api.wait_settled()
    assert not any((made.spawn.state_dir / "journal" / "spool").iterdir()), "leftovers are swept"
    assert [set(node.items()) for node in made.nodes] == [{"a"}] * 2, "it was surely not written"


def test_a_disk_without_room_refuses_updates_until_it_has_some(cluster: Make, tmp_path: Path) -> None:
    # Given a node with a backlog
    made = cluster((), ())
    late, url, api = made.nodes[1], made.spawn.url, made.spawn.api
    late.kill()
    api.wait_state(late.port, "down")
    with Load(url, total=30, clients=4) as load:
        load.join()
    pid = made.spawn.process.pid

    # When nothing can be written to the WAL
    with failing(pid, "pwrite64", "ENOSPC", tmp_path, wal(made)):
        refused = Clients(url, 5).join()

        # Then updates get 507 and are not written, reads and deliveries go on
        assert {status for status, _ in refused.told.values()} == {507}, (refused.told, refused.cut)
        assert all("full" in text for _, text in refused.told.values())
        with session() as client:
            assert client.get(f"{url}/info", timeout=10).text == "version:1"
        late.start()
        eventually(lambda: len(late.applied()) == 30, timeout_s=20, what="the backlog is delivered on a full disk")
        assert put(url, "b").status_code == 507

    # And it goes on by itself, in the same process, once there is room
    eventually(lambda: put(url, "after").status_code == 201, timeout_s=20, what="updates are taken again")
    assert made.spawn.process.pid == pid
    api.wait_settled()
    held = lines(made, "the disk that holds the journal")
    assert len(held) == 2, "said once when it begins and once when it ends"
    assert "ERROR" in held[0] and "reads and deliveries go on" in held[0]  # noqa: PT018
    assert "updates are accepted" in held[1]
    names = [{one.update.split()[1] for one in node.applied()} for node in made.nodes]
    assert names[0] == names[1]
    assert not any("client" in name or name.endswith("/b") for name in names[0]), "what was refused is nowhere"
    assert made.spawn.stop() == 0


def test_a_backlog_that_cannot_be_read_is_never_skipped(cluster: Make, tmp_path: Path) -> None:
    # Given a backlog that is more than a worker (1 MiB) and SQLite (8 MiB) keep in memory
    made = cluster((), ())
    late = made.nodes[1]
    late.kill()
    for n in range(60):
        assert put(made.spawn.url, f"item{n}", b"%d" % n * 100_000).status_code == 201
    assert made.spawn.stop() == 0
    made.spawn.start()
    database = made.spawn.state_dir / "journal" / "journal.db"

    # When reading fails as the node returns
    with failing(made.spawn.process.pid, "pread64", "EIO", tmp_path, database, wal(made)):
        late.start()
        eventually(lambda: lines(made, "CRITICAL"), timeout_s=20, what="it is said")
    (line,) = lines(made, "CRITICAL")
    assert f"node 127.0.0.1:{late.port} cannot be given update" in line
    assert "is damaged" in line, "SQLite's word for it"
    row = made.spawn.api.queue(late.port)
    assert row["out-of-sync"]
    assert 0 < len(late.applied()) < 60
    assert_prefix(made.nodes[0], late)


def assert_prefix(whole: LoggingNode, part: LoggingNode) -> None:
    """What was delivered is the beginning of it all, without a gap."""
    have = [one.update for one in part.applied()]
    assert have == [one.update for one in whole.applied()][: len(have)]
