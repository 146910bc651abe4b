"""Service files: what ``install`` puts in place, and what ``remove`` takes away again.

systemd where it runs, else a SysV script where there is an ``/etc/init.d``. The files are made from the templates in
``init/``; they name the absolute interpreter that ran ``install``, so a virtual environment works. Everything is done
below ``Machine.root`` and through ``Machine.run``, so that a test can do it in a directory of its own.

Invariant: an ``install`` that fails half-way undoes what it did. Configuration and state outlive ``remove``.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from importlib import resources
from pathlib import Path

from spawn.errors import SpawnError

UNIT = "spawn.service"
USER = "spawn"
COMMAND_TIMEOUT_S = 120  # a stop that waits for updates in flight takes up to 45 s
# The original's places in the boot order: after what it needs, and down before that goes away.
LINKS = [f"etc/rc{level}.d/S87spawn" for level in (2, 3, 4, 5)] + [f"etc/rc{level}.d/K17spawn" for level in (0, 1, 6)]


class UnitError(SpawnError):
    """A service command that cannot be done; the message is one line, ``log_tail`` what the service logged."""

    def __init__(self, message: str, log_tail: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.log_tail = list(log_tail)


class Init(Enum):
    """Who looks after services on a machine."""

    SYSTEMD = "systemd"
    SYSV = "SysV init"
    NONE = "none"


Runner = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]


def run_command(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a program of the system; one that is missing or hangs is reported like one that fails."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError:
        return subprocess.CompletedProcess(command, 127, "", f"{command[0]}: not found")
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"{command[0]} took longer than {COMMAND_TIMEOUT_S} s")


def user_exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


@dataclass(frozen=True)
class Machine:
    """The machine as the service commands see it."""

    root: Path = Path("/")
    run: Runner = run_command
    python: str = field(default_factory=lambda: os.path.abspath(sys.executable))  # not resolved: a venv is its symlink
    uid: int = field(default_factory=os.getuid)
    has_user: Callable[[str], bool] = user_exists

    @property
    def init(self) -> Init:
        if (self.root / "run/systemd/system").is_dir():
            return Init.SYSTEMD
        return Init.SYSV if (self.root / "etc/init.d").is_dir() else Init.NONE

    @property
    def unit_file(self) -> Path:
        return self.root / "etc/systemd/system" / UNIT

    @property
    def script(self) -> Path:
        return self.root / "etc/init.d/spawn"

    @property
    def options_file(self) -> Path:
        """The options of an installed SysV service, one a line; systemd's are in its unit."""
        return self.root / "etc/spawn/service.options"

    @property
    def config_file(self) -> Path:
        return self.root / "etc/spawn/spawn.conf"

    def installed(self) -> Init:
        """What the service is installed for on this machine."""
        if self.init is Init.SYSTEMD and self.unit_file.exists():
            return Init.SYSTEMD
        return Init.SYSV if self.init is Init.SYSV and self.script.exists() else Init.NONE

    def options(self) -> list[str] | None:
        """What the daemon of an installed service was given; None where no such service is installed."""
        if self.installed() is not Init.SYSV:
            return None
        try:
            return self.options_file.read_text("utf-8").splitlines()
        except FileNotFoundError:
            return []

    def need_root(self) -> None:
        if self.uid != 0:
            raise UnitError("You must have root user privileges. Possibly using 'sudo' command should help")

    def command(self, *words: str) -> str:
        """Run a program of the system and return what it printed.

        :raises UnitError: it failed; with the first line of its complaint.
        """
        done = self.run(words)
        if done.returncode != 0:
            complaint = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[0]
            raise UnitError(f"{' '.join(words[:2])}: {complaint}")
        return done.stdout


def check_can_install(machine: Machine) -> None:
    """:raises UnitError: the service cannot be installed here, or is already."""
    machine.need_root()
    if machine.installed() is not Init.NONE:
        raise UnitError("Service has already been installed")
    if machine.init is Init.NONE:
        raise UnitError("no init system here (neither systemd nor /etc/init.d); 'spawnctl start' works without one")


def install(machine: Machine, options: Sequence[str]) -> None:
    """Put the service in place and have it started at boot. ``options`` have been checked.

    :raises UnitError: it could not be done; nothing is left behind.
    """
    check_can_install(machine)
    if any("\n" in option or "\0" in option for option in options):
        raise UnitError("an option of a service cannot hold a line break")
    with contextlib.ExitStack() as undo:
        try:
            _write_config(machine, undo)
            if machine.init is Init.SYSTEMD:
                _install_systemd(machine, options, undo)
            else:
                _install_sysv(machine, options, undo)
        except OSError as error:
            raise UnitError(f"cannot write {error.filename}: {error.strerror}") from None
        undo.pop_all()


