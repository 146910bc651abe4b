"""Two thousand slow clients at once: a normal one is served as usual, and they are gone when their deadlines pass.

Everything is a process of its own: Spawn, its nodes, the slow clients, and Debian's slowhttptest as a second opinion.
How each way to be slow ends is in ``test_server_deadlines``. Times are compared with what the same client waited
before the attack, generously: this is no benchmark.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from spawn.http11.channel import LINGER_S
from tests.support.cluster import Cluster
from tests.support.normalclient import NormalClient, Served, Wish, failures, medians_s
from tests.support.processes import ManagedProcess, Processes
from tests.support.slowclients import DRIPS, SlowClients, kinds
from tests.support.waiting import eventually

SLOW_CLIENTS = 2_000
SLOW_S = 5.0  # all deadlines of clients
SETTINGS = {"timeouts": {"head": SLOW_S, "body": SLOW_S, "send": SLOW_S, "idle": SLOW_S}}
# The rate of a body or an answer is judged when its window is over, and a fast beginning buys a second one.
GONE_S = 2 * SLOW_S + LINGER_S + 15.0  # the last is for a busy machine

USUAL_FACTOR, USUAL_FLOOR_S = 10, 0.25
MOST_BYTES_EACH = 65_536  # resident, for each slow client
KEPT_DESCRIPTORS = 3 * 32 + 20  # idle connections to three nodes, and some more for what goes on at that moment
LARGE = "/big/answer?size=20000000"

LISTEN, TIME_WAIT = "0A", "06"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    made = Processes(tmp_path_factory.mktemp("slow"))
    yield made
    complaints = made.close()
    assert not complaints, "\n".join(complaints)


@pytest.fixture(scope="module")
def cluster(running: Processes) -> Cluster:
    return Cluster(running, settings=SETTINGS).start()


def normal_client(cluster: Cluster) -> NormalClient:
    port, api_port = cluster.spawn.port, urlsplit(cluster.spawn.api.url).port
    assert api_port is not None
    return NormalClient(
        Wish(port, "GET", "/items"),
        Wish(port, "PUT", "/items/normal", b"a small body"),
        Wish(api_port, "GET", "/queues"),
    )


def assert_as_usual(now: list[Served], before: list[Served]) -> None:
    """All was answered, and half of it about as quickly as before."""
    assert not failures(before + now), failures(before + now)[:5]
    usual_s, medians = medians_s(before), medians_s(now)
    assert medians.keys() == usual_s.keys()
    slow = {
        str(wish): (median_s, usual_s[wish])
        for wish, median_s in medians.items()
        if median_s > max(USUAL_FACTOR * usual_s[wish], USUAL_FLOOR_S)
    }
    assert not slow, f"median and usual time in seconds: {slow}"


def clients_of(port: int) -> int:
    """Connections to a port that the kernel still has at the server's end, those without a process too."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]]
    return sum(int(row[1].partition(":")[2], 16) == port and row[3] not in (LISTEN, TIME_WAIT) for row in rows)


def counter(cluster: Cluster, name: str) -> int:
    rows = cluster.spawn.api.data("GET", "/counters")["results"]
    return next((int(row["value"]) for row in rows if row["name"] == name), 0)


def test_two_thousand_slow_clients(cluster: Cluster, running: Processes) -> None:
    port, spawn = cluster.spawn.port, psutil.Process(cluster.spawn.process.pid)
    slow = SlowClients(running, port, LARGE, SLOW_CLIENTS, seconds=60)
    with normal_client(cluster) as normal:
        before = normal.wait(2)
        descriptors, resident = spawn.num_fds(), spawn.memory_info().rss
        slow.start()
        assert slow.status.left > 0.9 * SLOW_CLIENTS, "all of them are there at the same time"
        ended = slow.wait_gone(GONE_S)
        assert_as_usual(normal.take(), before)
        assert_as_usual(normal.wait(1), before)
    assert ended.left == 0, ended
    eventually(lambda: clients_of(port) == 0, timeout_s=5, what="no connection is left in the kernel")
    eventually(lambda: spawn.num_fds() <= descriptors + KEPT_DESCRIPTORS, timeout_s=5, what="descriptors are back")
    grown = cluster.spawn.process.peak_rss_bytes() - resident
    assert grown < SLOW_CLIENTS * MOST_BYTES_EACH, f"{grown / SLOW_CLIENTS:.0f} bytes for each slow client"
    dripping = sum(kind in DRIPS for kind in kinds(SLOW_CLIENTS))
    assert counter(cluster, "proxy.timed-out") >= dripping
    assert counter(cluster, "proxy.refused-connections") == 0


SLOWHTTPTESTS = {
    "slow-heads": ("-H", "-i", "1", "-u", "/items"),
    "slow-bodies": ("-B", "-i", "1", "-s", "8192", "-u", "/items/slow"),
    "ranges": ("-R", "-a", "1", "-b", "3000", "-u", LARGE),
    "slow-reading": ("-X", "-w", "64", "-y", "128", "-n", "1", "-z", "8", "-u", LARGE),
}


def start_slowhttptest(processes: Processes, name: str, url: str) -> ManagedProcess:
    *attack, target = SLOWHTTPTESTS[name]
    common = ("-c", "300", "-r", "150", "-l", "10", "-p", "5", "-g", "-o", name)
    process = processes.add(name, ["slowhttptest", *attack, url + target, *common])
    process.start()
    return process


def availability(processes: Processes, name: str) -> list[int]:
    """What its own probe found, second by second: 0 where it was not answered in time."""
    with (processes.directory / f"{name}.csv").open(encoding="ascii") as file:
        return [int(row["Service Available"]) for row in csv.DictReader(file)]


@pytest.mark.needs("slowhttptest")
def test_slowhttptest_agrees(cluster: Cluster, running: Processes) -> None:
    with normal_client(cluster) as normal:
        before = normal.wait(1)
        attacks = [start_slowhttptest(running, name, cluster.spawn.url) for name in SLOWHTTPTESTS]
        for attack in attacks:
            assert attack.wait(40) == 0, attack.tail()
        assert_as_usual(normal.take(), before)
    for attack in attacks:
        seen = availability(running, attack.name)
        assert len(seen) >= 3, attack.tail()
        assert all(seen), f"{attack.name}: {seen}"
    # Slow readers do not look at their sockets, so they do not notice their end.
    for attack in attacks[:-1]:
        assert "No open connections left" in attack.output(), attack.tail()
    port = cluster.spawn.port
    eventually(lambda: clients_of(port) == 0, timeout_s=SLOW_S + 5, what="no connection is left in the kernel")
