"""Standard streams that are closed, full or without a reader: they decide nothing, and nobody complains about them."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from spawnctl.output import say
from spawnctl.pidfile import PidFile
from tests.support.processes import free_port
from tests.support.spawnctl import COMMAND, environment, spawnctl
from tests.support.waiting import eventually

pytestmark = pytest.mark.skipif(
    os.path.exists("/etc/init.d/spawn") or os.path.exists("/etc/systemd/system/spawn.service"),
    reason="Spawn is installed as a service on this machine",
)

CLOSED = [">&-", "2>&-", "<&-", "<&- >&- 2>&-"]
BROKEN = [*CLOSED, ">/dev/full", "2>/dev/full", ">/dev/full 2>&1", "1</dev/null"]
BUFFERED = pytest.mark.parametrize("buffered", [True, False], ids=["buffered", "unbuffered"])


def shell(words: str, cwd: Path, *, buffered: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run ``spawnctl WORDS`` in a shell, which can close a stream as Python cannot; ``$?`` of it is printed last.

    What the shell's own standard streams are given is what spawnctl wrote, unless ``words`` say otherwise.
    """
    env = environment(cwd, variables)
    if buffered:
        del env["PYTHONUNBUFFERED"]
    script = f"exec 9>&1; {{ {shlex.join(COMMAND)} {words.replace('|', '; echo $? >&9; } |', 1)}"
    script += "" if "|" in words else "; echo $? >&9; }"
    return subprocess.run(
        ["sh", "-c", script], cwd=cwd, env=env, capture_output=True, text=True, timeout=60, check=False
    )


def code(done: subprocess.CompletedProcess[str]) -> int:
    return int(done.stdout.splitlines()[-1])


def quiet(done: subprocess.CompletedProcess[str]) -> bool:
    return not re.search("Traceback|Exception ignored|Error|Errno", done.stdout + done.stderr)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    config = {
        "host": "127.0.0.1",
        "port": free_port(),
        "api": {"port": free_port()},
        "state-dir": "state",
        "log": {"file": "spawn.log"},
    }
    (tmp_path / "spawn.conf").write_text(json.dumps(config))
    yield tmp_path
    pid = daemon(tmp_path).holder()
    if pid:
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: daemon(tmp_path).holder() is None, timeout_s=10, what="the daemon is gone")


def daemon(place: Path) -> PidFile:
    return PidFile(place / "run" / "spawn.pid")


# -- what is closed


@pytest.mark.parametrize("redirected", CLOSED)
def test_a_daemon_starts_without_standard_streams(place: Path, redirected: str) -> None:
    done = shell(f"start {redirected}", place)
    assert (code(done), quiet(done)) == (0, True), done
    pid = daemon(place).holder()
    assert pid
    log = str(place / "spawn.log")
    assert [os.readlink(f"/proc/{pid}/fd/{number}") for number in range(3)] == ["/dev/null", log, log]
    assert "Traceback" not in (place / "spawn.log").read_text()


def test_no_file_takes_the_place_of_a_stream_that_is_closed(tmp_path: Path) -> None:
    script = (
        "import os, sys; from spawnctl import output; output.prepare(); "
        "opened = open('taken', 'w'); print('hello', file=sys.stdout); sys.stdin.read(); "
        "assert output.say('x') and output.say('x', stream=sys.stderr); "
        "assert all(os.get_inheritable(n) for n in range(3)); sys.exit(opened.fileno())"
    )
    command = f"{shlex.join([sys.executable, '-c', script])} <&- >&- 2>&-"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, env=environment(tmp_path), timeout=60, check=False)
    assert done.returncode > 2
    assert (tmp_path / "taken").read_text() == ""


# -- verdicts


@pytest.mark.parametrize("redirected", [*BROKEN, "| true"])
def test_a_valid_configuration_is_valid_whoever_hears_it(place: Path, redirected: str) -> None:
    done = shell(f"check {redirected}", place)
    assert (code(done), quiet(done)) == (0, True), done


@pytest.mark.parametrize("redirected", ["2>&-", "2>/dev/full", "2>&1 | true"])
@pytest.mark.parametrize("words", ["check", "", "-t", "--prot=1"])
def test_a_mistake_is_a_mistake_whoever_hears_it(place: Path, words: str, redirected: str) -> None:
    (place / "spawn.conf").write_text('{"prot": 1, "auth": {}}')
    done = shell(f"{words} {redirected}", place)
    assert (code(done), quiet(done)) == (2, True), done


