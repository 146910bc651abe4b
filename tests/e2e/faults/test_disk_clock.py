"""A clock that jumps, under a running Spawn (libfaketime): order and time-outs do not depend on it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from tests.support.api import session
from tests.support.cluster import Cluster
from tests.support.processes import Processes
from tests.support.waiting import eventually

LIBRARY = "faketime/libfaketimeMT.so.1"


class Clock:
    """The wall clock of one process, which a test moves; its monotonic one goes on as it should."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "clock"
        self.jump("+0")

    def jump(self, offset: str) -> None:
        """So far from the true time, as ``-2h``."""
        new = self._path.with_suffix(".new")
        new.write_text(offset + "\n", "ascii")
        new.rename(self._path)

    def environment(self) -> list[str]:
        found = sorted(Path("/usr/lib").glob(f"*/{LIBRARY}")) or [Path("/usr/lib") / LIBRARY]
        settings = {"LD_PRELOAD": found[0], "FAKETIME_TIMESTAMP_FILE": self._path, "FAKETIME_NO_CACHE": 1}
        settings["FAKETIME_DONT_FAKE_MONOTONIC"] = settings["DONT_FAKE_MONOTONIC"] = 1
        return ["env", *(f"{name}={value}" for name, value in settings.items())]


def times(made: Cluster, node: int) -> list[float]:
    """Of the updates in the order in which they came first; the kill may repeat some."""
    found = {record["target"]: record["spawn-time"] for record in reversed(made.nodes[node].records())}
    return [datetime.fromisoformat(time).timestamp() for time in reversed(found.values())]


@pytest.mark.needs("faketime")
def test_a_clock_that_jumps_harms_nothing(processes: Processes, tmp_path: Path) -> None:
    # Given a Spawn whose clock is right at first
    clock = Clock(tmp_path)
    made = Cluster(processes, (), (), settings={"journal": {"retain": 3600}})
    made.spawn.process.command[:0] = clock.environment()
    made.start()
    steady, late = made.nodes

    def put(name: str) -> None:
        with session() as client:
            assert client.put(f"{made.spawn.url}/items/{name}", data=name, timeout=30).status_code in (201, 202)

    # When it jumps back by two hours, and forward by two days, while one node is away, and Spawn is killed in between
    put("right")
    clock.jump("-2h")
    put("back")
    late.kill()
    made.spawn.api.wait_state(late.port, "down")  # health checks go on
    put("missed")
    made.spawn.kill()
    made.spawn.start()
    put("back-after-a-kill")
    clock.jump("+2d")
    put("forward")
    clock.jump("+0")
    put("right-again")
    eventually(lambda: len(times(made, 0)) == 6, timeout_s=20, what="the node that stayed has all")
    late.start()
    made.spawn.api.wait_settled()

    # Then the time that nodes see never runs backwards, the same on all; nothing is pruned that a node has to get
    assert times(made, 0) == sorted(times(made, 0))
    assert times(made, 0)[4] - times(made, 0)[0] > 86_400, "the clock did jump"
    assert set(times(made, 1)) == set(times(made, 0))
    assert steady.items() == late.items()
    assert made.spawn.stop() == 0
