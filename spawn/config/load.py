"""From a file and flags to one validated, frozen ``Config``, or to every fault there is, each as one line.

Strategy: the file and the flags are read apart, each against the schema (``shape``), then the flags' values are laid
over the file's and checked together (``relations``). Nothing stops at the first fault. A fault of the file is reported
even where a flag would hide it. Nothing here imports gevent; reading a file blocks, so a running service calls this off
its hub.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import inspect

from spawn.config import relations, shape
from spawn.config.document import (
    Fault,
    Path,
    Unreadable,
    exists,
    is_unicode,
    one_line,
    path_text,
    read_document,
    shortened,
    tree_faults,
    without_secrets,
)
from spawn.config.schema import Config
from spawn.config.shape import INVALID
from spawn.errors import ConfigError, StartError

SEARCH = ("spawn.conf", "/etc/spawn/spawn.conf")
# The command's flags and the keys they override. A flag that is not here is named after its key.
FLAGS: Mapping[str, str] = {
    "--host": "host",
    "--port": "port",
    "--api-host": "api.host",
    "--api-port": "api.port",
    "--round-robin": "query-mode.round-robin",
    "--by-priority": "query-mode.by-priority",
    "--check-sec": "health-check.seconds",
    "--check-url": "health-check.url",
    "--check-regexp": "health-check.regexp",
    "--state-dir": "state-dir",
    "--log-level": "log.level",
    "--log-file": "log.file",
}
_FLAG_OF = {key: flag for flag, key in FLAGS.items()}
_PATH_KEYS: Sequence[Path] = (("state-dir",), ("log", "file"))


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A usable configuration, the absolute path of its file (None: defaults and flags only) and what to warn of."""

    config: Config
    path: str | None
    warnings: tuple[str, ...] = ()

    @property
    def authorities(self) -> tuple[str, ...]:
        """The nodes it names, as ``host:port``."""
        return tuple(node.authority for node in self.config.nodes)


@dataclass(slots=True)
class _Source:
    """What one origin of settings gave: a draft, and the finished lines of its faults."""

    draft: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)


def load(
    path: str | None, overrides: Mapping[str, object] | None = None, *, search: Sequence[str] = SEARCH
) -> LoadedConfig:
    """Read the file at ``path`` (it must exist), or else the first of ``search`` that exists; ``overrides`` go over it.

    ``overrides`` maps dotted keys (``api.port``) to typed values or to the text of a flag; None means not given, but
    False is a value. Relative paths in the file are relative to the file's directory, those of flags to the working
    directory. Raises ``ConfigError`` with every fault.
    """
    name = path if path is not None else _found(search)
    file = _Source() if name is None else _from_file(name)
    flags = _from_flags(overrides or {})
    merged = _merge(file.draft, flags.draft)
    label = name or "defaults"
    lines = file.lines + flags.lines
    lines += [_related(fault, label, flags.draft) for fault in relations.faults(merged)]
    if lines:
        raise ConfigError(lines)
    relations.named_like_nodes(merged)
    try:
        config = shape.to_config(merged)
    except msgspec.ValidationError as error:  # the walk and the structs disagree: still one line, never a traceback
        raise ConfigError([one_line(f"{label}: {error}")]) from None
    warnings = [one_line(f"{label}: {path_text(where)}: {text}") for where, text in relations.warnings(merged)]
    return LoadedConfig(config, os.path.abspath(name) if name else None, tuple(warnings))


def _found(search: Sequence[str]) -> str | None:
    """The first that exists. Root does not take unasked what somebody else has put into a working directory."""
    name = next(filter(exists, search), None)
    if name is not None and not os.path.isabs(name) and os.geteuid() == 0:
        with contextlib.suppress(OSError):
            found = os.stat(name)
            if found.st_uid != 0 or found.st_mode & stat.S_IWOTH:
                whose = "may be written by everybody" if found.st_uid == 0 else f"is not root's (uid {found.st_uid})"
                raise ConfigError([f"{name} in the working directory {whose}: name it, with --config={name}, if meant"])
    return name


