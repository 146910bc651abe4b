"""``install`` and ``remove``: what they put in place, and take away again.

systemd where it runs, else SysV init. The files are made from the templates in ``init/``; they name the absolute
interpreter that ran ``install``, so a virtual environment works.

Invariants: everything that can be checked is checked before anything is written; an ``install`` that fails half-way
undoes what it did; configuration and state outlive ``remove``.
"""

from __future__ import annotations

import contextlib
import grp
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import spawn
from spawn.config import Config, default_state_dir, load
from spawn.errors import ConfigError
from spawn.state.directory import StateDirectory, user_name
from spawnctl import account, completion, files, installed, manual, options_file, places, systemd, sysv
from spawnctl.files import UNCHANGED, Owner
from spawnctl.machine import UNIT, USER, ControlError, Init, Machine, filled, template
from spawnctl.systemd import Systemd
from spawnctl.usage import CommandLine

NO_INIT = "no init system here that Spawn knows (neither systemd nor SysV init); 'spawnctl start' works without one"
NO_USER_SYSTEMD = "no systemd of this user answers ({reason}); 'spawnctl start' works without one"
LINGER = "It runs while you are logged in. 'loginctl enable-linger' lets it run always, from boot on."
SEES_NOT = "{what} {path} is in {place}, where the service sees nothing but files of its own: put it elsewhere"
NOT_OURS = "the service 'spawn' of this machine was not written by 'spawnctl install': it is left alone"
CONFIG_MODE = 0o640  # delivery.set-headers may hold credentials
LOG_MODE = 0o640


@dataclass(frozen=True)
class Service:
    """What is to be installed: everything has been looked at, nothing written."""

    options: tuple[str, ...]
    config: Config
    config_file: Path
    state_dir: Path
    log_file: Path | None

    def command(self, machine: Machine) -> list[str]:
        return [machine.python, "-P", "-m", "spawnctl", *self.options]


def plan(machine: Machine, line: CommandLine) -> Service:
    """Decide what to install. Without ``--config`` it is the service's own file, which may not be there yet.

    :raises ControlError: the service cannot be installed here, or is already.
    :raises ConfigError: the options or the file are faulty.
    """
    _check_can_install(machine)
    line = line.with_absolute_paths()
    if not all(word.isprintable() for word in (machine.python, *line.as_options())):
        raise ControlError("an option of a service is one line of text: it cannot hold control characters")
    own = machine.config_file if line.config is None else Path(line.config)
    is_there = own != machine.config_file or own.exists()
    config = load(str(own) if is_there else None, line.overrides, search=()).config
    options = [option for option in line.as_options() if not option.startswith("--config=")]
    state_dir = Path(default_state_dir(config, machine.uid, machine.environ))
    faults = places.look(config, made=str(state_dir)).faults
    if faults:
        raise ConfigError(list(faults))
    if StateDirectory(str(machine.at(state_dir))).holds_others():
        raise ControlError(f"the state directory {state_dir} holds what is not Spawn's: give it one of its own")
    if machine.user and not config.state_dir and "XDG_STATE_HOME" in machine.environ:  # which the manager does not know
        options.append(f"--state-dir={state_dir}")
    if line.config is None and not machine.user:
        own = Path("/") / own.relative_to(machine.root)
    service = Service((f"--config={own}", *options), config, own, state_dir, _log_file(machine, config))
    if machine.init is Init.SYSTEMD and not machine.user:
        _check_seen(machine, service)
    return service


def _check_can_install(machine: Machine) -> None:
    machine.need_root()
    if machine.installed() is not Init.NONE and not _is_unfinished(machine):
        raise ControlError("Service has already been installed")
    if machine.init is Init.NONE:
        raise ControlError(NO_INIT)
    if machine.user:
        if machine.init is not Init.SYSTEMD:
            raise ControlError(NO_USER_SYSTEMD.format(reason="this machine has none"))
        try:
            Systemd(machine).control("show-environment")
        except ControlError as error:
            raise ControlError(NO_USER_SYSTEMD.format(reason=error)) from None


def _is_unfinished(machine: Machine) -> bool:
    """Whether what is there is of an ``install`` that was killed before its last step, so that no boot starts it."""
    if machine.init is not Init.SYSTEMD or not files.is_ours(machine.unit_file):
        return False
    try:
        return Systemd(machine).show("UnitFileState").get("UnitFileState") == "disabled" and not Systemd(machine).pid()
    except ControlError:
        return False


