"""Service commands among others' files, users and mistakes: nothing of theirs is deleted, and nothing gets stuck."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable

import pytest

from tests.support.machines import Machine, needs_programs
from tests.support.rootfs import Kind
from tests.support.services import SPAWNCTL, Service, install_wheel, running_pid, spawnctl, succeeds
from tests.support.waiting import eventually

pytestmark = [needs_programs, pytest.mark.timeout(900)]
MakeMachine = Callable[..., Machine]
MakeService = Callable[[Kind], Service]
kinds = pytest.mark.parametrize("kind", Kind, ids=str)


@kinds
def test_purge_deletes_nothing_that_is_not_spawns(machine: MakeMachine, kind: Kind) -> None:
    here = machine(kind, private_network=True)
    install_wheel(here)
    # A state directory that holds other things as well, and logs among other files
    here.shell("mkdir -p /srv/app/logs")
    succeeds(here, "install", "--state-dir=/srv/app/state", "--log-file=/srv/app/logs/log")
    succeeds(here, "start")
    here.shell("touch /srv/app/state/precious /srv/app/logs/login.db /srv/app/logs/log.1 /srv/app/logs/log-20260101.gz")
    here.shell("mkdir /srv/app/logs/logic /var/lib/agent; touch /srv/app/logs/logic/x /var/lib/agent/lock")
    # The caller's own places are not the service's
    done = here.run(SPAWNCTL, "remove", "--purge", environment={"STATE_DIRECTORY": "/var/lib/agent"})
    assert "/srv/app/state stays: what is in it is not Spawn's (precious)." in done.stdout
    left = here.shell("find /srv/app /var/lib/agent -type f | sort").split()
    assert left == ["/srv/app/logs/logic/x", "/srv/app/logs/login.db", "/srv/app/state/precious", "/var/lib/agent/lock"]
    # A directory that is full of other things cannot become the state directory
    refused = spawnctl(here, "install", "--state-dir=/srv/app/state")
    assert refused.returncode == 1
    assert "/srv/app/state holds what is not Spawn's" in refused.stderr
    # What a configuration names later is not believed either
    succeeds(here, "install")
    here.put("/etc/spawn/spawn.conf", json.dumps({"state-dir": "/srv/app/logs"}))
    here.shell("touch /srv/app/logs/lock")
    succeeds(here, "remove", "--purge")
    assert here.exists("/srv/app/logs/login.db")
    assert here.exists("/srv/app/logs/lock")


@kinds
def test_purge_leaves_a_state_that_is_in_use(machine: MakeMachine, kind: Kind) -> None:
    here = machine(kind, private_network=True)
    install_wheel(here)
    succeeds(here, "install")
    run = "runuser -u spawn -- /opt/spawn/bin/spawnctl --config=/etc/spawn/spawn.conf --state-dir=/var/lib/spawn"
    here.shell(f"setsid {run} </dev/null >/dev/null 2>&1 &")
    eventually(lambda: here.exists("/var/lib/spawn/nodes.json"), timeout_s=30, what="it serves")
    refused = spawnctl(here, "remove", "--purge")
    assert refused.returncode == 1
    assert "is in use by another Spawn" in refused.stderr
    assert here.exists("/var/lib/spawn/journal/journal.db")
    assert here.exists("/etc/spawn/spawn.conf")


def test_links_of_the_service_lead_root_nowhere(machine: MakeMachine) -> None:
    """Its user may have been taken over."""
    here = machine(Kind.SYSV, private_network=True)
    install_wheel(here)
    here.shell("mkdir /srv/logs; useradd --system --user-group spawn; chown spawn: /srv/logs")
    here.shell("install -d -o spawn -g spawn /srv/logs/sub")
    succeeds(here, "install", "--log-file=/srv/logs/sub/zz.sh")
    here.shell("rmdir /srv/logs/sub 2>/dev/null || rm -r /srv/logs/sub; ln -s /etc/profile.d /srv/logs/sub")
    assert spawnctl(here, "start").returncode == 1
    assert not here.exists("/etc/profile.d/zz.sh")
    here.shell("touch /etc/profile.d/zz.sh")
    succeeds(here, "remove", "--purge")
    assert here.exists("/etc/profile.d/zz.sh")


def test_other_users_cannot_keep_the_service_from_starting(service: MakeService) -> None:
    here = service(Kind.SYSV).install().start()
    here.machine.shell("setsid runuser -u nobody -- flock /run/spawn/spawn.pid sleep 600 </dev/null >/dev/null 2>&1 &")
    succeeds(here.machine, "stop")
    succeeds(here.machine, "start")
    assert here.wait_serving()
    # Nor have root signal somebody else's process, when ours was killed
    here.machine.kill(here.wait_pid())
    eventually(lambda: running_pid(here.machine) is None, timeout_s=20, what="it is gone")
    reload = here.machine.run("service", "spawn", "reload", check=False)
    assert reload.returncode == 7


def test_a_restored_start_that_is_cut_off_is_not_repeated(service: MakeService) -> None:
    here = service(Kind.SYSTEMD).install().start()
    assert here.put("a", "1").status_code == 201
    succeeds(here.machine, "stop")
    # A command that is killed leaves the service with the option for no longer than this one start
    drop_in = "/run/systemd/system/spawn.service.d/restored.conf"
    here.machine.shell(f"setsid {SPAWNCTL} start --restored >/dev/null 2>&1 </dev/null & echo $! >/run/starting")
    eventually(lambda: here.machine.exists(drop_in), timeout_s=20, every_s=0.01, what="it has begun")
    here.machine.kill(int(here.machine.read("/run/starting")))
    eventually(lambda: here.machine.run("systemctl", "is-active", "spawn", check=False).stdout != "activating\n",
               timeout_s=60, what="the start is over")  # fmt: skip
    spawnctl(here.machine, "stop")  # it may have failed before it could start
    succeeds(here.machine, "start")
    assert not here.machine.exists(drop_in)
    assert "--restored" not in here.machine.run("systemctl", "show", "-P", "ExecStart", "spawn").stdout
    assert here.machine.run("systemctl", "show", "-P", "Restart", "spawn").stdout == "on-failure\n"


def test_a_changed_unit_is_what_counts(service: MakeService) -> None:
    """``systemctl edit`` may give it another state directory."""
    here = service(Kind.SYSTEMD).install()
    words = " ".join(here.options)
    edit = (
        "[Service]\nReadWritePaths=/srv/other\nExecStart=\n"
        f"ExecStart=/opt/spawn/bin/python3 -P -m spawnctl {words} --state-dir=/srv/other\n"
    )
    here.machine.shell("install -d -o spawn -g spawn -m 700 /srv/other")
    here.machine.put("/etc/systemd/system/spawn.service.d/override.conf", edit)
    here.machine.run("systemctl", "daemon-reload")
    here.start()
    assert here.put("a", "1").status_code == 201
    succeeds(here.machine, "stop")
    succeeds(here.machine, "start", "--restored")
    assert {row["state"] for row in here.api.queues()} == {"out-of-sync"}, "the state that it has, not another"
    said = succeeds(here.machine, "remove")
    assert "the journal in /srv/other" in said


@kinds
def test_a_service_of_somebody_elses_is_left_alone(machine: MakeMachine, kind: Kind) -> None:
    here = machine(kind)
    install_wheel(here)
    path = "/etc/systemd/system/spawn.service" if kind is Kind.SYSTEMD else "/etc/init.d/spawn"
    here.put(path, "#!/bin/sh\n# another program called spawn\n", 0o755)
    refused = spawnctl(here, "remove")
    assert refused.returncode == 1
    assert "was not written by 'spawnctl install'" in refused.stderr
    assert here.exists(path)


@kinds
def test_options_that_cannot_be_read_any_more_stop_nobody(service: MakeService, kind: Kind) -> None:
    here = service(kind).install().start()
    if kind is Kind.SYSV:
        here.machine.shell("echo --bogus=1 >>/etc/spawn/service.options")
    else:
        here.machine.shell(
            "sed -i 's/^ExecStart=.*/& --bogus=1/' /etc/systemd/system/spawn.service; systemctl daemon-reload"
        )
    assert spawnctl(here.machine, "status").returncode == 0
    succeeds(here.machine, "stop")
    refused = spawnctl(here.machine, "start")
    assert refused.returncode == 2
    assert "unknown option --bogus" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    succeeds(here.machine, "remove")
    # What could not be read is not accepted in the first place
    for bad in ("a\u2028b", "a\rb", "a\nb", "a\x0cb"):
        assert spawnctl(here.machine, "install", f"--check-regexp={bad}").returncode == 1
    # Everything else comes back as it was given
    odd = "^a b\\\\\"$HOME %n 'x' `y` é{1,2}$"
    succeeds(here.machine, "install", *here.options, f"--check-regexp={odd}")
    succeeds(here.machine, "start")
    if kind is Kind.SYSTEMD:
        words = here.machine.read(f"/proc/{here.pid}/cmdline").split("\0")
        assert f"--check-regexp={odd}" in words


def test_a_broken_interpreter_is_not_taken_for_a_stopped_service(service: MakeService) -> None:
    """After an upgrade that went wrong."""
    here = service(Kind.SYSV).install().start()
    here.machine.shell("mv /opt/spawn/lib/python3.11/site-packages/msgspec /root/aside")
    codes = {verb: here.machine.run("service", "spawn", verb, check=False).returncode for verb in ("stop", "status")}
    assert codes == {"stop": 1, "status": 4}
    here.machine.shell("mv /root/aside /opt/spawn/lib/python3.11/site-packages/msgspec")
    assert running_pid(here.machine) is not None
    assert here.machine.run("service", "spawn", "stop").returncode == 0


def test_a_service_that_keeps_failing_can_be_stopped_and_removed(machine: MakeMachine) -> None:
    here = machine(Kind.SYSTEMD, private_network=True)
    install_wheel(here)
    succeeds(here, "install")
    here.put(
        "/root/listener.py",
        "import socket, time\ntaken = socket.create_server(('0.0.0.0', 7117))\nprint(1, flush=True)\ntime.sleep(300)\n",
    )
    here.shell("setsid python3 /root/listener.py >/run/listening 2>&1 </dev/null &")
    eventually(lambda: here.read("/run/listening") == "1\n", timeout_s=20, what="the port is taken")
    here.run("systemctl", "start", "--no-block", "spawn")

    def is_tried_again() -> bool:
        return here.run("systemctl", "show", "-P", "SubState", "spawn").stdout == "auto-restart\n"

    eventually(is_tried_again, timeout_s=30, what="systemd is about to try again")
    assert "systemd is about to start it again" in spawnctl(here, "status").stdout
    succeeds(here, "stop")
    here.run("systemctl", "start", "--no-block", "spawn")
    eventually(is_tried_again, timeout_s=30, what="systemd is about to try again")
    succeeds(here, "remove")
    assert not here.exists("/etc/systemd/system/spawn.service")


def test_an_install_that_was_killed_is_finished_by_the_next(machine: MakeMachine) -> None:
    here = machine(Kind.SYSTEMD, private_network=True)
    install_wheel(here)
    succeeds(here, "install")
    here.run("systemctl", "disable", "spawn")  # as far as it had come
    succeeds(here, "install")
    assert here.run("systemctl", "is-enabled", "spawn").stdout == "enabled\n"
    # One that is told to end undoes what it did, as after Ctrl-C
    succeeds(here, "remove", "--purge")
    slow = '#!/bin/sh\nwhile [ ! -e /run/go ]; do sleep 0.1; done\nexec /usr/bin/systemd-run "$@"\n'
    here.put("/usr/local/bin/systemd-run", slow, 0o755)
    # Tests that run under nohup(1) would hand on that a hang-up is ignored, which an installation respects
    install = f"setsid env --default-signal=HUP {SPAWNCTL} install"
    here.shell(f"{install} >/dev/null 2>&1 </dev/null & echo $! >/run/installing")
    eventually(lambda: here.run("id", "spawn", check=False).returncode == 0, timeout_s=20, what="it has begun")
    here.kill(int(here.read("/run/installing")), signal.SIGHUP)
    eventually(lambda: here.run("id", "spawn", check=False).returncode == 1, timeout_s=20, what="it is undone")
    assert not here.exists("/etc/spawn")
    assert not here.exists("/var/lib/spawn")
