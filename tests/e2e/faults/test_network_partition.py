"""Nodes behind links that swallow, lose and delay packets: the others go on, and nothing is lost or comes late."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.api import session
from tests.support.cluster import LoggingNode, Spawn
from tests.support.history import check, without_repeats
from tests.support.load import Load
from tests.support.netns import CUT, GOOD, DistantNode, Link, Way
from tests.support.processes import Processes
from tests.support.waiting import eventually

pytestmark = pytest.mark.needs("ip", "nsenter")

QUICK = {
    "health-check": {"seconds": 0.3, "timeout": 1, "fall": 2, "url": "/info", "regexp": "^version:[0-9]+$"},
    "timeouts": {"deliver": 1, "connect": 1, "read": 2, "answer": 20},
}
TOTAL = 90
SYN_SENT = "02"


def behind_links(processes: Processes, names: Sequence[str]) -> tuple[list[DistantNode], list[Link]]:
    links = [Link(processes, f"link-{name}").start() for name in names]
    nodes = [DistantNode(processes, link, name).start() for name, link in zip(names, links, strict=True)]
    return nodes, links


def spawn_before(processes: Processes, *nodes: LoggingNode) -> Spawn:
    listed = [
        {"host": node.host if isinstance(node, DistantNode) else "127.0.0.1", "port": node.port} for node in nodes
    ]
    made = Spawn(processes, [], QUICK | {"nodes": listed}).start()
    made.api.wait_settled(20)
    return made


def row_of(spawn: Spawn, node: DistantNode) -> dict[str, Any]:
    return spawn.api.queue(node.port, node.host)


def test_a_partition_delays_nobody_and_heals_without_loss(processes: Processes) -> None:
    # Given two nodes here, and others behind a link each
    near = [LoggingNode(processes, name).start() for name in ("near1", "near2")]
    far, links = behind_links(processes, ("both", "there", "back", "unreachable", "lossy"))
    both, there, back, unreachable, lossy = far
    links[4].be(Way(loss=0.05, delay_s=0.03), Way(loss=0.05, delay_s=0.03))
    spawn = spawn_before(processes, *near, *far)

    # When, amid updates, links become black holes in both or in one direction, and there is no route to one node
    with links[3].refused(), Load(spawn.url, total=TOTAL, clients=4, pause_s=0.1) as load:
        load.wait_acknowledged(20)
        links[0].cut()
        links[1].be(CUT, GOOD)
        links[2].be(GOOD, CUT)
        load.join()

        # Then clients are answered by the others and not by a 202, …
        assert load.failures == []
        assert set(load.statuses) <= {200, 201}, "nobody had to wait for a node that cannot be reached"
        for node in near:
            spawn.api.wait_queue(node.port, lambda row: row["backlog"] == 0, what="near nodes have everything")
        assert all(len(node.applied()) == TOTAL for node in near)
        # … the health check sees it, and the backlog stays …
        for node in (both, there, back, unreachable):
            eventually(
                lambda node=node: row_of(spawn, node)["state"] == "down", timeout_s=15, what=f"{node.name} is down"
            )
            row = row_of(spawn, node)
            assert row["backlog"] > 0
            assert row["last-error"]
        # … while a link with losses is only slow
        assert row_of(spawn, lossy)["refused"] == 0

    # When the links heal
    for link in links[:3]:
        link.heal()

    # Then all nodes catch up by themselves, and everything is everywhere in one order
    spawn.api.wait_settled(60)
    logs = {node.name: without_repeats(node.applied()) for node in (*near, *far)}
    assert check(logs, load.attempted, load.acknowledged) == []
    assert len({str(node.items()) for node in (*near, *far)}) == 1
    assert not any(row["diverged"] or row["refused"] for row in spawn.api.queues())
    # … each trouble was said once
    for node in (both, there, back, unreachable):
        said = [line for line in spawn.process.output().splitlines() if f"{node.host}:{node.port} is down" in line]
        assert len(said) == 1, said


def test_what_was_given_up_in_a_partition_does_not_come_late(processes: Processes) -> None:
    # Given a node behind a link, with a connection in use
    near = LoggingNode(processes, "near").start()
    (far,), (link,) = behind_links(processes, ["far"])
    spawn = spawn_before(processes, near, far)
    put(spawn, 1)
    spawn.api.wait_settled()

    # When an update goes into a black hole and is given up
    link.cut()
    put(spawn, 2)
    put(spawn, 3)
    eventually(lambda: "gave no answer to update 2" in row_of(spawn, far)["last-error"], timeout_s=15, what="given up")
    # Then the kernel does not go on trying to get it across: after the healing it would arrive behind later updates
    eventually(lambda: not unsent_to(far), timeout_s=5, what="nothing of it is on its way any more")
    link.heal()
    spawn.api.wait_settled()

    # When Spawn is killed while an update is on its way into the black hole
    link.cut()
    put(spawn, 4)
    eventually(lambda: unsent_to(far), timeout_s=5, what="update 4 is on its way")
    spawn.kill()
    # Then the same holds
    eventually(lambda: not unsent_to(far), timeout_s=5, what="nothing of it is on its way any more")
    link.heal()
    spawn.start()
    put(spawn, 5)
    spawn.api.wait_settled()

    # When only the answer to an update is lost
    with ThreadPoolExecutor(1) as pool:
        answered = pool.submit(put, spawn, 6, "?answer-delay=0.7")
        eventually(lambda: len(far.applied()) >= 6, timeout_s=5, what="the node has applied it")
        link.be(GOOD, CUT)
        answered.result()
    eventually(lambda: "gave no answer to update 6" in row_of(spawn, far)["last-error"], timeout_s=15, what="unknown")
    link.heal()
    put(spawn, 7)
    spawn.api.wait_settled()

    # Then it is sent again with the same key, before what follows it
    assert [applied.sequence for applied in far.applied()].count(6) > 1
    assert [applied.sequence for applied in without_repeats(far.applied())] == [1, 2, 3, 4, 5, 6, 7]
    assert far.items() == near.items() == {"k": "value 7"}


def put(spawn: Spawn, number: int, query: str = "") -> None:
    with session() as client:
        answer = client.put(f"{spawn.url}/items/k{query}", data=f"value {number}", timeout=20)
    assert answer.status_code in (200, 201), answer.text
    assert answer.headers["Spawn-Sequence"] == str(number)


def unsent_to(node: DistantNode) -> list[str]:
    """Connections to a node, orphans without a process included, with bytes that it has not acknowledged."""
    address = "".join(f"{int(part):02X}" for part in reversed(node.host.split("."))) + f":{node.port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]]
    return [" ".join(row) for row in rows if row[2] == address and row[3] != SYN_SENT and int(row[4][:8], 16) > 0]
