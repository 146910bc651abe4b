"""``spawnctl`` in the foreground: flags reach the service, the signals end it, and nothing is printed but its log."""

from __future__ import annotations

import json
import os
import signal
import sys
import time

import pytest

from tests.support.api import session
from tests.support.processes import ManagedProcess, Processes, free_port, wait_listening
from tests.support.spawnctl import COMMAND, environment
from tests.support.waiting import eventually


def foreground(processes: Processes, *args: str, name: str = "foreground") -> tuple[ManagedProcess, int, int]:
    port, api_port = free_port(), free_port()
    words = ["--host=127.0.0.1", f"--port={port}", f"--api-port={api_port}", "--state-dir=here", *args]
    env = environment(processes.directory)
    process = processes.add(name, [*COMMAND, *words], environment=env, must_be_clean=True)
    process.start()
    wait_listening(api_port, process=process, timeout_s=30)
    return process, port, api_port


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_0(processes: Processes, how: signal.Signals) -> None:
    process, _, _ = foreground(processes)
    assert process.stop(how=how) == 0


def test_flags_override_the_file_in_the_working_directory(processes: Processes) -> None:
    node = {"host": "127.0.0.1", "port": free_port(), "priority": 4}
    config = {"port": free_port(), "nodes": [node], "log": {"format": "json"}}
    (processes.directory / "spawn.conf").write_text(json.dumps(config))
    process, port, api_port = foreground(processes)
    wait_listening(port, process=process)
    with session() as client:
        nodes = client.get(f"http://127.0.0.1:{api_port}/nodes", timeout=10).json()["data"]["results"]
    assert nodes == [{**node, "active": True, "maintenance": False}]
    assert (processes.directory / "here").is_dir()
    assert process.stop() == 0
    assert all(json.loads(line)["message"] for line in process.output().splitlines())


def test_warnings_of_the_configuration_are_logged(processes: Processes) -> None:
    (processes.directory / "spawn.conf").write_text('{"auth": {}}')
    process, _, _ = foreground(processes)
    assert process.stop() == 0
    assert any("auth" in line and "WARN" in line for line in process.output().splitlines())


def test_a_log_file_takes_the_log(processes: Processes) -> None:
    process, _, _ = foreground(processes, "--log-file=spawn.log")
    assert process.stop() == 0
    assert process.output() == ""
    assert (processes.directory / "spawn.log").read_text()


@pytest.mark.parametrize("how", [signal.SIGHUP, signal.SIGUSR1])
def test_what_comes_while_it_starts_is_heeded_afterwards(processes: Processes, how: signal.Signals) -> None:
    (processes.directory / "spawn.conf").write_text('{"log": {"level": "debug"}}')
    log, moved = processes.directory / "spawn.log", processes.directory / "moved.log"
    port, api_port = free_port(), free_port()
    words = ["--host=127.0.0.1", f"--port={port}", f"--api-port={api_port}", "--state-dir=here", "--log-file=spawn.log"]
    process = processes.add("early", [*COMMAND, *words], environment=environment(processes.directory))
    process.start()
    eventually(log.exists, timeout_s=30, what="the log is open", every_s=0.001)
    log.rename(moved)
    process.send(how)
    wait_listening(api_port, process=process, timeout_s=30)
    if how is signal.SIGHUP:
        eventually(lambda: "was read again" in moved.read_text(), timeout_s=10, what="the reload")
    else:
        eventually(log.exists, timeout_s=10, what="a new log file")
    assert process.stop() == 0


# A daemon in little: it holds the signals before the fork, is sent them before it serves, and has another thread then.
HOLDS = """
import os, signal, sys, threading, time
from pathlib import Path
from spawn.config import load
from spawnctl import foreground

signal.signal(signal.SIGHUP, getattr(signal, sys.argv[1]))
foreground.hold_later_signals()
child = os.fork()
if child:
    Path("pid").write_text(str(child))
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
for which in foreground.LATER_SIGNALS:
    os.kill(os.getpid(), which)
show_crashes = foreground.spawn_log.show_crashes
foreground.spawn_log.show_crashes = lambda: (os.rename("spawn.log", "moved.log"), show_crashes())  # the log is open
sys.exit(foreground.serve(foreground.Plan.make(load("spawn.conf", {}), {})))
"""


@pytest.mark.parametrize("before", ["SIG_DFL", "SIG_IGN"], ids=["usual", "nohup"])
def test_what_is_held_before_the_fork_is_heeded_when_it_serves(processes: Processes, before: str) -> None:
    here, ports = processes.directory, {"host": "127.0.0.1", "port": free_port(), "api": {"port": free_port()}}
    (here / "spawn.conf").write_text(
        json.dumps({**ports, "state-dir": "here", "log": {"file": "spawn.log", "level": "debug"}})
    )
    env = environment(here)
    process = processes.add("holds", [sys.executable, "-c", HOLDS, before], environment=env, must_be_clean=True)
    process.start()

    def log() -> str:
        return "".join((here / name).read_text() for name in ("moved.log", "spawn.log") if (here / name).exists())

    eventually(lambda: log().count("was read again") == 1, timeout_s=30, what="the reload")
    eventually((here / "spawn.log").exists, timeout_s=10, what="a new log file")
    os.kill(int((here / "pid").read_text()), signal.SIGTERM)
    assert process.wait(30) == 0


@pytest.mark.parametrize("how", [signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("early", [False, True], ids=["serving", "starting"])
@pytest.mark.parametrize("mode", ["foreground", "rehearsal"])
def test_no_signal_spoils_the_end(processes: Processes, how: signal.Signals, mode: str, early: bool) -> None:
    node = {"host": "127.0.0.1", "port": free_port()}
    (processes.directory / "spawn.conf").write_text(json.dumps({"nodes": [node]}))
    process, _, _ = foreground(processes, *(["-t"] if mode == "rehearsal" else []))  # when its port is bound
    if not early:
        eventually(lambda: " serves on " in process.output(), timeout_s=30, what="it serves")
    process.send(signal.SIGTERM)
    deadline = time.monotonic() + 30
    while process.alive and time.monotonic() < deadline:
        os.kill(process.pid, how)  # not reaped before the next look at it, so the pid is still its own
    assert process.wait(1) == 0, process.tail()
