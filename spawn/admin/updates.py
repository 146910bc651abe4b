"""``/updates/:sequence``: what became of one update on every node."""

from __future__ import annotations

import falcon

from spawn.admin.backend import AdminBackend
from spawn.admin.parameters import MAX_SEQUENCE, parse_sequence
from spawn.admin.rendering import Failure, reply_results, shown
from spawn.admin.resource import Readable


class OneUpdate(Readable):
    """Raises ``Pruned`` through to the app, which answers it with 410."""

    def __init__(self, backend: AdminBackend) -> None:
        self._backend = backend

    def on_get(self, req: falcon.Request, resp: falcon.Response, sequence: str) -> None:
        fate = self._backend.fate(checked_sequence(sequence))
        if fate is None:
            raise no_update(sequence)
        reply_results(req, resp, [fate])


def checked_sequence(text: str) -> int:
    """The sequence of an update, a 400, or a 404 for one that no journal can reach."""
    number = parse_sequence(text)
    if number > MAX_SEQUENCE:
        raise no_update(text)
    return number


def no_update(sequence: str) -> Failure:
    return Failure(404, "Update not found", f"No update has the sequence {shown(sequence.lstrip('0'))}")
