"""``/journal/backup``: a copy of the journal beside it."""

from __future__ import annotations

import falcon

from spawn.admin.backend import AdminBackend
from spawn.admin.parameters import read_nothing
from spawn.admin.rendering import reply_results
from spawn.admin.resource import peer_of


class Backups:
    """Answers when the copy is complete, which takes as long as the disk does."""

    def __init__(self, backend: AdminBackend) -> None:
        self._backend = backend

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        read_nothing(req)
        reply_results(req, resp, [self._backend.backup(peer_of(req))], 201)
