"""What a service manager hears of a real process by sd_notify(3): its phases, its status, and that it is alive."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from spawnctl.pidfile import PidFile
from tests.support import hangable
from tests.support.api import session
from tests.support.cluster import SPAWNCTL, LoggingNode, Spawn, spawn_environment
from tests.support.disks import freeze, hanging_disk, thaw
from tests.support.manager import Manager
from tests.support.processes import Processes, free_port
from tests.support.spawnctl import environment, spawnctl
from tests.support.waiting import eventually

WATCHDOG_S = 1.2
WATCHDOG = {"WATCHDOG_USEC": str(round(WATCHDOG_S * 1_000_000))}
PHASES = ("READY", "RELOADING", "STOPPING")


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with Manager(tmp_path / "notify") as made:
        yield made


def supervised(
    processes: Processes, manager: Manager, *ports: int, more: Mapping[str, str] = {}, **settings: Any
) -> Spawn:
    """A Spawn that is not started yet, in the environment that systemd would give it."""
    keys = {key.replace("_", "-"): value for key, value in settings.items()}
    spawn = Spawn(processes, ports, keys)
    env = spawn_environment(processes.directory) | {"NOTIFY_SOCKET": str(manager.path), **more}
    command = [*SPAWNCTL, f"--config={spawn.config_path}"]
    spawn.process = processes.add("supervised", command, environment=env, must_be_clean=True)
    return spawn


class Hangable:
    """A Spawn with a watchdog that hangs when it is told to."""

    def __init__(self, processes: Processes, manager: Manager) -> None:
        self.spawn = supervised(processes, manager)
        self._orders = processes.directory / "orders"
        env = spawn_environment(processes.directory) | {"NOTIFY_SOCKET": str(manager.path), **WATCHDOG}
        command = [sys.executable, "-m", hangable.__name__, str(self.spawn.config_path), str(self._orders)]
        self.process = self.spawn.process = processes.add("hangable", command, environment=env)
        self.spawn.start()
        manager.until(lambda: manager.heard("WATCHDOG"), "the watchdog is served")

    def order(self, word: str) -> None:
        new = self._orders.with_suffix(".new")
        new.write_text(word, "ascii")
        new.rename(self._orders)
        eventually(lambda: not self._orders.exists(), timeout_s=10, what="the order is taken")


# --- phases and status


def test_the_phases_are_told_in_their_order(processes: Processes, manager: Manager) -> None:
    node = LoggingNode(processes, "node").start()
    spawn = supervised(processes, manager, node.port, timeouts={"shutdown": 7})
    # When it starts, then it asks for time, and is ready when its ports are open
    spawn.process.start()
    manager.until(lambda: manager.heard("READY"), "it is ready")
    with socket.create_connection(("127.0.0.1", spawn.port), timeout=1):
        pass
    assert "EXTEND_TIMEOUT_USEC" in manager.names("EXTEND_TIMEOUT_USEC", *PHASES)
    assert manager.names("EXTEND_TIMEOUT_USEC", *PHASES)[-1] == "READY"
    assert manager.heard("STATUS")[0].message["STATUS"].startswith("starting: ")
    manager.until_status(
        f"serving on 127.0.0.1:{spawn.port}, API on 127.0.0.1:{spawn.config['api']['port']}; 1 of 1 nodes serving, "
        "journal at update 0"
    )
    # When it reads its configuration again, then that is told with the time of it
    before_us = time.monotonic_ns() // 1_000
    spawn.hang_up()
    manager.until(lambda: manager.names(*PHASES) == ["READY", "RELOADING", "READY"], "the reload is over")
    reloading = manager.heard("RELOADING")[0].message
    assert before_us <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1_000
    # When it is told to stop, then it asks for all the time that it may take
    assert spawn.stop() == 0
    assert manager.names(*PHASES) == ["READY", "RELOADING", "READY", "STOPPING"]
    stopping = manager.heard("STOPPING")[0].message
    assert stopping["EXTEND_TIMEOUT_USEC"] == "22000000"
    assert manager.status.startswith("stopping")
    assert manager.heard("WATCHDOG") == []


def test_a_stop_while_it_starts_is_told(processes: Processes, manager: Manager) -> None:
    with socket.socket() as silent:  # a node that takes connections and never answers keeps the start waiting
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        check = {"seconds": 10, "url": "/info", "timeout": 10}
        spawn = supervised(processes, manager, silent.getsockname()[1], health_check=check)
        spawn.process.start()
        manager.until_status("starting: asking the nodes")
        assert spawn.stop() == 0
    assert manager.names(*PHASES) == ["STOPPING"]


def test_a_bad_reload_is_in_the_status_until_a_good_one(processes: Processes, manager: Manager) -> None:
    spawn = supervised(processes, manager).start()
    good = spawn.config_path.read_text("utf-8")
    spawn.config_path.write_text('{"nodse": []}', "utf-8")
    spawn.hang_up()
    manager.until(lambda: manager.names(*PHASES) == ["READY", "RELOADING", "READY"], "the reload is over")
    manager.until_status("; the configuration was not taken over at ", ", see the log")
    spawn.config_path.write_text(good, "utf-8")
    spawn.hang_up()
    manager.until(lambda: manager.names("READY") == ["READY"] * 3, "the reload is over")
    assert "not taken over" not in manager.status
    assert spawn.stop() == 0


def test_the_status_follows_the_nodes_and_not_the_requests(processes: Processes, manager: Manager) -> None:
    node, late = LoggingNode(processes, "node").start(), LoggingNode(processes, "late")
    spawn = supervised(processes, manager, node.port, late.port).start()
    manager.until_status("1 of 2 nodes serving", "journal at update 0")
    with session() as client:
        for n in range(40):
            assert client.put(f"{spawn.url}/items/{n}", data=b"x", timeout=10).status_code == 201
    manager.until_status("journal at update 40", f"largest backlog 40 (127.0.0.1:{late.port})")
    late.start()
    manager.until_status("2 of 2 nodes serving, journal at update 40")
    assert "backlog" not in manager.status
    told = manager.heard("STATUS")
    assert spawn.stop() == 0
    early = [each.message for each in told if "READY" not in each.message]
    assert len(early) < 12, "once every few seconds, and not for each request"


# --- alive


def test_the_watchdog_is_served_in_time_until_the_end(processes: Processes, manager: Manager) -> None:
    node = LoggingNode(processes, "node").start()
    spawn = supervised(processes, manager, node.port, more=WATCHDOG).start()
    manager.until(lambda: len(manager.heard("WATCHDOG")) > 10, "it is served")
    # Also while it stops, which a request in flight holds up
    with socket.create_connection(("127.0.0.1", spawn.port), timeout=5) as client:
        client.sendall(b"GET /items/x?delay=2 HTTP/1.1\r\nHost: a\r\n\r\n")
        eventually(lambda: node.busy() == 1, timeout_s=10, what="the request is under way")
        spawn.process.send(signal.SIGTERM)
        manager.until(lambda: manager.heard("STOPPING"), "it stops")
        manager.until_status("stopping: requests in flight: 1")
        while spawn.process.alive:
            manager.heard()
            time.sleep(0.02)
    assert spawn.process.exit_code == 0
    pings = [each.time_s for each in manager.heard("WATCHDOG")]
    assert max(b - a for a, b in pairwise(pings)) < WATCHDOG_S
    assert pings[-1] > manager.heard("STOPPING")[0].time_s + 1
    assert manager.names("READY", "WATCHDOG")[0] == "READY", "the first word to the watchdog starts it"


def test_a_watchdog_that_is_meant_for_another_process_is_not_served(processes: Processes, manager: Manager) -> None:
    spawn = supervised(processes, manager, more=WATCHDOG | {"WATCHDOG_PID": "1"}).start()
    manager.until(lambda: manager.heard("READY"), "it is ready")
    assert manager.counts("WATCHDOG", during_s=1.0) == 0
    assert spawn.stop() == 0


def test_a_hub_that_is_blocked_is_not_alive_and_its_end_shows_where(processes: Processes, manager: Manager) -> None:
    hanging = Hangable(processes, manager)
    hanging.order("hub")
    assert manager.counts("WATCHDOG", during_s=WATCHDOG_S) == 0
    # When it is ended as systemd does it, then the log shows what it was about
    hanging.process.send(signal.SIGABRT)
    assert hanging.process.wait(10) == -signal.SIGABRT
    assert "in hang_the_hub" in hanging.process.output()


def test_a_journal_that_hangs_is_not_alive_although_the_hub_is(processes: Processes, manager: Manager) -> None:
    hanging = Hangable(processes, manager)
    hanging.order("journal")
    hanging.spawn.wait_output(lambda output: "thread has not answered" in output, what="it is said")
    assert manager.counts("WATCHDOG", during_s=2 * WATCHDOG_S) == 0
    assert hanging.spawn.api.healthy()
    hanging.process.send(signal.SIGABRT)
    assert hanging.process.wait(10) == -signal.SIGABRT
    assert "in hang_the_journal" in hanging.process.output()
    assert hanging.process.output().count("thread has not answered") == 1


def test_a_long_piece_of_work_of_the_journals_thread_is_a_sign_of_life(processes: Processes, manager: Manager) -> None:
    hanging = Hangable(processes, manager)
    hanging.order("busy")
    began_s = time.monotonic()
    end_s = began_s + hangable.BUSY_S - 1
    while time.monotonic() < end_s:
        manager.heard()
        time.sleep(0.02)
    pings = [began_s, *(each.time_s for each in manager.heard("WATCHDOG") if each.time_s > began_s), end_s]
    assert max(b - a for a, b in pairwise(pings)) < WATCHDOG_S
    assert hanging.process.stop() == 0


def test_a_disk_that_hangs_stops_the_signs_of_life_until_it_goes_on(processes: Processes, manager: Manager) -> None:
    node = LoggingNode(processes, "node").start()
    with hanging_disk(processes.directory / "disk") as disk:
        spawn = supervised(processes, manager, node.port, more=WATCHDOG, state_dir=str(disk / "state")).start()
        spawn.api.wait_settled()
        manager.until(lambda: manager.heard("WATCHDOG"), "the watchdog is served")
        freeze(disk)
        try:
            with session() as client, pytest.raises(OSError):
                client.put(f"{spawn.url}/items/x", data=b"x", timeout=0.5)
            assert manager.counts("WATCHDOG", during_s=2 * WATCHDOG_S) == 0
        finally:
            thaw(disk)
        assert manager.counts("WATCHDOG", during_s=2 * WATCHDOG_S) > 2
        assert spawn.stop() == 0


# --- a bad manager, and the log


def test_a_manager_that_never_reads_holds_nothing_up(processes: Processes, manager: Manager) -> None:
    more = {"WATCHDOG_USEC": "60000"}
    spawn = supervised(processes, manager, more=more).start()
    deaf = "the service manager does not hear"
    spawn.wait_output(lambda output: deaf in output, what="it is said that nobody reads")
    for n in range(1, 6):
        spawn.hang_up()
        began_s = time.monotonic()
        assert spawn.api.healthy()
        assert time.monotonic() - began_s < 2
        spawn.wait_output(lambda output, n=n: output.count("was read again") == n, what="the reload")  # type: ignore[misc]
    # When it reads at last, then it hears how things are, and what has happened in its order
    manager.until(lambda: manager.names(*PHASES)[-2:] == ["RELOADING", "READY"], "it hears of the last reload")
    assert spawn.process.output().count(deaf) == 1
    assert spawn.stop() == 0


def test_a_manager_that_is_gone_is_said_once(processes: Processes, manager: Manager) -> None:
    manager.path.unlink()
    spawn = supervised(processes, manager, more=WATCHDOG).start()
    spawn.hang_up()
    spawn.wait_output(lambda output: "was read again" in output, what="the reload")
    assert spawn.stop() == 0
    assert spawn.process.output().count("the service manager does not hear") == 1


@pytest.mark.skipif(
    os.path.exists("/etc/init.d/spawn") or os.path.exists("/etc/systemd/system/spawn.service"),
    reason="Spawn is installed as a service on this machine",
)
def test_a_daemon_that_is_aborted_leaves_its_stacks_in_the_log_file_of_the_day(tmp_path: Path) -> None:
    port, api_port = free_port(), free_port()
    config = {"host": "127.0.0.1", "port": port, "api": {"port": api_port}, "state-dir": "state"}
    (tmp_path / "spawn.conf").write_text(json.dumps(config | {"log": {"file": "spawn.log"}}), "utf-8")
    pid_file = PidFile(tmp_path / "run" / "spawn.pid")
    log, old = tmp_path / "spawn.log", tmp_path / "spawn.log.1"
    assert environment(tmp_path)["SPAWN_RUNTIME_DIRECTORY"] == str(pid_file.path.parent)
    assert spawnctl("start", cwd=tmp_path).returncode == 0
    pid = pid_file.holder()
    assert pid is not None
    try:
        # Given a log file that was moved away
        log.rename(old)
        os.kill(pid, signal.SIGUSR1)
        eventually(log.exists, timeout_s=10, what="the log file is opened anew")
        printed = [Path(f"/proc/{pid}/fd/{descriptor}") for descriptor in (1, 2)]
        eventually(lambda: all(each.samefile(log) for each in printed), timeout_s=10, what="what it prints goes there")
        os.kill(pid, signal.SIGABRT)
        eventually(lambda: pid_file.holder() is None, timeout_s=10, what="the daemon is gone")
    finally:
        if pid_file.holder() == pid:
            os.kill(pid, signal.SIGKILL)
    assert "Fatal Python error: Aborted" in log.read_text("utf-8")
    assert "(most recent call first)" in log.read_text("utf-8")
    assert "Fatal" not in old.read_text("utf-8")
