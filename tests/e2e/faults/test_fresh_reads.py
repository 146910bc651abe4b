"""Fresh reads under fire: no unmarked answer is older than what a client had been told before it asked.

``SPAWN_FAULT_SEED`` repeats a run; the seed and the figures are printed, and shown when a test fails.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest

from tests.support.cluster import Cluster
from tests.support.load import Load
from tests.support.processes import Processes
from tests.support.registerruns import SETTINGS, RegisterClients, node_logs, run_history
from tests.support.registers import check, check_client_order, count_stale
from tests.support.waiting import eventually

BACKLOG = 300


@pytest.fixture
def seed() -> int:
    chosen = int(os.environ.get("SPAWN_FAULT_SEED") or random.randrange(1_000_000))
    print(f"seed {chosen}: SPAWN_FAULT_SEED={chosen} repeats it")
    return chosen


def test_no_unmarked_read_is_stale_while_nodes_and_spawn_fail_and_return(processes: Processes, seed: int) -> None:
    # When nodes are killed, paused and rested, and Spawn is killed, while clients write and read
    report = run_history(processes, seed, duration_s=7.0)
    print(report)

    # Then reads are fresh or say that they are not, which they seldom do, and each client's updates keep their order
    assert report.faults == []
    assert report.marked_share < 0.01, report
    assert report.acknowledged > 30, "too little happened to be a test"
    assert report.reads_while_two_healthy > 300
    assert set(report.injected) == {"node-kill", "node-pause", "maintenance", "spawn-kill"}


def test_the_check_catches_reads_that_nobody_keeps_fresh(cluster: Callable[..., Cluster], seed: int) -> None:
    made = cluster((), (), ("--delay", "0.3"), settings={"consistency": "any"})
    with RegisterClients(made.spawn.port, seed) as clients:
        eventually(lambda: len(clients.writes) >= 40, timeout_s=20, what="some updates")
    faults = check(clients.reads, clients.writes)
    print(f"{len(clients.reads)} reads, faults: {faults[:5]}")
    assert count_stale(faults) > 10
    assert any("went backwards" in fault for fault in faults)
    assert not any(read.behind for read in clients.reads), "any makes no promise, so no read breaks one"


def test_a_returning_node_gets_no_reads_until_it_has_caught_up(cluster: Callable[..., Cluster], seed: int) -> None:
    # Given a node that has missed updates and takes its time for each; only its state keeps reads away from it
    made = cluster((), (), ("--delay", "0.005"), settings={**SETTINGS, "consistency": "any"})
    *_, returning = made.nodes
    returning.kill()
    made.spawn.api.wait_state(returning.port, "down")
    with Load(made.spawn.url, total=BACKLOG) as load:
        load.join()
    assert load.failures == []
    assert made.spawn.api.head() == BACKLOG

    # When it returns while everybody reads
    clients = RegisterClients(made.spawn.port, seed)
    clients.rest_writers()
    with clients:
        returning.start()
        made.spawn.api.wait_state(returning.port, "catching-up")
        reads_before = len(clients.reads)
        made.spawn.api.wait_settled()
        assert len(clients.reads) > reads_before, "nobody read meanwhile"
        reads = eventually(returning.reads, timeout_s=10, what="it gets reads again")

    # Then the first of them came when it had everything
    assert min(reads) == BACKLOG, reads
    assert len(returning.records()) == BACKLOG


def test_a_slow_node_gets_fewer_fresh_reads_and_its_share_once_it_has_everything(
    cluster: Callable[..., Cluster], seed: int
) -> None:
    made = cluster((), (), ("--delay", "0.01", "--answer-delay", "0.01"), settings=SETTINGS)

    def reads() -> list[int]:
        return [sum(node.reads().values()) for node in made.nodes]

    with RegisterClients(made.spawn.port, seed, pause_s=0.1) as clients:
        # Given updates that it applies later than the others
        eventually(lambda: len(clients.writes) >= 100, timeout_s=30, what="some updates")
        *quick, late = reads()
        assert late < min(quick) / 2, (quick, late)

        # When it has applied everything
        clients.rest_writers()
        made.spawn.api.wait_settled()
        before = reads()

        # Then it gets as many reads as the others
        eventually(lambda: sum(reads()) > sum(before) + 400, timeout_s=20, what="more reads")
        new = [now - then for now, then in zip(reads(), before, strict=True)]
        assert min(new) > max(new) * 0.7, new
    assert check(clients.reads, clients.writes) == []
    assert not any(read.behind for read in clients.reads)


def test_each_client_finds_its_own_updates_in_its_own_order_on_every_node(
    cluster: Callable[..., Cluster], seed: int
) -> None:
    # Given clients that wait for each answer, one slow node, and one that is struck
    made = cluster((), ("--answer-delay", "0.005"), ("--delay", "0.005"), settings=SETTINGS)
    _, paused, killed = made.nodes
    with RegisterClients(made.spawn.port, seed, pause_s=0.01) as clients:
        eventually(lambda: len(clients.writes) >= 50, timeout_s=20, what="some updates")
        killed.kill()
        paused.process.pause()
        eventually(lambda: len(clients.writes) >= 120, timeout_s=20, what="some more")
        paused.process.resume()
        killed.start()
        eventually(lambda: len(clients.writes) >= 180, timeout_s=20, what="and some more")
    made.spawn.api.wait_settled()

    # Then all nodes have all of them, and each client's in the order in which it sent them
    logs = node_logs(made)
    sent = {write.value for write in clients.writes}
    assert all({value for value, _ in log} == sent for log in logs.values())
    assert check_client_order(clients.writes, logs) == []
    assert check(clients.reads, clients.writes) == []
