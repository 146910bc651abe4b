"""Machines for tests: ``machine(Kind.SYSTEMD)`` has booted, and has the wheel of this source in ``/wheels``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.machines import Machine, need_machines
from tests.support.processes import IS_WORKER, Processes
from tests.support.rootfs import Kind, root_file_system, spawn_wheel
from tests.support.services import Service

MakeMachine = Callable[..., Machine]


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with the wheel of this source; workers of pytest-xdist share it."""
    need_machines()
    base = tmp_path_factory.getbasetemp()
    return spawn_wheel(base.parent if IS_WORKER else base)


@pytest.fixture
def machine(processes: Processes, wheels: Path, request: pytest.FixtureRequest) -> Iterator[MakeMachine]:
    """``machine(kind, private_network=…)`` boots one; it is thrown away after the test."""
    made: list[Machine] = []

    def say(line: str) -> None:
        """Where the user sees it, who waits."""
        capture = request.config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled():
            print(f"\n{line}", file=sys.stderr, flush=True)

    def make(kind: Kind, **options: bool) -> Machine:
        made.append(Machine(processes, kind, root_file_system(kind, say), shown={"/wheels": wheels}, **options))
        return made[-1].boot()

    yield make
    for each in made:
        each.close()


@pytest.fixture
def service(machine: MakeMachine, processes: Processes) -> Callable[[Kind], Service]:
    """``service(kind)`` is Spawn, not installed yet, on a machine of its own, with two nodes to stand in front of."""
    return lambda kind: Service(machine(kind), processes)
