"""``spawnctl -t`` as a newcomer meets it: the sandbox and its five commands, the rehearsal, and a clean end."""

from __future__ import annotations

import json
import re
import shlex
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest

from spawnctl import usage
from tests.support.api import session
from tests.support.processes import ManagedProcess, Processes, clean_environment, free_port
from tests.support.spawnctl import COMMAND, environment
from tests.support.waiting import eventually

README = Path(__file__).parents[2] / "README.md"
READY = "Ctrl-C"  # both greetings name it


def rehearse(processes: Processes, *args: str, name: str = "test-mode") -> ManagedProcess:
    """Start it; returns when it has said its greeting."""
    process = launch(processes, *args, name=name)
    eventually(lambda: READY in process.output() or not process.alive, timeout_s=40, what="the greeting")
    assert process.alive, process.tail()
    return process


def launch(processes: Processes, *args: str, name: str = "test-mode") -> ManagedProcess:
    command = [*COMMAND, "-t", *args]
    process = processes.add(name, command, environment=environment(processes.directory), must_be_clean=True)
    process.start()
    return process


def ports() -> list[str]:
    return ["--host=127.0.0.1", f"--port={free_port()}", f"--api-port={free_port()}"]


def state_directories(processes: Processes) -> list[Path]:
    return list((processes.directory / "tmp").iterdir())


def paste(command: str, directory: Path) -> str:
    """Run a line as a shell at a terminal does."""
    done = subprocess.run(
        ["sh", "-c", command],
        capture_output=True,
        text=True,
        timeout=30,
        env=clean_environment(directory),
        cwd=directory,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), f"{command}: {done.stderr}"
    return done.stdout


def documents(text: str) -> list[Any]:
    """The JSON documents in a text, one after the other."""
    found, decoder = [], json.JSONDecoder()
    while text := text.strip():
        document, end = decoder.raw_decode(text)
        found.append(document)
        text = text[end:]
    return found


def shown_by_the_readme() -> list[tuple[str, str]]:
    """The commands of README.md's transcript, each with its answer."""
    found = re.search(r"```console\n(.*?)```", README.read_text("utf-8"), re.S)
    assert found
    parts = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", found[1], re.M)
    return [(command, answer) for command, answer in parts]


