"""A service under systemd: a unit like any other, and systemd brings it back when it was killed or hangs."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from tests.support.load import Load
from tests.support.machines import needs_programs
from tests.support.rootfs import Kind
from tests.support.services import Service, running_pid
from tests.support.waiting import eventually

pytestmark = [needs_programs, pytest.mark.timeout(900)]
MakeService = Callable[[Kind], Service]
WATCHDOG = "[Service]\nWatchdogSec=2\n"


@pytest.fixture
def here(service: MakeService) -> Service:
    """Installed and started, and both nodes serve."""
    return service(Kind.SYSTEMD).install().start()


def shown(here: Service, name: str) -> str:
    return here.machine.run("systemctl", "show", "--value", f"--property={name}", "spawn").stdout.strip()


def test_it_is_a_unit_like_any_other(here: Service) -> None:
    assert here.machine.run("systemctl", "is-enabled", "spawn").stdout == "enabled\n"
    assert here.machine.run("systemctl", "is-active", "spawn").stdout == "active\n"
    assert shown(here, "MainPID") == str(here.pid)
    assert here.machine.run("ps", "-o", "user=", "-p", str(here.pid)).stdout.strip() == "spawn", "not root"
    verified = here.machine.run("systemd-analyze", "verify", "/etc/systemd/system/spawn.service")
    assert verified.stdout + verified.stderr == "", "systemd has nothing to say against it"
    # What systemctl does, spawnctl sees
    here.machine.run("systemctl", "restart", "spawn")
    assert here.wait_serving() == int(shown(here, "MainPID"))
    here.machine.run("systemctl", "stop", "spawn")
    assert running_pid(here.machine) is None
    assert shown(here, "Result") == "success"


def test_kill_9_is_followed_by_a_restart_and_nothing_is_lost(here: Service) -> None:
    first = here.wait_serving()
    with Load(here.url, total=300, stubborn=True) as load:
        load.wait_acknowledged(100)
        here.machine.kill(first)
        load.join()
    assert load.failures, "the kill came too late to be a test"
    assert here.wait_serving(other_than=first)
    assert shown(here, "NRestarts") == "1"
    here.check_history(load, kills=1)


def test_reload_takes_up_a_node(here: Service) -> None:
    first = here.wait_serving()
    here.nodes.append(here.new_node())
    here.write_config()
    here.machine.run("systemctl", "reload", "spawn")
    eventually(lambda: len(here.api.nodes()) == 3, timeout_s=20, what="three nodes")
    assert here.wait_serving() == first, "the same process"


def test_a_process_that_hangs_is_replaced(here: Service) -> None:
    here.machine.put("/etc/systemd/system/spawn.service.d/watchdog.conf", WATCHDOG)
    here.machine.run("systemctl", "daemon-reload")
    here.machine.run("systemctl", "restart", "spawn")
    first = here.wait_serving()
    with Load(here.url, total=400, clients=2, pause_s=0.02) as load:  # it takes four seconds, two watchdogs
        load.join()
    assert load.failures == [], "whoever works is left in peace"
    assert here.pid == first
    here.machine.kill(first, signal.SIGSTOP)
    assert here.wait_serving(other_than=first)
    assert "watchdog" in here.log().lower()
    here.check_history(load, kills=1)
