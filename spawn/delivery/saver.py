"""Keeps what is stored about the nodes up to date: soon after a flag has changed, or at once where that is asked for.

A store that fails is said once and tried again; nothing is lost by it but what a restart in between would have known.
"""

from __future__ import annotations

import logging

import gevent
from gevent.event import Event

from spawn.errors import SpawnError, StateError
from spawn.nodes.registry import Registry

log = logging.getLogger("spawn.fleet")

SAVE_RETRY_S = 5.0


class Saver:
    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._unsaved = Event()
        self._said_unsaved = False
        self._stopping = False
        self._greenlet: gevent.Greenlet[..., None] | None = None

    def start(self) -> None:
        self._greenlet = gevent.spawn(self._save_when_needed)

    def stopping(self) -> None:
        """From now on there is no next try."""
        self._stopping = True

    def stop(self) -> bool:
        """End the greenlet; False when it was not started."""
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is None:
            return False
        greenlet.kill(block=True, timeout=1.0)
        return True

    def flag(self) -> None:
        """Something about a node has to be stored soon."""
        self._unsaved.set()

    def store(self) -> None:
        """Store what was just changed. Raises ``StateError`` when it holds but is not stored yet: it is tried again."""
        try:
            self._registry.save()
        except StateError as error:
            self.flag()
            raise StateError(f"the change holds, but a restart would undo it, since Spawn {error}") from None

    def save(self) -> bool:
        """Store now, and say whether that went well; what fails is logged once, and tried again."""
        self._unsaved.clear()
        try:
            self._registry.save()
        except SpawnError as error:
            then = "the next start finds the older ones" if self._stopping else "trying again"
            if not self._said_unsaved or self._stopping:
                log.critical("the states of the nodes cannot be stored: %s; %s", error, then)
            self._said_unsaved = True
            self._unsaved.set()
            return False
        if self._said_unsaved:
            log.warning("the states of the nodes are stored again")
        self._said_unsaved = False
        return True

    def _save_when_needed(self) -> None:
        while True:
            self._unsaved.wait()
            if not self.save():
                gevent.sleep(SAVE_RETRY_S)
