"""The man page: real readers of man pages find no fault with it, and it has whatever the usage text has."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

import spawn
from spawnctl import manual, text
from tests.support.processes import clean_environment
from tests.support.spawnctl import spawnctl

SECTIONS = ["NAME", "SYNOPSIS", "DESCRIPTION", "COMMANDS", "OPTIONS", *manual.OWN]


def page() -> str:
    return manual.page(spawn.__version__, spawn.__date__)


def run(command: list[str], directory: Path) -> subprocess.CompletedProcess[str]:
    (directory / "spawnctl.8").write_text(page(), "utf-8")
    environment = clean_environment(directory, {"MANWIDTH": "100", "LC_ALL": "C.UTF-8"})
    return subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_command_prints_it(tmp_path: Path) -> None:
    done = spawnctl("manual", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, page(), "")


@pytest.mark.needs("mandoc")
def test_its_source_is_right(tmp_path: Path) -> None:
    done = run(["mandoc", "-Tlint", "-W", "warning", "spawnctl.8"], tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.needs("mandoc")
def test_every_command_and_option_is_on_it(tmp_path: Path) -> None:
    shown = rendered(tmp_path)
    assert re.findall(r"^[A-Z][A-Z ]+$", shown, re.M) == SECTIONS
    for line in text.USAGE.splitlines()[1:]:
        assert re.search(rf"^ +{re.escape(line.strip())}$", shown, re.M), line
    for command in text.COMMANDS.values():
        assert re.search(rf"^ {{5,7}}{command.name}\b", section(shown, "COMMANDS"), re.M), command
        assert flat(command.help) in flat(section(shown, "COMMANDS"))
    for option in text.OPTIONS:
        head = (f"{option.short}, " if option.short else "") + option.flag + (option.value and f"={option.value}")
        assert re.search(rf"^ {{5,7}}{re.escape(head)}(?:  |$)|^ +{re.escape(head)} ", shown, re.M), option
        assert flat(option.help) in flat(section(shown, "OPTIONS"))


@pytest.mark.needs("mandoc")
def test_what_is_shown_can_be_typed(tmp_path: Path) -> None:
    shown = rendered(tmp_path)
    assert "$ spawnctl check --config=my.conf\n" in shown
    assert "~/.config/systemd/user/spawn.service\n" in shown
    assert not re.search("[\N{HYPHEN}\N{MINUS SIGN}\N{SMALL TILDE}]", shown)


def rendered(directory: Path) -> str:
    done = run(["mandoc", "-Tutf8", "-O", "width=100", "spawnctl.8"], directory)
    assert (done.returncode, done.stderr) == (0, "")
    return re.sub(".\b", "", done.stdout)  # bold is a letter, a backspace and the letter again


def section(shown: str, name: str) -> str:
    return re.split(r"^(?=\S)", shown[shown.index(f"\n{name}\n") + len(name) + 2 :], maxsplit=1, flags=re.M)[0]


def flat(words: str) -> str:
    return " ".join(words.split())


@pytest.mark.parametrize(
    ("words", "source"),
    [
        (".so a", r"\&.so a"),
        ("'tis", r"\&'tis"),
        ("a\n.b", "a .b"),
        ("`.x` y", r"\fB.x\fR y"),
        (r"a\b", r"a\eb"),
        ("`--a-b` c-d", r"\fB\-\-a\-b\fR c-d"),
        ("`it's`", r"\fBit\(aqs\fR"),
        ('"install"', '"install"'),
    ],
)
def test_nothing_in_a_text_is_taken_for_roff(words: str, source: str) -> None:
    assert manual.prose(words) == source