def _write_config(machine: Machine, undo: contextlib.ExitStack) -> None:
    """An example without nodes, for the operator to fill in; what is there stays."""
    _make_directory(machine.config_file.parent, undo)
    if not machine.config_file.exists():
        _write(machine.config_file, template("spawn.conf"), 0o644, undo)


def _install_systemd(machine: Machine, options: Sequence[str], undo: contextlib.ExitStack) -> None:
    if not machine.has_user(USER):
        home = "/var/lib/spawn"
        machine.command("useradd", "--system", "--user-group", "--no-create-home", "--home-dir", home,
                        "--shell", "/usr/sbin/nologin", USER)  # fmt: skip
        undo.callback(machine.run, ["userdel", USER])
    tried = machine.run(["runuser", "-u", USER, "--", machine.python, "-P", "-c", "import spawn, spawnctl"])
    if tried.returncode != 0:
        where = "install Spawn where every user may read it, in a virtual environment in /opt/spawn for example"
        raise UnitError(f"the service's user '{USER}' cannot run {machine.python}: {where}")
    command = " ".join(_systemd_word(word) for word in (machine.python, "-P", "-m", "spawnctl", *options))
    _make_directory(machine.unit_file.parent, undo)
    _write(machine.unit_file, template(UNIT).replace("@COMMAND@", command), 0o644, undo)
    undo.callback(machine.run, ["systemctl", "daemon-reload"])
    machine.command("systemctl", "daemon-reload")
    machine.command("systemctl", "enable", UNIT)


def _systemd_word(word: str) -> str:
    """One word of ExecStart, by the quoting rules of systemd.service(5): specifiers and variables mean themselves."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    plain = escaped and all(letter.isalnum() or letter in "%$-_=./:,@+" for letter in escaped)
    return escaped if plain else f'"{escaped}"'


def _install_sysv(machine: Machine, options: Sequence[str], undo: contextlib.ExitStack) -> None:
    _write(machine.options_file, "".join(f"{option}\n" for option in options), 0o644, undo)
    script = template("spawn.sysv").replace("@PYTHON@", shlex.quote(machine.python))
    _write(machine.script, script, 0o755, undo)
    for link in (machine.root / name for name in LINKS):
        if link.parent.is_dir() and not link.is_symlink():
            link.symlink_to("../init.d/spawn")
            undo.callback(link.unlink, missing_ok=True)


def remove(machine: Machine, stop: Callable[[], None]) -> None:
    """Stop the service and delete what ``install`` wrote, except configuration and state.

    :param stop: stops the daemon of a SysV service.
    :raises UnitError: it is not installed, or a step failed.
    """
    machine.need_root()
    installed = machine.installed()
    if installed is Init.NONE:
        raise UnitError("Service is not installed")
    if installed is Init.SYSTEMD:
        machine.command("systemctl", "disable", "--now", UNIT)
        machine.unit_file.unlink(missing_ok=True)
        machine.command("systemctl", "daemon-reload")
        return
    stop()
    for name in LINKS:
        (machine.root / name).unlink(missing_ok=True)
    machine.options_file.unlink(missing_ok=True)
    machine.script.unlink(missing_ok=True)


def systemd_pid(machine: Machine) -> int | None:
    """The main process of the systemd service; None when it does not run."""
    shown = machine.command("systemctl", "show", "--property=MainPID", "--value", UNIT).strip()
    return int(shown) if shown.isdigit() and int(shown) > 0 else None


def start_systemd(machine: Machine) -> None:
    """:raises UnitError: it runs already, or did not get ready; with the last lines of the journal."""
    machine.need_root()
    if systemd_pid(machine) is not None:
        raise UnitError("Service is already running")
    try:
        machine.command("systemctl", "start", UNIT)
    except UnitError as error:
        logged = machine.run(["journalctl", "--unit", UNIT, "--lines=10", "--no-pager", "--output=cat"]).stdout
        raise UnitError(str(error), logged.splitlines()) from None


def stop_systemd(machine: Machine) -> None:
    """:raises UnitError: it does not run, or could not be stopped."""
    machine.need_root()
    if systemd_pid(machine) is None:
        raise UnitError("Service has already been stopped")
    machine.command("systemctl", "stop", UNIT)


def template(name: str) -> str:
    """The text of a file of ``init/``."""
    return (resources.files("spawnctl") / "init" / name).read_text("utf-8")


def _make_directory(path: Path, undo: contextlib.ExitStack) -> None:
    if not path.is_dir():
        path.mkdir(mode=0o755, parents=True)
        undo.callback(_remove_if_empty, path)


def _remove_if_empty(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.rmdir()


def _write(path: Path, text: str, mode: int, undo: contextlib.ExitStack) -> None:
    """Write a new file whole or not at all: a boot in the middle must not find half a script."""
    draft = path.with_name(f".{path.name}.new")
    undo.callback(path.unlink, missing_ok=True)
    try:
        draft.write_text(text, "utf-8")
        draft.chmod(mode)
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
