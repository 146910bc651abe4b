"""A backend for the admin API that keeps everything in memory and keeps the API's promises, without a journal or nodes.

``serving`` serves the API over it on a real socket, ``Api`` asks it in exact bytes, from the same hub.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import gevent
import msgspec
from gevent.socket import create_connection
from msgspec import UNSET

from spawn.admin.app import build
from spawn.admin.settings import AdminSettings
from spawn.config.addresses import host_key
from spawn.counters import Counters
from spawn.delivery.types import (
    ActionTaken,
    BackupMade,
    NodeChange,
    NodeConflict,
    NodeFate,
    NoSuchNode,
    NoSuchUpdate,
    Position,
    PositionConflict,
    PutResult,
    QueueChange,
    QueueStatus,
    UpdateFate,
    UpdateStatus,
    VerbConflict,
)
from spawn.errors import Pruned
from spawn.http11.deadlines import Deadlines
from spawn.http11.server import HttpServer, ServerLimits, ServerTimeouts
from spawn.http11.wsgi import wsgi_handle
from spawn.nodes.node import NodeRecord, sort_key

SETTINGS = AdminSettings(version="1.0.0", release_date="2026-11-23", listeners=(("0.0.0.0", 7117), ("127.0.0.1", 7118)))
OUT_OF_SYNC = 'the node is out of sync: PUT /queues/:host/:port {"position": …} brings it in'
CREATED = datetime(2026, 11, 23, 12, 0, 0, 123_000, UTC)


@dataclass(eq=False)
class Held:
    """A node as the stand-in knows it; a position of None means that it is out of sync."""

    record: NodeRecord
    position: int | None = 0
    held: bool = False
    diverged: bool = False
    skipped: dict[int, list[ActionTaken]] = field(default_factory=dict)


@dataclass
class MemoryBackend:
    """``retained_from`` is the first update whose body is there, ``recorded_from`` the first that has a record."""

    by_priority: bool = True
    held: list[Held] = field(default_factory=list)
    last: int = 0
    retained_from: int = 1
    recorded_from: int = 1
    serving: tuple[bool, str] = (True, "serving")
    failure: Exception | None = None  # raised by every change
    peers: list[str] = field(default_factory=list)  # who changed something
    counts: dict[str, int] = field(default_factory=dict)

    def nodes(self, host: str | None = None, port: int | None = None) -> list[NodeRecord]:
        return [item.record for item in self._find(host, port)]

    def put_node(self, host: str, port: int, change: NodeChange, position: Position | None, peer: str) -> PutResult:
        self._changing(peer)
        found = self._find(host, port)
        before = found[0].record if found else NodeRecord(host=host, port=port)
        given = {key: value for key, value in msgspec.structs.asdict(change).items() if value is not UNSET}
        record = msgspec.structs.replace(before, **given)
        if any(other not in found for other in self._find(record.host, record.port)):
            raise NodeConflict(f"{record.authority} is a node already")
        place = None if position is None else self._checked(position)
        item = found[0] if found else Held(record, 0 if self.last == 0 else None)
        if not found:
            self.held.append(item)
        elif record.active and not before.active and item.position != self.last:
            item.position = None
        item.record = record
        if place is not None:
            item.position = place
        return PutResult(created=not found, record=record, note=OUT_OF_SYNC if item.position is None else "")

    def put_nodes(self, changes: Sequence[tuple[str, int, NodeChange]], peer: str) -> list[PutResult]:
        return [self.put_node(host, port, change, None, peer) for host, port, change in changes]

    def delete_nodes(self, host: str | None, port: int | None, peer: str) -> int:
        self._changing(peer)
        gone = self._find(host, port)
        self.held = [item for item in self.held if item not in gone]
        return len(gone)

    def queues(self, host: str | None = None, port: int | None = None) -> list[QueueStatus]:
        return [self._row(item) for item in self._find(host, port)]

    def set_position(self, host: str, port: int, position: Position, peer: str) -> QueueChange:
        item = self._one(host, port, peer)
        item.position = self._checked(position)
        return QueueChange(self._row(item))

    def resume(self, host: str, port: int, peer: str) -> QueueChange:
        item = self._one(host, port, peer)
        note = "" if item.held else "the node is not held: nothing has changed"
        item.held = False
        return QueueChange(self._row(item), note)

    def skip(self, host: str, port: int, sequence: int, peer: str) -> QueueChange:
        item = self._one(host, port, peer)
        if sequence > self.last:
            raise NoSuchUpdate(f"no update has the sequence {sequence}")
        if item.position is None or sequence <= item.position:
            raise VerbConflict(f"the node is done with update {sequence}")
        item.skipped[sequence] = [ActionTaken(time=CREATED, verb="skip", by=peer)]
        item.diverged = True
        return QueueChange(self._row(item))

    def retry(self, host: str, port: int, sequence: int, peer: str) -> QueueChange:
        item = self._one(host, port, peer)
        self._known(sequence)
        if not item.skipped.pop(sequence, None):
            raise VerbConflict(f"update {sequence} is applied")
        return QueueChange(self._row(item))

    def clear_diverged(self, host: str, port: int, peer: str) -> QueueChange:
        item = self._one(host, port, peer)
        note = "" if item.diverged else "the node is not diverged: nothing has changed"
        item.diverged = False
        return QueueChange(self._row(item), note)

    def backup(self, peer: str) -> BackupMade:
        self._changing(peer)
        return BackupMade(path="/var/lib/spawn/backup/5", head=self.last, size_bytes=4_096)

    def head(self) -> int:
        return self.last

    def fate(self, sequence: int) -> UpdateFate | None:
        if sequence > self.last:
            return None
        self._known(sequence)
        nodes = tuple(
            NodeFate(
                host=item.record.host,
                port=item.record.port,
                status=self._status(item, sequence),
                actions=tuple(item.skipped.get(sequence, ())),
            )
            for item in self.held
        )
        return UpdateFate(
            sequence=sequence, time=CREATED, method="POST", path=f"/items/{sequence}", reference=201, nodes=nodes
        )

    def health(self) -> tuple[bool, str]:
        return self.serving

    def counters(self) -> Mapping[str, int]:
        return self.counts

    def _known(self, sequence: int) -> None:
        if sequence > self.last:
            raise NoSuchUpdate(f"no update has the sequence {sequence}")
        if sequence < self.recorded_from:
            raise Pruned(f"update {sequence} is older than journal.retain")

    def _one(self, host: str, port: int, peer: str) -> Held:
        self._changing(peer)
        found = self._find(host, port)
        if not found:
            raise NoSuchNode(f"there is no node {host}:{port}")
        return found[0]

    def _changing(self, peer: str) -> None:
        if self.failure is not None:
            raise self.failure
        self.peers.append(peer)

    def _checked(self, position: Position) -> int:
        if position == "head":
            return self.last
        if position > self.last:
            raise PositionConflict(f"position {position} is beyond the head, {self.last}")
        if position + 1 < self.retained_from:
            raise PositionConflict(
                f"update {position + 1} is no longer retained; the first one is {self.retained_from}"
            )
        return position

    def _find(self, host: str | None = None, port: int | None = None) -> list[Held]:
        items = [
            item
            for item in self.held
            if (host is None or host_key(item.record.host) == host_key(host)) and port in (None, item.record.port)
        ]
        return sorted(items, key=lambda item: sort_key(item.record)) if self.by_priority else items

    def _row(self, item: Held) -> QueueStatus:
        position = item.position or 0
        return QueueStatus(
            host=item.record.host,
            port=item.record.port,
            state="inactive" if not item.record.active else "maintenance" if item.record.maintenance else "serving",
            position=position,
            backlog=0 if item.position is None else self.last - position,
            backlog_seconds=0.0,
            attempts=0,
            last_error="",
            refused=0,
            held=item.held,
            diverged=item.diverged,
            out_of_sync=item.position is None,
        )

    def _status(self, item: Held, sequence: int) -> UpdateStatus:
        if item.position is None:
            return UpdateStatus.OUT_OF_SYNC
        if sequence in item.skipped:
            return UpdateStatus.SKIPPED
        return UpdateStatus.APPLIED if sequence <= item.position else UpdateStatus.PENDING


def seeded() -> MemoryBackend:
    """The seed document's three nodes, given in another order than their priorities', and five updates."""
    backend = MemoryBackend()
    for number in (3, 1, 2):
        record = NodeRecord(host=f"node{number}.myapp.com", port=7017, priority=number, active=number != 3)
        backend.held.append(Held(record, {1: 5, 2: 3, 3: None}[number]))
    backend.last = 5
    backend.retained_from = 3
    backend.recorded_from = 2
    backend.counts = {"updates.accepted": 5, "reads.served": 7}
    return backend


@contextmanager
def serving(backend: MemoryBackend, settings: AdminSettings = SETTINGS) -> Iterator[Api]:
    """The API over ``backend`` on a free loopback port."""
    deadlines = Deadlines()
    deadlines.start()
    server = HttpServer(
        ("127.0.0.1", 0),
        wsgi_handle(build(backend, settings)),
        limits=ServerLimits(),
        timeouts=ServerTimeouts(),
        deadlines=deadlines,
        counters=Counters(),
        name="admin API",
    )
    server.start()
    try:
        yield Api(server.port)
    finally:
        server.stop(5)
        deadlines.stop(5)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def data(self) -> dict[str, Any]:
        """The envelope's ``data``, after a look at the envelope."""
        envelope = self.json
        assert list(envelope) == ["duration", "took", "data"]
        assert list(envelope["data"]) == sorted(envelope["data"])
        found = envelope["data"]
        assert isinstance(found, dict)
        return found

    def exactly(self, status: int, data: str) -> None:
        """The status, and ``data`` as these very bytes in a compact envelope."""
        envelope = rb'{"duration":[0-9]+,"took":"[0-9.]+(ns|\xc2\xb5s|ms|s)","data":' + re.escape(data.encode()) + rb"}"
        assert self.status == status, self.body
        assert re.fullmatch(envelope, self.body), self.body

    def failed(self, status: int, message: str, info: str | None = None) -> None:
        """A refusal in the failure shape."""
        assert self.status == status, self.body
        data = self.data
        assert data == {"error": status, "info": data["info"], "message": message, "success": False}
        assert info is None or info in data["info"], data["info"]


@dataclass(frozen=True)
class Api:
    port: int

    def __call__(self, method: str, target: str, body: object = None, **headers: str) -> Answer:
        """One request; ``body`` is sent as it is if it is bytes, else as JSON. ``Content_Type`` means Content-Type."""
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        given = {"Host": f"127.0.0.1:{self.port}", **{key.replace("_", "-"): text for key, text in headers.items()}}
        if body is not None:
            given.setdefault("Content-Length", str(len(content)))
        lines = "".join(f"{key}: {text}\r\n" for key, text in given.items())
        return self.raw(f"{method} {target} HTTP/1.1\r\n{lines}Connection: close\r\n\r\n".encode() + content)

    def raw(self, request: bytes) -> Answer:
        """What comes back for these bytes until the connection is closed."""
        with gevent.Timeout(10), create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall(request)
            answer = b"".join(iter(lambda: connection.recv(65_536), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        return Answer(int(status.split(" ")[1]), headers, body)
