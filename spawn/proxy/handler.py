"""The story of a request on the proxy port, on one page.

    accept → parse strictly (``http11.server``) → ``Proxy`` → classify (``rules``)
      a read   → ``reads``:   choose a node → forward → stream the answer back
      an update → ``updates``: spool the body → journal → workers deliver (``delivery``) → reference answer → respond

What is malformed never gets here. ``ProtocolError`` and ``ClientGone`` travel up to the server, which knows how to end
a connection.
"""

from __future__ import annotations

from spawn.http11.message import Request, ResponseWriter
from spawn.proxy.context import Cluster, ProxySettings
from spawn.proxy.reads import Reads
from spawn.proxy.rules import Kind
from spawn.proxy.updates import Updates


class Proxy:
    """The handler of the proxy port; ``settings`` may be replaced between two requests."""

    def __init__(self, cluster: Cluster, settings: ProxySettings) -> None:
        self.settings = settings
        self._reads = Reads(cluster)
        self._updates = Updates(cluster)

    def __call__(self, request: Request, response: ResponseWriter) -> None:
        settings = self.settings
        if settings.classifier.classify(request.head) is Kind.READ:
            self._reads.serve(request, response, settings)
        else:
            self._updates.serve(request, response, settings)
