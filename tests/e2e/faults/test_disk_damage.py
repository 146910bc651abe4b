"""Bit flips and cut files in the state directory: a node gets exactly what was sent, or it is said that it does not.

The state that a kill -9 leaves (and the one that a stop leaves) is copied, damaged and started, again and again, with
one node that still has to get everything. Many more copies are damaged in ``tests/unit/test_journal_damage.py``.
"""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.support import damage
from tests.support.cluster import Cluster
from tests.support.load import Load
from tests.support.waiting import eventually

SEED = 31_337
UPDATES = 60  # one of them is large
Damage = Callable[[Path, random.Random], str]
CASES: list[tuple[str, str, Damage]] = [
    ("stopped", "journal/journal.db", damage.flip),
    ("stopped", "journal/journal.db", damage.cut),
    ("killed", "journal/journal.db-wal", damage.flip),
    ("killed", "journal/journal.db-wal", damage.lose),
    ("killed", "journal/mark", damage.lose),
]


class Trial:
    """A cluster whose second node lacks everything, and its state as two ends of Spawn leave it."""

    def __init__(self, made: Cluster) -> None:
        self.made = made
        self.steady, self.late = made.nodes
        self.late.kill()
        made.spawn.api.wait_state(self.late.port, "down")
        with Load(made.spawn.url, total=UPDATES, clients=4) as load:
            load.join()
        assert load.failures == []
        made.spawn.api.wait_queue(self.steady.port, lambda row: row["backlog"] == 0, what="one node has all")
        mark = made.spawn.state_dir / "journal" / "mark"
        eventually(lambda: mark.read_text("ascii").split()[1] == str(UPDATES), timeout_s=5, what="the mark follows")
        self.states = {"killed": made.spawn.directory / "killed", "stopped": made.spawn.directory / "stopped"}
        made.spawn.kill()
        shutil.copytree(made.spawn.state_dir, self.states["killed"])
        made.spawn.start()
        assert made.spawn.stop() == 0
        shutil.copytree(made.spawn.state_dir, self.states["stopped"])
        self.expected = [one.update for one in self.steady.applied()]
        self.late.start()

    def run(self, number: int, state: str, which: str, how: Damage) -> str:
        """Start on a damaged copy. Returns what became of it: refused, out-of-sync or delivered."""
        spawn, chance = self.made.spawn, random.Random(f"{SEED} {number}")
        copy = self.made.spawn.directory / f"case{number}"
        shutil.copytree(self.states[state], copy)
        done = how(chance.choice(sorted(copy.glob(which))), chance)
        print(f"case {number}: {done} of {state}")  # pytest shows it when the test fails
        spawn.write_config({"state-dir": str(copy)})
        before, printed = len(self.late.applied()), len(spawn.process.output())
        spawn.start(wait=False)
        end = eventually(lambda: self._end(before), timeout_s=20, what=f"{done}: an end")
        if spawn.process.alive:
            spawn.kill()
        got = [one.update for one in self.late.applied()[before:]]
        said = [line for line in spawn.process.output()[printed:].splitlines() if " INFO " not in line]
        assert got == self.expected[: len(got)], f"{done}: something else was delivered"
        if end == "refused":
            assert spawn.process.exit_code == 1
            assert len(said) == 1, said
            assert str(copy) in said[0]
            assert got == []
        elif end == "out-of-sync":
            assert any("CRITICAL" in line or "is out of sync" in line for line in said), said
        else:
            assert len(got) == UPDATES, f"{done}: an update was skipped in silence"
        return end

    def _end(self, before: int) -> str:
        if not self.made.spawn.process.alive:
            return "refused"
        row = self.made.spawn.api.queue(self.late.port)
        if row["out-of-sync"]:
            return "out-of-sync"
        return "delivered" if row["backlog"] == 0 and row["state"] == "serving" else ""


def test_damage_is_never_passed_over_in_silence(cluster: Callable[..., Cluster]) -> None:
    trial = Trial(cluster((), ()))
    body_is_found_before_its_node_gets_it(trial)
    ends = [trial.run(number, *case) for number, case in enumerate(CASES)]
    assert "refused" in ends
    assert "delivered" in ends


def body_is_found_before_its_node_gets_it(trial: Trial) -> None:
    # Given a backlog with a large body, one bit of which flips while Spawn is down; its size is as it was
    (body,) = (trial.states["stopped"] / "journal" / "bodies").iterdir()
    place = trial.expected.index(next(one for one in trial.expected if hashed(body) in one))

    # When Spawn starts and delivers, then it stops before that update, loudly, and does not go on behind it
    assert trial.run(99, "stopped", "journal/bodies/*", damage.flip) == "out-of-sync"
    assert len(trial.late.applied()) <= place
    (line,) = [line for line in trial.made.spawn.process.output().splitlines() if "CRITICAL" in line]
    assert f"node 127.0.0.1:{trial.late.port} cannot be given update " in line
    assert "is not what was written" in line


def hashed(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def test_leftover_bodies_are_swept_at_start(cluster: Callable[..., Cluster]) -> None:
    made = cluster(())
    made.spawn.kill()
    left = [made.spawn.state_dir / "journal" / name / "leftover" for name in ("bodies", "spool")]
    for path in left:
        path.write_bytes(b"of an update that was never recorded")
    made.spawn.start()
    assert [path for path in left if path.exists()] == []
