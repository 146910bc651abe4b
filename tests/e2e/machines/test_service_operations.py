"""What ``docs/operations.md`` tells an operator to do: read the status, rotate logs, restore, upgrade, move."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.support.cluster import LoggingNode
from tests.support.machines import Machine, needs_programs
from tests.support.processes import Processes, free_port
from tests.support.rootfs import Kind
from tests.support.services import Service, install_wheel, spawnctl, succeeds
from tests.support.waiting import eventually

pytestmark = [needs_programs, pytest.mark.timeout(900)]
MakeMachine = Callable[..., Machine]
MakeService = Callable[[Kind], Service]
kinds = pytest.mark.parametrize("kind", Kind, ids=str)


def rows(status: str) -> dict[str, list[str]]:
    """The table of ``status``, by node."""
    return {line.split()[0]: line.split()[1:] for line in status.splitlines()[3:]}


def until_shown(machine: Machine, node: str, *row: str) -> None:
    """The row begins so, for what is shown of a node changes with its health checks."""
    eventually(
        lambda: rows(spawnctl(machine, "status").stdout).get(node, [])[: len(row)] == list(row),
        timeout_s=20,
        what=f"{node} {' '.join(row)}",
    )


@kinds
def test_status_in_every_state(service: MakeService, kind: Kind) -> None:
    here = service(kind).install()
    machine = here.machine
    stopped = spawnctl(machine, "status")
    assert (stopped.returncode, stopped.stdout) == (3, "Service is stopped\n")
    here.start()
    assert here.put("a", "1").status_code == 201
    # Running: one line, what it is, and every node
    first, second = (f"127.0.0.1:{node.port}" for node in here.nodes)
    eventually(
        lambda: rows(spawnctl(machine, "status").stdout).get(second) == ["serving", "0"],
        timeout_s=20,
        what="both have it",
    )
    shown = spawnctl(machine, "status").stdout
    assert shown.splitlines()[0] == f"Service (pid  {here.pid}) is running..."
    assert "journal at update 1" in shown.splitlines()[1]
    assert rows(shown)[first] == ["serving", "0"]
    # A node that is down, with its backlog and why
    here.nodes[1].kill()
    until_shown(machine, second, "down")
    assert here.put("b", "2").status_code == 201
    eventually(
        lambda: rows(spawnctl(machine, "status").stdout)[second][:2] == ["down", "1"], timeout_s=20, what="a backlog"
    )
    # Whoever is not root sees as much as the configuration's mode lets them
    machine.shell("chgrp spawn /etc/spawn/spawn.conf; chmod 640 /etc/spawn/spawn.conf")
    seen = spawnctl(machine, "status", user="nobody")
    assert seen.returncode == 0
    assert "where its API listens is not known: /etc/spawn/spawn.conf" in seen.stdout
    # It was killed: systemd is about to start it again, init is not
    machine.kill(here.wait_pid())
    killed = spawnctl(machine, "status")
    assert killed.returncode == 3 or kind is Kind.SYSTEMD
    if kind is Kind.SYSTEMD:
        here.wait_pid()
        machine.put("/etc/spawn/spawn.conf", "{")
        machine.run("systemctl", "restart", "spawn", check=False)
        failed = spawnctl(machine, "status")
        assert failed.returncode == 3
        assert "its last run failed (exit-code 2); 'journalctl -u spawn' shows what it said" in failed.stdout
    else:
        # What cannot be told is not said to be stopped
        machine.shell("rm -f /run/spawn/spawn.pid; ln -s /etc/passwd /run/spawn/spawn.pid")
        unknown = spawnctl(machine, "status")
        assert (unknown.returncode, unknown.stdout) == (4, "")
        assert "/run/spawn/spawn.pid cannot be read" in unknown.stderr


@kinds
def test_a_log_file_is_rotated(service: MakeService, kind: Kind) -> None:
    here = service(kind)
    options = ["--log-file=/var/log/spawn.log"] if kind is Kind.SYSTEMD else []
    here.install(*options).start()
    machine = here.machine
    assert machine.run("stat", "-c", "%U:%G %a", "/var/log/spawn.log").stdout == "spawn:adm 640\n"
    machine.run("logrotate", "--force", "/etc/logrotate.d/spawn")
    assert machine.run("stat", "-c", "%U:%G %a", "/var/log/spawn.log").stdout == "spawn:adm 640\n"
    assert "serves on" in machine.read("/var/log/spawn.log.1")
    here.nodes[1].kill()
    port = str(here.nodes[1].port)
    eventually(lambda: port in machine.read("/var/log/spawn.log"), timeout_s=20, what="the new file is written to")


@kinds
def test_a_backup_is_restored(service: MakeService, kind: Kind) -> None:
    here = service(kind).install().start()
    assert here.put("a", "1").status_code == 201
    made = here.api.data("POST", "/journal/backup")["results"][0]["path"]
    succeeds(here.machine, "stop")
    here.machine.shell(
        "mv /var/lib/spawn /var/lib/spawn.lost; mkdir -m 700 /var/lib/spawn; "
        f"cp -a {made.replace('/spawn/', '/spawn.lost/', 1)}/. /var/lib/spawn; chown -R spawn: /var/lib/spawn"
    )
    refused = spawnctl(here.machine, "start")
    assert refused.returncode == 1
    assert "--restored" in refused.stderr
    succeeds(here.machine, "start", "--restored")
    assert {row["state"] for row in here.api.queues()} == {"out-of-sync"}
    for node in here.nodes:
        here.api.data("PUT", f"/queues/127.0.0.1/{node.port}", {"position": "head"})
    here.wait_serving()
    assert here.put("b", "2").headers["Spawn-Sequence"] == "2"
    # The option was for once
    succeeds(here.machine, "stop")
    succeeds(here.machine, "start")
    here.wait_serving()
    assert here.put("c", "3").headers["Spawn-Sequence"] == "3"


@kinds
def test_a_faulty_configuration_is_found_before_it_does_harm(service: MakeService, kind: Kind) -> None:
    here = service(kind).install().start()
    first = here.wait_serving()
    # The service's own options and file are what "check" means
    shown = spawnctl(here.machine, "check")
    assert (shown.returncode, "2 nodes, with the options of the installed service" in shown.stdout) == (0, True)
    here.machine.put("/etc/spawn/spawn.conf", '{"prot": 1}')
    assert spawnctl(here.machine, "check").returncode == 2
    # A reload fails, a restart (of SysV's script) is refused, and what runs goes on
    reload = ("systemctl", "reload", "spawn") if kind is Kind.SYSTEMD else ("service", "spawn", "reload")
    assert here.machine.run(*reload, check=False).returncode == (1 if kind is Kind.SYSTEMD else 6)
    if kind is Kind.SYSV:
        assert here.machine.run("service", "spawn", "restart", check=False).returncode == 6
    assert here.wait_serving() == first
    succeeds(here.machine, "stop")
    if kind is Kind.SYSV:
        assert here.machine.run("service", "spawn", "start", check=False).returncode == 6


@kinds
def test_a_daemon_is_not_mistaken_for_a_service(machine: MakeMachine, kind: Kind) -> None:
    here = machine(kind, private_network=True)
    install_wheel(here)
    assert "'spawnctl install' makes a service of it" in succeeds(here, "start")
    refused = spawnctl(here, "install")
    assert (refused.returncode, "a daemon of Spawn's runs" in refused.stderr) == (1, True)
    succeeds(here, "stop")
    assert spawnctl(here, "status").stdout == "Service is stopped\nit is not installed\n"
    # Its state, which is root's, becomes the service's
    succeeds(here, "install")
    succeeds(here, "start")
    assert here.run("stat", "-c", "%U", "/var/lib/spawn/journal/journal.db").stdout == "spawn\n"


def test_another_installation_and_a_move_keep_the_journal(service: MakeService, machine: MakeMachine) -> None:
    """From a machine with systemd to one with SysV init, with a backlog."""
    old = service(Kind.SYSTEMD).install().start()
    old.nodes[1].kill()
    assert old.put("a", "1").status_code == 201
    # As in an upgrade: what was accepted is there, and what a node lacks
    succeeds(old.machine, "stop")
    pip = ("/opt/spawn/bin/pip", "install", "--quiet", "--no-index", "--no-deps", "--force-reinstall")
    old.machine.run(*pip, "--find-links=/wheels", "spawn-sync")
    assert spawnctl(old.machine, "check").returncode == 0
    succeeds(old.machine, "start")
    assert old.put("b", "2").headers["Spawn-Sequence"] == "2"
    # Moving: the other machine goes on, and the node gets the rest from there
    succeeds(old.machine, "stop")
    succeeds(old.machine, "remove")
    given = old.machine.read("/etc/spawn/removed.options").splitlines()
    new = machine(Kind.SYSV)
    install_wheel(new)
    succeeds(new, "install", *given)
    new.put("/root/state.base64", old.machine.shell("tar -C /var/lib -cf - spawn | base64"))
    new.put("/etc/spawn/spawn.conf", old.machine.read("/etc/spawn/spawn.conf"))
    new.shell(
        "base64 -d </root/state.base64 | tar -C /var/lib -xpf -; "
        "chown -R spawn:spawn /var/lib/spawn; chown root:spawn /etc/spawn/spawn.conf; chmod 640 /etc/spawn/spawn.conf"
    )
    assert spawnctl(new, "check").returncode == 0
    succeeds(new, "start")
    old.nodes[1].start()
    old.api.wait_settled(60)
    assert [node.items() for node in old.nodes] == [{"a": "1", "b": "2"}] * 2
    assert old.put("c", "3").headers["Spawn-Sequence"] == "3"


def test_a_user_has_a_service_of_their_own(machine: MakeMachine, processes: Processes) -> None:
    here = machine(Kind.SYSTEMD)
    install_wheel(here)
    here.shell("useradd --create-home joe; loginctl enable-linger joe")
    runtime = f"/run/user/{here.run('id', '-u', 'joe').stdout.strip()}"
    eventually(lambda: here.exists(f"{runtime}/systemd/private"), timeout_s=30, what="joe's systemd runs")

    def joe(*words: str, code: int = 0) -> str:
        command = ("/opt/spawn/bin/spawnctl", *words)
        done = here.run(
            *command, user="joe", check=False, environment={"XDG_RUNTIME_DIR": runtime, "HOME": "/home/joe"}
        )
        assert done.returncode == code, done
        return done.stdout + done.stderr

    before = here.run("find", "/home/joe", "-type", "f").stdout
    node = LoggingNode(processes, "joes-node").start()
    port, api_port = free_port(), free_port()
    config = {"port": port, "api": {"port": api_port}, "nodes": [{"host": "127.0.0.1", "port": node.port}]}
    here.put("/home/joe/.config/spawn/spawn.conf", json.dumps(config | {"health-check": {"url": "/info"}}))
    here.shell("chown -R joe: /home/joe")
    assert "OK" in joe("install", "--user")
    assert "OK" in joe("start")  # whose service it is need not be said: there is only one
    shown = joe("status")
    assert rows(shown)[f"127.0.0.1:{node.port}"] == ["serving", "0"]
    pid = int(here.run("pgrep", "-u", "joe", "-f", "m spawnctl").stdout)
    here.kill(pid)
    eventually(lambda: f"pid  {pid})" not in joe("status") if running(here) else False, timeout_s=30, what="again")
    here.reboot()
    eventually(lambda: running(here), timeout_s=30, what="it is started at boot")
    assert "OK" in joe("stop")
    joe("status", code=3)
    said = joe("remove")
    assert "Kept: the configuration in /home/joe/.config/spawn, the journal in /home/joe/.local/state/spawn." in said
    joe("remove", "--purge", "--user")
    assert here.run("find", "/home/joe", "-type", "f").stdout == before


def running(here: Machine) -> bool:
    return here.run("pgrep", "-u", "joe", "-f", "m spawnctl", check=False).returncode == 0
