"""Checks the promises of delivery against what happened: the logs of the nodes and what the clients saw. Pure.

``check`` returns one sentence for each violation, so a test asserts that the list is empty. What it holds Spawn to:

* every acknowledged update was applied on every node, and nothing was applied that no client sent;
* first applications have the same order, and the same sequence and key, on every node; sequences only grow;
* a repeat carries the key of its first application, and has an excuse. ``Tolerance`` excuses what was *in doubt* (the
  node died before it had answered; one at a time, because updates are delivered one at a time) and, if Spawn was
  killed, the last ``window`` updates. ``repeats.Evidence`` is stricter: it knows who sent what, and when who died.

What only a test with more knowledge can ask is apart: ``check_keys``, ``check_clients``, ``check_prefixes`` (of nodes
that are still at work) and ``check_contents``.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

WINDOW = 64  # design: after a crash of Spawn a node may see at most this many updates again


@dataclass(frozen=True, slots=True)
class Applied:
    """One line of a node's log: it applied ``update`` (whatever the test calls it) once."""

    update: str
    key: str | None
    sequence: int | None
    answered: bool = True
    run: int = 1  # the node's how-manieth life
    life: int = 0  # which process of Spawn sent it, if the test lets them say so
    time_s: float = 0.0  # when it was applied
    ended_s: float | None = None  # when the answer had been given to the kernel, or could not be
    started_s: float = 0.0  # when the node was started


class Excuses(Protocol):
    """Decides which repeats in the log of a node are in order."""

    def judge(self, node: str, log: Sequence[Applied]) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What may be excused when no more is known than how often Spawn was killed."""

    spawn_kills: int = 0
    window: int = WINDOW

    def judge(self, node: str, log: Sequence[Applied]) -> list[str]:
        return _repeats(node, log, self)


def check(
    logs: Mapping[str, Sequence[Applied]],
    attempted: Collection[str],
    acknowledged: Mapping[str, int | None],
    tolerance: Excuses = Tolerance(),
) -> list[str]:
    """``acknowledged`` maps an update to the ``Spawn-Sequence`` of its answer (None: the answer had none)."""
    attempted = set(attempted)
    faults = [f"{update} was acknowledged but never attempted" for update in set(acknowledged) - attempted]
    firsts = {node: first_applications(log) for node, log in logs.items()}
    for node, log in logs.items():
        faults += _membership(node, firsts[node], attempted, acknowledged)
        faults += _sequences(node, firsts[node], acknowledged)
        faults += _keys(node, log)
        faults += tolerance.judge(node, log)
    return faults + _lengths(firsts) + check_prefixes(logs)


def lost_updates(logs: Mapping[str, Sequence[Applied]], acknowledged: Collection[str]) -> set[str]:
    """Those that were acknowledged and that not every node has applied."""
    have = [{applied.update for applied in log} for log in logs.values()]
    return {update for update in acknowledged if not all(update in each for each in have)}


def check_prefixes(logs: Mapping[str, Sequence[Applied]]) -> list[str]:
    """First applications are prefixes of one order. Holds at any moment; the logs may be read one after the other."""
    firsts = {node: first_applications(log) for node, log in logs.items()}
    reference = max(firsts, key=lambda node: len(firsts[node]))
    faults = []
    for node in firsts.keys() - {reference}:
        for place, (mine, theirs) in enumerate(zip(firsts[node], firsts[reference], strict=False), start=1):
            if _identity(mine) != _identity(theirs):
                faults.append(f"place {place}: {node} has {_short(mine)}, {reference} has {_short(theirs)}")
                break  # all that follow differ as well
    return sorted(faults)


def count_reordered(logs: Mapping[str, Sequence[Applied]]) -> int:
    """First applications that came after one with a higher sequence, on any node."""
    count = 0
    for log in logs.values():
        reached = 0
        for applied in first_applications(log):
            count += (applied.sequence or 0) < reached
            reached = max(reached, applied.sequence or 0)
    return count


def check_keys(logs: Mapping[str, Sequence[Applied]], own: Mapping[str, str]) -> list[str]:
    """A key of the client's own (``own``: by update) is passed on; all others are of one journal and the sequence."""
    faults = []
    journals: set[str] = set()
    for node, log in logs.items():
        for applied in log:
            if applied.update in own:
                right = applied.key == own[applied.update]
            else:
                journal, _, number = (applied.key or "").rpartition("-")
                journals.add(journal)
                right = number == str(applied.sequence)
            if not right:
                faults.append(f"{node}: {_short(applied)}, its client's own key is {own.get(applied.update)}")
    if len(journals) > 1:
        faults.append(f"keys of several journals: {', '.join(sorted(journals))}")
    return faults


