"""What the service commands promise on any machine: what they say, their exit codes, and what they leave behind."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.machines import Machine, needs_programs
from tests.support.rootfs import Kind
from tests.support.services import RESTLESS, Service, changes, fails, install_wheel, running_pid, spawnctl, succeeds

pytestmark = [needs_programs, pytest.mark.timeout(900)]
MakeService = Callable[[Kind], Service]
kinds = pytest.mark.parametrize("kind", Kind, ids=str)
KEPT = ("/etc/spawn", "/var/lib/spawn", "/var/log/spawn.log")
USERS = ("/etc/passwd", "/etc/shadow", "/etc/group", "/etc/gshadow")


def left_by_remove(path: str) -> bool:
    return path in USERS or any(path == kept or path.startswith(f"{kept}/") for kept in KEPT)


@kinds
def test_every_command_says_whether_it_worked(machine: Callable[..., Machine], kind: Kind) -> None:
    here = machine(kind, private_network=True)
    install_wheel(here)
    # Given no service, then there is nothing to start, to ask after or to remove
    assert spawnctl(here, "status").returncode == 3
    fails(here, "remove")
    # When it is installed, then it does not run before it is started
    succeeds(here, "install")
    fails(here, "install")
    assert running_pid(here) is None
    fails(here, "stop")
    # When it is started, a second start disturbs nothing
    succeeds(here, "start")
    pid = running_pid(here)
    fails(here, "start")
    assert running_pid(here) == pid is not None
    # Whoever is not root is told so, and may look
    for command in ("start", "stop", "install", "remove"):
        assert "root" in fails(here, command, user="nobody")
    assert spawnctl(here, "status", user="nobody").returncode == 0
    succeeds(here, "stop")
    assert running_pid(here) is None
    succeeds(here, "remove")
    assert spawnctl(here, "status").returncode == 3


@kinds
def test_a_terminal_gets_colours_unless_it_wants_none(machine: Callable[[Kind], Machine], kind: Kind) -> None:
    here = machine(kind)
    install_wheel(here)
    assert "\033[32mOK\033[0m" in spawnctl(here, "install", tty=True).stdout
    shown = here.run("/opt/spawn/bin/spawnctl", "remove", tty=True, environment={"NO_COLOR": "1"}).stdout
    assert "OK" in shown
    assert "\033" not in shown


@kinds
def test_remove_leaves_configuration_state_log_and_user(service: MakeService, kind: Kind) -> None:
    here = service(kind)
    install_wheel(here.machine)
    before = here.machine.files(RESTLESS)
    here.install().start()
    assert here.put("a", "1").status_code == 201
    # When a running service is removed, then it is stopped, and what is left is what cannot be made again
    said = succeeds(here.machine, "remove")
    log = ", the log in /var/log/spawn.log" if kind is Kind.SYSV else ""
    assert f"Kept: the configuration in /etc/spawn, the journal in /var/lib/spawn{log}." in said
    assert running_pid(here.machine) is None
    left = changes(before, here.machine.files(RESTLESS))
    assert [path for path in left if not left_by_remove(path)] == []
    assert "/etc/spawn/spawn.conf" in left
    assert any(path.endswith("/journal.db") for path in left)
    # When it is installed again, then it goes on from there
    succeeds(here.machine, "install", *here.options)
    here.start()
    assert here.put("b", "2").headers["Spawn-Sequence"] == "2"


@kinds
def test_purge_leaves_nothing(service: MakeService, kind: Kind) -> None:
    here = service(kind)
    install_wheel(here.machine)
    before = here.machine.files(RESTLESS)
    here.install().start()
    assert here.put("a", "1").status_code == 201
    succeeds(here.machine, "remove", "--purge")
    assert running_pid(here.machine) is None
    assert changes(before, here.machine.files(RESTLESS)) == []
    # Also of a service that has been removed before, and had places of its own
    here.install("--state-dir=/var/lib/spawn-too/state", "--log-file=/var/log/spawn-too.log").start()
    succeeds(here.machine, "remove")
    assert "--state-dir=/var/lib/spawn-too/state" in here.machine.read("/etc/spawn/removed.options")
    assert spawnctl(here.machine, "remove", "--purge").returncode == 0
    here.machine.shell("rmdir /var/lib/spawn-too")  # what was on the way to it is not Spawn's
    assert changes(before, here.machine.files(RESTLESS)) == []
