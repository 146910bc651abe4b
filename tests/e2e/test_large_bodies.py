"""Bodies that are not in Spawn's memory: 200 MiB in chunks, and those of 200 clients at once."""

from __future__ import annotations

import hashlib
import http.client
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.support.cluster import Cluster, LoggingNode
from tests.support.loggingnode import pattern
from tests.support.waiting import eventually

MIB = 1024 * 1024
SIZE = 200 * MIB
MOST_RSS_BYTES = 150 * MIB
CLIENTS = 200
SPOOLED_BYTES = 32 * MIB  # in memory, over all clients
MOST_MORE_BYTES = 80 * MIB  # with the connections, pieces on their way to the disk, and what the allocator cannot use


@pytest.fixture(scope="module")
def digest() -> str:
    made = hashlib.sha256()
    for piece in pattern(SIZE):
        made.update(piece)
    return made.hexdigest()


@pytest.fixture
def made(cluster: Callable[..., Cluster]) -> Iterator[Cluster]:
    made = cluster()
    yield made
    made.spawn.kill()
    shutil.rmtree(made.spawn.state_dir, ignore_errors=True)  # pytest keeps the directories of several runs


def upload(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("PUT", "/big/file", body=pattern(SIZE), encode_chunked=True)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def assert_has_it_once(node: LoggingNode, digest: str) -> None:
    assert [(record["size"], record["sha256"]) for record in node.records()] == [(SIZE, digest)]


def assert_little_memory(made: Cluster) -> None:
    peak = made.spawn.process.peak_rss_bytes()
    assert peak < MOST_RSS_BYTES, f"Spawn took {peak / MIB:.0f} MiB"


def test_a_chunked_upload_reaches_every_node_the_absent_one_later(made: Cluster, digest: str) -> None:
    absent = made.nodes[2]
    absent.kill()
    assert upload(made.spawn.port) == 200
    absent.start()
    made.spawn.api.wait_settled()
    for node in made.nodes:
        assert_has_it_once(node, digest)
    assert_little_memory(made)


def on_disk(made: Cluster) -> int:
    return sum(path.stat().st_size for path in made.spawn.state_dir.rglob("*") if path.is_file())


def test_the_slow_uploads_of_200_clients_are_on_the_disk(cluster: Callable[..., Cluster]) -> None:
    """1 MiB each, step by step, so that all of them are on their way at once; and no file is left."""
    made = cluster(())
    body, step = b"".join(pattern(MIB)), 60_000
    idle_bytes, before = made.spawn.process.peak_rss_bytes(), on_disk(made)
    with ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", made.spawn.port), timeout=60))
            for _ in range(CLIENTS)
        ]
        for number, client in enumerate(clients):
            head = f"PUT /big/{number} HTTP/1.1\r\nHost: app.test\r\nContent-Length: {MIB}\r\n\r\n"
            client.sendall(head.encode())
        sent = 0
        for sent in range(0, MIB - step, step):
            for client in clients:
                client.sendall(body[sent : sent + step])
        sent += step
        beyond = sent * CLIENTS - SPOOLED_BYTES
        eventually(lambda: on_disk(made) - before >= beyond, timeout_s=30, what="what memory may not hold is in files")
        assert made.spawn.process.peak_rss_bytes() - idle_bytes < MOST_MORE_BYTES
        for client in clients:
            client.sendall(body[sent:])
        assert [client.recv(13) for client in clients] == [b"HTTP/1.1 200 "] * CLIENTS
    made.spawn.api.wait_settled(30)
    digest = hashlib.sha256(body).hexdigest()
    assert [(record["size"], record["sha256"]) for record in made.nodes[0].records()] == [(MIB, digest)] * CLIENTS
    eventually(lambda: on_disk(made) - before < SPOOLED_BYTES, timeout_s=30, what="the files are gone")
    assert made.spawn.process.peak_rss_bytes() - idle_bytes < MOST_MORE_BYTES
