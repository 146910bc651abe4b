"""600 updates from 16 clients while one node is killed and another is in maintenance: the same history everywhere."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.cluster import Cluster
from tests.support.history import check
from tests.support.load import Load

TOTAL = 600
MORE_THAN_A_QUEUE = 1_500  # a worker's queue holds 1,024 updates at most; what is beyond comes from the journal


def test_every_node_ends_with_the_same_updates_in_the_same_order(cluster: Callable[..., Cluster]) -> None:
    # Given three nodes, of which the second takes its time between applying and answering (so that a kill hurts)
    made = cluster((), ("--answer-delay", "0.003"), ())
    steady, killed, rested = made.nodes
    api = made.spawn.api

    # When 16 clients send 600 updates, and meanwhile one node dies and another is in maintenance
    with Load(made.spawn.url, total=TOTAL) as load:
        load.wait_acknowledged(100)
        killed.kill()
        load.wait_acknowledged(200)
        api.maintenance(rested.port, on=True)
        load.wait_acknowledged(300)
        assert api.queue(rested.port)["state"] == "maintenance"
        api.wait_queue(rested.port, lambda row: row["backlog"] > 0, what="a backlog of the node in maintenance")
        killed.start()
        load.wait_acknowledged(450)
        api.maintenance(rested.port, on=False)
        load.join()
    api.wait_settled()

    # Then no client noticed, and every node has the same 600 updates in the same order
    assert load.failures == []
    assert set(load.statuses) <= {200, 201}, "one node served all the time, so nobody had to be put off"
    assert len(load.acknowledged) == TOTAL
    logs = made.logs()
    assert check(logs, load.attempted, load.acknowledged) == []
    assert {name: len({applied.update for applied in log}) for name, log in logs.items()} == dict.fromkeys(logs, TOTAL)
    assert api.head() == TOTAL

    # And only the node that died saw one twice at most, and all hold the same data
    assert len(logs[steady.name]) == len(logs[rested.name]) == TOTAL
    assert len(logs[killed.name]) <= TOTAL + 1
    assert steady.items() == killed.items() == rested.items()
    assert all(row["refused"] == 0 and not row["diverged"] and not row["held"] for row in api.queues())


def test_a_node_that_missed_more_than_a_queue_holds_catches_up_under_load(cluster: Callable[..., Cluster]) -> None:
    made = cluster((), ())
    steady, absent = made.nodes
    absent.kill()
    with Load(made.spawn.url, total=MORE_THAN_A_QUEUE) as load:
        load.wait_acknowledged(1_200)
        assert made.spawn.api.queue(absent.port)["backlog"] >= 1_200
        absent.start()
        load.join()
    made.spawn.api.wait_settled()
    assert load.failures == []
    logs = made.logs()
    assert check(logs, load.attempted, load.acknowledged) == []
    assert {name: len(log) for name, log in logs.items()} == dict.fromkeys(logs, MORE_THAN_A_QUEUE)
    assert steady.items() == absent.items()