def without_chance(transcript: list[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """What differs from one run to the next is replaced: ports by their order of appearance, ids and times."""
    seen: list[str] = []

    def port(match: re.Match[str]) -> str:
        if match[2] not in seen:
            seen.append(match[2])
        return f"{match[1]}PORT{seen.index(match[2])}"

    def plain(text: str) -> str:
        text = re.sub(r'(127\.0\.0\.1[:/]|"port": ?)(\d+)', port, text)
        text = re.sub(r'("id": ")[0-9a-f]{12}"', r'\1ID"', text)
        text = re.sub(r'("duration": ?|"backlog-seconds": ?)[0-9.]+', r"\1TIME", text)
        return re.sub(r'("took": ?")[0-9.]+(ns|µs|ms|s)"', r'\1TIME"', text)

    return [(plain(command), plain(answer).splitlines()) for command, answer in transcript]


@pytest.mark.needs("curl")
def test_the_readme_shows_what_is_said_and_answered(processes: Processes) -> None:
    spawn = rehearse(processes, *ports())
    commands = [line for line in spawn.output().splitlines() if line.startswith("curl ")]
    real = [(command, paste(command, processes.directory)) for command in commands]
    assert spawn.stop(how=signal.SIGINT) == 0
    assert without_chance(shown_by_the_readme()) == without_chance(real)


def test_the_readme_names_flags_that_move_its_ports(processes: Processes) -> None:
    found = re.search(r"`make run ARGS='(--port=\d+ --api-port=\d+)'`", README.read_text("utf-8"))
    assert found
    assert usage.parse(["-t", *found[1].split()], "").overrides.keys() == {"port", "api.port"}


@pytest.mark.needs("curl")
def test_the_five_commands_show_what_they_say(processes: Processes) -> None:
    spawn = rehearse(processes, *ports())
    commands = [line for line in spawn.output().splitlines() if line.startswith("curl ")]
    assert len(commands) == 5

    [created] = documents(paste(commands[0], processes.directory))
    assert created["value"] == {"name": "first"}

    held = documents(paste(commands[1], processes.directory))
    assert held == [{"items": [created]}] * 3

    changed, stored = documents(paste(commands[2], processes.directory))
    assert changed["data"]["success"] is True
    assert stored == {"id": "colour", "value": "blue"}

    queues, missing = documents(paste(commands[3], processes.directory))
    [queue] = queues["data"]["results"]
    assert (queue["state"], queue["backlog"]) == ("maintenance", 1)
    assert "error" in missing

    changed, caught_up = documents(paste(commands[4], processes.directory))
    assert changed["data"]["success"] is True
    assert caught_up == stored

    assert spawn.stop(how=signal.SIGINT) == 0


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_cleanly_and_leaves_nothing(processes: Processes, how: signal.Signals) -> None:
    spawn = rehearse(processes, *ports())
    assert len(state_directories(processes)) == 1
    children = psutil.Process(spawn.pid).children()
    assert len(children) == 3
    assert spawn.stop(how=how) == 0
    assert spawn.output().splitlines()[-1] == "Test mode has ended; its state is removed."
    assert state_directories(processes) == []
    assert psutil.wait_procs(children, timeout=5)[1] == []


def test_ctrl_c_is_heeded_before_it_is_ready(processes: Processes) -> None:
    """The interesting moments are few milliseconds each, so several are tried."""
    for attempt, wanted in enumerate((0, 1, 2, 3, 3)):
        spawn = launch(processes, *ports(), name=f"early-{attempt}")
        begun = lambda wanted=wanted, spawn=spawn: (  # noqa: E731
            len(psutil.Process(spawn.pid).children()) >= wanted and bool(state_directories(processes))
        )
        eventually(begun, timeout_s=30, what="test mode has begun", every_s=0.001)
        assert spawn.stop(how=signal.SIGINT) == 0, spawn.tail()
        assert state_directories(processes) == []


def test_killing_it_kills_its_nodes(processes: Processes) -> None:
    spawn = rehearse(processes, *ports())
    children = psutil.Process(spawn.pid).children()
    assert len(children) == 3
    spawn.kill()
    assert psutil.wait_procs(children, timeout=10)[1] == []


@pytest.mark.parametrize("which", ["--port", "--api-port"])
def test_a_taken_port_is_one_line(processes: Processes, which: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        other = "--api-port" if which == "--port" else "--port"
        spawn = launch(processes, "--host=127.0.0.1", f"{which}={port}", f"{other}={free_port()}", "--log-level=error")
        assert spawn.wait(40) == 1
    [line] = spawn.output().splitlines()
    assert str(port) in line
    assert state_directories(processes) == []


def test_a_rehearsal_that_ends_with_a_backlog_keeps_it(processes: Processes) -> None:
    down = free_port()
    config = {"nodes": [{"host": "127.0.0.1", "port": down}], "timeouts": {"answer": 0.2, "shutdown": 3}}
    (processes.directory / "spawn.conf").write_text(json.dumps(config))
    args = ports()
    spawn = rehearse(processes, *args)
    with session() as client:
        port = args[1].partition("=")[2]
        assert client.put(f"http://127.0.0.1:{port}/x", data="y", timeout=20).status_code == 202
    assert spawn.stop() == 0
    [kept] = state_directories(processes)
    lines = spawn.output().splitlines()
    assert any(re.search(rf"127\.0\.0\.1:{down} .*\b1 update\b", line) for line in lines[-5:]), lines
    assert any(kept.iterdir())

    # The command that it ends with goes on with what was kept
    command = shlex.split(lines[-1])
    assert command[0] == "spawnctl"
    going_on = processes.add(
        "going-on", [*COMMAND, *command[1:]], environment=environment(processes.directory), must_be_clean=True
    )
    going_on.start()
    eventually(lambda: "the journal is at update 1" in going_on.output(), timeout_s=30, what="it goes on")
    assert going_on.stop() == 0
    assert "every node has every update" not in going_on.output()
    assert re.search(rf"stopped; 127\.0\.0\.1:{down} .*\b1 update\b", going_on.output().splitlines()[-1])


def test_it_says_which_places_it_does_not_use(processes: Processes) -> None:
    spawn = rehearse(processes, *ports(), "--log-file=mine.log", "--state-dir=mine")
    assert spawn.stop() == 0
    for name in ("mine.log", "mine"):
        assert re.search(rf"WARN.* not (to|in) {re.escape(str(processes.directory / name))}$", spawn.output(), re.M)
        assert not (processes.directory / name).exists()


def test_a_rehearsal_without_a_backlog_leaves_nothing(processes: Processes) -> None:
    config = {"nodes": [{"host": "127.0.0.1", "port": free_port()}], "state-dir": "real"}
    (processes.directory / "spawn.conf").write_text(json.dumps(config))
    spawn = rehearse(processes, *ports())
    assert spawn.stop() == 0
    assert state_directories(processes) == []
    assert not (processes.directory / "real").exists(), "the configured state is not touched"
