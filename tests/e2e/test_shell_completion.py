"""What the Tab key offers for ``spawnctl``, asked of real shells: a terminal with bash, and one with zsh."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from spawnctl import text
from tests.support.processes import clean_environment
from tests.support.shell import Shell
from tests.support.spawnctl import spawnctl

SHELLS = [pytest.param(name, marks=pytest.mark.needs(name)) for name in text.COMMANDS["completion"].words]
SETUP = {
    "bash": "source functions/_spawnctl",
    "zsh": "fpath=($PWD/functions $fpath); autoload -Uz compinit; compinit -u -D",
}
SHARED = set(text.SHARED)
STARTS = SHARED | {"--help", "--version", "--test", "--restored"}
OFFERS = {
    "": set(text.COMMANDS),
    "st": {"start", "stop", "status"},
    "x": set(),
    "-": STARTS,
    "--check": {"--check-sec", "--check-url", "--check-regexp"},
    "install ": SHARED | {"--user"},
    "install --user ": SHARED,
    "check ": SHARED,
    "remove ": {"--purge", "--user"},
    "remove --purge ": {"--user"},
    "start ": {"--restored", "--user"},
    "start --restored --user ": set(),
    "stop ": {"--user"},
    "status -": {"--user"},
    "manual ": set(),
    "completion ": {"bash", "zsh"},
    "completion z": {"zsh"},
    "completion bash ": set(),
    "start st": set(),
    "unknown ": set(),
    "-t st": set(),
    "-t ": SHARED,
    "--test ": SHARED,
    "--restored ": SHARED,
    "--help ": set(),
    "--port=7 --host=::1 --check-url=http://x:7 --p": set(),
    "--port 7 --p": set(),
    "check --check-regexp= --ho": {"--host"},
    "--port ": set(),
    "--log-level=": {"debug", "info", "warning", "error", "critical"},
    "check --log-level ": {"debug", "info", "warning", "error", "critical"},
    "--log-level=de": {"debug"},
    "--config=": {"my file.conf", "my dir", "other", "functions", "rc"},
    "install --log-file my": {"my file.conf", "my dir"},
    "--state-dir=": {"my dir", "other", "functions"},
    "check --state-dir=o": {"other"},
}
TYPED = {
    "rem": "remove ",
    "install --conf": "install --config=",
    "install --rou": "install --round-robin ",
    "--config=my\\ f": "--config=my\\ file.conf ",
    "check --log-file=oth": "check --log-file=other/",
    "--state-dir=oth": "--state-dir=other/",
    "stop --u": "stop --user ",
}


def make_places(directory: Path, shell: str) -> None:
    for name in ("functions", "my dir", "other"):
        (directory / name).mkdir()
    (directory / "my file.conf").touch()
    (directory / "functions/_spawnctl").write_text(script(directory, shell), "utf-8")


def script(directory: Path, shell: str) -> str:
    done = spawnctl("completion", shell, cwd=directory)
    assert (done.returncode, done.stderr) == (0, "")
    (directory / "tmp").rmdir()  # what the command was given for temporary files
    return done.stdout


@pytest.fixture(scope="module", params=SHELLS)
def shell(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    directory = tmp_path_factory.mktemp(request.param)
    make_places(directory, request.param)
    with Shell(request.param, SETUP[request.param], directory) as shell:
        yield shell


def bare(offer: str) -> str:
    """An offer without what shells put around it, each in its own way."""
    return re.sub(r"^--[a-z-]+=(?=.)", "", offer).rstrip("=/")


@pytest.mark.parametrize("typed", OFFERS)
def test_what_is_offered(shell: Shell, typed: str) -> None:
    offered = {bare(offer) for offer in shell.offers(f"spawnctl {typed}")}
    assert {offer for offer in offered if not re.fullmatch("-[a-z]", offer)} == OFFERS[typed]


@pytest.mark.parametrize("typed", TYPED)
def test_what_the_tab_key_makes_of_it(shell: Shell, typed: str) -> None:
    assert shell.tab(f"spawnctl {typed}") == f"spawnctl {TYPED[typed]}"


@pytest.mark.needs("bash")
@pytest.mark.parametrize(
    ("words", "replies"),
    [
        (["spawnctl", "st"], ["start", "stop", "status"]),
        (["spawnctl", "--log-level", "=", "d"], ["debug"]),
        (["spawnctl", "--log-level=d"], ["--log-level=debug"]),  # where = is not in COMP_WORDBREAKS
        (["spawnctl", "--state-dir=o"], ["--state-dir=other"]),
    ],
)
def test_bash_needs_no_terminal_and_no_library(tmp_path: Path, words: list[str], replies: list[str]) -> None:
    make_places(tmp_path, "bash")
    asked = """
        set -u; source functions/_spawnctl; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        _spawnctl; printf '%s\\n' "${COMPREPLY[@]}"
        """
    assert run(["bash", "--noprofile", "--norc", "-c", asked, "bash", *words], tmp_path).splitlines() == replies


@pytest.mark.needs("zsh")
def test_zsh_may_source_it_as_well(tmp_path: Path) -> None:
    make_places(tmp_path, "zsh")
    asked = "autoload -Uz compinit; compinit -u -D; . functions/_spawnctl; print $_comps[spawnctl]"
    assert run(["zsh", "-f", "-c", asked], tmp_path) == "_spawnctl\n"


def run(command: list[str], directory: Path) -> str:
    done = subprocess.run(
        command,
        cwd=directory,
        env=clean_environment(directory),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout
