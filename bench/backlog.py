"""A node returns with a backlog of a million updates: what does that cost everybody else?

    make backlog                    (or: .venv/bin/python -m bench.backlog --updates 1000000)

Three nodes; two are at the head of the journal, the third has all of it still to get. Measured are the time from
the start of ``spawnctl`` to its first answer, its memory, how fast the third node drains, and what 32 clients get
while it drains. The latter is a ratio: rounds with the third node in maintenance and rounds with it draining take
turns, GETs and POSTs apart, so that whatever else the machine does falls on both alike. Results go to standard output
as a table and as JSON; those of record are in RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import requests

from bench.programs import Api, Broken, Clients, Process, Traffic, free_port, nginx, require

ROOT = Path(__file__).parents[1]
READY_S = 120.0
SETTLE_S = 0.5  # after a change of maintenance, before it is measured
TARGETS = {"start_s": 5.0, "peak_mib": 200.0, "ratio": 0.8}


@dataclass
class Figures:
    """Everything measured."""

    updates: int
    cores: int = field(default_factory=lambda: os.cpu_count() or 1)
    load_before: float = 0.0  # of the machine, over one minute, before anything was started
    start_s: float = 0.0  # until the API says healthy and a read was answered
    started_rss_mib: float = 0.0
    peak_mib: float = 0.0
    drain_alone_per_s: float = 0.0  # no other traffic
    drain_during: dict[str, list[float]] = field(default_factory=dict)  # by method, per round
    quiet: dict[str, list[Traffic]] = field(default_factory=dict)  # the third node in maintenance
    draining: dict[str, list[Traffic]] = field(default_factory=dict)

    def ratios(self, method: str) -> list[float]:
        """Of each pair of rounds."""
        pairs = zip(self.quiet[method], self.draining[method], strict=True)
        return [draining.per_second / quiet.per_second for quiet, draining in pairs]

    def faults(self) -> list[str]:
        """The targets that were missed."""
        found = []
        if self.start_s > TARGETS["start_s"]:
            found.append(f"the start took {self.start_s:.1f} s")
        if self.peak_mib > TARGETS["peak_mib"]:
            found.append(f"memory reached {self.peak_mib:.0f} MiB")
        for method in self.quiet:
            if statistics.median(self.ratios(method)) < TARGETS["ratio"]:
                found.append(f"{method}s were slowed to {statistics.median(self.ratios(method)):.2f}")
            if failed := sum(t.failed for t in self.quiet[method] + self.draining[method]):
                found.append(f"{failed} {method}s failed")
        return found


class Bench:
    def __init__(self, directory: Path, options: argparse.Namespace, stack: ExitStack) -> None:
        self._directory = directory
        self._options = options
        self._stack = stack
        self._ports = [free_port() for _ in range(3)]
        self._port, self._api_port = free_port(), free_port()
        self._api = Api(self._api_port)
        self._clients = Clients(directory, f"http://127.0.0.1:{self._port}", options.clients)
        self._spawn: Process
        self.figures = Figures(options.updates, load_before=os.getloadavg()[0])

    @property
    def _laggard(self) -> int:
        return self._ports[2]

    def run(self) -> None:
        self._seed()
        self._stack.enter_context(nginx(self._directory / "nginx", self._ports))
        self._start()
        self._drain_alone()
        for number in range(self._options.rounds):
            self._round(number)
        self.figures.peak_mib = self._spawn.memory_mib("VmHWM")

    def _seed(self) -> None:
        positions = ("head", "head", "0")
        places = [f"127.0.0.1:{port}={at}" for port, at in zip(self._ports, positions, strict=True)]
        say(f"seeding {self._options.updates} updates")
        command = [sys.executable, "-m", "bench.seed", str(self._directory / "state"), str(self._options.updates)]
        subprocess.run([*command, *places], check=True, cwd=ROOT)

    def _start(self) -> None:
        """Caches of the disk are as the seeding left them, unless ``--cold`` may drop them (root)."""
        config = self._directory / "spawn.conf"
        config.write_text(json.dumps(self._config()))
        if self._options.cold:
            subprocess.run(["sync"], check=True)
            Path("/proc/sys/vm/drop_caches").write_text("3")
        began = time.monotonic()
        command = [sys.executable, "-m", "spawnctl", f"--config={config}"]
        self._spawn = self._stack.enter_context(Process(command, self._directory / "spawn.out"))
        while not self._api.healthy():
            self._spawn.check()
            if time.monotonic() - began > READY_S:
                sys.exit(f"not ready within {READY_S:g} s")
            time.sleep(0.005)
        requests.get(f"http://127.0.0.1:{self._port}/items/1", timeout=30).raise_for_status()
        self.figures.start_s = time.monotonic() - began
        self.figures.started_rss_mib = self._spawn.memory_mib("VmRSS")
        say(f"ready after {self.figures.start_s:.2f} s, {self.figures.started_rss_mib:.0f} MiB")

    def _config(self) -> dict[str, object]:
        return {
            "host": "127.0.0.1",
            "port": self._port,
            "api": {"port": self._api_port},
            "query-mode": {"round-robin": True},
            "health-check": {"seconds": 1, "url": "/info", "regexp": "^version:1$"},
            "state-dir": str(self._directory / "state"),
            "delivery": {"catch-up-rate": self._options.catch_up_rate},
            "nodes": [{"host": "127.0.0.1", "port": port, "active": True} for port in self._ports],
        }

    def _drain_alone(self) -> None:
        began, position = time.monotonic(), self._api.position(self._laggard)
        time.sleep(self._options.seconds)
        gained = self._api.position(self._laggard) - position
        self.figures.drain_alone_per_s = gained / (time.monotonic() - began)
        say(f"drains {self.figures.drain_alone_per_s:.0f} updates/s alone, {self._spawn.memory_mib('VmRSS'):.0f} MiB")

    def _round(self, number: int) -> None:
        """Every other round begins with the draining half: what the first half leaves behind falls on both."""
        for method in ("GET", "POST"):
            for draining in (True, False) if number % 2 else (False, True):
                self._half(method, draining)
            quiet, busy = self.figures.quiet[method][-1], self.figures.draining[method][-1]
            say(
                f"round {number + 1}: {method} {quiet.per_second:.0f}/s quiet, {busy.per_second:.0f}/s draining "
                f"({busy.per_second / quiet.per_second:.2f}), drain {self.figures.drain_during[method][-1]:.0f}/s, "
                f"{self._spawn.memory_mib('VmRSS'):.0f} MiB"
            )

    def _half(self, method: str, draining: bool) -> None:
        self._api.maintenance(self._laggard, not draining)
        time.sleep(SETTLE_S)
        before = self._api.position(self._laggard)
        traffic = self._clients.run(method, self._options.seconds)
        row = self._api.queue(self._laggard)
        gained = int(str(row["position"])) - before
        if draining and row["state"] != "catching-up":
            sys.exit(f"the backlog is over (the node is {row['state']}): take more --updates or fewer --rounds")
        (self.figures.draining if draining else self.figures.quiet).setdefault(method, []).append(traffic)
        if draining:
            self.figures.drain_during.setdefault(method, []).append(gained / self._options.seconds)


def report(figures: Figures) -> Iterator[str]:
    yield f"backlog of {figures.updates:,} updates, {figures.cores} cores, load before {figures.load_before:.2f}"
    yield f"start                 {figures.start_s:8.2f} s"
    yield f"memory after start    {figures.started_rss_mib:8.0f} MiB"
    yield f"memory, most ever     {figures.peak_mib:8.0f} MiB"
    yield f"drain, no traffic     {figures.drain_alone_per_s:8.0f} updates/s"
    for method in figures.quiet:
        quiet, draining, ratios = figures.quiet[method], figures.draining[method], figures.ratios(method)
        yield f"{method:4} quiet            {median_of(quiet)}"
        yield f"{method:4} draining         {median_of(draining)}"
        spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
        yield f"{method:4} ratio            {statistics.median(ratios):8.2f}   ({len(ratios)} pairs, {spread})"
        yield f"drain during {method:4}     {statistics.median(figures.drain_during[method]):8.0f} updates/s"


def median_of(rounds: list[Traffic]) -> str:
    rate, p50, p99 = (
        statistics.median(values) for values in zip(*((t.per_second, t.p50_ms, t.p99_ms) for t in rounds), strict=True)
    )
    low, high = min(t.per_second for t in rounds), max(t.per_second for t in rounds)
    return f"{rate:8.0f} /s ({low:.0f}-{high:.0f}), median {p50:.1f} ms, 99 % {p99:.1f} ms"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=5, help="of each half round")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--catch-up-rate", type=int, default=0)
    parser.add_argument("--cold", action="store_true", help="start with cold disk caches (needs root)")
    options = parser.parse_args()
    require("nginx", "wrk")
    with tempfile.TemporaryDirectory(prefix="spawn-backlog-") as directory, ExitStack() as stack:
        bench = Bench(Path(directory), options, stack)
        try:
            bench.run()
        except Broken as broken:
            sys.exit(str(broken))
    figures = bench.figures
    print("\n".join(report(figures)))
    print(json.dumps(figures, default=vars))
    for fault in figures.faults():
        print(f"TARGET MISSED: {fault}")
    return 1 if figures.faults() else 0


if __name__ == "__main__":
    sys.exit(main())
