"""Checks the promises of delivery against what happened: the logs of the nodes and what the clients saw. Pure.

``check`` returns one sentence for each violation, so a test asserts that the list is empty. What it holds Spawn to:

* every acknowledged update was applied on every node, and nothing was applied that no client sent;
* first applications have the same order, and the same sequence and key, on every node; sequences only grow;
* a repeat carries the key of its first application, and has an excuse: its last application was *in doubt* (the node
  died before it had answered; one at a time, because updates are delivered one at a time), or Spawn was killed and the
  update is among the last ``window`` ones.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

WINDOW = 64  # design: after a crash of Spawn a node may see at most this many updates again


@dataclass(frozen=True, slots=True)
class Applied:
    """One line of a node's log: it applied ``update`` (whatever the test calls it) once."""

    update: str
    key: str | None
    sequence: int | None
    answered: bool = True
    run: int = 1  # the node's how-manieth life


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What may be excused."""

    spawn_kills: int = 0
    window: int = WINDOW


def check(
    logs: Mapping[str, Sequence[Applied]],
    attempted: Collection[str],
    acknowledged: Mapping[str, int | None],
    tolerance: Tolerance = Tolerance(),
) -> list[str]:
    """``acknowledged`` maps an update to the ``Spawn-Sequence`` of its answer (None: the answer had none)."""
    faults = [f"{update} was acknowledged but never attempted" for update in set(acknowledged) - set(attempted)]
    firsts = {node: _firsts(log) for node, log in logs.items()}
    for node, log in logs.items():
        faults += _membership(node, firsts[node], attempted, acknowledged)
        faults += _sequences(node, firsts[node], acknowledged)
        faults += _keys(node, log)
        faults += _repeats(node, log, tolerance)
    return faults + _one_order(firsts)


def _firsts(log: Sequence[Applied]) -> list[Applied]:
    seen: dict[str, Applied] = {}
    for applied in log:
        seen.setdefault(applied.update, applied)
    return list(seen.values())


def _membership(
    node: str, firsts: Sequence[Applied], attempted: Collection[str], acknowledged: Mapping[str, int | None]
) -> list[str]:
    have = {applied.update for applied in firsts}
    lost = [update for update in acknowledged if update not in have]
    invented = [update for update in have if update not in attempted]
    return _listed(f"{node} lacks acknowledged", lost) + _listed(f"{node} applied what nobody sent:", invented)


def _sequences(node: str, firsts: Sequence[Applied], acknowledged: Mapping[str, int | None]) -> list[str]:
    faults = []
    before = 0
    for applied in firsts:
        if applied.sequence is None:
            faults.append(f"{node}: {applied.update} came without Spawn-Sequence")
            continue
        if applied.sequence <= before:
            faults.append(f"{node}: {applied.update} has sequence {applied.sequence} after {before}")
        told = acknowledged.get(applied.update)
        if told is not None and told != applied.sequence:
            faults.append(f"{node}: {applied.update} has sequence {applied.sequence}, its client was told {told}")
        before = max(before, applied.sequence)
    return faults


def _keys(node: str, log: Sequence[Applied]) -> list[str]:
    faults = []
    owner: dict[str, str] = {}
    for applied in log:
        if not applied.key:
            faults.append(f"{node}: {applied.update} came without Idempotency-Key")
        elif (other := owner.setdefault(applied.key, applied.update)) != applied.update:
            faults.append(f"{node}: {applied.update} has the Idempotency-Key of {other}")
    return faults


def _repeats(node: str, log: Sequence[Applied], tolerance: Tolerance) -> list[str]:
    faults = []
    rank: dict[str, int] = {}
    last: dict[str, Applied] = {}
    doubts_used: set[int] = set()
    windowed = 0
    for applied in log:
        before = last.get(applied.update)
        last[applied.update] = applied
        if before is None:
            rank[applied.update] = len(rank)
            continue
        if before.key != applied.key or before.sequence != applied.sequence:
            faults.append(f"{node}: {applied.update} was repeated under another Idempotency-Key or Spawn-Sequence")
        if not before.answered and before.run < applied.run and before.run not in doubts_used:
            doubts_used.add(before.run)
        elif tolerance.spawn_kills and len(rank) - rank[applied.update] <= tolerance.window:
            windowed += 1
        else:
            faults.append(f"{node}: {applied.update} was repeated without an excuse")
    if windowed > tolerance.spawn_kills * tolerance.window:
        faults.append(f"{node}: {windowed} repeats after {tolerance.spawn_kills} kills of Spawn")
    return faults


def _one_order(firsts: Mapping[str, Sequence[Applied]]) -> list[str]:
    faults = []
    (reference, expected), *others = firsts.items()
    for node, have in others:
        if len(have) != len(expected):
            faults.append(f"{node} applied {len(have)} updates, {reference} {len(expected)}")
        for place, (mine, theirs) in enumerate(zip(have, expected, strict=False), start=1):
            if replace(mine, answered=True, run=1) != replace(theirs, answered=True, run=1):
                faults.append(f"place {place}: {node} has {_short(mine)}, {reference} has {_short(theirs)}")
                break  # all that follow differ as well
    return faults


def _short(applied: Applied) -> str:
    return f"{applied.update} (sequence {applied.sequence}, key {applied.key})"


def _listed(what: str, updates: Sequence[str]) -> list[str]:
    return [f"{what} {len(updates)} update(s): {', '.join(sorted(updates)[:5])}"] if updates else []


def name_of(method: str, target: str, start: str, sha256: str) -> str:
    """What an update is called in a history: the same for its client and for the nodes. ``start`` of its body."""
    return f"{method} {target} {start[:40]} {sha256[:12]}"


def read_log(path: Path) -> list[Applied]:
    """A logging node's log; a last line that is not complete yet is left out."""
    whole, _, _ = path.read_text("utf-8").rpartition("\n")
    return parse_log(json.loads(line) for line in whole.splitlines())


def parse_log(lines: Iterable[Mapping[str, object]]) -> list[Applied]:
    entries: dict[object, Applied] = {}
    run = 0
    for line in lines:
        if line["event"] == "start":
            run += 1
        elif line["event"] == "answered":
            entries[line["n"]] = replace(entries[line["n"]], answered=True)
        else:
            name = name_of(str(line["method"]), str(line["target"]), str(line["start"]), str(line["sha256"]))
            sequence = line["sequence"]
            entries[line["n"]] = Applied(
                update=name,
                key=None if line["key"] is None else str(line["key"]),
                sequence=None if sequence is None else int(str(sequence)),
                answered=False,
                run=run,
            )
    return list(entries.values())
