"""A machine that nobody has prepared: ``install`` and ``start`` without an option give a proxy that works."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import loggingnode
from tests.support.machines import Machine, needs_programs
from tests.support.rootfs import Kind
from tests.support.services import install_wheel, running_pid, succeeds
from tests.support.waiting import eventually

pytestmark = [needs_programs, pytest.mark.timeout(900)]
NODES = (8001, 8002)
ASK = """
import sys, urllib.error, urllib.request
method, url, body = sys.argv[1:]
request = urllib.request.Request(url, body.encode() if body else None, method=method)
try:
    with urllib.request.urlopen(request, timeout=20) as answer:
        print(answer.status, answer.read().decode())
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
"""


def ask(machine: Machine, method: str, url: str, body: str = "") -> tuple[int, str]:
    """From inside: the machine's network is its own."""
    status, _, text = machine.run("python3", "-c", ASK, method, url, body).stdout.strip().partition(" ")
    return int(status), text


def start_node(machine: Machine, port: int) -> None:
    machine.put("/srv/node.py", Path(loggingnode.__file__).read_text("utf-8"))
    run = f"python3 /srv/node.py --port {port} --log /srv/{port}.log"
    machine.shell(f"setsid {run} </dev/null >/srv/{port}.out 2>&1 &")
    eventually(lambda: listens(machine, port), timeout_s=20, what=f"node {port} listens")


def listens(machine: Machine, port: int) -> bool:
    connect = f"import socket; socket.create_connection(('127.0.0.1', {port}))"
    return machine.run("python3", "-c", connect, check=False).returncode == 0


@pytest.mark.parametrize("kind", Kind, ids=str)
def test_install_and_start_are_enough(machine: Callable[..., Machine], kind: Kind) -> None:
    here: Machine = machine(kind, private_network=True)
    install_wheel(here)
    # When nothing is said but the two commands, then each is one line
    for command in ("install", "start"):
        assert len(succeeds(here, command).splitlines()) == 1
    assert running_pid(here)
    status, text = ask(here, "GET", "http://127.0.0.1:7118/health")
    assert (status, json.loads(text)["data"]["info"]) == (200, "serving")

    # When nodes are added by the API, then it is a working proxy in front of them
    for port in NODES:
        start_node(here, port)
        url = f"http://127.0.0.1:7118/nodes/127.0.0.1/{port}"
        assert ask(here, "PUT", url, '{"active": true}')[0] in (200, 201)
    eventually(lambda: states(here) == ["serving"] * len(NODES), timeout_s=30, every_s=0.2, what="both nodes serve")
    assert ask(here, "PUT", "http://127.0.0.1:7117/items/colour", "blue")[0] == 201
    assert ask(here, "GET", "http://127.0.0.1:7117/items/colour") == (200, "blue")
    for port in NODES:
        direct = f"http://127.0.0.1:{port}/items/colour"
        eventually(lambda url=direct: ask(here, "GET", url) == (200, "blue"), timeout_s=20, what=f"{port} has it")


def states(machine: Machine) -> list[str]:
    rows = json.loads(ask(machine, "GET", "http://127.0.0.1:7118/queues")[1])["data"]["results"]
    return [str(row["state"]) for row in rows]