def _log_file(machine: Machine, config: Config) -> Path | None:
    """systemd keeps what goes to standard error; SysV init keeps nothing."""
    if config.log.file:
        return Path(config.log.file)
    return sysv.LOG_FILE if machine.init is Init.SYSV else None


def _check_seen(machine: Machine, service: Service) -> None:
    """The unit has temporary directories of its own. Raises ``ControlError``."""
    named = {"interpreter": Path(machine.python), "configuration": service.config_file}
    named |= {"state directory": service.state_dir, "log file": service.log_file or Path("/")}
    for what, path in named.items():
        place = next((place for place in systemd.PRIVATE if path.is_relative_to(place)), None)
        if place:
            raise ControlError(SEES_NOT.format(what=what, path=path, place=place))


def install(machine: Machine, service: Service) -> list[str]:
    """Put the service in place and have it started at boot. Returns what the operator should know.

    :raises ControlError: it could not be done; nothing is left behind.
    :raises ConfigError: the service's user cannot use the configuration; nothing is left behind.
    """
    with contextlib.ExitStack() as undo:
        try:
            _prepare(machine, service, undo)
            if machine.init is Init.SYSTEMD:
                _install_systemd(machine, service, undo)
            else:
                sysv.install(machine, service.options, undo)
            _write_rotation(machine, service, undo)
        except OSError as error:
            where = f"cannot write {error.filename}: " if error.filename else ""
            raise ControlError(f"{where}{error.strerror}") from None
        undo.pop_all()
    machine.removed_file.unlink(missing_ok=True)
    notes = [LINGER] if machine.user and not _lingers(machine) else []
    return [*_write_documents(machine), *notes]


def _lingers(machine: Machine) -> bool:
    """Whether the user's services run without the user being there."""
    return (machine.root / "var/lib/systemd/linger" / user_name(machine.uid)).exists()


def _prepare(machine: Machine, service: Service, undo: contextlib.ExitStack) -> None:
    """Everything that has to be there before the service's user can be asked whether it gets on with it."""
    whose, group = UNCHANGED, UNCHANGED
    if not machine.user:
        whose = account.ensure(machine, undo)
        group = Owner(0, whose.gid)
    files.make_directory(machine.config_dir, undo)
    if machine.config_file in (service.config_file, machine.at(service.config_file)):
        _write_example(machine, group, undo)
    _make_state_directory(machine, service.state_dir, whose, undo)
    if machine.user:
        return
    if service.log_file:
        make_log_file(machine, service.log_file, undo)
    in_unit = systemd.sandbox(_unit(machine, service)) if machine.init is Init.SYSTEMD else ()
    account.try_out(machine, service.options, in_unit)


def make_log_file(machine: Machine, path: Path, undo: contextlib.ExitStack | None = None) -> None:
    """The service's user may not make one in /var/log. In a directory of its own it has to do that itself."""
    there, whose = machine.at(path), account.log_owner(machine)
    if files.is_safe(there, account.owner(machine)):
        if path == sysv.LOG_FILE:  # nobody else's: a daemon of root's has left it
            files.give_file(there, LOG_MODE, whose, undo)
        files.create_empty(there, LOG_MODE, whose, undo)


def _write_example(machine: Machine, group: Owner, undo: contextlib.ExitStack) -> None:
    if not machine.config_file.exists():
        files.write(machine.config_file, template("spawn.conf"), CONFIG_MODE, undo, group)
    if not (machine.config_dir / "README").exists():
        files.write(machine.config_dir / "README", template("README"), 0o644, undo)


def _make_state_directory(machine: Machine, path: Path, whose: Owner, undo: contextlib.ExitStack) -> None:
    """A state that root has begun, or an empty directory, becomes the service's. Nothing else can be in it."""
    below = machine.at(path)
    files.make_directory(below, undo, 0o700, whose)
    before = below.stat().st_uid
    if whose.uid in (-1, before):
        return
    if before != 0:
        raise ControlError(f"the state directory {path} is that of user {user_name(before)}: give the service its own")
    files.give(below, whose, undo)


def _install_systemd(machine: Machine, service: Service, undo: contextlib.ExitStack) -> None:
    manager = Systemd(machine)
    files.make_directory(machine.unit_file.parent, undo)
    undo.callback(_quietly, manager, "daemon-reload")
    files.write(machine.unit_file, _unit(machine, service), 0o644, undo)
    manager.control("daemon-reload")
    undo.callback(_quietly, manager, "disable", UNIT)
    manager.control("enable", UNIT)


