"""A row's stage: nodes, candidates and rounds. All that was started ends with it.

In every round each contestant takes one turn; the order moves on by one from round to round, so that nobody is always
first. Whoever lives for several rounds is warmed up before them, and what that shows is thrown away.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from bench import candidates
from bench.candidates import Candidate, SpawnCandidate
from bench.machine import Cores, Gauge, Use
from bench.programs import Broken, Clients, Process, free_port, nginx
from bench.verdict import Target

CLIENTS = 32
NODES = 3
WARM_UP_S = 1
ROOT = Path(__file__).parents[1]

AnyCandidate = TypeVar("AnyCandidate", bound=Candidate)


@dataclass(frozen=True)
class Turn:
    """What one contestant did in one round: its figures by metric, and the CPU time meanwhile."""

    figures: Mapping[str, float]
    use: Use


@dataclass(frozen=True)
class Row:
    """One question, and what the answer should be."""

    name: str
    title: str
    metric: str  # the one that matters
    targets: Sequence[Target]


@dataclass
class Result:
    row: Row
    turns: Mapping[str, Sequence[Turn]] = field(default_factory=dict)  # by contestant, one per round
    broken: str = ""  # why there are none
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    rounds: int
    seconds: int  # of each turn
    updates: int  # of the backlog that is drained
    idle: int  # clients
    python: str = sys.executable  # which has the Spawn that is measured


class Scene:
    def __init__(self, directory: Path, cores: Cores, plan: Plan) -> None:
        self.directory = directory
        self.cores = cores
        self.plan = plan
        self.gauge = Gauge(cores)
        self._stack = ExitStack()
        self._numbers = itertools.count(1)
        directory.mkdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def place(self, name: str) -> Path:
        """A path that nobody else has."""
        return self.directory / f"{next(self._numbers)}-{name}"

    def enter(self, process: Process) -> Process:
        self.gauge.ours.append(self._stack.enter_context(process))
        return process

    def leave(self, process: Process) -> None:
        """Before the scene ends."""
        self.gauge.ours.remove(process)
        process.stop()

    def helper(self, module: str, *arguments: object) -> Process:
        """A program of this package."""
        command = [sys.executable, "-m", f"bench.{module}", *map(str, arguments)]
        return self.enter(Process(command, self.place(module), cwd=ROOT))

    def nodes(self, count: int = NODES, extra: str = "") -> list[int]:
        """Ports of ``count`` nodes, which are one process."""
        ports = [free_port() for _ in range(count)]
        self.enter(nginx(self.place("nodes"), ports, extra))
        return ports

    def spawn(self, nodes: Sequence[int], name: str = "spawn", **settings: object) -> SpawnCandidate:
        return self._entered(candidates.spawn(self.cores, self.place(name), nodes, name, self.plan.python, **settings))

    def nginx(self, nodes: Sequence[int], name: str = "nginx", extra: str = "") -> Candidate:
        return self._entered(candidates.nginx_proxy(self.cores, self.place(name), nodes, name, extra))

    def haproxy(self, nodes: Sequence[int]) -> Candidate:
        return self._entered(candidates.haproxy(self.cores, self.place("haproxy"), nodes))

    def _entered(self, candidate: AnyCandidate) -> AnyCandidate:
        self.enter(candidate.process)
        return candidate

    def rounds(self, turns: Mapping[str, Callable[[], Turn]]) -> dict[str, list[Turn]]:
        """``turns``: what each contestant does when it is its turn."""
        taken: dict[str, list[Turn]] = {name: [] for name in turns}
        names = list(turns)
        for number in range(self.plan.rounds):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                turn = turns[name]()
                taken[name].append(turn)
                say(f"  round {number + 1} of {self.plan.rounds}: {name:12} {_told(turn)}")
        return taken

    def warm_up(self, candidate: Candidate, method: str) -> None:
        """It answers as the nodes do, and has done so for a moment. Raises ``Broken``."""
        candidate.verify()
        self.load(candidate, method, WARM_UP_S)

    def load(self, candidate: Candidate, method: str, seconds: int | None = None) -> Turn:
        """One turn of wrk's clients. Raises ``Broken`` when one of their requests failed."""
        seconds = seconds or self.plan.seconds
        clients = Clients(self.directory, candidate.url, CLIENTS)
        with self.gauge.measured(candidate.process) as use:
            traffic = clients.run(method, seconds)
            settled_s = candidate.settle()
        if traffic.failed:
            raise Broken(f"{traffic.failed} requests to {candidate.name} failed")
        candidate.check()
        figures = {
            "requests/s": traffic.per_second,
            "p50 ms": traffic.p50_ms,
            "p99 ms": traffic.p99_ms,
            "CPU µs each": use.candidate_s / (traffic.per_second * seconds) * 1e6,
        }
        if method != "GET":
            figures["settled after s"] = settled_s
        return Turn(figures, use)


def _told(turn: Turn) -> str:
    figures = ", ".join(f"{figure(value)} {metric}" for metric, value in turn.figures.items())
    return f"{figures}; limited by {turn.use.limit}, others took {turn.use.foreign:.0%}"


def figure(value: float) -> str:
    """Three digits, thousands apart."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
