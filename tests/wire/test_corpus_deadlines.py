"""Requests of the corpus that never become whole, on connections that stay open: told so in time, and never seen."""

from __future__ import annotations

import re
from collections.abc import Iterator

import gevent
import pytest

from tests.support.corpus import RequestCase, request_cases
from tests.support.inprocess import Cluster
from tests.support.rawhttp import RawClient
from tests.support.rawnode import RawNode

SHORT_S = 0.3
UNFINISHED = [
    case for case in request_cases() if "incomplete" in (case.expect, case.then) and not (case.accepted and case.close)
]
SILENT = {"cut/empty-line"}  # a line end is no beginning of a request, so there is nobody to be told


@pytest.fixture(scope="module")
def node() -> RawNode:
    return RawNode()


@pytest.fixture(scope="module")
def cluster(node: RawNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    timeouts = {"head": SHORT_S, "body": SHORT_S, "idle": SHORT_S}
    with Cluster(tmp_path_factory.mktemp("site"), [node], timeouts=timeouts, health_check={"seconds": 5.0}) as cluster:
        yield cluster


@pytest.mark.parametrize("port", ["proxy", "api"])
def test_unfinished_requests_are_told_so_in_time(cluster: Cluster, node: RawNode, port: str) -> None:
    """All at once, since each of them takes its deadline."""
    node.seen.clear()
    head = cluster.service._journal.head
    number = cluster.port if port == "proxy" else cluster.service.api_address[1]
    waiting = {case.name: gevent.spawn(statuses, number, case) for case in UNFINISHED}
    gevent.joinall(list(waiting.values()), timeout=20, raise_error=True)
    for case in UNFINISHED:
        found = waiting[case.name].get()
        assert len(found) == case.accepted + (case.name not in SILENT), case.name
        assert [status == 408 for status in found[case.accepted :]] == [True] * (case.name not in SILENT), case.name
        assert 408 not in found[: case.accepted], case.name
    assert len(node.seen) == (sum(case.accepted for case in UNFINISHED) if port == "proxy" else 0)
    assert cluster.service._journal.head - head == sum(request.is_update for request in node.seen)


def statuses(port: int, case: RequestCase) -> list[int]:
    """Of all final answers, until the server ends the connection."""
    with RawClient(port) as client:
        client.send(case.data)
        return [int(status) for status in re.findall(rb"HTTP/1\.1 ([2-5][0-9]{2}) ", client.rest())]


@pytest.mark.parametrize("port", ["proxy", "api"])
def test_an_idle_connection_is_just_closed(cluster: Cluster, port: str) -> None:
    number = cluster.port if port == "proxy" else cluster.service.api_address[1]
    with RawClient(number) as fresh, RawClient(number) as used:
        used.send(b"GET /info HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert used.answer().status == 200
        assert fresh.at_end()
        assert used.at_end()
