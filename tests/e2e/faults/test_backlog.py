"""A node returns with a long backlog: it gets all of it in order, gently when asked, and nobody else waits for it.

The backlog is written by ``bench/seed.py`` through the journal itself, since sending so many updates would take most of
the test's time. How fast all this is, is the business of ``bench/backlog.py``.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.api import session
from tests.support.cluster import Spawn, spawn_environment
from tests.support.processes import Processes
from tests.support.quicknode import QuickNode
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[3]
MIB = 1 << 20
MEMORY_BYTES = 200 * MIB  # whatever the backlog
SHORT, LONG = 2_000, 50_000
GROWTH_BYTES = 16 * MIB  # SQLite's page cache fills; 48,000 updates more in memory would be 40 MiB
DRAINED_S = 120.0  # a deadline, not a measure
AT_ONCE = 2  # updates that no rate delays: the first, and one when its node is found to be up and its worker woken
QUEUE = 1_024  # updates that a node may lack and yet have caught up


class Backlog:
    """Nodes at given positions of a seeded journal, and a Spawn that finds them so."""

    def __init__(
        self,
        processes: Processes,
        updates: int,
        positions: Sequence[str],
        settings: Mapping[str, Any] | None = None,
        name: str = "spawn",
    ) -> None:
        """The last node is the one that is behind."""
        self.updates = updates
        self.nodes = [QuickNode(processes, f"{name}-node{n}").start() for n, _ in enumerate(positions)]
        health = {"seconds": 1, "url": "/info", "regexp": "^version:1$"}
        ports = [node.port for node in self.nodes]
        self.spawn = Spawn(processes, ports, {"health-check": health, **(settings or {})}, name=name)
        places = [f"127.0.0.1:{port}={at}" for port, at in zip(ports, positions, strict=True)]
        subprocess.run(
            [sys.executable, "-m", "bench.seed", str(self.spawn.state_dir), str(updates), *places],
            cwd=ROOT,
            env=spawn_environment(processes.directory),
            check=True,
            timeout=120,
        )

    @property
    def late(self) -> QuickNode:
        return self.nodes[-1]

    def start(self) -> Backlog:
        self.spawn.start()
        return self

    def post(self, count: int = 1) -> list[int]:
        """Live updates, one after the other; their sequences. Each has to be answered by a node."""
        sequences = []
        with session() as client:
            for _ in range(count):
                answer = client.post(f"{self.spawn.url}/live", data=b"live", timeout=30)
                assert (answer.status_code, answer.text) == (200, "done")
                sequences.append(int(answer.headers["Spawn-Sequence"]))
        return sequences

    def read(self) -> None:
        with session() as client:
            answer = client.get(f"{self.spawn.url}/read", timeout=30)
        assert (answer.status_code, answer.headers.get("Spawn-Behind")) == (200, None)

    def position(self, node: QuickNode) -> int:
        return int(self.spawn.api.queue(node.port)["position"])

    def wait_position(self, node: QuickNode, position: int) -> None:
        eventually(lambda: self.position(node) >= position, timeout_s=DRAINED_S, what=f"update {position} is applied")

    def counter(self, name: str) -> int:
        rows = self.spawn.api.data("GET", "/counters")["results"]
        return next((int(row["value"]) for row in rows if row["name"] == name), 0)


def test_a_long_backlog_drains_in_order_while_the_others_go_on(processes: Processes) -> None:
    # Given two nodes at the head of a journal and a third that has most of it still to get
    head, position = 20_000, 8_000
    backlog = Backlog(processes, head, ("head", "head", str(position))).start()
    others, late = backlog.nodes[:2], backlog.late

    # When clients write and read until the third has caught up
    live: list[int] = []
    seen_behind = 0
    until_s = time.monotonic() + DRAINED_S
    while (row := backlog.spawn.api.queue(late.port))["state"] != "serving":
        assert time.monotonic() < until_s, f"still behind: {row}"
        live += backlog.post()
        backlog.read()
        if row["backlog"] > QUEUE:
            # Then the other nodes get each live update without waiting for it
            for node in others:
                backlog.wait_position(node, live[-1])
            seen_behind += backlog.position(late) < head
    assert seen_behind >= 3, "the drain was over before it was seen; make the backlog longer"
    live += backlog.post()
    backlog.spawn.api.wait_settled(60)

    # And it gets everything, each once, in the one order
    assert late.sequences() == list(range(position + 1, live[-1] + 1))
    for node in others:
        assert node.sequences() == live
    # And no read before it had caught up: had reached the head as it stood on its return
    noted = late.noted()
    first_read = next((n for n, line in enumerate(noted) if line.sequence is None), len(noted))
    assert first_read >= head - position
    # And what it got was counted apart: gentle beside busy clients is decided by that
    assert backlog.counter("delivery.caught-up") >= head - position
    assert backlog.spawn.process.peak_rss_bytes() < MEMORY_BYTES


def test_memory_does_not_grow_with_the_backlog(processes: Processes) -> None:
    peaks = []
    for updates in (SHORT, LONG):
        # Given a node with a short or a long backlog
        backlog = Backlog(processes, updates, ("head", "0"), name=f"spawn{updates}").start()
        # When it drains as much of it as there is in the short one
        backlog.wait_position(backlog.late, SHORT)
        peaks.append(backlog.spawn.process.peak_rss_bytes())
        backlog.spawn.kill()
    # Then Spawn needs as much memory for the one as for the other
    assert peaks[1] - peaks[0] < GROWTH_BYTES, [f"{peak / MIB:.1f} MiB" for peak in peaks]
    assert max(peaks) < MEMORY_BYTES


def test_catch_up_is_as_gentle_as_the_operator_asks_and_live_traffic_is_not_slowed(processes: Processes) -> None:
    # Given a rate of catching up, and a node that is behind
    rate = 10.0
    backlog = Backlog(processes, 3_000, ("head", "head", "0"), {"delivery": {"catch-up-rate": rate}})
    others, late = backlog.nodes[:2], backlog.late
    began_s = time.monotonic()
    backlog.start()

    # When several clients write
    live: list[int] = []
    live_began_s = time.monotonic()
    writers = [threading.Thread(target=lambda: live.extend(backlog.post(50))) for _ in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    for node in others:
        backlog.wait_position(node, 3_400)
    live_s = time.monotonic() - live_began_s

    # Then the nodes that serve get their updates without regard to the rate
    assert len(live) == 400
    assert rate * live_s + 1 < 400, "live updates were held back as if they were a backlog"
    # And the one that is behind never has more than the rate allows, but goes on
    got = 0
    while got < 20:
        got = len(late.sequences())
        assert got <= rate * (time.monotonic() - began_s) + AT_ONCE
        assert time.monotonic() - began_s < DRAINED_S
        time.sleep(0.1)
    assert backlog.spawn.api.queue(late.port)["state"] == "catching-up"

    # When the operator takes the limit away, without a restart
    backlog.spawn.write_config({"delivery": {"catch-up-rate": 0}})
    backlog.spawn.hang_up()

    # Then the node has caught up long before the rate would have let it (340 s)
    backlog.spawn.api.wait_settled(60)
    assert late.sequences() == list(range(1, 3_401))

    # When it comes back from maintenance after the limit was set again
    backlog.spawn.write_config({"delivery": {"catch-up-rate": rate}})
    backlog.spawn.hang_up()
    backlog.spawn.wait_output(lambda text: text.count("the configuration was read again") == 2, what="the reload")
    backlog.spawn.api.maintenance(late.port, True)
    backlog.post(30)
    returned_s = time.monotonic()
    backlog.spawn.api.maintenance(late.port, False)

    # Then it is slow again
    def got_some() -> bool:
        new = len(late.sequences()) - 3_400
        serves = backlog.spawn.api.queue(late.port)["state"] == "serving"
        assert serves or new <= rate * (time.monotonic() - returned_s) + AT_ONCE
        return new >= 10

    eventually(got_some, timeout_s=60, what="the node catches up")
