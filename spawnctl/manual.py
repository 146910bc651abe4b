"""The man page spawnctl(8): synopsis, commands and options from the usage text, the rest from here; as man(7) macros.

The sections of its own are written below in a small notation: an entry is a line ``term`` with its text indented below
it, a block after ``$`` is shown as it is typed, and what stands in backquotes is literal, so it is bold and its hyphens
are those of the keyboard.

Invariant: only the standard library is imported (see ``text``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from spawnctl import text
from spawnctl.text import PROGRAM, TEXT, USAGE, Command, Option

DESCRIPTION = """\
Spawn makes a fail-over cluster out of several copies of an HTTP application that cannot be clustered. It stands in
front of the copies, the nodes: a read goes to one healthy node that is up to date, an update is written to a durable
journal and delivered to every node, in one order. A node that is down has a backlog, and catches up when it returns.

`spawnctl` runs Spawn in the foreground or makes a service of it: for systemd where that runs, else for SysV init.
Where neither has it installed, `spawnctl start` makes it a daemon.

Without `--config` the configuration is `spawn.conf` in the working directory, else `/etc/spawn/spawn.conf`; an
installed service reads the latter only. If there is none, defaults are used.
"""
AFTER_SYNOPSIS = "What stands for [options] is every option that no line of the above names."
OWN = {
    "EXIT STATUS": """\
`0`
    It is done. `spawnctl status`: the service runs. In the foreground: it was told to stop, and has stopped.
`1`
    It cannot be done, or the service cannot be started; the reason is on standard error.
`2`
    The command line or the configuration is wrong. `spawnctl check` ends with 0 or 2.
`3`
    `spawnctl status`: the service is stopped.
`4`
    `spawnctl status`: it cannot be said whether the service runs.
`130`
    Ctrl-C ended a command.
""",
    "FILES": """\
`/etc/spawn/spawn.conf`
    The configuration. `spawnctl install` makes one without nodes where there is none.
`/etc/systemd/system/spawn.service`
    The service that was installed for systemd.
`/etc/init.d/spawn`, `/etc/spawn/service.options`
    The service that was installed for SysV init, and the options it was given.
`/etc/spawn/removed.options`
    The options of a service that was removed, for whoever installs it again.
`/etc/logrotate.d/spawn`
    How its log is rotated, where it has one.
`~/.config/systemd/user/spawn.service`
    The service that was installed with `--user`; its configuration is `~/.config/spawn/spawn.conf`.
`/var/lib/spawn`
    The state directory, with the journal and what is known of the nodes; of users other than root
    `~/.local/state/spawn`.
`/run/spawn/spawn.pid`
    The process id of the daemon; of users other than root `spawn.pid` in the state directory.
`/var/log/spawn.log`
    The log of the daemon where the configuration names none; of users other than root `spawn.log` in the state
    directory. With systemd the log is in its journal.
""",
    "SIGNALS": """\
`SIGTERM`, `SIGINT`
    Stop: finish what is under way, for as long as `timeouts.shutdown` says at most.
`SIGHUP`
    Reload: read the configuration again. A faulty one changes nothing, and its faults are logged.
`SIGUSR1`
    Open the log file anew, after a log rotation.
""",
    "ENVIRONMENT": """\
`NO_COLOR`
    Where it is set, and not empty: no colours on a terminal.
`XDG_STATE_HOME`, `HOME`
    Where the state directory of users other than root is: `$XDG_STATE_HOME/spawn`, else `~/.local/state/spawn`.
`SPAWN_RUNTIME_DIRECTORY`
    Where the pid file of a daemon is, in place of the above.
`STATE_DIRECTORY`
    The state directory of a service where the configuration names none, as systemd gives it. Commands do not heed it.
`NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`
    Where systemd is told that the service is ready, reloads or stops, how it is, and that it is alive.
`TMPDIR`
    Where test mode has its temporary directory.
""",
    "EXAMPLES": """\
See it at work, with three small nodes of its own:

$ spawnctl -t

See whether a configuration is right, and run with it on another port:

$ spawnctl check --config=my.conf
$ spawnctl --config=my.conf --port=8117

Make it a service that is started at boot, and start it now:

$ sudo spawnctl install --config=/etc/spawn/spawn.conf
$ sudo spawnctl start

