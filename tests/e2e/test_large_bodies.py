"""200 MiB in both directions: whole, to every node, and without ever being in Spawn's memory."""

from __future__ import annotations

import hashlib
import http.client
import shutil
from collections.abc import Callable, Iterator

import pytest

from tests.support.cluster import Cluster, LoggingNode
from tests.support.loggingnode import STEP_BYTES, pattern

MIB = 1024 * 1024
SIZE = 200 * MIB
MOST_RSS_BYTES = 150 * MIB


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


def upload(port: int, *, chunked: bool) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        headers = {} if chunked else {"Content-Length": str(SIZE)}
        connection.request("PUT", "/big/file", body=pattern(SIZE), headers=headers, encode_chunked=chunked)
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


def test_an_upload_of_known_length_reaches_every_node(made: Cluster, digest: str) -> None:
    assert upload(made.spawn.port, chunked=False) == 200
    made.spawn.api.wait_settled()
    for node in made.nodes:
        assert_has_it_once(node, digest)
    assert_little_memory(made)


def test_a_chunked_upload_reaches_every_node_the_absent_one_later(made: Cluster, digest: str) -> None:
    absent = made.nodes[2]
    absent.kill()
    assert upload(made.spawn.port, chunked=True) == 200
    absent.start()
    made.spawn.api.wait_settled()
    for node in made.nodes:
        assert_has_it_once(node, digest)
    assert_little_memory(made)


def test_a_download_passes_whole(made: Cluster, digest: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", made.spawn.port, timeout=60)
    got, size = hashlib.sha256(), 0
    try:
        connection.request("GET", f"/big/file?size={SIZE}")
        answer = connection.getresponse()
        assert answer.status == 200
        while piece := answer.read(STEP_BYTES):
            got.update(piece)
            size += len(piece)
    finally:
        connection.close()
    assert (size, got.hexdigest()) == (SIZE, digest)
    assert_little_memory(made)