def default_state_dir(config: Config, euid: int, environ: Mapping[str, str]) -> str:
    """Where the state lives: ``state-dir``; else the one that systemd made for the service (systemd.exec(5),
    ``StateDirectory=``); else /var/lib/spawn for root, the XDG state directory for others.

    The XDG base directory specification wants relative paths ignored. Raises ``StartError`` for a user without a home.
    """
    if config.state_dir:
        return config.state_dir
    given = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if os.path.isabs(given):
        return given
    if euid == 0:
        return "/var/lib/spawn"
    xdg = environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(xdg):
        return os.path.join(xdg, "spawn")
    home = environ.get("HOME", "")
    if not os.path.isabs(home):
        try:
            home = pwd.getpwuid(euid).pw_dir
        except KeyError:
            raise StartError(
                f"user {euid} has no home directory: set HOME, or state-dir in the configuration"
            ) from None
    return os.path.join(home, ".local", "state", "spawn")


def _from_file(name: str) -> _Source:
    label = one_line(name) or '""'
    try:
        tree = read_document(name)
    except Unreadable as error:
        return _Source(lines=[f"{label}{error.place}: {error.reason}"])
    faults = tree_faults(tree)
    draft = shape.read(shape.ROOT, tree, (), faults)
    if draft is INVALID:
        draft = {}
    base = os.path.dirname(os.path.abspath(name))
    for path in _PATH_KEYS:
        _make_absolute(draft, path, base)
    return _Source(draft, [without_secrets(fault).of_file(label) for fault in faults])


def _from_flags(overrides: Mapping[str, object]) -> _Source:
    source = _Source()
    for key, value in overrides.items():
        if value is None:
            continue
        flag, path = _flag(key), tuple(key.split("."))
        kind = shape.find(path)
        if kind is None:
            source.lines.append(one_line(f"{flag}: there is no setting {shortened(key)}"))
            continue
        faults: list[Fault] = []
        _put(source.draft, path, _flag_value(kind, value, faults))
        source.lines += [without_secrets(fault, path).of_flag(flag) for fault in faults]
        if path in _PATH_KEYS:
            _make_absolute(source.draft, path, _working_directory())
    return source


def _flag_value(kind: inspect.Type, value: object, faults: list[Fault]) -> Any:
    """A flag's value checked; what the user typed is what a fault shows."""
    if not isinstance(value, str):
        return shape.read(kind, _plain(value), (), faults)
    typed = f"'{shortened(value)}'"
    if not is_unicode(value):
        faults.append(Fault((), expected="valid Unicode", got=typed))
        return INVALID
    found: list[Fault] = []
    draft = shape.read(kind, shape.from_text(kind, value), (), found)
    faults += [fault if fault.path else Fault((), fault.text, fault.expected, typed) for fault in found]
    return draft


def _plain(value: object) -> Any:
    """A typed override as JSON would give it."""
    try:
        return msgspec.to_builtins(list(value) if isinstance(value, tuple) else value)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return value


def _flag(key: str) -> str:
    return _FLAG_OF.get(key, f"--{key.replace('.', '-')}")


def _related(fault: Fault, label: str, flags: Mapping[str, Any]) -> str:
    """The line for a contradiction. That of the two ports is put down to a flag, if one had a part in it."""
    keys: Sequence[Path] = (("api", "port"), ("port",), ("api", "host"), ("host",))
    given = next((key for key in keys if _get(flags, key) is not None), None)
    if given is None or fault.path != ("api", "port"):
        return fault.of_file(label)
    return Fault((), fault.text).of_flag(_flag(".".join(map(str, given))))


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` laid over ``below``; an unusable section stays unusable."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key, {})
        if old is INVALID and isinstance(value, dict):
            continue
        merged[key] = _merge(old, value) if isinstance(value, dict) and isinstance(old, dict) else value
    return merged


def _make_absolute(draft: dict[str, Any], path: Path, base: str) -> None:
    value = _get(draft, path)
    if isinstance(value, str) and value:
        _put(draft, path, os.path.normpath(os.path.join(base, value)))


def _working_directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:  # removed while somebody was in it
        return "/"


def _get(draft: Mapping[str, Any], path: Path) -> Any:
    value: Any = draft
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    return value


def _put(draft: dict[str, Any], path: Path, value: Any) -> None:
    for step in path[:-1]:
        draft = draft.setdefault(str(step), {})
    draft[str(path[-1])] = value
