"""``Service`` in somebody's own program: it starts, stops, fails to start, and leaves nothing behind."""

from __future__ import annotations

import gc
import http.client
import os
import socket as stdlib
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest
from gevent import socket
from gevent.event import Event
from gevent.greenlet import Greenlet

from spawn import Config, Service
from spawn.errors import JournalBroken, StartError, StateError
from tests.support.inprocess import Cluster, fetch, make_config, until
from tests.support.node import AppNode, Reply


def cut_off(port: int, method: str) -> bool:
    """Whether a request ends without an answer."""
    try:
        fetch(port, method, "/", b"x")
    except (ConnectionError, http.client.HTTPException):
        return True
    return False


def greenlets() -> int:
    gc.collect()
    return sum(isinstance(thing, Greenlet) and not thing.dead for thing in gc.get_objects())


def descriptors() -> int:
    gevent.sleep(0.01)  # gevent closes some in the next round of its loop
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Neither greenlets nor descriptors, once what the process keeps for itself has been made."""
    gevent.get_hub().threadpool.apply(lambda: None)
    before = greenlets(), descriptors()
    yield
    until(lambda: (greenlets() <= before[0]) and (descriptors() <= before[1]), "all is closed", timeout_s=12.0)


def test_start_serve_stop(tmp_path: Path, nothing_left: None) -> None:
    with AppNode("a") as node:
        service = Service(make_config([node], {}), state_dir=str(tmp_path / "state"))
        service.start()
        assert fetch(service.proxy_address[1], "GET", "/").body == b"a"
        assert fetch(service.proxy_address[1], "POST", "/", b"x").sequence == 1
        assert fetch(service.api_address[1], "GET", "/health").status == 200
        assert not service.wait(0.01)
        service.stop()
        assert service.wait(1.0)
        service.stop()
        with pytest.raises(OSError):
            socket.create_connection(service.proxy_address)


def test_two_services_in_one_process(tmp_path: Path, nothing_left: None) -> None:
    with AppNode("a") as one, AppNode("b") as two:
        services = [Service(make_config([node], {}), state_dir=str(tmp_path / node.name)) for node in (one, two)]
        for service in services:
            service.start()
        assert [fetch(service.proxy_address[1], "GET", "/").body for service in services] == [b"a", b"b"]
        for service in services:
            service.stop(2.0)


def test_a_stopped_service_can_be_started_again(tmp_path: Path, nothing_left: None) -> None:
    with AppNode("a") as node:
        service = Service(make_config([node], {}), state_dir=str(tmp_path / "state"))
        for number in range(1, 4):
            service.start()
            assert not service.wait(0.01)
            assert fetch(service.proxy_address[1], "POST", "/", b"x").sequence == number
            with pytest.raises(StartError, match="runs already"):
                service.start()
            service.stop(2.0)


def test_one_that_never_started_can_be_stopped(tmp_path: Path) -> None:
    Service(Config(), state_dir=str(tmp_path / "state")).stop()
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("taken", ["port", "api"])
def test_a_taken_port_leaves_nothing_running(tmp_path: Path, taken: str, nothing_left: None) -> None:
    with stdlib.socket() as other, AppNode("a") as node:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        port = other.getsockname()[1]
        config = make_config([node], {"port": port} if taken == "port" else {"api": {"port": port}})
        service = Service(config, state_dir=str(tmp_path / "state"))
        with pytest.raises(StartError, match=str(port)):
            service.start()
        assert not (tmp_path / "state" / "nodes.json").exists()
        assert node.checks == 0
        other.close()
        service = Service(config, state_dir=str(tmp_path / "state"))  # the lock is free
        service.start()
        service.stop(1.0)


def test_a_state_directory_that_another_one_uses(tmp_path: Path, nothing_left: None) -> None:
    first, second = (Service(make_config([], {}), state_dir=str(tmp_path / "state")) for _ in range(2))
    first.start()
    with pytest.raises(StateError, match="in use"):
        second.start()
    assert fetch(first.api_address[1], "GET", "/health").status == 200
    first.stop(1.0)


@pytest.mark.parametrize("damage", ["nodes.json", "journal.db"])
def test_damaged_records_leave_nothing_running(tmp_path: Path, damage: str, nothing_left: None) -> None:
    service = Service(make_config([], {}), state_dir=str(tmp_path / "state"))
    service.start()
    service.stop(1.0)
    [path] = (tmp_path / "state").rglob(damage)
    path.write_bytes(b"not what it was" * 400)
    with pytest.raises(StartError, match=damage.partition(".")[0]):
        Service(make_config([], {}), state_dir=str(tmp_path / "state")).start()


def test_a_stop_lets_what_is_in_flight_finish(tmp_path: Path, nothing_left: None) -> None:
    gate = Event()
    node = AppNode("a", answers=lambda seen: Reply(200, b"late", gate=gate))
    with Cluster(tmp_path, [node]) as cluster:
        clients = [cluster.background(cluster.post), cluster.background(cluster.get)]
        until(lambda: len(node.requests) == 2, "both are there")
        stop = cluster.background(cluster.service.stop, 8.0)
        gevent.sleep(0.02)
        assert not stop.ready()
        gate.set()
        assert [client.get(timeout=5).body for client in clients] == [b"late", b"late"]
        stop.get(timeout=8)


def test_a_stop_has_an_end(tmp_path: Path, nothing_left: None) -> None:
    node = AppNode("a", answers=lambda seen: Reply(200, gate=Event()))
    with Cluster(tmp_path, [node]) as cluster:
        clients = [cluster.background(cut_off, cluster.port, method) for method in ("POST", "GET", "PUT")]
        until(lambda: len(node.requests) >= 2 and cluster.service._journal.head == 2, "they are there")
        idle = socket.create_connection(("127.0.0.1", cluster.port))
        with gevent.Timeout(8.0):
            cluster.service.stop(0.5)
        idle.close()
        assert [client.get(timeout=2.0) for client in clients] == [True] * 3
        node.answers = None
        cluster.service = cluster._new_service()
        cluster.service.start()
        cluster.until_applied(2)  # the two updates were in the journal


def test_a_broken_journal_reaches_the_owner(tmp_path: Path, nothing_left: None) -> None:
    with AppNode("a") as node:
        service = Service(make_config([node], {}), state_dir=str(tmp_path / "state"))
        service.start()
        waiting = gevent.spawn(service.wait)
        gevent.sleep(0)
        service._journal._committer.fail("the disk is gone")  # type: ignore[attr-defined]
        with pytest.raises(JournalBroken, match="the disk is gone"):
            waiting.get(timeout=2)
        assert fetch(service.proxy_address[1], "POST", "/", b"x").status == 503
        assert fetch(service.api_address[1], "GET", "/health").status == 503
        with gevent.Timeout(3.0):
            service.stop()
