"""Spawn says whether it is compiled, and every process of a test run is what the run is about."""

from __future__ import annotations

from collections.abc import Callable

import spawn
from tests.support.cluster import Cluster


def test_a_process_says_whether_it_is_compiled(cluster: Callable[..., Cluster]) -> None:
    made = cluster(())
    info = made.spawn.api.call("GET", "/info").json()
    compiler = info["Spawn Sync Service"]["Runtime"]["Compiler"]
    assert compiler.endswith(", mypyc") is spawn.COMPILED
    assert (f"Spawn {spawn.__version__} (compiled) serves on" in made.spawn.process.output()) is spawn.COMPILED
