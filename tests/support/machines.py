"""Machines that really boot: Debian in a container of systemd-nspawn, with systemd or SysV init as process 1.

A machine writes to an overlay in the test's own directory, so that it is thrown away with it. nspawn runs, and the
overlay is mounted, in namespaces of their own, and the kernel ends these when we end, by whatever; nspawn alone, when
it is killed, leaves its machine running. nspawn is in cgroups of its own too, because it gives those of all machines
that are started in one the same name. What a test that was killed may leave is a directory and empty cgroups; the next
machine removes these.

The network is that of this machine, unless it is private (then there is a loopback and nothing else), so ports that a
machine listens on must be free here. Registering with systemd-machined is not used: it is not there in containers.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil
import pytest

from tests.support.processes import ManagedProcess, Processes
from tests.support.rootfs import PROGRAMS, Kind, contained
from tests.support.terminal import run_on_terminal
from tests.support.waiting import eventually

BOOT_TIMEOUT_S = 90.0  # it takes two seconds, but others may be at work
END_TIMEOUT_S = 90.0  # systemd gives a service 90 s to stop; a test that meets this has found something
REBOOT_ASKED = 133  # nspawn's exit code for a machine that wants to be started again (EXIT_FORCE_RESTART)
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CGROUPS = (
    "/sys/fs/cgroup",
    "/sys/fs/cgroup/unified",
    "/sys/fs/cgroup/systemd",
)  # unified; hybrid; version 1 and hybrid

# $1: the directory of the machine, $2: the root file system below the overlay, $3: its name; then nspawn's options.
# Where there are no overlays, as within another one, it is copied, once. An upper directory may be busy for a moment
# after the machine's last life.
_BOOT = f"""
here=$1 lower=$2 name=$3
shift 3
for tree in {" ".join(CGROUPS)}; do
    [ -w "$tree/cgroup.procs" ] || continue
    mkdir -p "$tree/$name"
    echo $$ >"$tree/$name/cgroup.procs"
done
mkdir -p /run/systemd/nspawn
mount -t tmpfs tmpfs /run/systemd/nspawn
mounted=
for try in 1 2 3 4 5; do
    [ ! -e "$here/copied" ] || break
    mount -t overlay overlay -o "lowerdir=$lower,upperdir=$here/upper,workdir=$here/work" "$here/root" \\
        && mounted=yes && break
    sleep 0.2
done
if [ -z "$mounted" ] && [ ! -e "$here/copied" ]; then
    cp -a --reflink=auto "$lower/." "$here/root"
    : >"$here/copied"
fi
systemd-nspawn --directory="$here/root" --boot --register=no --keep-unit --machine="$name" --console=read-only \\
    --resolv-conf=off --timezone=off --link-journal=no "$@" || exit $?
