"""The machine under a benchmark: its two cores, and whose CPU time it was.

A candidate has a core of its own, everything else (nodes, clients, this program) shares the other. What processes of
others take of the two is time that a figure lacks, so it is measured and told.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.programs import Process

TICKS = os.sysconf("SC_CLK_TCK")
IDLE, IOWAIT, GUESTS = 3, 4, 8  # columns of /proc/stat (proc(5)); guests are counted under user already


@dataclass(frozen=True)
class Cores:
    candidate: int
    others: int

    def pinned(self, command: list[str]) -> list[str]:
        """``command`` on the candidate's core; the process id is that of the program."""
        return ["taskset", "--cpu-list", str(self.candidate), *command]


def two_cores() -> Cores:
    """This process and its children to come are moved to the core of the others."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        sys.exit("a benchmark needs two cores: one for the candidate, one for its nodes and clients")
    cores = Cores(allowed[0], allowed[1])
    os.sched_setaffinity(0, {cores.others})
    return cores


@dataclass
class Use:
    """CPU time during one turn; the figures are there when the turn is over."""

    seconds: float = 0.0
    candidate_s: float = 0.0  # of the candidate's process, user and system
    candidate_core: float = 0.0  # share of the time that its core was busy, 0 to 1, with whatever
    other_core: float = 0.0
    foreign: float = 0.0  # share of both cores that processes of others had, hypervisor's guests included

    @property
    def limit(self) -> str:
        """What kept the candidate from doing more."""
        if self.candidate_s / self.seconds >= SATURATED:
            return "its core"
        if self.candidate_core >= SATURATED:
            return "others on its core"
        if self.other_core >= SATURATED:
            return "nodes and clients"
        return "waiting"


SATURATED = 0.93  # of a core; the kernel counts in ticks, and clients take a moment to start and stop


@dataclass
class Gauge:
    """Measures turns. ``ours`` are the processes of this benchmark that live now, the candidate's among them."""

    cores: Cores
    ours: list[Process] = field(default_factory=list)

    @contextmanager
    def measured(self, candidate: Process) -> Iterator[Use]:
        use = Use()
        began, stat, own, candidate_s = time.monotonic(), _stat(), self._own_s(), candidate.cpu_s()
        yield use
        use.seconds = time.monotonic() - began
        use.candidate_s = candidate.cpu_s() - candidate_s
        busy = {core: now - stat[core] for core, now in _stat().items()}
        use.candidate_core = busy[self.cores.candidate] / use.seconds
        use.other_core = busy[self.cores.others] / use.seconds
        foreign_s = busy[self.cores.candidate] + busy[self.cores.others] - (self._own_s() - own)
        use.foreign = max(0.0, foreign_s / use.seconds / 2)

    def _own_s(self) -> float:
        """Of this process, the children that it has waited for, and those that live."""
        done = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(r.ru_utime + r.ru_stime for r in done) + sum(process.cpu_s() for process in self.ours)


def _stat() -> dict[int, float]:
    """Seconds that each core was not idle."""
    found = {}
    for line in Path("/proc/stat").read_text("ascii").splitlines():
        name, *columns = line.split()
        if name.startswith("cpu") and name != "cpu":
            ticks = [int(column) for column in columns[:GUESTS]]
            found[int(name[3:])] = (sum(ticks) - ticks[IDLE] - ticks[IOWAIT]) / TICKS
    return found
