"""Backups of the whole state: the journal and the nodes, in a directory that can be used as a state directory itself.

    <state-dir>/backups/20261124T000512Z-4711/nodes.json
    <state-dir>/backups/20261124T000512Z-4711/journal/…

Named after the time it was begun and the last update in it. It has that name only once it is complete and synced; what
a crash left of one ends in ``.partial`` and is swept at start. Backups that are complete are the operator's: Spawn
never removes one.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import shutil
import time
from collections.abc import Callable

from spawn.errors import JournalError
from spawn.http11.threads import in_thread
from spawn.journal.backup import PARTIAL, sync_file
from spawn.journal.base import Backup, Journal
from spawn.journal.bodies import sync_directory
from spawn.journal.threads import to_its_end

log = logging.getLogger("spawn.journal")


class Backups:
    """``state_path`` is the state directory, which is ours."""

    def __init__(self, state_path: str, journal: Journal, clock: Callable[[], float] = time.time) -> None:
        self._state_path = state_path
        self._path = os.path.join(state_path, "backups")
        self._journal = journal
        self._clock = clock
        self._under_way = False

    def sweep(self) -> None:
        """Remove what was not completed. Blocks; for start."""
        with contextlib.suppress(OSError):  # there are none, or they are in nobody's way
            for name in os.listdir(self._path):
                if name.endswith(PARTIAL):
                    log.info("removing %s, a backup that was never completed", os.path.join(self._path, name))
                    shutil.rmtree(os.path.join(self._path, name), ignore_errors=True)

    def make(self) -> Backup:
        """Copy the state as it is. Raises ``JournalError`` in one line; nothing is left of the backup then.

        It goes on to its end when the calling greenlet is killed.
        """
        if self._under_way:
            raise JournalError("a backup is under way: wait until it is complete")
        self._under_way = True
        return to_its_end(self._run)

    def _run(self) -> Backup:
        try:
            return self._make()
        finally:
            self._under_way = False

    def _make(self) -> Backup:
        began = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._clock()))
        partial = os.path.join(self._path, began + PARTIAL)
        try:
            in_thread(self._prepare, partial)
            try:
                journal = self._journal.backup(os.path.join(partial, "journal"))
                return in_thread(self._complete, partial, f"{began}-{journal.head}", journal)
            except BaseException:
                in_thread(shutil.rmtree, partial, True)
                raise
        except OSError as error:
            raise JournalError(f"the backup in {self._path} failed and was removed: {error.strerror}") from None

    def _prepare(self, partial: str) -> None:
        os.makedirs(self._path, mode=0o700, exist_ok=True)
        os.mkdir(partial, 0o700)

    def _complete(self, partial: str, name: str, journal: Backup) -> Backup:
        size_bytes = journal.size_bytes + self._copy_nodes(os.path.join(partial, "nodes.json"))
        sync_directory(partial)
        names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
        final = next(path for name in names if not os.path.lexists(path := os.path.join(self._path, name)))
        os.rename(partial, final)
        sync_directory(self._path)
        sync_directory(self._state_path)  # it may be the first one
        return Backup(final, journal.head, size_bytes)

    def _copy_nodes(self, target: str) -> int:
        """The stored nodes; they are replaced as a whole, so a copy is one version of them."""
        try:
            with open(os.path.join(self._state_path, "nodes.json"), "rb") as file:
                data = file.read()
        except FileNotFoundError:
            return 0
        with open(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            file.write(data)
        sync_file(target)
        return len(data)