"""
# Everything on the machine's own disk and in /run: path, type, mode, owner and, of files in /etc, the contents.
_LIST = r"""
find / /run -xdev -path /wheels -prune -o -printf '%p\t%y %04m %u:%g %l\n'
find /etc -type f -exec sha256sum {} + | sed 's/^\([0-9a-f]*\) *\(.*\)/\2\t\1/'
"""
_PREFIX = "spawn-test-"
_numbers = itertools.count()


def need_machines() -> None:
    """Skips the test where machines cannot boot, which under CI=true is a failure. Programs: see ``PROGRAMS``."""
    if os.geteuid() != 0:
        _cannot("booting machines needs root")
    tried = subprocess.run(contained(["mount", "-t", "tmpfs", "tmpfs", "/mnt"]), capture_output=True, check=False)
    if tried.returncode != 0:
        _cannot(f"this machine allows no machines in it: {tried.stderr.decode().strip()}")


def _cannot(why: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(why, pytrace=False)
    pytest.skip(why)


needs_programs = pytest.mark.needs(*PROGRAMS)


class Machine:
    """One machine; it may be booted again after its end, and keeps its disk."""

    def __init__(
        self,
        processes: Processes,
        kind: Kind,
        root_file_system: Path,
        *,
        private_network: bool = False,
        shown: Mapping[str, Path] | None = None,
    ) -> None:
        """``shown`` maps absolute paths on the machine to directories of ours that it may read."""
        self.kind = kind
        self.name = f"{_PREFIX}{os.getpid()}-{next(_numbers)}"
        self.directory = processes.directory / self.name
        self._init: psutil.Process | None = None
        for part in ("upper", "work", "root"):
            (self.directory / part).mkdir(parents=True)
            (self.directory / part).chmod(0o755)  # the upper directory's mode is that of /
        options = [f"--bind-ro={ours}:{path}" for path, ours in (shown or {}).items()]
        options += ["--private-network"] if private_network else []
        script = ["sh", "-euc", _BOOT, "sh", str(self.directory), str(root_file_system), self.name, *options]
        self.process: ManagedProcess = processes.add(self.name, contained(script))

    # Its life

    def boot(self) -> Machine:
        """Returns when init says that everything has been started."""
        _remove_cgroups_of_the_dead()
        self.process.start()
        self._init = eventually(self._find_init, timeout_s=BOOT_TIMEOUT_S, what=f"{self.name} has a process 1")
        eventually(self._is_up, timeout_s=BOOT_TIMEOUT_S, what=f"{self.name} has booted:\n{self.console()}")
        return self

    def reboot(self) -> None:
        """As an operator does it, from within; the machine has been stopped in order and is up again on return."""
        command = ["systemctl", "reboot"] if self.kind is Kind.SYSTEMD else ["/sbin/reboot"]
        self.run(*command, check=False)  # it may be killed by what it does
        code = self.process.wait(END_TIMEOUT_S)
        assert code == REBOOT_ASKED, f"{self.name} ended with {code} instead of a reboot:\n{self.console()}"
        self._ended()
        self.boot()

    def power_off(self, *, hard: bool = False) -> None:
        """``hard``: as if the plug were pulled, but what was written to a file is there afterwards."""
        if hard:
            self.process.kill()
        else:
            command = ["systemctl", "poweroff"] if self.kind is Kind.SYSTEMD else ["/sbin/poweroff"]
            self.run(*command, check=False)
            code = self.process.wait(END_TIMEOUT_S)
            assert code == 0, f"{self.name} ended with {code}:\n{self.console()}"
        self._ended()

    def close(self) -> None:
        """Ends whatever runs. May be called at any time."""
        if self.process.alive:
            self.process.kill()
        self._ended()

    def console(self, lines: int = 60) -> str:
        return self.process.tail(lines)

    def _ended(self) -> None:
        init, self._init = self._init, None
        if init is not None:  # the kernel kills it, and all its processes
            eventually(lambda: not init.is_running(), timeout_s=30, what=f"{self.name} is gone")
        _remove_cgroups(self.name)

    def _find_init(self) -> psutil.Process | None:
        assert self.process.alive, f"{self.name} ended with {self.process.exit_code}:\n{self.console()}"
        with contextlib.suppress(psutil.Error, OSError):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                pids = _pids(child.pid)
                if len(pids) == 3 and pids[-1] == 1:  # ours, that of nspawn's namespace, and its own
                    return child
        return None

    def _is_up(self) -> bool:
        assert self.process.alive, f"{self.name} ended with {self.process.exit_code}:\n{self.console()}"
        if self.kind is Kind.SYSV:
            return self.run("test", "-e", "/run/booted", check=False).returncode == 0
        state = self.run("systemctl", "is-system-running", "--wait", check=False, timeout_s=BOOT_TIMEOUT_S)
        if state.stdout.strip() == "degraded":
            print(self.run("systemctl", "--failed", "--plain", "--no-legend", check=False).stdout)
        return state.stdout.strip() in ("running", "degraded")

    # Commands and files

    def run(
        self,
        *command: str,
        user: str | None = None,
        check: bool = True,
        timeout_s: float = 60.0,
        tty: bool = False,
        typed: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command that ends by itself, inside, with an environment like that of a login.

        :param tty: at a terminal; all output is in ``stdout`` then.
        :param typed: its input, all at once.
        :param environment: more variables.
        """
        words = self.command(*command, user=user, environment=environment)
        if tty:
            code, shown = run_on_terminal(words, typed=typed, timeout_s=timeout_s)
            done = subprocess.CompletedProcess(words, code, shown, "")
        else:
            done = subprocess.run(words, input=typed, capture_output=True, text=True, timeout=timeout_s, check=False)
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def command(
        self, *command: str, user: str | None = None, environment: Mapping[str, str] | None = None
    ) -> list[str]:
        """What runs a command inside, to be run here."""
        assert self._init is not None, f"{self.name} does not run"
        inside = ["nsenter", f"--target={self._init.pid}", "--all", "--root", "--wd"]
        name = user or "root"
        home = {"root": "/root"}.get(name, f"/home/{name}")
        variables = {"PATH": PATH, "HOME": home, "USER": name, "LOGNAME": name, "LANG": "C.UTF-8", "TERM": "xterm"}
        variables |= environment or {}
        become = [] if user is None else ["runuser", "-u", user, "--"]
        return [*inside, "env", "-i", *(f"{key}={value}" for key, value in variables.items()), *become, *command]

    def shell(self, script: str, *, check: bool = True, timeout_s: float = 60.0) -> str:
        """What a script of the machine's ``sh`` prints."""
        return self.run("sh", "-euc", script, check=check, timeout_s=timeout_s).stdout

    def put(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file inside, whole or not at all; its directory is made."""
        script = 'mkdir -p "${1%/*}"; cat >"$1.new"; chmod "$2" "$1.new"; mv "$1.new" "$1"'
        self.run("sh", "-euc", script, "sh", path, f"{mode:o}", typed=text)

    def read(self, path: str) -> str:
        return self.run("cat", path).stdout

    def exists(self, path: str) -> bool:
        return self.run("test", "-e", path, check=False).returncode == 0

    def files(self, without: Sequence[str] = ()) -> dict[str, str]:
        """Every file and directory of the disk and of ``/run``, and what it is like. ``without``: patterns of paths."""
        listed = self.run("sh", "-euc", _LIST).stdout
        left_out = re.compile("|".join(f"(?:{pattern})" for pattern in without)) if without else None
        found: dict[str, str] = {}
        for line in listed.splitlines():
            path, _, what = line.partition("\t")
            if left_out is None or not left_out.match(path):
                found[path] = f"{found[path]} {what}" if path in found else what
        return found

    # Processes

    def pid_outside(self, pid: int) -> int:
        """Our number of a process, by the machine's."""
        for outside in self._pids_outside():
            with contextlib.suppress(OSError):
                if _pids(outside)[-1] == pid:
                    return outside
        raise AssertionError(f"{self.name} has no process {pid}")

    def pid_inside(self, pid: int) -> int:
        """The machine's number of a process, by ours."""
        return _pids(pid)[-1]

    def kill(self, pid: int, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a process, by the machine's number."""
        os.kill(self.pid_outside(pid), number)

    def _pids_outside(self) -> Iterator[int]:
        assert self._init is not None, f"{self.name} does not run"
        ours = os.readlink(f"/proc/{self._init.pid}/ns/pid")
        for pid in psutil.pids():
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{pid}/ns/pid") == ours:
                    yield pid


def _pids(pid: int) -> list[int]:
    """All numbers of a process, ours first."""
    for line in Path(f"/proc/{pid}/status").read_text("utf-8").splitlines():
        if line.startswith("NSpid:"):
            return [int(number) for number in line.split()[1:]]
    return []


def _remove_cgroups_of_the_dead() -> None:
    """Those of machines whose test was killed."""
    for top in {top.name for tree in CGROUPS for top in Path(tree).glob(f"{_PREFIX}*-*")}:
        pid = top.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            _remove_cgroups(top)


def _remove_cgroups(name: str) -> None:
    """The kernel refuses it for those in which somebody lives."""
    for tree in CGROUPS:
        for directory, _, _ in os.walk(Path(tree) / name, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(directory)
