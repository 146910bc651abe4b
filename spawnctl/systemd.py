"""systemd: the unit that ``install`` writes, and the service as systemd runs it.

The unit allows the service what its configuration needs and nothing else: a directory of state or logs that is not
systemd's own choice becomes writable, and only ports below 1024 ask for a capability. What a later change of the
configuration needs beyond that is had by ``remove`` and ``install`` again.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from spawn.config import Config
from spawnctl.machine import STATE_DIR, UNIT, ControlError, Machine, filled

LOG_LINES = 10
MANAGER_TIMEOUT_S = 10.0
NO_TIMEOUT = None  # systemd has its own for starts and stops, which the service prolongs while it gets on
UNPRIVILEGED_PORTS = 1024
HOMES = tuple(map(Path, ("/home", "/root", "/run/user")))
PRIVATE = tuple(map(Path, ("/tmp", "/var/tmp")))
DROP_IN = "restored.conf"
# Settings of a unit that are about how its service runs, not about what it may do.
OF_THE_RUN = ("Type=", "NotifyAccess=", "SyslogIdentifier=", "Exec", "Restart", "Timeout", "Watchdog")


def render_unit(
    command: Sequence[str], config: Config, state_dir: Path, writable: Sequence[Path], seen: Sequence[Path]
) -> str:
    """The unit of the machine's service.

    :param writable: further directories that it writes to.
    :param seen: files and directories that it reads, to find out whether homes have to be visible.
    """
    writable = [*writable] if state_dir == STATE_DIR else [state_dir, *writable]
    in_homes = any(path.is_relative_to(home) for path in (*writable, *seen) for home in HOMES)
    low_port = has_low_port(config)
    parts = {
        "@COMMAND@": quoted(command),
        "@CHECK@": quoted(check_of(command)),
        "@HOMES@": "read-only" if in_homes else "yes",
        "@CAPABILITIES@": "CAP_NET_BIND_SERVICE" if low_port else "",
        # In a name space of users the capability would be worth nothing.
        "@PRIVATE_USERS@": "no" if low_port else "yes",
        "@STATE@": "StateDirectory=spawn\nStateDirectoryMode=0700\n" if state_dir == STATE_DIR else "",
        "@WRITABLE@": "".join(f"ReadWritePaths={_quoted_path(path)}\n" for path in writable),
    }
    return filled(UNIT, parts)


def has_low_port(config: Config) -> bool:
    """Whether a port is configured that only root, or who has the capability for it, may bind."""
    return min(config.port, config.api.port) < UNPRIVILEGED_PORTS


def render_user_unit(command: Sequence[str]) -> str:
    """The unit of a user's own service: what only root can have done for it is left out."""
    return filled("spawn.user.service", {"@COMMAND@": quoted(command), "@CHECK@": quoted(check_of(command))})


def check_of(command: Sequence[str]) -> list[str]:
    """The command that checks what a service would read."""
    at = command.index("spawnctl") + 1
    return [*command[:at], "check", *command[at:]]


def quoted(words: Sequence[str]) -> str:
    """Words of a command by the quoting rules of systemd.service(5): specifiers and variables mean themselves."""
    return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    plain = escaped and all(letter.isalnum() or letter in "%$-_=./:,@+" for letter in escaped)
    return escaped if plain else f'"{escaped}"'


def _quoted_path(path: Path) -> str:
    """For a setting that is no command: a dollar sign is nothing special there."""
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return escaped if escaped.isprintable() and not set(escaped) & set(" \\\"';") else f'"{escaped}"'


def sandbox(unit: str) -> list[str]:
    """What a unit lets its service do and see, as settings for ``systemd-run --property``."""
    service = unit.partition("[Service]\n")[2].partition("\n[")[0].splitlines()
    settings = [line for line in service if "=" in line and not line.startswith("#")]
    return [line for line in settings if not line.startswith(OF_THE_RUN)]


class UncleanEnd(ControlError):
    """The service has ended, but not as it should."""


