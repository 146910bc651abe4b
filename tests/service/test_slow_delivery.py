"""A node that takes a large update slowly: an operator sees it, nobody takes it for a failure, and it has an end."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from spawn.config.schema import RuleConfig
from spawn.delivery import policy
from spawn.nodes.health import HealthChecker
from spawn.nodes.node import Node, NodeState
from tests.support.inprocess import Cluster, until
from tests.support.node import AppNode

FLOOR = "spawn.http11.progress.FLOOR_BYTES_PER_S"
BODY = b"x" * 16_000_000  # more than the kernel keeps for both ends
DRIP_S = 0.1  # less than a MB/s: 20 s for the whole of it


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "BACKOFF_FIRST_S", 0.01)
    monkeypatch.setattr(policy, "BACKOFF_LIMIT_S", 0.05)


@pytest.fixture
def poked(monkeypatch: pytest.MonkeyPatch) -> list[Node]:
    """Whose health was doubted."""
    nodes: list[Node] = []
    monkeypatch.setattr(HealthChecker, "poke", lambda self, node: nodes.append(node))
    return nodes


def lines(caplog: pytest.LogCaptureFixture, what: str) -> list[str]:
    return [f"{record.levelname} {record.getMessage()}" for record in caplog.records if what in record.getMessage()]


def cluster_of(tmp_path: Path, deliver_s: float, **delivery: Any) -> Cluster:
    nodes = [AppNode("quick"), AppNode("slow")]
    return Cluster(tmp_path, nodes, timeouts={"deliver": deliver_s}, delivery=delivery)


def test_a_delivery_that_takes_long_is_shown_until_it_is_through_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, poked: list[Node]
) -> None:
    caplog.set_level("INFO")
    with cluster_of(tmp_path, 1.0) as cluster:
        # Given a node that takes a large update slowly, and another update behind that
        slow = cluster.nodes[1]
        slow.drip_s = DRIP_S
        assert cluster.post(BODY).status == 200
        assert cluster.post().status == 200
        until(lambda: cluster.queue(slow)["last-error"], "it is shown")

        # Then it is shown and said what goes on, while it is as well as before
        shown = cluster.queue(slow)
        how = r"takes the body of update 1 slowly \(\d+\.\d of 16\.0 MB in \d s\)"
        assert re.fullmatch(how, shown["last-error"]), shown
        assert (shown["state"], shown["backlog"], shown["attempts"]) == ("serving", 2, 1)
        checks = slow.checks
        until(lambda: slow.checks > checks + 3, "its health is checked as usual")
        assert cluster.queue(slow)["last-error"] == shown["last-error"]

        # And no more than that once it is through
        slow.drip_s = 0.0
        cluster.until_applied(2)
        assert cluster.queue(slow)["last-error"] == ""
        assert not poked
        assert cluster.live(slow).state is NodeState.SERVING
    name = f"node 127.0.0.1:{slow.port}"
    assert lines(caplog, "slowly") == [f"WARNING {name} {shown['last-error']}; its other updates wait behind it"]
    assert len(lines(caplog, f"{name} has answered update 1, after ")) == 1


def test_a_delivery_below_the_floor_is_tried_again_and_given_up_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FLOOR, 8_000_000)
    with cluster_of(tmp_path, 0.4, attempts_uncertain=3) as cluster:
        slow = cluster.nodes[1]
        slow.drip_s = DRIP_S
        assert cluster.post(BODY).status == 200
        assert cluster.post().status == 200
        until(lambda: "too slow: it took" in cluster.queue(slow)["last-error"], "the first attempt is over")

        # Then the updates behind it have their turn, and the node is known to lack this one
        cluster.until_applied(2, slow)
        assert slow.applied == [2]
        assert [cluster.status_on(sequence, slow) for sequence in (1, 2)] == ["refused", "applied"]
        assert cluster.live(slow).diverged
        assert cluster.service.counters.value("delivery.unknown") == 3


def test_an_update_that_was_too_slow_is_taken_once_the_node_is_quicker(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    with cluster_of(tmp_path, 0.4) as cluster:
        slow = cluster.nodes[1]

        def shown(what: str) -> bool:
            return what in cluster.queue(slow)["last-error"]

        # Given an attempt that is slow, and then too slow, and another one that is slow
        slow.drip_s = DRIP_S
        assert cluster.post(BODY).status == 200
        until(lambda: shown("slowly"), "it is slow")
        with monkeypatch.context() as patched:
            patched.setattr(FLOOR, 100_000_000)
            until(lambda: shown("gave no answer to update 1 (too slow: it took"), "it is too slow")
        until(lambda: shown("slowly"), "it is slow again")

        # Then it is taken in the end, and the log says that it is slow once
        slow.drip_s = 0.0
        cluster.until_applied(1)
        assert slow.applied == [1]
        assert cluster.queue(slow)["last-error"] == ""
    assert len(lines(caplog, "slowly")) == 1
    assert len(lines(caplog, "has answered update 1, after ")) == 1


def test_a_read_whose_body_is_taken_too_slowly_gets_a_504(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FLOOR, 8_000_000)
    rules = (RuleConfig(as_="read", method="POST", url="/search"),)
    with Cluster(tmp_path, [AppNode(drip_s=DRIP_S)], timeouts={"read": 0.4}, rules=rules) as cluster:
        assert cluster.post(BODY, "/search").status == 504
        assert cluster.service.counters.value("updates.journalled") == 0
