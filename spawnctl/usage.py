"""The command line: what docopt makes of the usage text, and one line for a user who mistyped.

docopt reads ``text.TEXT`` and nothing else, so what ``-h`` shows is what is accepted. Its own complaint about a bad
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
from spawnctl.text import COMMANDS, FOREGROUND, OPTIONS, TEXT

# flag → the key of the configuration that it overrides
OVERRIDES = dict(CONFIG_FLAGS)
FLAGS = tuple(option.flag for option in OPTIONS)
SWITCHES = tuple(option.flag for option in OPTIONS if not option.value)
PATH_KEYS = ("state-dir", "log.file")
SHORT = {option.short[1:]: option.flag for option in OPTIONS if option.short}
SERVICE_COMMANDS = tuple(name for name, command in COMMANDS.items() if "--user" in command.flags)


class UsageError(SpawnError):
    """The command line is not one of ours; the message is one line that says why."""


@dataclass(frozen=True)
class CommandLine:
    """What the user asked for. ``overrides`` maps keys of the configuration to values as typed."""

    command: str  # one of text.COMMANDS, or empty: run in the foreground
    test: bool
    config: str | None
    overrides: dict[str, object]
    restored: bool = False
    user: bool = False  # the service is this user's own
    purge: bool = False  # what "remove" would leave is deleted too
    shell: str = ""  # whose completion is to be printed

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
    empty = next((flag for flag, key in OVERRIDES.items() if key in PATH_KEYS and found[flag] == ""), None)
    if empty:  # in the file that means the default; here it is a shell variable that is not set
        raise UsageError(f"{empty} needs a path, not nothing")
    return _command_line(found)


def _command_line(found: dict[str, Any]) -> CommandLine:
    command = next((name for name in COMMANDS if found[name]), "")
    return CommandLine(
        command=command,
        test=bool(found["--test"]),
        config=found["--config"],
        overrides=_overrides(found),
        restored=bool(found["--restored"]),
        user=bool(found["--user"]),
        purge=bool(found["--purge"]),
        shell=next((word for word in COMMANDS[command].words if found[word]), "") if command else "",
    )


def _overrides(found: dict[str, Any]) -> dict[str, object]:
    """A switch that was not given says nothing, rather than false: the file may have turned it on."""
    return {key: found[flag] for flag, key in OVERRIDES.items() if found[flag] not in (None, False)}


def explain(argv: Sequence[str]) -> str:
    """Say in one line why docopt refused this command line."""
    words, flags, fault = _split(argv)
    if fault := fault or _fault_of_words(words):
        return fault
    command = words[0] if words else ""
    accepted = (COMMANDS[command] if command else FOREGROUND).flags
    for flag in flags:
        if flag not in accepted:
            return _misplaced(flag, command)
    twice = next((flag for flag in flags if flags.count(flag) > 1), None)
    if twice:
        return f"{twice} is given twice"
    if {"--restored", "--test"} <= set(flags):
        return "--restored does not go with -t: test mode begins with an empty state"
    return "these arguments do not go together"


def _fault_of_words(words: Sequence[str]) -> str:
    if not words:
        return ""
    command, *others = words
    if command in COMMANDS and (wanted := COMMANDS[command].words):
        return _fault_of_argument(command, others, wanted)
    for word in words:
        if word not in COMMANDS:
            return f"unknown command '{word}'{_nearest(word, tuple(COMMANDS))}"
    return f"one command at a time, not {' and '.join(words)}" if others else ""


def _fault_of_argument(command: str, given: Sequence[str], wanted: Sequence[str]) -> str:
    """What is wrong with the words behind a command that needs one of those that are wanted."""
    choice = " or ".join(wanted)
    if not given:
        return f"'{command}' needs to be told which: {choice}"
    unknown = next((word for word in given if word not in wanted), None)
    if unknown is not None:
        return f"'{command}' is for {choice}, not for '{unknown}'"
    return f"one at a time, not {' and '.join(given)}" if len(given) > 1 else ""


def _misplaced(flag: str, command: str) -> str:
    """Why a command, or a start in the foreground, does not take an option that there is."""
    if flag == "--user":
        where = f"not with '{command}'" if command else "which has to be named"
        return f"--user is for a service: it goes with {_series(SERVICE_COMMANDS, 'or')}, {where}"
    if flag == "--purge":
        return "--purge goes with 'remove' only"
    if flag == "--restored":
        return f"--restored is for one start, it does not go with '{command}'"
    if flag == "--test":
        return f"-t is for running in the foreground, it does not go with '{command}'"
    taken = COMMANDS[command].flags
    if not taken:
        return f"'{command}' takes no options"
    return f"'{command}' takes no option but {_series(taken, 'and')} (those of the service are given to 'install')"


def _series(names: Sequence[str], joint: str) -> str:
    """``a, b and c``"""
    *first, last = names
    return f"{', '.join(first)} {joint} {last}" if first else last


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
