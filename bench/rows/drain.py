"""A node returns with a backlog, and nothing else happens: how many updates a second it gets.

The backlog is seeded once; every turn begins with a copy of it and a Spawn of its own, whose third node is in
maintenance until the clock starts.
"""

from __future__ import annotations

import shutil
import sys
import time
from functools import partial
from pathlib import Path

from bench.candidates import SpawnCandidate
from bench.programs import Broken, run
from bench.scene import ROOT, Result, Row, Scene, Turn, say
from bench.verdict import Target

DRAIN_S = 600.0
POLL_S = 0.1  # one question costs Spawn as much as a few updates
DRAIN = Row(
    "drain",
    "a backlog of small updates to one returning node, no other traffic",
    "updates/s",
    [Target("updates/s", "spawn", "nginx", "requests/s", at_least=0.05)],
)


def drain(scene: Scene) -> Result:
    nodes = scene.nodes()
    seeded = _seeded(scene, nodes)
    nginx = scene.nginx(nodes)
    scene.warm_up(nginx, "GET")
    turns = scene.rounds({"spawn": partial(_turn, scene, nodes, seeded), "nginx": partial(scene.load, nginx, "GET")})
    return Result(DRAIN, turns, notes=[f"{scene.plan.updates:,} updates"])


def _seeded(scene: Scene, nodes: list[int]) -> Path:
    say(f"  seeding {scene.plan.updates:,} updates")
    state = scene.place("seeded")
    *current, returning = nodes
    places = [f"127.0.0.1:{port}=head" for port in current] + [f"127.0.0.1:{returning}=0,maintenance"]
    command = [sys.executable, "-m", "bench.seed", str(state), str(scene.plan.updates), *places]
    run(command, cwd=ROOT)
    return state


def _turn(scene: Scene, nodes: list[int], seeded: Path) -> Turn:
    state = scene.place("state")
    shutil.copytree(seeded, state)
    spawn = scene.spawn(nodes, **{"state-dir": str(state)})
    returning = nodes[-1]
    if spawn.api.position(returning):
        raise Broken("the returning node is not at the beginning")
    with scene.gauge.measured(spawn.process) as use:
        spawn.api.maintenance(returning, False)
        _drained(spawn, returning)
    spawn.check()
    scene.leave(spawn.process)
    shutil.rmtree(state)
    updates = scene.plan.updates
    return Turn({"updates/s": updates / use.seconds, "CPU µs each": use.candidate_s / updates * 1e6}, use)


def _drained(spawn: SpawnCandidate, node: int) -> None:
    until = time.monotonic() + DRAIN_S
    while spawn.api.queue(node)["backlog"]:
        spawn.process.check()
        if time.monotonic() > until:
            raise Broken(f"the backlog is not over within {DRAIN_S:g} s")
        time.sleep(POLL_S)
