"""An update that is damaged on the disk: what is before it is delivered, and the operator is told what leads on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spawn.nodes.node import NodeState
from tests.support.inprocess import Cluster, until
from tests.support.node import AppNode


def damage(cluster: Cluster, sequence: int) -> None:
    journal: Any = cluster.service._journal
    statement = f"UPDATE entries SET body = x'00' WHERE sequence = {sequence}"
    journal._writer.call(lambda: journal._database._db.execute(statement))


def test_a_node_gets_what_is_before_a_damaged_update_and_goes_on_without_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nodes = [AppNode("a"), AppNode("b")]
    with Cluster(tmp_path, nodes) as cluster:
        b, queue = nodes[1], f"/queues/127.0.0.1/{nodes[1].port}"
        cluster.change(b, maintenance=True)
        for _ in range(5):
            assert cluster.post().status == 200
        damage(cluster, 3)
        # When b comes back, then it gets the two that are whole
        cluster.change(b, maintenance=False)
        until(lambda: cluster.live(b).out_of_sync, "b is out of sync")
        assert [seen.sequence for seen in b.updates] == [1, 2]
        assert (said := [each.message for each in caplog.records if each.levelname == "CRITICAL"])
        assert "cannot be given update 3 and is out of sync" in said[0]
        assert f"PUT {queue}" in said[0]
        assert "move it away" not in said[0], "all others are well"
        # And what the operator takes out of its queue need not be readable
        cluster.change(b, maintenance=True)
        assert cluster.api("PUT", queue, {"position": 2}).status < 300
        assert cluster.api("DELETE", f"{queue}/3").status < 300
        cluster.change(b, maintenance=False)
        cluster.until_applied(5)
        assert [seen.sequence for seen in b.updates] == [1, 2, 4, 5]
        cluster.until_state(b, NodeState.SERVING)
        assert cluster.queue(b)["diverged"]
