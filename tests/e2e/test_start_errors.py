"""A start that fails says why in one line and ends with a code: 2 for the configuration, 1 for the rest."""

from __future__ import annotations

import json
import re
import socket
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from tests.support.cluster import SPAWNCTL, Spawn, spawn_environment
from tests.support.processes import Processes, free_port

NO_COMPLAINT = re.compile(r"^\d{4}-\d\d-\d\d .* (DEBUG|INFO) ")
Damage = Callable[[Path], None]


def run(processes: Processes, *arguments: str) -> tuple[int, list[str]]:
    """Run spawnctl to its end; returns its exit code and what it printed, its ordinary log lines left out."""
    process = processes.add(
        "spawnctl", [*SPAWNCTL, *arguments], environment=spawn_environment(processes.directory), must_be_clean=True
    )
    process.start()
    code = process.wait(20)
    return code, [line for line in process.output().splitlines() if line and not NO_COMPLAINT.match(line)]


def start(processes: Processes, spawn: Spawn) -> tuple[int, list[str]]:
    return run(processes, f"--config={spawn.config_path}")


def assert_one_line(lines: list[str], *words: str) -> None:
    assert len(lines) == 1, lines
    assert [word for word in words if word.lower() not in lines[0].lower()] == [], lines[0]


@pytest.mark.parametrize("which", ["proxy", "api"])
def test_a_taken_port(processes: Processes, which: str) -> None:
    spawn = Spawn(processes, [])
    port = spawn.port if which == "proxy" else spawn.config["api"]["port"]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        code, lines = start(processes, spawn)
    assert code == 1
    assert_one_line(lines, str(port))


def test_an_address_that_is_not_ours(processes: Processes) -> None:
    spawn = Spawn(processes, [], {"host": "192.0.2.1"})  # TEST-NET-1, RFC 5737
    code, lines = start(processes, spawn)
    assert code == 1
    assert_one_line(lines, "192.0.2.1")


def file_in_the_way(directory: Path) -> str:
    (directory / "file").write_text("", "utf-8")
    return str(directory / "file")


def below_a_file(directory: Path) -> str:
    return f"{file_in_the_way(directory)}/state"


def below_proc(directory: Path) -> str:
    return "/proc/spawn-state"  # not even root may write there


@pytest.mark.parametrize("place", [file_in_the_way, below_a_file, below_proc])
def test_a_state_directory_that_cannot_be_used(processes: Processes, place: Callable[[Path], str]) -> None:
    path = place(processes.directory)
    code, lines = start(processes, Spawn(processes, [], {"state-dir": path}))
    assert code == 1
    assert_one_line(lines, path)


def test_a_state_directory_that_another_service_uses(processes: Processes) -> None:
    first = Spawn(processes, []).start()
    second = Spawn(processes, [], {"state-dir": str(first.state_dir)}, name="second")
    code, lines = start(processes, second)
    assert code == 1
    assert_one_line(lines, str(first.state_dir), str(first.process.pid))
    assert first.api.healthy(), "the first one does not notice"


def all_garbage(path: Path) -> None:
    path.write_bytes(b"\xde\xad\xbe\xef" * 4096)


def damaged_head(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(b"garbage!" * 16 + content[128:])


def empty_pages(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:100] + bytes(len(content) - 100))


