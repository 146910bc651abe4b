"""Bodies of many clients at once: 32 MiB of them in memory at most, over all clients, and files beyond.

A piece that a client's greenlet has in hand, on its way to the disk, is not at rest and not counted: 64 KiB at most.
"""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest

from spawn.http11.spool import Spool
from spawn.service.compose import SPOOL_MEMORY_BYTES
from tests.support.inprocess import until
from tests.support.rawcluster import RawCluster, length
from tests.support.rawhttp import RawClient

CLIENTS = 200
BODY_BYTES = 327_680
STEP_BYTES = 60_000  # a little less than what is written to the disk at a time
BODY = bytes(range(256)) * (BODY_BYTES // 256)


class Watch:
    """Looks at all spools whenever one has been written to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.most_bytes = 0
        self.most_in_files = 0
        self.spools: weakref.WeakSet[Spool] = weakref.WeakSet()
        self._writing: set[int] = set()
        write = Spool.write

        def watched(spool: Spool, data: bytes) -> None:
            self.spools.add(spool)
            self._writing.add(id(spool))
            try:
                write(spool, data)
            finally:
                self._writing.discard(id(spool))
            self._look()

        monkeypatch.setattr(Spool, "write", watched)

    def _look(self) -> None:
        resting = [spool for spool in self.spools if id(spool) not in self._writing]
        self.most_bytes = max(self.most_bytes, sum(len(spool._tail) for spool in resting))
        self.most_in_files = max(self.most_in_files, sum(spool.path is not None for spool in resting))


def files(cluster: RawCluster) -> list[Path]:
    return [path for path in Path(cluster.service._journal.spool_path()).iterdir() if path.name.startswith("spool-")]


@pytest.mark.parametrize("method", [b"REPORT", b"PUT"])
def test_200_clients_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: bytes) -> None:
    """All bodies are half there before any is whole; then each is passed on as it came, and no file is left."""
    watch = Watch(monkeypatch)
    head = method + b" /big HTTP/1.1\r\nHost: app.test\r\n" + length(BODY) + b"\r\n"
    with RawCluster(tmp_path, 1) as cluster:
        clients = [RawClient(cluster.port) for _ in range(CLIENTS)]
        budget = cluster.service._budget
        sent = 0
        for client in clients:
            client.send(head)
        while sent + STEP_BYTES < BODY_BYTES:
            for client in clients:
                client.send(BODY[sent : sent + STEP_BYTES])
            sent += STEP_BYTES
            until(lambda sent=sent: cluster.service._room.used_bytes == sent * CLIENTS, "all of it has arrived")  # type: ignore[misc]
            assert budget.used_bytes <= SPOOL_MEMORY_BYTES
        assert len(files(cluster)) == CLIENTS
        assert sum(path.stat().st_size for path in files(cluster)) >= sent * CLIENTS - SPOOL_MEMORY_BYTES
        for client in clients:
            client.send(BODY[sent:])
        assert [client.answer().status for client in clients] == [200] * CLIENTS
        for client in clients:
            client.sock.close()
        cluster.until_applied(cluster.head)
        [heard] = cluster.heard()
        assert [request.partition(b"\r\n\r\n")[2] == BODY for request in heard] == [True] * CLIENTS
        until(lambda: not files(cluster), "no file is left")
    assert SPOOL_MEMORY_BYTES // 2 < watch.most_bytes <= SPOOL_MEMORY_BYTES
    assert watch.most_in_files == CLIENTS


def test_many_beginnings_of_bodies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them is less than what is written to the disk at a time; together they are more than may wait for it."""
    watch = Watch(monkeypatch)
    count = 2 * SPOOL_MEMORY_BYTES // STEP_BYTES
    with RawCluster(tmp_path, 1, limits={"connections": 2_000}) as cluster:
        clients = [RawClient(cluster.port) for _ in range(count)]
        for client in clients:
            client.send(b"PUT / HTTP/1.1\r\nHost: app.test\r\n" + length(BODY) + b"\r\n" + BODY[:STEP_BYTES])
        until(lambda: cluster.service._room.used_bytes == count * STEP_BYTES, "all of it has arrived")
        assert SPOOL_MEMORY_BYTES - STEP_BYTES < cluster.service._budget.used_bytes <= SPOOL_MEMORY_BYTES
        for client in clients:
            client.sock.close()
        until(lambda: not cluster.service._budget.used_bytes and not files(cluster), "nothing is left")
        assert cluster.head == 0
    assert watch.most_bytes <= SPOOL_MEMORY_BYTES