def check_clients(by_client: Mapping[str, Sequence[str]], acknowledged: Mapping[str, int | None]) -> list[str]:
    """A client that waits for each answer has its updates in its own order."""
    faults = []
    for client, sent in by_client.items():
        told = [(sequence, update) for update in sent if (sequence := acknowledged.get(update)) is not None]
        for (before, earlier), (after, later) in pairwise(told):
            if after <= before:
                faults.append(f"{client} sent {later} after {earlier}, they have the sequences {after} and {before}")
    return faults


def check_contents(contents: Mapping[str, Mapping[str, str]], excused: Mapping[str, Collection[str]]) -> list[str]:
    """All nodes hold the same, but for the items of ``excused`` (by node): what a late repeat has overwritten there."""
    names = {name for items in contents.values() for name in items}
    faults = []
    for name in sorted(names):
        values = {node: items.get(name) for node, items in contents.items() if name not in excused.get(node, ())}
        if len(set(values.values())) > 1:
            shown = ", ".join(f"{node}: {str(value)[:40]}" for node, value in values.items())
            faults.append(f"the nodes differ in {name} ({shown})")
    return faults


def first_applications(log: Sequence[Applied]) -> list[Applied]:
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


def _lengths(firsts: Mapping[str, Sequence[Applied]]) -> list[str]:
    (reference, expected), *others = firsts.items()
    return [
        f"{node} applied {len(have)} updates, {reference} {len(expected)}"
        for node, have in others
        if len(have) != len(expected)
    ]


def _identity(applied: Applied) -> tuple[str, int | None, str | None]:
    return applied.update, applied.sequence, applied.key


def _short(applied: Applied) -> str:
    return f"{applied.update} (sequence {applied.sequence}, key {applied.key})"


def _listed(what: str, updates: Sequence[str]) -> list[str]:
    return [f"{what} {len(updates)} update(s): {', '.join(sorted(updates)[:5])}"] if updates else []


def name_of(method: str, target: str, start: str, sha256: str) -> str:
    """What an update is called in a history: the same for its client and for the nodes. ``start`` of its body."""
    return f"{method} {target} {start[:40]} {sha256[:12]}"


def without_repeats(log: Sequence[Applied]) -> list[Applied]:
    """A node's log where any update may have lost its answer: then it is repeated at once, under the same key."""
    found: list[Applied] = []
    for applied in log:
        if found and found[-1].update == applied.update:
            assert (found[-1].key, found[-1].sequence) == (applied.key, applied.sequence), "repeated as something else"
            found[-1] = applied
        else:
            found.append(applied)
    return found


def read_log(path: Path) -> list[Applied]:
    """A logging node's log; a last line that is not complete yet is left out."""
    whole, _, _ = path.read_text("utf-8").rpartition("\n")
    return parse_log(json.loads(line) for line in whole.splitlines())


def parse_log(lines: Iterable[Mapping[str, Any]]) -> list[Applied]:
    entries: dict[object, Applied] = {}
    run, started_s = 0, 0.0
    for line in lines:
        if line["event"] == "start":
            run, started_s = run + 1, line.get("time", 0.0)
        elif line["event"] in ("answered", "unanswered"):
            answered = line["event"] == "answered"
            entries[line["n"]] = replace(entries[line["n"]], answered=answered, ended_s=line.get("time"))
        else:
            entries[line["n"]] = _parse_applied(line, run, started_s)
    return list(entries.values())


def _parse_applied(line: Mapping[str, Any], run: int, started_s: float) -> Applied:
    return Applied(
        update=name_of(line["method"], line["target"], line["start"], line["sha256"]),
        key=line["key"],
        sequence=None if line["sequence"] is None else int(line["sequence"]),
        answered=False,
        run=run,
        life=int(line.get("life") or 0),
        time_s=line.get("time", 0.0),
        started_s=started_s,
    )
