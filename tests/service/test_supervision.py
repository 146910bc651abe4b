"""When a service manager is told what, of services in process; tests/e2e/test_service_manager.py has real ones."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest
from gevent.event import Event

from spawn.journal.sqlite import SqliteJournal
from spawn.service import supervision
from spawn.service.notify import ServiceManager
from spawn.service.supervision import Supervision
from tests.support.inprocess import Cluster, until
from tests.support.manager import Manager, fill
from tests.support.node import AppNode

ASK_S = 0.1


class Told:
    """A service that says of itself what it is told to."""

    shutdown_s = 30.0

    def __init__(self) -> None:
        self.alive = True
        self.text = "starting"
        self.asked = 0
        self.taken: bool | Exception = True
        self.goes_on = Event()  # a reload ends when it is set
        self.goes_on.set()

    def status(self) -> str:
        self.asked += 1
        return self.text

    def answers(self, timeout_s: float) -> bool:
        if not self.alive:
            gevent.sleep(timeout_s)
        return self.alive

    def reload(self) -> bool:
        gevent.sleep(0.01)
        self.goes_on.wait(20)
        if isinstance(self.taken, Exception):
            raise self.taken
        return self.taken


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    monkeypatch.setattr(supervision, "START_ASK_S", ASK_S)
    monkeypatch.setattr(supervision, "STATUS_S", 0.05)
    with Manager(tmp_path / "notify") as made:
        yield made


@pytest.fixture
def service() -> Told:
    return Told()


@pytest.fixture
def supervised(service: Told, manager: Manager) -> Iterator[Supervision]:
    made = Supervision(service, ServiceManager(str(manager.path)))
    made.start()
    yield made
    made.stop()


def more(manager: Manager, name: str, during_s: float = 5 * ASK_S) -> int:
    before = len(manager.heard(name))
    gevent.sleep(during_s)
    return len(manager.heard(name)) - before


def test_a_slow_start_is_given_time_while_it_is_alive(service: Told, supervised: Supervision, manager: Manager) -> None:
    until(lambda: len(manager.heard("EXTEND_TIMEOUT_USEC")) >= 3, "it is given time again and again")
    assert int(manager.heard("EXTEND_TIMEOUT_USEC")[0].message["EXTEND_TIMEOUT_USEC"]) > 60_000_000
    service.alive = False
    gevent.sleep(ASK_S)
    assert more(manager, "EXTEND_TIMEOUT_USEC") == 0
    service.alive = True
    until(lambda: more(manager, "EXTEND_TIMEOUT_USEC", ASK_S) > 0, "it is alive again")
    supervised.ready()
    gevent.sleep(ASK_S)
    assert more(manager, "EXTEND_TIMEOUT_USEC") == 0


def test_a_slow_reload_is_given_time_while_it_is_alive_and_only_then(
    service: Told, supervised: Supervision, manager: Manager
) -> None:
    supervised.ready()
    gevent.sleep(2 * ASK_S)  # nothing more is on its way
    assert more(manager, "EXTEND_TIMEOUT_USEC") == 0
    service.goes_on.clear()
    reloading = gevent.spawn(supervised.reload)
    until(lambda: manager.names("RELOADING", "EXTEND_TIMEOUT_USEC")[-3:] == ["EXTEND_TIMEOUT_USEC"] * 3, "given time")
    assert int(manager.heard("EXTEND_TIMEOUT_USEC")[-1].message["EXTEND_TIMEOUT_USEC"]) > 60_000_000
    assert manager.heard("WATCHDOG") == [], "there is none"
    service.alive = False
    gevent.sleep(ASK_S)
    assert more(manager, "EXTEND_TIMEOUT_USEC") == 0
    service.alive = True
    until(lambda: more(manager, "EXTEND_TIMEOUT_USEC", ASK_S) > 0, "it is alive again")
    service.goes_on.set()
    reloading.join(5)
    assert manager.names("READY", "RELOADING") == ["READY", "RELOADING", "READY"]
    assert more(manager, "EXTEND_TIMEOUT_USEC") == 0
    assert manager.names("READY", "EXTEND_TIMEOUT_USEC")[-1] == "READY"


def test_a_reload_is_given_time_at_once(
    service: Told, supervised: Supervision, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervised.ready()
    gevent.sleep(2 * ASK_S)
    supervised.stop()
    monkeypatch.setattr(supervision, "START_ASK_S", 60.0)
    supervised.start()
    service.goes_on.clear()
    reloading = gevent.spawn(supervised.reload)
    until(lambda: manager.names("RELOADING", "EXTEND_TIMEOUT_USEC")[-1:] == ["EXTEND_TIMEOUT_USEC"], "given time", 5)
    service.goes_on.set()
    reloading.join(5)


def test_more_time_for_a_reload_is_no_more_time_for_the_watchdog(service: Told, manager: Manager) -> None:
    supervised = Supervision(service, ServiceManager(str(manager.path), watchdog_s=60 * ASK_S))
    supervised.start()
    supervised.ready()
    service.goes_on.clear()
    reloading = gevent.spawn(supervised.reload)
    until(lambda: len(manager.heard("RELOADING")) == 1, "it reloads")
    until(lambda: more(manager, "EXTEND_TIMEOUT_USEC", ASK_S) > 0, "it is given time")
    service.goes_on.set()
    reloading.join(5)
    assert more(manager, "WATCHDOG") > 1
    supervised.stop()
    began_s = manager.heard("RELOADING")[0].time_s
    extended = [each for each in manager.heard("EXTEND_TIMEOUT_USEC") if each.time_s >= began_s]
    assert extended
    assert all(each.message.get("WATCHDOG") == "1" for each in extended), "or systemd would wait for it as long"
    assert "EXTEND_TIMEOUT_USEC" not in manager.heard("WATCHDOG")[-1].message


def test_a_stop_while_it_reloads_is_given_no_more_than_it_asked_for(
    service: Told, supervised: Supervision, manager: Manager
) -> None:
    supervised.ready()
    service.goes_on.clear()
    reloading = gevent.spawn(supervised.reload)
    until(lambda: manager.heard("RELOADING"), "it reloads")
    supervised.stopping()
    assert more(manager, "EXTEND_TIMEOUT_USEC") == 0
    service.goes_on.set()
    reloading.join(5)


def test_a_status_is_told_when_it_changes_and_not_before(
    service: Told, supervised: Supervision, manager: Manager
) -> None:
    until(lambda: manager.status == "starting", "the first status")
    until(lambda: service.asked > 4, "it is looked at again")
    assert len(manager.heard("STATUS")) == 1
    service.text = "starting: something"
    until(lambda: manager.status == "starting: something", "the second status")
    assert len(manager.heard("STATUS")) == 2


def test_nothing_is_ready_that_stops(service: Told, supervised: Supervision, manager: Manager) -> None:
    supervised.ready()
    reloading = gevent.spawn(supervised.reload)
    gevent.sleep(0)
    supervised.stopping()
    supervised.stopping()
    reloading.join(5)
    assert manager.names("READY", "RELOADING", "STOPPING") == ["READY", "RELOADING", "STOPPING"]


def test_what_it_must_hear_is_told_as_soon_as_it_reads(supervised: Supervision, manager: Manager) -> None:
    until(lambda: manager.heard("STATUS"), "it hears something")
    fill(manager)
    supervised.ready()
    assert manager.heard("READY") == []
    until(lambda: manager.heard("READY"), "it hears that, although nothing else is new")


def test_two_reloads_are_told_one_after_the_other(service: Told, supervised: Supervision, manager: Manager) -> None:
    gevent.joinall([gevent.spawn(supervised.reload) for _ in range(2)], timeout=5, raise_error=True)
    assert manager.names("READY", "RELOADING") == ["RELOADING", "READY"] * 2


def test_a_reload_that_fails_is_over_all_the_same(service: Told, supervised: Supervision, manager: Manager) -> None:
    service.taken = ValueError("a bug")
    with pytest.raises(ValueError, match="a bug"):
        supervised.reload()
    assert manager.names("READY", "RELOADING") == ["RELOADING", "READY"]
    assert "not taken over" in manager.status


def test_an_embedded_service_tells_nobody(tmp_path: Path, manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(manager.path))
    monkeypatch.setenv("WATCHDOG_USEC", "100000")
    with Cluster(tmp_path, [AppNode("a")]) as cluster:
        cluster.post()
        gevent.sleep(0.2)
    assert manager.heard() == []


def test_the_status_names_who_is_furthest_behind_and_who_is_out_of_sync(tmp_path: Path) -> None:
    nodes = [AppNode("a"), AppNode("b"), AppNode("c")]
    with Cluster(tmp_path, nodes) as cluster:
        assert "; 3 of 3 nodes serving, journal at update 0" in cluster.service.status()
        assert "backlog" not in cluster.service.status()
        for late in nodes[1:]:
            cluster.change(late, maintenance=True)
        cluster.post()
        assert ", journal at update 1, largest backlog 1 (127.0.0.1:" in cluster.service.status()
        cluster.live(nodes[1]).out_of_sync = True
        assert cluster.service.status().endswith(f"1 out of sync, largest backlog 1 (127.0.0.1:{nodes[2].port})")
        cluster.live(nodes[1]).out_of_sync = False
    assert cluster.service.status() == "stopped"


def test_a_journal_that_hangs_while_it_is_opened_is_not_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    journal = SqliteJournal(str(tmp_path / "journal"), 1 << 20, ballast_bytes=0)
    monkeypatch.setattr(journal._writer, "call", hanging_before(journal, release))
    starting = gevent.spawn(journal.start, lambda batch: None, lambda reason: None)
    gevent.sleep(0.1)
    try:
        assert not journal.answers(0.2)
    finally:
        release.set()
    starting.get(timeout=10)
    assert journal.answers(5)
    journal.stop(5)


def hanging_before(journal: SqliteJournal, release: threading.Event):  # type: ignore[no-untyped-def]
    real = journal._writer.call

    def call(function, *args):  # type: ignore[no-untyped-def]
        if function.__name__ != "open":
            return real(function, *args)
        return real(lambda: (release.wait(20), function(*args))[1])

    return call
