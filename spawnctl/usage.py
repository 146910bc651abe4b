"""The command line: the usage text, what docopt makes of it, and one line for a user who mistyped.

docopt reads the text below and nothing else, so what ``-h`` shows is what is accepted. Its own complaint about a bad
command line is a dump of its internals, so ``parse`` catches it and looks for the reason itself (``explain``).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from docopt import DocoptExit, DocoptLanguageError, docopt

from spawn.config import FLAGS as CONFIG_FLAGS
from spawn.errors import SpawnError

TEXT = """\
spawnctl - Spawn Sync Service Control

Usage:
  spawnctl install [options]
  spawnctl (remove | start | stop | status)
  spawnctl check [options]
  spawnctl [options]
  spawnctl --restored [options]
  spawnctl start --restored
  spawnctl -h | --help
  spawnctl -v | --version

Commands:
  install           Install as service
  remove            Remove service
  start             Start service
  stop              Stop service
  status            Check service status
  check             Check the configuration without starting

  -h --help         Show this screen
  -v --version      Show version
  -t --test         Test mode

Options:
  --config=PATH          Path to the config file
  --host=HOST            Host name or IP address
  --port=PORT            Port number
  --api-host=HOST        API host name or IP address
  --api-port=PORT        API port number
  --round-robin          Use round-robin mode for querying of nodes
  --by-priority          Nodes will queried according to priority
  --check-sec=SECONDS    Check nodes every number of seconds
  --check-url=URL        URL to check nodes (/info, etc)
  --check-regexp=REGEXP  Regexp pattern to check nodes
  --state-dir=PATH       Directory of the journal and the nodes' positions
  --log-level=LEVEL      debug, info, warning, error or critical
  --log-file=PATH        Log to this file instead of the terminal
  --restored             The state directory comes from a backup: this start
                         makes it a journal of its own, all nodes out of sync

Without a command the service runs in the foreground. Options override the config
file; those given to "install" become the command line of the service.
"""
USAGE = TEXT[TEXT.index("Usage:") : TEXT.index("\n\nCommands:")]

COMMANDS = ("install", "remove", "start", "stop", "status", "check")
BARE_COMMANDS = ("remove", "start", "stop", "status")  # those that take no options

# flag → the key of the configuration that it overrides
OVERRIDES = dict(CONFIG_FLAGS)
SWITCHES = ("--help", "--version", "--test", "--round-robin", "--by-priority", "--restored")
FLAGS = ("--help", "--version", "--test", "--config", *OVERRIDES, "--restored")
PATH_KEYS = ("state-dir", "log.file")
SHORT = {"h": "--help", "v": "--version", "t": "--test"}


class UsageError(SpawnError):
    """The command line is not one of ours; the message is one line that says why."""


@dataclass(frozen=True)
class CommandLine:
    """What the user asked for. ``overrides`` maps keys of the configuration to values as typed."""

    command: str  # one of COMMANDS, or empty: run in the foreground
    test: bool
    config: str | None
    overrides: dict[str, object]
    restored: bool = False

    def as_options(self) -> list[str]:
        """Spell the options out again, one word each, for the command line of an installed service."""
        words = [f"--config={self.config}"] if self.config else []
        for flag, key in OVERRIDES.items():
            if key in self.overrides:
                words.append(flag if flag in SWITCHES else f"{flag}={self.overrides[key]}")
        return words

    def with_absolute_paths(self) -> CommandLine:
        """The same for a process with another working directory."""
        paths = {key: os.path.abspath(str(self.overrides[key])) for key in PATH_KEYS if self.overrides.get(key)}
        config = os.path.abspath(self.config) if self.config else self.config
        return replace(self, config=config, overrides={**self.overrides, **paths})


def parse(argv: Sequence[str], version: str) -> CommandLine:
    """Read a command line.

    :raises UsageError: it is not one of ours.
    :raises SystemExit: ``-h`` or ``-v`` was asked for, and has been printed.
    """
    try:
        found = docopt(TEXT, list(argv), True, version)
    except (DocoptExit, DocoptLanguageError):
        raise UsageError(explain(argv)) from None
    command = next((name for name in COMMANDS if found[name]), "")
    if found["--test"] and command:
        raise UsageError(f"-t is for running in the foreground, it does not go with '{command}'")
    if found["--restored"] and found["--test"]:
        raise UsageError("--restored does not go with -t: test mode begins with an empty state")
    empty = next((flag for flag, key in OVERRIDES.items() if key in PATH_KEYS and found[flag] == ""), None)
    if empty:  # in the file that means the default; here it is a shell variable that is not set
        raise UsageError(f"{empty} needs a path, not nothing")
    overrides, restored = _overrides(found), bool(found["--restored"])
    return CommandLine(command, bool(found["--test"]), found["--config"], overrides, restored)


def _overrides(found: dict[str, Any]) -> dict[str, object]:
    """A switch that was not given says nothing, rather than false: the file may have turned it on."""
    return {key: found[flag] for flag, key in OVERRIDES.items() if found[flag] not in (None, False)}


def explain(argv: Sequence[str]) -> str:
    """Say in one line why docopt refused this command line."""
    words, flags, fault = _split(argv)
    if fault:
        return fault
    for word in words:
        if word not in COMMANDS:
            return f"unknown command '{word}'{_nearest(word, COMMANDS)}"
    if len(words) > 1:
        return f"one command at a time, not {' and '.join(words)}"
    if words and "--restored" in flags:
        if words == ["start"]:
            return "'start' takes no option but --restored (the others are given to 'install')"
        return f"--restored is for one start, it does not go with '{words[0]}'"
    if words and words[0] in BARE_COMMANDS and flags:
        return f"'{words[0]}' takes no options (those of the service are given to 'install')"
    twice = next((flag for flag in flags if flags.count(flag) > 1), None)
    if twice:
        return f"{twice} is given twice"
    return "these arguments do not go together"


def _split(argv: Sequence[str]) -> tuple[list[str], list[str], str]:
    """Take a command line apart: commands, full names of flags, and the first fault of a flag by itself."""
    words: list[str] = []
    flags: list[str] = []
    rest = iter(argv)
    for word in rest:
        if not word.startswith("-") or word == "-":
            words.append(word)
        elif not word.startswith("--"):
            unknown = next((letter for letter in word[1:] if letter not in SHORT), None)
            if unknown:
                return words, flags, f"unknown option -{unknown}"
            flags += [SHORT[letter] for letter in word[1:]]
        else:
            name, fault = _flag(word, rest)
            if fault:
                return words, flags, fault
            flags.append(name)
    return words, flags, ""


def _flag(word: str, rest: Any) -> tuple[str, str]:
    """The full name of a long flag and what is wrong with it; takes its value from ``rest`` where that is apart."""
    typed, equals, _ = word.partition("=")
    meant = [flag for flag in FLAGS if flag == typed] or [flag for flag in FLAGS if flag.startswith(typed)]
    if typed == "--" or not meant:
        return typed, f"unknown option {typed}{_nearest(typed, FLAGS)}"
    if len(meant) > 1:
        return typed, f"{typed} could be {' or '.join(meant)}"
    if meant[0] in SWITCHES:
        return meant[0], f"{meant[0]} takes no value" if equals else ""
    if not equals and next(rest, None) is None:
        return meant[0], f"{meant[0]} needs a value"
    return meant[0], ""


def _nearest(typed: str, known: Sequence[str]) -> str:
    near = get_close_matches(typed, known, n=1, cutoff=0.6)
    return f" (did you mean {near[0]}?)" if near else ""
