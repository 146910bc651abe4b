"""What all resources of the API have in common."""

from __future__ import annotations

from collections.abc import Callable

import falcon


class Readable:
    """A resource that answers HEAD with the head of its GET; the framework leaves the body out."""

    on_get: Callable[..., None]

    def on_head(self, req: falcon.Request, resp: falcon.Response, **parameters: str) -> None:
        self.on_get(req, resp, **parameters)


def peer_of(req: falcon.Request) -> str:
    """The client's address, for the log."""
    return str(req.env.get("REMOTE_ADDR") or "unknown")