# -- texts that were asked for


@BUFFERED
@pytest.mark.parametrize("words", ["-h", "-v", "completion bash", "manual"])
def test_a_text_that_cannot_be_written_ends_with_1_and_silently(tmp_path: Path, words: str, buffered: bool) -> None:
    done = shell(f"{words} >/dev/full", tmp_path, buffered=buffered)
    assert (code(done), quiet(done), done.stderr) == (1, True, ""), done


@pytest.mark.parametrize("words", ["-h", "manual"])
@pytest.mark.parametrize("redirected", [">&-", "| true", "2>/dev/full", "<&-"])
def test_nobody_complains_of_a_text_without_a_reader(tmp_path: Path, words: str, redirected: str) -> None:
    done = shell(f"{words} {redirected}", tmp_path)
    assert code(done) in (0, 1)
    assert (quiet(done), done.stderr) == (True, "")


# -- a service


@pytest.mark.parametrize("redirected", [">/dev/full", "2>/dev/full", "| true"])
def test_a_daemon_starts_whoever_hears_of_it(place: Path, redirected: str) -> None:
    done = shell(f"start {redirected}", place)
    assert (code(done), quiet(done)) == (0, True), done
    assert daemon(place).holder()
    assert "Starting" not in (place / "spawn.log").read_text(), "what could not be written is not written elsewhere"


@pytest.mark.parametrize("redirected", [*BROKEN, "| true"])
def test_it_stops_whoever_hears_of_it(place: Path, redirected: str) -> None:
    assert spawnctl("start", cwd=place).returncode == 0
    done = shell(f"stop {redirected}", place)
    assert (code(done), quiet(done)) == (0, True), done
    assert daemon(place).holder() is None


@pytest.mark.parametrize("redirected", [*BROKEN, "2>&1 | true"])
def test_what_cannot_be_done_ends_with_1_whoever_hears_of_it(place: Path, redirected: str) -> None:
    done = shell(f"stop {redirected}", place)
    assert (code(done), quiet(done)) == (1, True), done


def test_its_status_whoever_hears_of_it(place: Path) -> None:
    for redirected in (">/dev/full", ">&-", "| true"):
        stopped = shell(f"status {redirected}", place)
        assert (code(stopped), quiet(stopped)) == (3, True), stopped
    assert spawnctl("start", cwd=place).returncode == 0
    for redirected in (">/dev/full", ">&-", "| true", "| head -1"):
        running = shell(f"status {redirected}", place)
        assert (code(running), quiet(running)) == (0, True), running


# -- characters


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "ascii:strict"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=["latin-1", "ascii", "C"],
)
def test_a_character_that_the_terminal_does_not_have_is_spelled(tmp_path: Path, variables: dict[str, str]) -> None:
    named = os.fsdecode("Schlüssel-…-".encode() + b"\xff") + ".conf"
    (tmp_path / named).write_text("{}")
    more = {"PYTHONUTF8": "0", **variables}
    done = subprocess.run(
        [*COMMAND, "check", f"--config={named}"], cwd=tmp_path, env=environment(tmp_path, more), capture_output=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert b".conf: valid, 0 nodes\n" in done.stdout


# -- the interface


def test_a_stream_that_broke_leads_nowhere_from_then_on(tmp_path: Path) -> None:
    script = (
        "import os, sys; from spawnctl.output import finish, say\n"
        "first, second = say('a'), say('b')\n"
        "print('c')\n"
        "sys.exit(10 * (not first and second and finish() and os.readlink('/proc/self/fd/1') == os.devnull))"
    )
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", script], stdout=full, stderr=subprocess.PIPE, env=environment(tmp_path), timeout=60,
            check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (10, b"")


def test_a_file_of_somebody_elses_that_is_full_is_left_alone() -> None:
    with open("/dev/full", "wb", buffering=0) as raw:
        stream = io.TextIOWrapper(raw, write_through=True)
        assert not say("x", stream=stream)
        assert os.readlink(f"/proc/self/fd/{raw.fileno()}") == "/dev/full"
        stream.detach()


def test_the_commands_are_heard_where_there_is_somebody(tmp_path: Path) -> None:
    done = spawnctl("check", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (
        0, "defaults (no configuration file found): valid, 0 nodes\n", "",
    )  # fmt: skip
