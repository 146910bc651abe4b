"""Small requests of 32 clients: as many as they can, and at half of Spawn's own maximum how long each takes."""

from __future__ import annotations

import json
import sys
from functools import partial

from bench.candidates import Candidate
from bench.programs import run
from bench.scene import ROOT, Result, Row, Scene, Turn
from bench.verdict import Target

GETS = Row(
    "get",
    "small GETs, 32 kept connections, three nodes",
    "requests/s",
    [Target("requests/s", "spawn", "nginx", at_least=0.30)],
)
LATENCY = Row(
    "latency",
    "the same at half of Spawn's own maximum, at a constant rate",
    "p99 ms",
    [Target("p99 ms", "spawn", "nginx", at_most=3)],
)
PACED_TURNS = 4  # a turn at a constant rate is that much longer: in few seconds a p99 is of one pause of the machine
POSTS = Row(
    "post",
    "small POSTs, 32 kept connections: Spawn durably to three nodes, the others to one",
    "requests/s",
    [Target("requests/s", "spawn", "nginx", at_least=0.06)],
)


def gets(scene: Scene) -> Result:
    nodes = scene.nodes()
    return _loaded(scene, GETS, "GET", [scene.spawn(nodes), scene.nginx(nodes), scene.haproxy(nodes)])


def posts(scene: Scene) -> Result:
    nodes = scene.nodes()
    return _loaded(scene, POSTS, "POST", [scene.spawn(nodes), scene.nginx(nodes[:1]), scene.haproxy(nodes[:1])])


def _loaded(scene: Scene, row: Row, method: str, candidates: list[Candidate]) -> Result:
    for candidate in candidates:
        scene.warm_up(candidate, method)
    return Result(row, scene.rounds({c.name: partial(scene.load, c, method) for c in candidates}))


def latency(scene: Scene) -> Result:
    nodes = scene.nodes()
    spawn = scene.spawn(nodes)
    candidates = [spawn, scene.nginx(nodes), scene.haproxy(nodes)]
    for candidate in candidates:
        scene.warm_up(candidate, "GET")
    most = scene.load(spawn, "GET").figures["requests/s"]
    turns = scene.rounds({c.name: partial(_paced, scene, c, most / 2) for c in candidates})
    return Result(LATENCY, turns, notes=[f"{most / 2:,.0f} requests/s, half of the {most:,.0f} just measured"])


def _paced(scene: Scene, candidate: Candidate, per_second: float) -> Turn:
    seconds = PACED_TURNS * scene.plan.seconds
    command = [sys.executable, "-m", "bench.rate", str(candidate.port), str(per_second), str(seconds)]
    with scene.gauge.measured(candidate.process) as use:
        seen = json.loads(run(command, cwd=ROOT))
    candidate.check()
    figures = {
        "p99 ms": seen["p99_ms"],
        "p50 ms": seen["p50_ms"],
        "worst ms": seen["worst_ms"],
        "client late, p99 ms": seen["late_p99_ms"],
        "requests/s": seen["per_second"],
        "CPU µs each": use.candidate_s / (per_second * seconds) * 1e6,
    }
    return Turn(figures, use)
