"""A journal under test: what it published, why it broke, and a clock that tests move."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import gevent
import pytest

from spawn.journal.base import FileBody, Journal, NewUpdate, Published
from spawn.journal.memory import MemoryJournal
from spawn.journal.sqlite import SqliteJournal
from spawn.journal.threads import NativeThreads

MIB = 1 << 20


def update(n: int = 0, body: bytes | FileBody | None = b"body", key: bytes | None = None) -> NewUpdate:
    return NewUpdate(b"POST", b"/items/%d?secret=1" % n, b"Host: app\r\nX-N: %d\r\n" % n, body, key)


def until(holds: Callable[[], object], what: str, timeout_s: float = 10.0) -> None:
    """Let the hub run until a condition holds."""
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline_s, f"not within {timeout_s:g} s: {what}"
        gevent.sleep(0.002)


def replace_calls(patch: pytest.MonkeyPatch, journal: object, **instead: Callable[..., object]) -> None:
    """Have the database's thread call these where it is given the database's methods of their names.

    The methods themselves cannot be replaced where they are compiled.
    """
    writer: NativeThreads = journal._writer  # type: ignore[attr-defined]
    call = writer.call

    def call_instead(function: Callable[..., object], *args: object) -> object:
        return call(instead.get(getattr(function, "__name__", ""), function), *args)

    patch.setattr(writer, "call", call_instead)


class JournalUnderTest:
    """Starts and reopens a journal. Only a durable one can be reopened."""

    def __init__(self, kind: str, directory: Path, max_bytes: int = 64 * MIB) -> None:
        self.kind = kind
        self.directory = directory
        self.max_bytes = max_bytes
        self.now_s = 1_000_000.0
        self.batches: list[Sequence[Published]] = []
        self.broken: list[str] = []
        self.on_publish: Callable[[Sequence[Published]], None] = lambda batch: None
        self.journal = self.start()

    @property
    def durable(self) -> bool:
        return self.kind == "sqlite"

    def make(self) -> Journal:
        if self.kind == "memory":
            return MemoryJournal(self.max_bytes, str(self.directory / "spool"), clock=lambda: self.now_s)
        return SqliteJournal(str(self.directory), self.max_bytes, clock=lambda: self.now_s, ballast_bytes=MIB)

    def start(self) -> Journal:
        self.journal = self.make()
        self.journal.start(self._publish, self.broken.append)
        return self.journal

    def reopen(self) -> Journal:
        self.journal.stop(10)
        return self.start()

    def reopen_as_after_a_kill(self) -> Journal:
        """What is in the files now is all that is left; nothing may be under way."""
        left = self.directory.with_name(self.directory.name + "-left")
        shutil.copytree(self.directory, left)
        self.journal.stop(10)
        shutil.rmtree(self.directory)
        left.rename(self.directory)
        return self.start()

    def _publish(self, batch: Sequence[Published]) -> None:
        self.batches.append(batch)
        self.on_publish(batch)

    @property
    def published(self) -> list[int]:
        return [entry.sequence for batch in self.batches for entry, _ in batch]

    def append(self, count: int, *, body: bytes | None = b"body") -> None:
        """As many updates as fast as it goes, in one order."""
        first = self.journal.head
        jobs = [gevent.spawn(self.journal.append, update(first + 1 + n, body)) for n in range(count)]
        gevent.joinall(jobs, timeout=60, raise_error=True)

    def spooled(self, content: bytes, name: str = "upload") -> FileBody:
        path = os.path.join(self.journal.spool_path(), name)
        Path(path).write_bytes(content)
        return FileBody(path, len(content))
