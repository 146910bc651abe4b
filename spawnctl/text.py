"""The usage text, and what it says taken apart: which commands there are, which options, and which go together.

``usage`` gives the text to docopt, ``completion`` and ``manual`` make a shell's completion and the man page of it, so
none of them can know an option that another does not. The original's lines come first in each section, as they were;
what is new stands below them.

Invariants: only the standard library is imported, since the build makes files of this before anything is installed.
An option that a usage line names is accepted by that line only; ``[options]`` are all the others, as docopt has it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

PROGRAM = "spawnctl"
TEXT = """\
spawnctl - Spawn Sync Service Control

Usage:
  spawnctl install | remove | start | stop | status
  spawnctl [ -t | --test ] [options]
  spawnctl -h | --help
  spawnctl -v | --version
  spawnctl install [--user] [options]
  spawnctl remove [--purge] [--user]
  spawnctl start [--restored] [--user]
  spawnctl (stop | status) [--user]
  spawnctl check [options]
  spawnctl --restored [options]
  spawnctl completion (bash | zsh)
  spawnctl manual

Commands:
  install           Install as service
  remove            Remove service
  start             Start service
  stop              Stop service
  status            Check service status

  -h --help         Show this screen
  -v --version      Show version
  -t --test         Test mode

  check             Check the configuration without starting
  completion        Print what completes this command in bash or zsh
  manual            Print the source of the man page

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
  --user                 A service of this user's own, without root
  --purge                Delete configuration, journal and logs as well

Without a command the service runs in the foreground. Options override the config
file; those given to "install" become the command line of the service.
"""
USAGE = TEXT[TEXT.index("Usage:") : TEXT.index("\n\nCommands:")]


@dataclass(frozen=True)
class Option:
    flag: str  # its long name: "--config"
    short: str  # "-t", or empty
    value: str  # what its value is called: "PATH"; empty: a switch
    help: str


@dataclass(frozen=True)
class Command:
    name: str  # empty: no command, the service runs in the foreground
    help: str
    flags: tuple[str, ...]  # those it takes, in the order of the text
    words: tuple[str, ...]  # one of these has to follow it


@dataclass(frozen=True)
class _Line:
    """A usage line: what it begins with and what may follow."""

    names: tuple[str, ...]
    flags: frozenset[str]
    words: tuple[str, ...]
    shortcut: bool


def _entries(title: str) -> Iterator[tuple[str, str]]:
    """The entries of a section: what stands on the left, and its help as one line."""
    block = TEXT[TEXT.index(f"\n{title}:\n") + len(title) + 3 :]
    block = re.split(r"\n(?=\S)", block)[0]  # a section ends where the margin is used again
    for entry in re.split(r"\n+  (?! )", "\n" + block)[1:]:
        left, right = re.split(r" {2,}", entry, maxsplit=1)
        yield left, " ".join(right.split())


def _option(left: str, text: str) -> Option:
    *short, long = left.split()
    flag, _, value = long.partition("=")
    return Option(flag, "".join(short), value, text)


def _usage_line(line: str) -> _Line:
    match = re.fullmatch(rf" *{PROGRAM} \(?(\w+(?: \| \w+)*|)\)?(.*)", line)
    assert match, line
    names = tuple(match[1].split(" | "))
    shortcut, rest = "[options]" in match[2], match[2].replace("[options]", "")
    words = tuple(re.findall(r"(?<![-\w])[a-z]{2,}", rest))
    return _Line(names, frozenset(re.findall(r"--[a-z-]+", rest)), words, shortcut)


_LINES = [_usage_line(line) for line in USAGE.splitlines()[1:]]
_LEFT = [*_entries("Commands"), *_entries("Options")]
OPTIONS = tuple(_option(left, text) for left, text in _LEFT if left.startswith("-"))
_NAMED = frozenset().union(*(line.flags for line in _LINES))


def _taken(lines: Iterable[_Line]) -> tuple[str, ...]:
    """The options that at least one of these lines accepts, in the order of the text."""
    shortcut, named = False, set[str]()
    for line in lines:
        shortcut |= line.shortcut
        named |= line.flags
    return tuple(one.flag for one in OPTIONS if one.flag in named or (shortcut and one.flag not in _NAMED))


def _command(name: str, text: str) -> Command:
    lines = [line for line in _LINES if name in line.names]
    return Command(name, text, _taken(lines), tuple(word for line in lines for word in line.words))


COMMANDS = {left: _command(left, text) for left, text in _LEFT if not left.startswith("-")}
FOREGROUND = _command("", "")


SHARED = tuple(option.flag for option in OPTIONS if option.flag not in _NAMED)  # what "[options]" stands for


def excluded_by(flag: str) -> tuple[str, ...]:
    """The options of the commands that take this one which no line accepts with it, and itself."""
    about = {other for one in (*COMMANDS.values(), FOREGROUND) if flag in one.flags for other in one.flags}
    beside = _taken(line for line in _LINES if flag in _taken([line]))
    return tuple(option.flag for option in OPTIONS if option.flag in about.difference(beside) | {flag})
