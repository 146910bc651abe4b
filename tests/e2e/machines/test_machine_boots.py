"""The machines of the tests themselves: they boot, reboot, run services, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.support.machines import CGROUPS, Machine, needs_programs
from tests.support.rootfs import Kind
from tests.support.waiting import eventually

pytestmark = [needs_programs, pytest.mark.timeout(900)]  # the first one makes the root file systems
MakeMachine = Callable[..., Machine]
kinds = pytest.mark.parametrize("kind", Kind, ids=str)

UNIT = """\
[Service]
ExecStart=/bin/sleep 1000
Restart=always
RestartSec=0
[Install]
WantedBy=multi-user.target
"""
SCRIPT = """\
#!/bin/sh
### BEGIN INIT INFO
# Provides:          sleeper
# Required-Start:    $remote_fs
# Required-Stop:     $remote_fs
# Default-Start:     2 3 4 5
# Default-Stop:      0 1 6
# Short-Description: sleeps
### END INIT INFO
case $1 in
    start) start-stop-daemon --start --background --make-pidfile --pidfile /run/sleeper.pid --exec /bin/sleep -- 1000 ;;
    stop) start-stop-daemon --stop --pidfile /run/sleeper.pid && : >/var/stopped-in-order ;;
esac
"""


def sleeper(machine: Machine) -> int:
    """The machine's pid of the one process of the service."""
    return int(machine.shell("pidof sleep || true").strip() or 0)


def life(machine: Machine) -> str:
    """When process 1 was started."""
    return machine.shell("cut -d ' ' -f 22 /proc/1/stat")


@kinds
def test_a_machine_boots_and_runs_commands(machine: MakeMachine, kind: Kind) -> None:
    started = time.monotonic()
    here = machine(kind)
    print(f"{kind} is up after {time.monotonic() - started:.1f} s")
    # Then process 1 is the one that is wanted, and there is nothing of the other
    assert here.read("/proc/1/comm").strip() == {Kind.SYSTEMD: "systemd", Kind.SYSV: "init"}[kind]
    assert here.exists("/run/systemd/system") == here.exists("/bin/systemctl") == (kind is Kind.SYSTEMD)
    assert os.path.basename(here.shell("readlink -f /bin/sh").strip()) == "dash"
    assert here.run("id", "-un", user="nobody").stdout == "nobody\n"
    done = here.run("sh", "-c", "echo out; echo err >&2; exit 7", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")
    with pytest.raises(AssertionError, match="exit code 7"):
        here.run("sh", "-c", "exit 7")
    # The environment is the machine's own
    assert here.run("env").stdout.count("SPAWN") == 0
    here.put("/etc/deep/est/file", "äöü\n", mode=0o600)
    assert here.read("/etc/deep/est/file") == "äöü\n"
    assert here.files()["/etc/deep/est/file"].startswith("f 0600 root:root")


@kinds
def test_a_command_at_a_terminal(machine: MakeMachine, kind: Kind) -> None:
    here = machine(kind)
    ask = "test -t 0 && test -t 1 && read -r word </dev/tty && echo got $word >/dev/tty && exit 3"
    done = here.run("sh", "-c", ask, tty=True, typed="yes\n", check=False)
    assert (done.returncode, done.stdout) == (3, "yes\ngot yes\n"), "the first is the terminal's echo"
    assert here.run("sh", "-c", "test -t 0 || test -t 1", check=False).returncode == 1
    with pytest.raises(AssertionError, match=r"within 0\.5 s"):
        here.run("sleep", "100", tty=True, timeout_s=0.5)


def test_a_systemd_service_outlives_kill_and_reboot(machine: MakeMachine) -> None:
    here = machine(Kind.SYSTEMD)
    here.put("/etc/systemd/system/sleeper.service", UNIT)
    here.run("systemctl", "enable", "--now", "sleeper")
    pid = sleeper(here)
    assert here.pid_inside(here.pid_outside(pid)) == pid
    here.kill(pid)
    eventually(lambda: sleeper(here) not in (0, pid), timeout_s=20, what="systemd starts it again")
    before = life(here)
    here.reboot()
    assert before != life(here)
    eventually(lambda: sleeper(here), timeout_s=20, what="it is up again, without anybody")


def test_a_sysv_service_is_stopped_in_order_and_started_by_a_reboot(machine: MakeMachine) -> None:
    here = machine(Kind.SYSV)
    here.put("/etc/init.d/sleeper", SCRIPT, mode=0o755)
    here.run("update-rc.d", "sleeper", "defaults")
    assert here.exists("/etc/rc2.d/S01sleeper")
    assert here.exists("/etc/rc6.d/K01sleeper")
    here.run("service", "sleeper", "start")
    eventually(lambda: sleeper(here), timeout_s=20, what="it runs")
    before = life(here)
    here.reboot()
    assert before != life(here)
    assert here.exists("/var/stopped-in-order")
    eventually(lambda: sleeper(here), timeout_s=20, what="it is up again, without anybody")


@kinds
def test_what_was_written_outlives_the_power_and_not_the_test(machine: MakeMachine, kind: Kind) -> None:
    one, other = machine(kind, private_network=True), machine(kind, private_network=True)
    one.put("/etc/mine", "x")
    assert not other.exists("/etc/mine"), "each has its own disk"
    one.power_off()
    one.boot()
    one.power_off(hard=True)
    one.boot()
    assert one.read("/etc/mine") == "x"
    assert "lo" in one.read("/proc/net/dev")
    assert len(one.read("/proc/net/dev").splitlines()) == 3, "two lines of headings, and the loopback"
    one.close()
    assert not [top for tree in CGROUPS for top in Path(tree).glob(f"{one.name}*")]
    assert str(one.directory) not in Path("/proc/mounts").read_text()
    assert other.run("true").returncode == 0, "the other one does not notice"


BOOT_AND_HANG = """
import sys, time
from pathlib import Path
from tests.support.machines import Machine
from tests.support.processes import Processes
from tests.support.rootfs import Kind, root_file_system
machine = Machine(Processes(Path(sys.argv[1])), Kind.SYSV, root_file_system(Kind.SYSV)).boot()
print(machine.pid_outside(1), flush=True)
time.sleep(1000)
"""


def test_a_killed_test_leaves_no_machine(machine: MakeMachine, tmp_path: Path) -> None:
    machine(Kind.SYSV)  # so that there is a root file system
    (tmp_path / "killed").mkdir()
    command = [sys.executable, "-c", BOOT_AND_HANG, str(tmp_path / "killed")]
    root = Path(__file__).parents[3]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root) as test:
        assert test.stdout is not None
        init = int(test.stdout.readline())
        assert psutil.pid_exists(init)
        test.send_signal(signal.SIGKILL)
    eventually(lambda: not psutil.pid_exists(init), timeout_s=20, what="the machine is gone with its test")
