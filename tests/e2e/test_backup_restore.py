"""A backup is taken beside the traffic, everything is lost, and the backup is started in its place."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests

from tests.support.api import session
from tests.support.cluster import SPAWNCTL, Cluster, LoggingNode, Spawn, spawn_environment
from tests.support.load import Load
from tests.support.processes import ManagedProcess, Processes

LARGE = "x" * 300_000  # a file in the journal


def post(spawn: Spawn, value: str) -> int:
    """One update without a key of its own; returns its sequence."""
    with session() as client:
        answer: requests.Response = client.post(f"{spawn.url}/items", json={"value": value}, timeout=20)
    assert answer.status_code < 300, answer.text
    return int(answer.headers["Spawn-Sequence"])


def own_keys(node: LoggingNode, after: int = 0) -> set[str]:
    """Keys that Spawn made, of what a node applied beyond its first so many updates."""
    return {str(record["key"]) for record in node.records()[after:] if not str(record["key"]).startswith("own-")}


def identity(state_dir: Path) -> str:
    """The journal's uuid, as the nodes' file names it."""
    stored: dict[str, Any] = json.loads((state_dir / "nodes.json").read_text("utf-8"))
    return str(stored["journal"])


def process_of(processes: Processes, spawn: Spawn, name: str, *options: str) -> ManagedProcess:
    """Another start of the same Spawn, with options."""
    command = [*SPAWNCTL, f"--config={spawn.config_path}", *options]
    return processes.add(name, command, environment=spawn_environment(spawn.directory), must_be_clean=True)


def test_a_backup_is_restored(cluster: Callable[..., Cluster], processes: Processes) -> None:
    # Given a cluster whose third node is behind, a large body among what it has to get
    made = cluster((), (), ())
    first, second, late = made.nodes
    old = made.spawn
    with Load(old.url, total=100) as load:
        load.join()
    old.api.wait_settled()
    place = old.api.head()
    old.api.maintenance(late.port, on=True)
    pending = [post(old, "pending"), post(old, LARGE)]

    # When a backup is made while updates are sent, and more are sent after it
    with Load(old.url, total=150, clients=8) as load:
        load.wait_acknowledged(20)
        backup = old.api.data("POST", "/journal/backup")["results"][0]
        load.join()
    assert load.failures == []
    assert pending[-1] < backup["head"] <= old.api.head()
    after = post(old, "after the backup")
    path = Path(backup["path"])
    assert path.parent == old.state_dir / "backups"
    assert [stat.S_IMODE(p.stat().st_mode) for p in (path, path / "nodes.json")] == [0o700, 0o600]

    # And everything ends suddenly, and the backup is all that is left
    old.kill()
    for node in made.nodes:
        node.kill()
    restored = Spawn(processes, [node.port for node in made.nodes], name="restored")
    shutil.copytree(path, restored.state_dir)
    shutil.rmtree(old.state_dir)
    applied = {node.name: len(node.records()) for node in made.nodes}
    old_keys = set().union(*(own_keys(node) for node in made.nodes))
    old_identity = identity(restored.state_dir)

    # Then it does not start as if nothing had happened
    refused = process_of(processes, restored, "refused")
    refused.start()
    assert refused.wait(20) == 1
    said = [line for line in refused.output().splitlines() if " INFO " not in line]
    assert len(said) == 1, said
    assert "is a backup of" in said[0]
    assert "--restored" in said[0]

    # With --restored it does, as another journal, with no node in sync
    for node in made.nodes:
        node.start()
    restored.process = process_of(processes, restored, "with-restored", "--restored")
    restored.start()
    assert restored.api.head() == backup["head"]
    assert all(row["out-of-sync"] for row in restored.api.queues())
    assert identity(restored.state_dir) != old_identity
    warnings = [line for line in restored.process.output().splitlines() if "started with --restored" in line]
    assert len(warnings) == 1
    assert " WARNING " in warnings[0]

    # And once each node is told its position, the late one gets what it had not got
    for node, position in ((first, "head"), (second, "head"), (late, place)):
        restored.api.data("PUT", f"/queues/127.0.0.1/{node.port}", {"position": position})
    restored.api.maintenance(late.port, on=False)
    new = post(restored, "in the new life")
    assert new == backup["head"] + 1 <= after, "a sequence of the old life is given again"
    restored.api.wait_settled()
    caught_up = late.records()[applied[late.name] :]
    assert [int(record["sequence"]) for record in caught_up] == list(range(place + 1, new + 1))
    for node in (first, second):
        assert [int(record["sequence"]) for record in node.records()[applied[node.name] :]] == [new]

    # And no key of the old life is used again
    new_keys = set().union(*(own_keys(node, applied[node.name]) for node in made.nodes))
    assert new_keys
    assert new_keys & old_keys == set()

    # And the next start is an ordinary one
    assert restored.stop() == 0
    kept = identity(restored.state_dir)
    restored.process = process_of(processes, restored, "ordinary")
    restored.start()
    restored.api.wait_settled()
    assert identity(restored.state_dir) == kept
    assert post(restored, "again") == new + 1


def test_a_start_as_restored_where_nothing_was_restored_is_refused(processes: Processes) -> None:
    spawn = Spawn(processes, [])
    started = process_of(processes, spawn, "with-restored", "--restored")
    started.start()
    assert started.wait(20) == 1
    said = [line for line in started.output().splitlines() if " INFO " not in line]
    assert len(said) == 1, said
    assert "does not exist" in said[0]