Go on from a backup of the state directory, once:

$ sudo spawnctl start --restored

Read this page, and complete commands in this shell, where neither was installed:

$ spawnctl manual | man -l -
$ source <(spawnctl completion bash)
""",
    "SEE ALSO": "`systemctl`(1), `journalctl`(1), `logrotate`(8), `curl`(1)\n",
}


def page(version: str, date: str) -> str:
    """The source of the page for a version and the date of its release (YYYY-MM-DD)."""
    title, closing = TEXT.splitlines()[0], TEXT[TEXT.rindex("\n\n") :]
    lines = [
        f'.\\" Made by "{PROGRAM} manual".',
        f'.TH {PROGRAM} 8 {date} "Spawn {version}" "System administration"',
        *_section("NAME", [f"{PROGRAM} \\- {_escaped(title.removeprefix(f'{PROGRAM} - '))}"]),
        *_section("SYNOPSIS", [*_shown(map(_synopsis, USAGE.splitlines()[1:])), ".PP", prose(AFTER_SYNOPSIS)]),
        *_section("DESCRIPTION", [*_body(DESCRIPTION), ".PP", prose(closing)]),
        *_section("COMMANDS", _entries((_command(one), one.help + ".") for one in text.COMMANDS.values())),
        *_section("OPTIONS", _entries((_option(one), one.help + ".") for one in text.OPTIONS)),
    ]
    for name, source in OWN.items():
        lines += _section(name, _body(source))
    return "\n".join(lines) + "\n"


def literal(words: str) -> str:
    """What is typed: bold, with hyphens and quotes that a shell understands when they are copied."""
    return f"\\fB{_typed(words)}\\fR"


def prose(words: str) -> str:
    """Running text as one line of the source, with what stands in backquotes as literals."""
    parts = " ".join(words.split()).split("`")
    return _line("".join(literal(part) if n % 2 else _escaped(part) for n, part in enumerate(parts)))


def _escaped(words: str) -> str:
    return words.replace("\\", "\\e")


def _typed(words: str) -> str:
    return _escaped(words).replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga").replace("~", "\\(ti")


def _line(source: str) -> str:
    """A line that begins like a request is text all the same."""
    return f"\\&{source}" if source.startswith((".", "'")) else source


def _section(name: str, lines: Iterable[str]) -> list[str]:
    return [f".SH {name}", *lines]


def _entries(entries: Iterable[tuple[str, str]]) -> Iterator[str]:
    """A list of terms, which are roff already, each with its text below."""
    for term, words in entries:
        yield from (".TP", _line(term), prose(words))


def _shown(lines: Iterable[str]) -> list[str]:
    """Lines, which are roff already, as they are."""
    return [".nf", *map(_line, lines), ".fi"]


def _synopsis(line: str) -> str:
    """A usage line: what is typed is literal, what only groups it is not."""
    parts = re.split(r"(\[options\]|[\[\]()|\s]+)", line.strip())
    return "".join(_escaped(part) if n % 2 or not part else literal(part) for n, part in enumerate(parts))


def _command(command: Command) -> str:
    own = [f"[{literal(flag)}]" for flag in command.flags if flag not in text.SHARED]
    words = [" | ".join(map(literal, command.words))] if command.words else []
    shared = ["[options]"] if set(text.SHARED) & set(command.flags) else []
    return " ".join((literal(command.name), *words, *own, *shared))


def _option(option: Option) -> str:
    spellings = ", ".join(literal(name) for name in (option.short, option.flag) if name)
    return f"{spellings}=\\fI{_escaped(option.value)}\\fR" if option.value else spellings


def _body(source: str) -> Iterator[str]:
    """A section in the notation of this module."""
    for n, block in enumerate(re.split(r"\n{2,}", source.strip())):
        lines = block.splitlines()
        if lines[0].startswith("$ "):
            yield from (".PP", ".RS 4", *_shown(_typed(line) for line in lines), ".RE")
        elif len(lines) > 1 and lines[1].startswith("    "):
            entries = re.findall(r"^(\S.*)\n((?:    .*\n?)+)", block, re.M)
            yield from _entries((prose(term), words) for term, words in entries)
        else:
            yield from ([".PP"] if n else [])
            yield prose(block)
