"""Bodies of 100 MiB, one after the other: reads that stream through, and updates that are stored and go to all nodes.

nginx takes part twice. As it is by default, it takes a whole upload before it sends it on, and keeps of a download what
its client is too slow for, both in memory and then in a file; ``nginx-streaming`` does neither. Spawn is judged beside
the default, which also stores an upload before it sends it on; the other shows what that costs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial

from bench.bulk import PATH, PIECE_BYTES, BulkClient
from bench.candidates import Candidate
from bench.programs import free_port
from bench.scene import NODES, Result, Row, Scene, Turn
from bench.verdict import Target

SIZE_BYTES = 100 << 20
MIB = 1 << 20
FILE = "    location = %s { root %s; }"
STREAMING = "      proxy_request_buffering off; proxy_buffering off;"
STREAMED = "nginx-streaming"
DOWNLOADS = Row(
    "download",
    "100 MiB downloads, one after the other, three nodes",
    "MiB/s",
    [Target("MiB/s", "spawn", "nginx", at_least=0.5)],
)
UPLOADS = Row(
    "upload",
    "100 MiB uploads, one after the other: Spawn durably to three nodes, the others to one",
    "MiB/s",
    [Target("MiB/s", "spawn", "nginx", at_least=0.15)],
)
Transfer = Callable[[BulkClient], None]


def downloads(scene: Scene) -> Result:
    nodes = scene.nodes(extra=FILE % (PATH, scene.directory))
    with open(f"{scene.directory}{PATH}", "wb") as file:
        for _ in range(0, SIZE_BYTES, PIECE_BYTES):
            file.write(bytes(PIECE_BYTES))
    candidates = [scene.spawn(nodes), scene.nginx(nodes), scene.nginx(nodes, STREAMED, STREAMING), scene.haproxy(nodes)]
    return Result(DOWNLOADS, _transferred(scene, candidates, BulkClient.download))


def uploads(scene: Scene) -> Result:
    nodes = [free_port() for _ in range(NODES)]
    sink = scene.helper("sink", *nodes)
    for port in nodes:
        sink.wait_listening(port)
    one = nodes[:1]
    candidates = [scene.spawn(nodes), scene.nginx(one), scene.nginx(one, STREAMED, STREAMING), scene.haproxy(one)]
    return Result(UPLOADS, _transferred(scene, candidates, BulkClient.upload))


def _transferred(scene: Scene, candidates: list[Candidate], transfer: Transfer) -> Mapping[str, list[Turn]]:
    for candidate in candidates:
        candidate.verify()
        _turn(scene, candidate, transfer, 0)
    return scene.rounds({c.name: partial(_turn, scene, c, transfer, scene.plan.seconds) for c in candidates})


def _turn(scene: Scene, candidate: Candidate, transfer: Transfer, seconds: float) -> Turn:
    """Whole bodies, at least one, until the time is over; the last has arrived at all nodes when it ends."""
    client = BulkClient(candidate.port, SIZE_BYTES)
    count, waited_s = 0, 0.0
    with scene.gauge.measured(candidate.process) as use:
        began = time.monotonic()
        while not count or time.monotonic() - began < seconds:
            asked = time.monotonic()
            transfer(client)
            waited_s += time.monotonic() - asked
            count += 1
        candidate.settle()
        elapsed_s = time.monotonic() - began
    client.close()
    candidate.check()
    mib = count * SIZE_BYTES / MIB
    figures = {
        "MiB/s": mib / elapsed_s,
        "client waits s": waited_s / count,
        "CPU ms each": use.candidate_s / count * 1e3,
    }
    return Turn(figures, use)
