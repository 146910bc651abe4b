"""Bit rot, lost sectors and cut files: a journal that starts holds what was written, or says that it does not.

Hundreds of copies of one journal are damaged, each in another place. Each copy must be refused, or fail loudly when it
is read, or show exactly what was written: never a changed update, a missing one or another position.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gevent
import pytest

from spawn.errors import JournalDamaged, Pruned, StateError
from spawn.journal.base import Entry, FileBody, Outcome
from spawn.journal.mark import PERIOD_S
from spawn.journal.sqlite import SqliteJournal
from tests.support import damage
from tests.support.journals import JournalUnderTest, until, update

SEED = 20_266
ENTRIES = 90
COUNT = 40  # damaged copies of each kind; 1,500 were tried when this was written
LARGE = b"large" * 60_000
Damage = Callable[[Path, random.Random], str]


@dataclass(frozen=True, slots=True)
class Contents:
    """All that a node or an operator would ever see of a journal."""

    head: int
    positions: dict[str, int]
    updates: list[tuple[object, ...]]
    fates: list[object]
    uuid: str


def contents(journal: SqliteJournal) -> Contents:
    found: list[Entry] = []
    while journal.tail + len(found) <= journal.head:  # a read ends before what is damaged
        found += journal.read(journal.tail - 1 + len(found), 10_000, 1 << 30)
    updates: list[tuple[object, ...]] = [
        (e.sequence, e.time_s, e.method, e.target, e.head, e.key, e.reference, _bytes_of(e.body)) for e in found
    ]
    fates = []
    for sequence in range(1, journal.head + 1):
        try:
            fates.append(journal.fate(sequence))
        except Pruned:
            fates.append(None)
    return Contents(journal.head, journal.positions(), updates, fates, journal.uuid)


def _bytes_of(body: bytes | FileBody | None) -> bytes | None:
    return Path(body.path).read_bytes() if isinstance(body, FileBody) else body


def fill(under: JournalUnderTest) -> None:
    """Two nodes in different places, references good and bad, a refused update, large bodies, something pruned."""
    journal = under.journal
    for name in ("node-a", "node-b"):
        journal.set_position(name, 0)
    for n in range(1, ENTRIES + 1):
        under.now_s += 1.5
        body: bytes | FileBody = b"body of update %d " % n * (n % 17)
        if n % 30 == 0:
            body = under.spooled(LARGE + b"%d" % n, f"upload{n}")
        journal.append(update(n, body, key=b"key-%d" % n if n % 5 == 0 else None))
        journal.settle(n, 500 if n % 13 == 0 else 200)
        journal.advance("node-a", n)
        if n == ENTRIES // 2:
            journal.advance("node-b", n)
            journal.record("node-b", 7, 7, Outcome.REFUSED)
            journal.prune(n - 20, 1e12, 0, 1_000)
    assert journal.flush(10)
    mark = under.directory / "mark"
    until(lambda: mark.exists() and mark.read_text("ascii").split()[1] == str(ENTRIES), "the mark follows")
    gevent.sleep(2 * PERIOD_S)  # and the commits without an update


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A journal that was stopped in order, and the same one as a kill -9 leaves it."""
    base = tmp_path_factory.mktemp("journals")
    under = JournalUnderTest("sqlite", base / "journal")
    fill(under)
    shutil.copytree(base / "journal", base / "killed")  # nothing is written now
    under.journal.stop(10)
    shutil.copytree(base / "journal", base / "stopped")
    return {"stopped": base / "stopped", "killed": base / "killed"}


