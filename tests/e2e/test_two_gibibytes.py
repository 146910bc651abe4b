"""2 GiB in both directions at constant memory: through a real spawnctl, from and to nodes that keep nothing.

A client that pauses amid its answer holds a read's node up, because nothing is kept for it; of an update's answer the
rest is kept on the disk meanwhile, so that the node is not held up.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.bulknode import (
    STEP_BYTES,
    Bulk,
    BulkNode,
    bulk,
    checksum,
    content_length,
    receive_body,
    receive_head,
)
from tests.support.cluster import Spawn
from tests.support.processes import Processes
from tests.support.waiting import eventually

MIB = 1_048_576
SIZE = 2_048 * MIB
MOST_RSS_BYTES = 100 * MIB
IN_KERNELS_BYTES = 64 * MIB  # what the send and receive buffers of four sockets may hold
LIMITS = {"body": SIZE, "answer": SIZE}


@pytest.fixture(scope="module")
def whole() -> tuple[int, int]:
    return checksum(SIZE)


@pytest.fixture
def nodes(processes: Processes) -> list[BulkNode]:
    return [BulkNode(processes, f"node{n}").start() for n in (1, 2, 3)]


@pytest.fixture
def spawn(processes: Processes, nodes: list[BulkNode]) -> Iterator[Spawn]:
    free = shutil.disk_usage(processes.directory).free
    assert free > 2 * SIZE, f"{processes.directory} has {free / MIB:.0f} MiB free, and a body of 2 GiB is kept there"
    made = Spawn(processes, [node.port for node in nodes], {"limits": LIMITS}).start()
    made.api.wait_settled(20)
    yield made
    made.kill()
    shutil.rmtree(made.state_dir, ignore_errors=True)  # pytest keeps the directories of several runs


@contextmanager
def asked(spawn: Spawn, head: bytes) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", spawn.port), timeout=60) as sock:
        sock.sendall(head)
        yield sock


def on_disk(spawn: Spawn) -> int:
    return sum(path.stat().st_size for path in Path(spawn.state_dir).rglob("*") if path.is_file())


def assert_little_memory(spawn: Spawn) -> None:
    peak = spawn.process.peak_rss_bytes()
    assert peak < MOST_RSS_BYTES, f"Spawn took {peak / MIB:.0f} MiB"


def begin_answer(sock: socket.socket) -> Bulk:
    """The head and the first MiB of an answer of ``SIZE`` bytes."""
    head, rest = receive_head(sock)
    assert head.startswith(b"HTTP/1.1 200 ")
    assert content_length(head) == SIZE
    body = Bulk()
    receive_body(sock, rest, STEP_BYTES, body)
    return body


def test_a_download_whose_client_pauses(spawn: Spawn, nodes: list[BulkNode], whole: tuple[int, int]) -> None:
    with asked(spawn, b"GET /big?size=%d HTTP/1.1\r\nHost: app.test\r\n\r\n" % SIZE) as sock:
        body = begin_answer(sock)
        [node] = [node for node in nodes if node.requests()]
        last = [-1]

        def stands_still() -> bool:
            last.append(node.sent_bytes)
            return last[-1] == last[-2]

        eventually(stands_still, timeout_s=20, every_s=0.5, what="the node waits for the client")
        assert 0 < node.sent_bytes < IN_KERNELS_BYTES
        assert_little_memory(spawn)
        receive_body(sock, b"", SIZE, body)
    assert body.seen == whole
    assert on_disk(spawn) < IN_KERNELS_BYTES
    assert_little_memory(spawn)


def test_an_upload_to_three_nodes(spawn: Spawn, nodes: list[BulkNode], whole: tuple[int, int]) -> None:
    with asked(spawn, b"PUT /big HTTP/1.1\r\nHost: app.test\r\nContent-Length: %d\r\n\r\n" % SIZE) as sock:
        for piece in bulk(SIZE):
            sock.sendall(piece)
        eventually(lambda: on_disk(spawn) >= SIZE, timeout_s=20, every_s=0.01, what="all of it is on the disk")
        assert on_disk(spawn) < SIZE + IN_KERNELS_BYTES  # one copy, whoever still waits for it
        assert receive_head(sock)[0].startswith(b"HTTP/1.1 200 ")
    spawn.api.wait_settled(60)
    assert [node.requests() for node in nodes] == [[("PUT", "/big", whole)]] * 3
    assert_little_memory(spawn)


def test_the_large_answer_of_an_update_whose_client_pauses(
    spawn: Spawn, nodes: list[BulkNode], whole: tuple[int, int]
) -> None:
    with asked(spawn, b"POST /big?size=%d HTTP/1.1\r\nHost: app.test\r\nContent-Length: 0\r\n\r\n" % SIZE) as sock:
        body = begin_answer(sock)
        eventually(lambda: max(node.sent_bytes for node in nodes) == SIZE, timeout_s=60, what="a node has said all")
        spawn.api.wait_settled(20)
        assert on_disk(spawn) < SIZE + IN_KERNELS_BYTES
        receive_body(sock, b"", SIZE, body)
    assert body.seen == whole
    assert sorted(node.sent_bytes for node in nodes)[1] < IN_KERNELS_BYTES  # nobody wants the others' answers
    eventually(lambda: on_disk(spawn) < IN_KERNELS_BYTES, timeout_s=20, what="the answer is kept no longer")
    assert_little_memory(spawn)
