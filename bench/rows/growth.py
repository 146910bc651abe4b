"""What more nodes cost: three, ten and fifty of them behind Spawn.

Reads should not care. An update goes to all nodes, so its cost may grow as their number does, but no faster.
"""

from __future__ import annotations

from functools import partial

from bench.scene import Result, Row, Scene
from bench.verdict import Target

FEWEST, *MORE = COUNTS = (3, 10, 50)
HEALTH_CHECK = {"seconds": 10, "url": "/info", "regexp": "^version:1$"}  # the contestants that wait have nodes too


def _name(count: int) -> str:
    return f"{count} nodes"


GETS = Row("nodes-get", "small GETs, 32 kept connections, more and more nodes", "requests/s", [])
POSTS = Row(
    "nodes-post",
    "small POSTs, 32 kept connections, durably to more and more nodes",
    "requests/s",
    [Target("CPU µs each", _name(count), _name(FEWEST), at_most=count / FEWEST) for count in MORE],
)


def gets(scene: Scene) -> Result:
    return _grown(scene, GETS, "GET")


def posts(scene: Scene) -> Result:
    return _grown(scene, POSTS, "POST")


def _grown(scene: Scene, row: Row, method: str) -> Result:
    nodes = scene.nodes(max(COUNTS))
    candidates = [scene.spawn(nodes[:count], _name(count), **{"health-check": HEALTH_CHECK}) for count in COUNTS]
    for candidate in candidates:
        scene.warm_up(candidate, method)
    return Result(row, scene.rounds({c.name: partial(scene.load, c, method) for c in candidates}))