def newer_version(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 9999")
    connection.close()


@pytest.mark.parametrize("damage", [all_garbage, damaged_head, empty_pages, newer_version])
def test_a_damaged_journal(processes: Processes, damage: Damage) -> None:
    spawn = Spawn(processes, []).start()
    assert spawn.stop() == 0
    databases = list(spawn.state_dir.rglob("*.db"))
    assert databases, f"no database in {list(spawn.state_dir.rglob('*'))}"
    for path in databases:
        damage(path)
    before = {path: path.read_bytes() for path in databases}
    code, lines = start(processes, spawn)
    assert code == 1
    assert_one_line(lines, "journal", str(spawn.state_dir))
    if damage is not newer_version:
        assert {path: path.read_bytes() for path in databases} == before, "what is damaged is left for the operator"


def test_damaged_records_of_nodes(processes: Processes) -> None:
    spawn = Spawn(processes, [free_port()]).start()
    assert spawn.stop() == 0
    records = list(spawn.state_dir.rglob("*.json"))
    assert records, f"no records in {list(spawn.state_dir.rglob('*'))}"
    for path in records:
        path.write_text('{"nodes": [', "utf-8")
    code, lines = start(processes, spawn)
    assert code == 1
    assert_one_line(lines, str(spawn.state_dir))


@pytest.mark.parametrize("which", ["nodes.json", "journal/journal.db"])
def test_the_log_file_has_the_reason_too(processes: Processes, which: str) -> None:
    log = processes.directory / "spawn.log"
    spawn = Spawn(processes, [free_port()], {"log": {"file": str(log)}}).start()
    assert spawn.stop() == 0
    log.write_text("", "utf-8")
    all_garbage(spawn.state_dir / which)
    code, lines = start(processes, spawn)
    assert code == 1
    assert_one_line(lines, which, "damaged")
    (logged,) = log.read_text("utf-8").splitlines()
    assert logged.endswith(f" CRITICAL the service did not start: {lines[0]}")


def test_a_log_that_is_standard_error_has_it_once(processes: Processes) -> None:
    spawn = Spawn(processes, [], {"log": {"file": "/dev/stderr"}, "host": "192.0.2.1"})
    code, lines = start(processes, spawn)
    assert code == 1
    assert_one_line(lines, "192.0.2.1")


def test_every_fault_of_a_file_is_told_in_one_go(processes: Processes) -> None:
    path = processes.directory / "faulty.conf"
    node = {"host": "127.0.0.1", "port": 70_000}
    faults = {"prot": 1, "api": {"port": "x"}, "health-check": {"regexp": "("}, "nodes": [node]}
    path.write_text(json.dumps(faults), "utf-8")
    code, lines = run(processes, f"--config={path}")
    assert code == 2
    assert len(lines) == 4, lines
    assert all("faulty.conf" in line for line in lines)
    for words in (("prot", "port"), ("api", "port"), ("regexp",), ("nodes", "70000")):
        assert any(all(word in line for word in words) for line in lines), (words, lines)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"port": 1, "port": 2}', "\udcff\x00"])
def test_a_file_that_is_no_configuration(processes: Processes, text: str) -> None:
    path = processes.directory / "broken.conf"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    code, lines = run(processes, f"--config={path}")
    assert code == 2
    assert_one_line(lines, "broken.conf")


def test_a_file_that_does_not_exist(processes: Processes) -> None:
    code, lines = run(processes, f"--config={processes.directory}/nowhere.conf")
    assert code == 2
    assert_one_line(lines, "nowhere.conf")


def test_a_flag_with_a_wrong_value(processes: Processes) -> None:
    code, lines = run(processes, f"--config={Spawn(processes, []).config_path}", "--api-port=many")
    assert code == 2
    assert_one_line(lines, "--api-port")


def test_a_flag_that_does_not_exist(processes: Processes) -> None:
    code, lines = run(processes, "--prot=1")
    assert code == 2
    assert "--prot" in lines[0]
    assert any("Usage:" in line for line in lines)


def test_nodes_that_are_down_do_not_keep_it_from_starting(processes: Processes) -> None:
    spawn = Spawn(processes, [free_port()], {"timeouts": {"fresh": 0.1}}).start()
    assert [row["state"] for row in spawn.api.queues()] == ["down"]
    client = requests.Session()
    client.trust_env = False
    with client:
        assert client.get(f"{spawn.url}/items/x", timeout=10).status_code in (502, 503)
    assert spawn.stop() == 0