def _unit(machine: Machine, service: Service) -> str:
    command = service.command(machine)
    if machine.user:
        return systemd.render_user_unit(command)
    logs = [service.log_file.parent] if service.log_file else []
    seen = [Path(machine.python), Path(os.path.realpath(machine.python)), service.config_file]
    return systemd.render_unit(command, service.config, service.state_dir, logs, seen)


def _quietly(manager: Systemd, *words: str) -> None:
    with contextlib.suppress(ControlError):
        manager.control(*words)


def _write_rotation(machine: Machine, service: Service, undo: contextlib.ExitStack) -> None:
    """For logrotate(8), where there is a log file and nobody who has seen to it already."""
    path = _rotation(machine)
    if machine.user or service.log_file is None or (path.exists() and not files.is_ours(path)):
        return
    reopen = "systemctl kill --kill-who=main --signal=USR1 spawn.service"
    if machine.init is Init.SYSV:
        reopen = "/etc/init.d/spawn reopen-log >/dev/null"
    files.make_directory(path.parent, undo)
    parts = {"@LOG@": f'"{service.log_file}"', "@REOPEN@": reopen, "@SU@": run_as(machine, service.log_file.parent)}
    files.write(path, filled("spawn.logrotate", parts), 0o644, undo)


def run_as(machine: Machine, directory: Path) -> str:
    """logrotate refuses a directory that others than root may write, unless it is told as whom to do it."""
    found, service = machine.at(directory).stat(), account.owner(machine)
    if found.st_uid != service.uid and not (found.st_gid != 0 and found.st_mode & stat.S_IWGRP):
        return ""
    group = grp.getgrgid(found.st_gid).gr_name
    return f"    su {USER if service.uid == found.st_uid else 'root'} {group}\n"


def _rotation(machine: Machine) -> Path:
    return machine.root / "etc/logrotate.d/spawn"


def _write_documents(machine: Machine) -> list[str]:
    """The manual page and what a shell completes, unless a package has brought them. Without them it goes, too."""
    with contextlib.ExitStack() as undo:
        try:
            for path, text in _documents(machine).items():
                if not path.exists() or files.is_ours(path):
                    files.make_directory(path.parent, undo)
                    files.write(path, text(), 0o644, undo)
        except OSError as error:
            where = f" at {error.filename}" if error.filename else ""
            return [f"Without the manual page and completion for shells{where}: {error.strerror}."]
        undo.pop_all()
    return []


def _documents(machine: Machine) -> dict[Path, Callable[[], str]]:
    share = machine.data_home if machine.user else machine.at(Path("/usr/local/share"))
    return {
        share / "man/man8/spawnctl.8": lambda: _signed(manual.page(spawn.__version__, spawn.__date__), '.\\"'),
        share / "bash-completion/completions/spawnctl": lambda: _signed(completion.bash(), "#"),
        share / "zsh/site-functions/_spawnctl": lambda: _signed(completion.zsh(), "#"),
    }


def _signed(text: str, comment: str) -> str:
    """Says who wrote it, below the first line, which may mean something."""
    first, _, rest = text.partition("\n")
    return f'{first}\n{comment} Written by "{files.MARK}"; "spawnctl remove" deletes it.\n{rest}'


def remove(machine: Machine, stop: Callable[[], None]) -> None:
    """Stop the service and delete what ``install`` wrote, except configuration, state and logs.

    :param stop: stops the service if it runs.
    :raises ControlError: it is not installed, or a step failed.
    """
    machine.need_root()
    here = machine.installed()
    if here is Init.NONE:
        raise ControlError("Service is not installed")
    if not files.is_ours(machine.unit_file if here is Init.SYSTEMD else machine.script):
        raise ControlError(
            "the service 'spawn' of this machine was not written by 'spawnctl install': it is left alone"
        )
    options = installed.options(machine) or []
    stop()
    if here is Init.SYSTEMD:
        manager = Systemd(machine)
        manager.control("disable", UNIT)
        machine.unit_file.unlink(missing_ok=True)
        manager.control("daemon-reload")
        _quietly(manager, "reset-failed", UNIT)
    else:
        sysv.remove(machine)
    with contextlib.suppress(OSError), contextlib.ExitStack() as undo:
        files.write(machine.removed_file, options_file.text(options), 0o644, undo)
        undo.pop_all()
    for path in (_rotation(machine), machine.config_dir / "README", *_documents(machine)):
        if files.is_ours(path):
            files.delete(path)
