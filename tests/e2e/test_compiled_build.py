"""Spawn says whether it is compiled, and every process of a test run is what the run is about."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import spawn
from spawnctl import completion, manual
from tests.support.cluster import Cluster


def test_a_process_says_whether_it_is_compiled(cluster: Callable[..., Cluster]) -> None:
    made = cluster(())
    info = made.spawn.api.call("GET", "/info").json()
    compiler = info["Spawn Sync Service"]["Runtime"]["Compiler"]
    assert compiler.endswith(", mypyc") is spawn.COMPILED
    assert (f"Spawn {spawn.__version__} (compiled) serves on" in made.spawn.process.output()) is spawn.COMPILED


def test_a_wheel_brings_the_man_page_and_what_completes_the_command() -> None:
    if not spawn.COMPILED:
        pytest.skip("the source is installed as editable, which brings nothing but the source")
    share = Path(sys.prefix, "share")
    assert {str(path.relative_to(share)): path.read_text("utf-8") for path in share.rglob("*spawnctl*")} == {
        "man/man8/spawnctl.8": manual.page(spawn.__version__, spawn.__date__),
        "bash-completion/completions/spawnctl": completion.bash(),
        "zsh/site-functions/_spawnctl": completion.zsh(),
    }
