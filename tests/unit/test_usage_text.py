"""The usage text is what users of the original know, what is new stands below it, and it is read as docopt reads it."""

from __future__ import annotations

import itertools
import re
from typing import get_args, get_type_hints

import pytest

from spawn.config import FLAGS
from spawn.config.schema import LogConfig
from spawnctl import text
from spawnctl.usage import UsageError, parse

# What the original shows. Its second usage line is nothing that docopt could read.
TITLE = "spawnctl - Spawn Sync Service Control"
USAGE = [
    "spawnctl install | remove | start | stop | status",
    "spawnctl [ -t | --test ] [ --option | --option ... ]",
    "spawnctl -h | --help",
    "spawnctl -v | --version",
]
COMMANDS = {
    "install": "Install as service",
    "remove": "Remove service",
    "start": "Start service",
    "stop": "Stop service",
    "status": "Check service status",
}
SWITCHES = {
    "-h --help": "Show this screen",
    "-v --version": "Show version",
    "-t --test": "Test mode",
}
OPTIONS = {
    "--config=PATH": "Path to the config file",
    "--host=HOST": "Host name or IP address",
    "--port=PORT": "Port number",
    "--api-host=HOST": "API host name or IP address",
    "--api-port=PORT": "API port number",
    "--round-robin": "Use round-robin mode for querying of nodes",
    "--by-priority": "Nodes will queried according to priority",
    "--check-sec=SECONDS": "Check nodes every number of seconds",
    "--check-url=URL": "URL to check nodes (/info, etc)",
    "--check-regexp=REGEXP": "Regexp pattern to check nodes",
}


def columns(entries: dict[str, str], width: int) -> list[str]:
    return [f"  {left.ljust(width)}{right}" for left, right in entries.items()]


ORIGINAL = {
    "Usage": [f"  {line}".replace("[ --option | --option ... ]", "[options]") for line in USAGE],
    "Commands": [*columns(COMMANDS, 18), "", *columns(SWITCHES, 18)],
    "Options": columns(OPTIONS, 23),
}


def sections() -> dict[str, list[str]]:
    """The lines of each section, and what stands before the first."""
    found: dict[str, list[str]] = {"": []}
    title = ""
    for line in text.TEXT.splitlines():
        if match := re.fullmatch(r"(\w+):", line):
            title = match[1]
            found[title] = []
        else:
            found[title].append(line)
    return found


def test_title_and_sections_are_the_originals_in_its_order() -> None:
    assert list(sections()) == ["", *ORIGINAL]
    assert sections()[""] == [TITLE, ""]


@pytest.mark.parametrize("title", ORIGINAL)
def test_a_section_begins_with_the_lines_of_the_original(title: str) -> None:
    assert sections()[title][: len(ORIGINAL[title])] == ORIGINAL[title]


@pytest.mark.parametrize("title", ORIGINAL)
def test_what_is_new_has_the_columns_of_the_original(title: str) -> None:
    width = {"Usage": 2, "Commands": 20, "Options": 25}[title]
    for line in itertools.takewhile(lambda line: line.startswith("  ") or not line, sections()[title]):
        assert not line or re.match(rf"  .{{{width - 2}}}(?<=\s)\S", line), line


def test_no_line_is_wider_than_a_terminal() -> None:
    assert max(len(line) for line in text.TEXT.splitlines()) <= 82


def test_every_flag_of_the_configuration_is_an_option() -> None:
    assert FLAGS.keys() <= {option.flag for option in text.OPTIONS}


def test_the_levels_are_those_there_are() -> None:
    level = next(option for option in text.OPTIONS if option.flag == "--log-level")
    assert re.findall(r"\w+", level.help.replace(" or ", " ")) == list(get_args(get_type_hints(LogConfig)["level"]))


@pytest.mark.parametrize("option", [option for option in text.OPTIONS if option.flag not in ("--help", "--version")])
@pytest.mark.parametrize("command", [*text.COMMANDS.values(), text.FOREGROUND], ids=lambda command: command.name)
def test_what_a_command_takes_is_what_docopt_lets_it_take(command: text.Command, option: text.Option) -> None:
    words = [*filter(None, [command.name]), *command.words[:1]]
    for spelling in filter(None, (option.flag, option.short)):
        given = f"{spelling}=1" if option.value else spelling
        if option.flag in command.flags:
            assert parse([*words, given], "").command == command.name
        else:
            with pytest.raises(UsageError):
                parse([*words, given], "")


@pytest.mark.parametrize("command", [command for command in text.COMMANDS.values() if command.words])
def test_a_command_takes_one_of_its_words(command: text.Command) -> None:
    assert [parse([command.name, word], "").shell for word in command.words] == list(command.words)


def test_help_is_one_line_however_it_is_wrapped() -> None:
    assert all(option.help and "\n" not in option.help and "  " not in option.help for option in text.OPTIONS)
    restored = next(option for option in text.OPTIONS if option.flag == "--restored")
    assert restored.help.endswith("this start makes it a journal of its own, all nodes out of sync")