@dataclass(frozen=True)
class Systemd:
    """The installed service, asked for through ``systemctl``."""

    machine: Machine

    def control(self, *words: str, timeout_s: float | None = MANAGER_TIMEOUT_S) -> str:
        """``systemctl``, for the machine's manager or the user's. Raises ``ControlError``."""
        own = ["--user"] if self.machine.user else []
        return self.machine.command("systemctl", *own, *words, timeout_s=timeout_s)

    def show(self, *names: str) -> dict[str, str]:
        """Properties of the unit."""
        lines = self.control("show", f"--property={','.join(names)}", UNIT).splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def pid(self) -> int | None:
        """The main process; None when the service does not run."""
        shown = self.show("MainPID").get("MainPID", "")
        return int(shown) if shown.isdigit() and int(shown) > 0 else None

    def why_stopped(self) -> str:
        """What there is to say of a service that is not running, in a few words; often nothing."""
        shown = self.show("ActiveState", "SubState", "Result", "ExecMainStatus")
        if shown.get("SubState") == "auto-restart":
            return "it ended by itself, systemd is about to start it again"
        if shown.get("ActiveState") == "failed":
            result = shown.get("Result", "")
            code = f" {shown.get('ExecMainStatus')}" if result == "exit-code" else ""
            return f"its last run failed ({result}{code}); '{self._journalctl()}' shows what it said"
        return ""

    def start(self, restored: Sequence[str] = ()) -> None:
        """Return when the service is ready. ``restored``: the command to start it with, this once.

        :raises ControlError: it runs already, or did not get ready; with the last lines that it logged.
        """
        self.machine.need_root()
        if self.pid() is not None:
            raise ControlError("Service is already running")
        with self._once(restored):
            self._start()

    def _start(self) -> None:
        with contextlib.suppress(ControlError):
            self.control("reset-failed", UNIT)  # or it would count against an operator that the service failed before
        try:
            self.control("start", UNIT, timeout_s=NO_TIMEOUT)
        except ControlError as error:
            why, logged = self._failure(str(error)), self._logged()
            with contextlib.suppress(ControlError):
                self.control("stop", UNIT, timeout_s=NO_TIMEOUT)  # FAILED means that it is not being tried again
            raise ControlError(f"the service did not start ({why})", logged) from None

    def _failure(self, said: str) -> str:
        """Why a start failed: what became of the process, or what systemd said where there was none."""
        with contextlib.suppress(ControlError):
            shown = self.show("Result", "ExecMainStatus")
            if shown.get("Result") == "exit-code":
                return f"exit code {shown.get('ExecMainStatus')}"
            if shown.get("Result") not in (None, "", "success"):
                return shown["Result"]
        return said

    def _logged(self) -> list[str]:
        """What the last run said, without what systemd said of it."""
        with contextlib.suppress(ControlError):
            run = self.show("InvocationID").get("InvocationID", "")
            own = ["--user"] if self.machine.user else []
            how = ["--no-pager", "--quiet", "--output=cat", f"--lines={LOG_LINES}"]
            words = ["journalctl", *own, *how, f"_SYSTEMD_INVOCATION_ID={run}"]
            return self.machine.command(*words, timeout_s=MANAGER_TIMEOUT_S).splitlines()
        return []

    def _journalctl(self) -> str:
        return f"journalctl {'--user-unit' if self.machine.user else '-u'} spawn"

    @contextlib.contextmanager
    def _once(self, command: Sequence[str]) -> Iterator[None]:
        """Have the unit run another command meanwhile. What systemd starts later runs its own again.

        That is seen to in three ways, because nobody may be left with it: when we are done, by the service itself when
        it has started, and by the next command, if all of that was cut off.
        """
        self._forget_once()
        if not command:
            yield
            return
        drop_in = self._drop_in
        drop_in.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        own = " --user" if self.machine.user else ""
        forget = quoted(["/bin/sh", "-c", f"rm -f '{drop_in}'; systemctl{own} daemon-reload --no-block"])
        lines = ["[Service]", "ExecStart=", f"ExecStart={quoted(command)}", f"ExecStartPost=-+{forget}", "Restart=no"]
        try:
            drop_in.write_text("\n".join(lines) + "\n", "utf-8")
            self.control("daemon-reload")
            yield
        finally:
            self._forget_once(always=True)

    @property
    def _drop_in(self) -> Path:
        return self.machine.runtime_units / f"{UNIT}.d" / DROP_IN

    def _forget_once(self, always: bool = False) -> None:
        if always or self._drop_in.exists():
            self._drop_in.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self._drop_in.parent.rmdir()
            self.control("daemon-reload")

    def stop(self) -> None:
        """Return when the service has ended.

        :raises ControlError: it does not run, could not be stopped, or did not end in order.
        """
        self.machine.need_root()
        self._forget_once()
        if self.has_stopped():
            raise ControlError("Service has already been stopped")
        served = self.show("ActiveState").get("ActiveState") in ("active", "reloading")
        self.control("stop", UNIT, timeout_s=NO_TIMEOUT)
        result = self.show("Result").get("Result", "success")
        if served and result != "success":
            raise UncleanEnd(f"the service did not end in order ({result}): the next start recovers", self._logged())

    def has_stopped(self) -> bool:
        """Whether nothing runs, and nothing is about to be started again."""
        return self.show("ActiveState").get("ActiveState") in ("inactive", "failed")

    def words(self, pid: int) -> list[str]:
        """The command line of the running service; empty where it cannot be read."""
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
        except OSError:
            return []
        return [word.decode(errors="surrogateescape") for word in words]


def command_of(unit: str) -> list[str]:
    """The words of the last ``ExecStart`` of a unit, undoing ``quoted``. Raises ``ValueError``: it cannot be read."""
    starts = [line.partition("=")[2] for line in unit.splitlines() if line.startswith("ExecStart=")]
    words = shlex.split(starts[-1]) if starts else []
    return [word.replace("%%", "%").replace("$$", "$") for word in words]
