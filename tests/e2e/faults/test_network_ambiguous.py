"""A node that never answers, ``delivery.ambiguous`` and kill -9 of Spawn: the intent to send outlives the process.

With ``hold`` and ``skip`` Spawn writes down that it is about to send an update that is not idempotent. When it is
killed before there is an outcome, nobody knows whether the node has applied it, and it is not simply sent again.
"""

from __future__ import annotations

from typing import Any

from tests.support.api import session
from tests.support.badnodes import BadNode, BadNodes
from tests.support.cluster import LoggingNode, Spawn
from tests.support.processes import Processes
from tests.support.waiting import eventually


class Scene:
    """A good node, one that takes updates without answering, and a Spawn that is killed while it waits for it."""

    def __init__(self, processes: Processes, ambiguous: str) -> None:
        self.good = LoggingNode(processes, "good").start()
        self.bad: BadNode = BadNodes(processes, ["bad"]).start()["bad"]
        settings = {"delivery": {"ambiguous": ambiguous}, "timeouts": {"deliver": 60, "answer": 20}}
        self.spawn = Spawn(processes, [self.good.port, self.bad.port], settings).start()
        self.spawn.api.wait_settled(20)
        self.bad.behave(update="silent")
        self.send("POST", 1)
        eventually(lambda: len(self.bad.seen()) == 1, timeout_s=10, what="the bad node has the update")
        self.send("PUT", 2)  # its commit takes the good node's outcome of the first one along

    def kill_and_start(self) -> None:
        self.spawn.kill()
        self.spawn.start()

    def send(self, method: str, sequence: int) -> None:
        """The good node answers at once."""
        self.spawn.api.wait_state(self.good.port, "serving")
        target = f"/items{'' if method == 'POST' else f'/{sequence}'}"
        with session() as client:
            answer = client.request(method, self.spawn.url + target, data=f"value {sequence}", timeout=20)
        assert answer.status_code == 201, answer.text
        assert answer.headers["Spawn-Sequence"] == str(sequence)

    def fate(self, sequence: int) -> str:
        """Of an update on the bad node."""
        (row,) = self.spawn.api.data("GET", f"/updates/{sequence}")["results"]
        (found,) = [node["status"] for node in row["nodes"] if node["port"] == self.bad.port]
        return str(found)

    def row(self) -> dict[str, Any]:
        return self.spawn.api.queue(self.bad.port)

    def applied(self) -> list[int | None]:
        """By the bad node; after a kill it may be given again what is idempotent."""
        return list(dict.fromkeys(applied.sequence for applied in self.bad.applied()))


def test_an_update_of_unknown_fate_is_held_through_kills_until_somebody_decides(processes: Processes) -> None:
    scene = Scene(processes, "hold")
    spawn, bad = scene.spawn, scene.bad

    # When Spawn is killed while the node has the update and has not answered
    scene.kill_and_start()

    # Then the update is not sent again: the node is held, also through a second kill, and the others go on
    for number in (3, 4):
        spawn.api.wait_queue(bad.port, lambda row: row["held"] and row["state"] != "down", what="the node is held")
        scene.send("PUT", number)
        assert scene.fate(1) == "unknown"
        assert (scene.row()["position"], scene.row()["backlog"]) == (0, number)
        scene.kill_and_start()
    bad.behave()
    spawn.api.wait_queue(bad.port, lambda row: row["state"] in ("serving", "catching-up"), what="the node is well")
    scene.send("POST", 5)
    assert len(bad.seen()) == 1
    assert scene.applied() == []
    held = f"node 127.0.0.1:{bad.port} is held at update 1"
    assert [
        line.count("delivery.ambiguous is hold") for line in spawn.process.output().splitlines() if held in line
    ] == [1]

    # When an operator says so, then it is sent again with the same key, and what follows it
    spawn.api.data("POST", f"/queues/127.0.0.1/{bad.port}/resume")
    spawn.api.wait_settled()
    assert scene.applied() == [1, 2, 3, 4, 5]
    assert {bad.applied()[0].key} == bad.keys()[1]
    assert not scene.row()["held"]


def test_an_update_of_unknown_fate_is_skipped_once_and_for_all(processes: Processes) -> None:
    scene = Scene(processes, "skip")
    spawn, bad = scene.spawn, scene.bad

    # When Spawn is killed while the node has the update and has not answered, and the node is well afterwards
    spawn.kill()
    bad.behave()
    spawn.start()

    # Then the queue goes on without that update, which is said, and the node counts as different
    scene.send("PUT", 3)
    spawn.api.wait_settled()
    assert scene.fate(1) == "skipped"
    assert scene.row()["diverged"]
    assert f"node 127.0.0.1:{bad.port} differs from the others: it may lack update 1" in spawn.process.output()

    # … and so it stays after another kill
    scene.kill_and_start()
    scene.send("POST", 4)
    spawn.api.wait_settled()
    assert scene.fate(1) == "skipped"
    assert scene.row()["diverged"]
    assert scene.applied() == [2, 3, 4]
    assert list(dict.fromkeys(applied.sequence for applied in scene.good.applied())) == [1, 2, 3, 4]
