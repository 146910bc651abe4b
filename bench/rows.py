"""The rows of the table that compare Spawn with its peers; each says what it promises."""

from __future__ import annotations

from functools import partial

from bench.candidates import Candidate
from bench.scene import Result, Row, Scene, Turn
from bench.verdict import Target

NODES = 3

GETS = Row(
    "get",
    "small GETs, 32 kept connections, three nodes",
    "requests/s",
    [Target("requests/s", "spawn", "nginx", at_least=0.30)],
)
POSTS = Row(
    "post",
    "small POSTs, 32 kept connections: Spawn durably to three nodes, the others to one",
    "requests/s",
    [Target("requests/s", "spawn", "nginx", at_least=0.06)],
)


def gets(scene: Scene) -> Result:
    nodes = scene.nodes(NODES)
    return Result(GETS, _loaded(scene, "GET", [scene.spawn(nodes), scene.nginx(nodes), scene.haproxy(nodes)]))


def posts(scene: Scene) -> Result:
    nodes = scene.nodes(NODES)
    return Result(POSTS, _loaded(scene, "POST", [scene.spawn(nodes), scene.nginx(nodes[:1]), scene.haproxy(nodes[:1])]))


def _loaded(scene: Scene, method: str, candidates: list[Candidate]) -> dict[str, list[Turn]]:
    for candidate in candidates:
        candidate.verify()
    return scene.rounds({c.name: partial(scene.load, c, method) for c in candidates})


ROWS = {row.name: (row, run) for row, run in ((GETS, gets), (POSTS, posts))}
