"""Ten thousand clients that have asked once and keep their connection: memory of each, and what the active ones notice.

Every turn has a Spawn of its own, because memory that was used once is not given back: only the first crowd shows.
"""

from __future__ import annotations

import os
import resource
import time
from functools import partial

from bench.crowd import READY
from bench.programs import Broken, Process
from bench.scene import Result, Row, Scene, Turn
from bench.verdict import Target

OPEN_S = 60.0
SPARE_FILES = 500
NOTICED = 0.95  # a slowdown by less is not told from none in five rounds
IDLE = Row(
    "idle",
    "small GETs, 32 kept connections, beside a crowd of idle clients",
    "requests/s",
    [Target("KiB each", "crowd", at_most=30), Target("requests/s", "crowd", "alone", at_least=NOTICED)],
)


def idle(scene: Scene) -> Result:
    _allow_files(scene.plan.idle + SPARE_FILES)
    nodes = scene.nodes()
    turns = scene.rounds(
        {"alone": partial(_turn, scene, nodes, 0), "crowd": partial(_turn, scene, nodes, scene.plan.idle)}
    )
    return Result(IDLE, turns, notes=[f"{scene.plan.idle:,} idle clients"])


def _turn(scene: Scene, nodes: list[int], idle: int) -> Turn:
    spawn = scene.spawn(nodes, limits={"connections": scene.plan.idle + SPARE_FILES // 2})
    scene.warm_up(spawn, "GET")
    before_mib = spawn.process.memory_mib("VmRSS")
    crowd = scene.helper("crowd", spawn.port, idle)
    _await(crowd)
    grown_mib = spawn.process.memory_mib("VmRSS") - before_mib
    turn = scene.load(spawn, "GET")
    crowd.check()
    scene.leave(crowd)
    scene.leave(spawn.process)
    return Turn({**turn.figures, "KiB each": grown_mib * 1024 / idle}, turn.use) if idle else turn


def _await(crowd: Process) -> None:
    until = time.monotonic() + OPEN_S
    while READY not in crowd.output:
        crowd.check()
        if time.monotonic() > until:
            raise Broken(f"idle clients are not connected within {OPEN_S:g} s")
        time.sleep(0.05)


def _allow_files(needed: int) -> None:
    """The children inherit it. Raises ``Broken`` where it may not be raised."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < needed and os.geteuid() != 0:
        raise Broken(f"{needed} open files are needed, and the limit is {hard}: raise it (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), max(hard, needed)))
