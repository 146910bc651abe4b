"""kill -9 of Spawn itself in the middle of everything: what was acknowledged is on every node all the same."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.cluster import Cluster
from tests.support.history import WINDOW, Tolerance, check
from tests.support.load import Load

TOTAL = 600
KILLS = 2


def test_nothing_acknowledged_is_lost_when_spawn_is_killed(cluster: Callable[..., Cluster]) -> None:
    made = cluster((), ("--answer-delay", "0.003"), ())
    steady, killed, rested = made.nodes
    spawn = made.spawn

    # When Spawn is killed while one node is down and another in maintenance, and again while both catch up
    with Load(spawn.url, total=TOTAL, stubborn=True) as load:
        load.wait_acknowledged(100)
        killed.kill()
        load.wait_acknowledged(150)
        spawn.api.maintenance(rested.port, on=True)
        load.wait_acknowledged(300)
        spawn.kill()
        spawn.start()
        assert spawn.api.queue(rested.port)["state"] == "maintenance", "what the API changed survives"
        load.wait_acknowledged(400)
        killed.start()
        spawn.api.maintenance(rested.port, on=False)
        load.wait_acknowledged(450)
        spawn.kill()
        spawn.start()
        load.join()
    spawn.api.wait_settled()

    # Then nothing acknowledged is missing anywhere, the order is one, and repeats are within the window
    assert load.failures, "the kills came too late to be a test"
    logs = made.logs()
    assert check(logs, load.attempted, load.acknowledged, Tolerance(spawn_kills=KILLS)) == []
    repeats = {name: len(log) - len({applied.update for applied in log}) for name, log in logs.items()}
    assert max(repeats.values()) <= KILLS * WINDOW + 1
    assert steady.items() == killed.items() == rested.items()
    assert not any(row["diverged"] or row["refused"] or row["out-of-sync"] for row in spawn.api.queues())


def test_a_backlog_survives_the_kill_of_spawn(cluster: Callable[..., Cluster]) -> None:
    # Given two hundred updates that one of two nodes has missed
    made = cluster((), ())
    steady, killed = made.nodes
    killed.kill()
    with Load(made.spawn.url, total=200) as load:
        load.join()
    assert load.failures == []

    # When Spawn is killed and started before that node returns
    made.spawn.kill()
    made.spawn.start()
    assert made.spawn.api.queue(killed.port)["backlog"] == 200
    killed.start()
    made.spawn.api.wait_settled()

    # Then it gets all of them
    logs = made.logs()
    assert check(logs, load.attempted, load.acknowledged, Tolerance(spawn_kills=1)) == []
    assert len(logs[killed.name]) == 200, "it was not there before the kill, so nothing was in doubt on it"
    assert steady.items() == killed.items()


def test_an_update_accepted_without_any_node_survives_the_kill_of_spawn(cluster: Callable[..., Cluster]) -> None:
    # Given updates that were accepted (202) while no node was there
    made = cluster((), ())
    for node in made.nodes:
        node.kill()
        made.spawn.api.wait_state(node.port, "down")
    with Load(made.spawn.url, total=20, clients=4) as load:
        load.join()
    assert load.statuses == {202: 20}

    # When Spawn is killed before a node returns
    made.spawn.kill()
    for node in made.nodes:
        node.start()
    made.spawn.start()
    made.spawn.api.wait_settled()

    # Then all nodes have them, in one order
    assert check(made.logs(), load.attempted, load.acknowledged) == []
