"""The machine as the service commands see it: its init system, the places of a service's files, its programs.

A service is the machine's, or one user's own (``user``: systemd looks after it in that user's session). Everything is
done below ``root`` and through ``run``, so that a test can do it in a directory of its own.
"""

from __future__ import annotations

import dataclasses
import os
import pwd
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from importlib import resources
from pathlib import Path

from spawn.errors import SpawnError

UNIT = "spawn.service"
USER = "spawn"
NEED_ROOT = "You must have root user privileges. Possibly using 'sudo' command should help"
COMMAND_TIMEOUT_S = 120.0
NOT_FOUND = 127  # the exit code of a program that is not there
STATE_DIR = Path("/var/lib/spawn")  # of the machine's service, unless it is configured to have another


class ControlError(SpawnError):
    """A service command that cannot be done: one line, and in ``log_tail`` the last lines that the service logged."""

    def __init__(self, message: str, log_tail: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.log_tail = list(log_tail)


class Init(Enum):
    """Who looks after services on a machine."""

    SYSTEMD = "systemd"
    SYSV = "SysV init"
    NONE = "none"


Runner = Callable[[Sequence[str], float | None], "subprocess.CompletedProcess[str]"]
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"  # where the tools for users and services are, and not in everybody's PATH
OTHERS = ("STATE_DIRECTORY", "RUNTIME_DIRECTORY")  # of the service that the caller is part of, not of ours


def run_command(command: Sequence[str], timeout_s: float | None) -> subprocess.CompletedProcess[str]:
    """Run a program of the system; one that is missing or hangs is reported like one that fails."""
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
            cwd="/",  # another user may not see this one's directory
            env={**os.environ, "PATH": f"{os.environ.get('PATH', '/usr/bin:/bin')}:{SBIN}"},
        )
    except FileNotFoundError:
        return subprocess.CompletedProcess(command, NOT_FOUND, "", f"{command[0]}: not found")
    except PermissionError:
        return subprocess.CompletedProcess(command, 126, "", f"{command[0]}: not allowed")
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"{command[0]} took longer than {timeout_s:.0f} s")


def own_environ() -> dict[str, str]:
    """The caller's, without what it was told as part of a service itself."""
    return {name: value for name, value in os.environ.items() if name not in OTHERS}


def account(name: str) -> pwd.struct_passwd | None:
    """The user of that name; None where there is none."""
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


@dataclass(frozen=True)
class Machine:
    """The machine, and whose service is meant: the machine's or, with ``user``, the calling user's own."""

    root: Path = Path("/")
    run: Runner = run_command
    python: str = field(default_factory=lambda: os.path.abspath(sys.executable))  # not resolved: a venv is its symlink
    uid: int = field(default_factory=os.geteuid)
    account: Callable[[str], pwd.struct_passwd | None] = account
    environ: Mapping[str, str] = field(default_factory=own_environ)
    user: bool = False

    def for_user(self, user: bool) -> Machine:
        return dataclasses.replace(self, user=user)

    def at(self, path: Path) -> Path:
        """An absolute path, below ``root``."""
        return self.root / path.relative_to("/")

    @property
    def init(self) -> Init:
        """SysV init is told by its table: containers have an ``/etc/init.d`` and nobody who runs what is in it."""
        if (self.root / "run/systemd/system").is_dir():
            return Init.SYSTEMD
        sysv = (self.root / "etc/init.d").is_dir() and (self.root / "etc/inittab").exists()
        return Init.SYSV if sysv else Init.NONE

    @property
    def unit_file(self) -> Path:
        if self.user:
            return self._user_config / "systemd/user" / UNIT
        return self.root / "etc/systemd/system" / UNIT

    @property
    def runtime_units(self) -> Path:
        """Where systemd looks for what is gone after a reboot."""
        if self.user:
            return Path(self.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{self.uid}") / "systemd/user"
        return self.root / "run/systemd/system"

    @property
    def script(self) -> Path:
        return self.root / "etc/init.d/spawn"

    @property
    def config_dir(self) -> Path:
        return self._user_config / "spawn" if self.user else self.root / "etc/spawn"

    @property
    def config_file(self) -> Path:
        return self.config_dir / "spawn.conf"

    @property
    def options_file(self) -> Path:
        """The options of an installed SysV service, one a line; systemd's are in its unit."""
        return self.config_dir / "service.options"

    @property
    def removed_file(self) -> Path:
        """What a service that was removed had been given: how to install it again, and where its state is."""
        return self.config_dir / "removed.options"

    @property
    def data_home(self) -> Path:
        return self._xdg("XDG_DATA_HOME", ".local/share")

    @property
    def _user_config(self) -> Path:
        return self._xdg("XDG_CONFIG_HOME", ".config")

    def _xdg(self, name: str, default: str) -> Path:
        """A base directory of the XDG specification, which wants relative paths ignored."""
        typed = self.environ.get(name, "")
        return Path(typed) if os.path.isabs(typed) else self._home / default

    @property
    def _home(self) -> Path:
        home = self.environ.get("HOME", "")
        if os.path.isabs(home):
            return Path(home)
        try:
            return Path(pwd.getpwuid(self.uid).pw_dir)
        except KeyError:
            raise ControlError(f"user {self.uid} has no home directory: set HOME") from None

    def installed(self) -> Init:
        """What the service is installed for."""
        if self.init is Init.SYSTEMD and self.unit_file.exists():
            return Init.SYSTEMD
        sysv = self.init is Init.SYSV and not self.user and self.script.exists()
        return Init.SYSV if sysv else Init.NONE

    def need_root(self) -> None:
        """:raises ControlError: the machine's service is meant, and this user may not change it."""
        if self.uid != 0 and not self.user:
            raise ControlError(NEED_ROOT)

    def command(self, *words: str, timeout_s: float | None = COMMAND_TIMEOUT_S) -> str:
        """Run a program of the system and return what it printed.

        :raises ControlError: it failed; with the first line of its complaint.
        """
        done = self.run(words, timeout_s)
        if done.returncode != 0:
            complaint = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[0]
            raise ControlError(f"{_name(words)}: {complaint}")
        return done.stdout


def _name(words: Sequence[str]) -> str:
    """A program and what it was to do: ``systemctl start``."""
    return " ".join([words[0], *[word for word in words[1:] if not word.startswith("-")][:1]])


def template(name: str) -> str:
    """The text of a file of ``init/``."""
    return (resources.files("spawnctl") / "init" / name).read_text("utf-8")


def filled(name: str, parts: Mapping[str, str]) -> str:
    """A file of ``init/`` with its ``@NAME@`` replaced; one that stands alone in a line stands for whole lines."""
    text = template(name)
    for placeholder, value in parts.items():
        text = text.replace(f"\n{placeholder}\n", f"\n{value}").replace(placeholder, value)
    return text
