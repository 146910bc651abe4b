"""A node of ``inprocess.Cluster`` that keeps requests as the bytes they were, and answers what it is told to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.support.node import HEALTH
from tests.support.processes import free_port
from tests.support.scriptednode import Peer, ScriptedNode

_HEALTH = f"GET {HEALTH} ".encode()


@dataclass(frozen=True, slots=True)
class RawRequest:
    """One request as it came. The bytes are never decoded: what text makes of them is somebody else's bug."""

    data: bytes
    peer: Peer  # the connection

    @property
    def line(self) -> bytes:
        return self.data.partition(b"\r\n")[0]

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        lines = self.data.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
        return [(name, value.removeprefix(b" ")) for name, _, value in (line.partition(b":") for line in lines)]

    @property
    def body(self) -> bytes:
        return self.data.partition(b"\r\n\r\n")[2]

    def get(self, name: bytes) -> bytes | None:
        """The first value of a header; ``name`` is lower-case."""
        return next((value for key, value in self.headers if key.lower() == name), None)

    @property
    def is_update(self) -> bool:
        return self.get(b"spawn-sequence") is not None


def answer_well(peer: Peer) -> None:
    peer.answer(b"well")


class RawNode(ScriptedNode):
    """Passes its health checks. ``behave`` answers everything else; when it has closed the peer it raises EOFError."""

    def __init__(self, name: str = "node") -> None:
        super().__init__(self._serve)
        self.name = name
        self.port = free_port()
        self.seen: list[RawRequest] = []
        self.behave: Callable[[Peer], None] = answer_well

    def come(self) -> None:
        self.__enter__()

    def go_away(self) -> None:
        self.stop()

    def _serve(self, peer: Peer) -> None:
        while True:
            data = peer.read_request()
            if data.startswith(_HEALTH):
                peer.answer()
                continue
            self.seen.append(RawRequest(data, peer))
            self.behave(peer)