@pytest.fixture(scope="module")
def whole(originals: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Contents:
    """What both hold."""
    first, second = (look(path, tmp_path_factory.mktemp("looks") / "copy") for path in originals.values())
    assert first == second
    return first


def look(original: Path, copy: Path, spoil: Callable[[Path], None] = lambda path: None) -> Contents:
    """What a copy holds after ``spoil``. Raises what a start or a read does."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(original, copy)
    spoil(copy)
    journal = SqliteJournal(str(copy), 64 << 20, ballast_bytes=0)
    journal.start(lambda batch: None, lambda reason: None)
    try:
        return contents(journal)
    finally:
        journal.stop(10)


def is_one_line(error: StateError) -> bool:
    text = str(error)
    return "\n" not in text and "journal" in text


def try_all(original: Path, whole: Contents, copy: Path, which: str, how: Damage, count: int) -> dict[str, list[str]]:
    """What became of ``count`` damaged copies: what was done to each, by what it led to."""
    ends: dict[str, list[str]] = {"intact": [], "refused": [], "silent": []}
    for n in range(count):
        chance = random.Random(f"{SEED} {which} {how.__name__} {n}")
        done: list[str] = []

        def spoil(path: Path, chance: random.Random = chance, done: list[str] = done) -> None:
            victims = sorted(path.glob(which))
            done.append(how(chance.choice(victims), chance))

        try:
            found = look(original, copy, spoil)
        except (JournalDamaged, StateError) as error:
            assert is_one_line(error), (done, error)  # noqa: PT017 — not every damage is refused
            ends["refused"].append(f"{done}: {error}")
        else:
            ends["intact" if found == whole else "silent"].append(f"{done}: {differences(whole, found)}")
    return ends


def differences(whole: Contents, found: Contents) -> str:
    said = [f"head {found.head}"] if found.head != whole.head else []
    said += [f"positions {found.positions}"] if found.positions != whole.positions else []
    said += [
        f"{mine} is {theirs}" for mine, theirs in zip(whole.updates, found.updates, strict=False) if mine != theirs
    ]
    said += [f"{mine} is {theirs}" for mine, theirs in zip(whole.fates, found.fates, strict=False) if mine != theirs]
    return "; ".join(text[:200] for text in said[:3])


@pytest.mark.parametrize("how", [damage.flip, damage.blank, damage.cut, damage.lose])
@pytest.mark.parametrize(
    ("state", "which"), [("stopped", "journal.db"), ("killed", "journal.db-wal"), ("stopped", "bodies/*")]
)
def test_no_damage_is_silent(
    originals: dict[str, Path], whole: Contents, tmp_path: Path, state: str, which: str, how: Damage
) -> None:
    count = 6 if which == "bodies/*" or how is damage.lose else COUNT
    ends = try_all(originals[state], whole, tmp_path / "copy", which, how, count)
    assert ends["silent"] == []
    assert ends["refused"], "the damage hit nothing"


def test_a_damaged_mark_is_no_reason_to_refuse(originals: dict[str, Path], whole: Contents, tmp_path: Path) -> None:
    for how in (damage.flip, damage.blank, damage.cut, damage.lose):
        ends = try_all(originals["killed"], whole, tmp_path / "copy", "mark", how, 5)
        assert (ends["refused"], ends["silent"]) == ([], [])


def test_what_is_refused_for_its_lost_end_says_a_way_out(originals: dict[str, Path], tmp_path: Path) -> None:
    # Given a journal whose WAL has lost its end
    copy = tmp_path / "copy"
    shutil.copytree(originals["killed"], copy)
    os.truncate(copy / "journal.db-wal", (copy / "journal.db-wal").stat().st_size // 2)
    bodies = set((copy / "bodies").iterdir())
    # When it is started, then it says what is missing, and does not sweep what belongs to it
    with pytest.raises(JournalDamaged, match=rf"end is missing \(update {ENTRIES} was durable.*--restored"):
        SqliteJournal(str(copy), 64 << 20, ballast_bytes=0).start(lambda batch: None, lambda reason: None)
    assert set((copy / "bodies").iterdir()) == bodies
    # And the way it names leads on
    journal = SqliteJournal(str(copy), 64 << 20, ballast_bytes=0, restored=True)
    journal.start(lambda batch: None, lambda reason: None)
    assert 0 < journal.head < ENTRIES
    journal.stop(10)
    reopened = SqliteJournal(str(copy), 64 << 20, ballast_bytes=0)
    reopened.start(lambda batch: None, lambda reason: None)
    reopened.stop(10)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ("UPDATE consumers SET position = position + 1 WHERE id = 'node-b'", "the position of node-b"),
        ("UPDATE consumers SET position = 3, crc = NULL", "the position of node-"),
        ("UPDATE records SET reference = 500 WHERE sequence = 40", "update 40"),
        ("UPDATE records SET reference = NULL WHERE sequence = 40", "update 40"),
        ("UPDATE records SET time_us = time_us + 1 WHERE sequence = 41", "update 41"),
        ("UPDATE records SET crc = NULL WHERE sequence = 42", "update 42"),
        (f"UPDATE records SET total = total + 1 WHERE sequence = {ENTRIES}", f"update {ENTRIES}"),
        ("UPDATE entries SET body = x'00' WHERE sequence = 43", "update 43"),
        ("UPDATE outcomes SET outcome = 'refusee'", "there is no outcome"),
    ],
)
def test_what_decides_over_deliveries_has_a_checksum(
    originals: dict[str, Path], tmp_path: Path, edit: str, said: str
) -> None:
    def spoil(path: Path) -> None:
        connection = sqlite3.connect(path / "journal.db", isolation_level=None)
        assert connection.execute(edit).rowcount > 0
        connection.close()

    with pytest.raises(JournalDamaged, match=said):
        look(originals["stopped"], tmp_path / "copy", spoil)
