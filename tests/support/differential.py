"""The same bytes through several proxies, and what comes out behind each of them.

Every proxy has a node of its own, which reads strictly and remembers each whole request that it gets. A client's
connection is known by its address, one of 127/8 for each exchange, that all proxies tell their nodes in
``X-Forwarded-For``. A request without that is one that its proxy knows nothing of (smuggled): it belongs to the
connection's last client.

An exchange ends when the proxy closes. One that waits for more is told that there is none, once it has been quiet for
a while: so nothing is decided by a time, and what was only late is still seen.

``faults`` judges by what the nodes got, since that is where requests are smuggled to. How a proxy words its refusal is
its own affair.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from tests.support.corpus import RequestCase

SPAWN = "Spawn"  # among the names of the proxies
HEALTH = "/differential-health"
END_S = 5.0  # whatever a proxy does with a connection that its client has ended, it does sooner

_FIRST_CLIENT = ipaddress.IPv4Address("127.1.0.1")
_LIMIT_BYTES = 262_144  # more than any head
_STATUS = re.compile(rb"^HTTP/1\.[01] ([2-5][0-9][0-9]) ", re.M)  # final answers; no body here has such a line
_CLIENT = re.compile(rb"\r\nx-forwarded-for: *([0-9.]+)\r\n", re.I)
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)\r\n", re.I)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked\r\n", re.I)
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Received:
    """A whole request at a node."""

    line: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a proxy made of one connection's bytes."""

    received: tuple[Received, ...]  # by its node, in this order
    statuses: tuple[int, ...]  # that the client got
    faults: tuple[str, ...] = ()  # what the node could not read
    ended: bool = True  # the proxy closed, at the latest when its client had no more to say

    @property
    def count(self) -> int:
        return len(self.received)

    @property
    def refused(self) -> bool:
        """Whether the last thing that the client was told is a refusal."""
        return bool(self.statuses) and self.statuses[-1] >= 400

    def __str__(self) -> str:
        seen = ", ".join(f"{each.line[:60]!r} with {len(each.body)} bytes" for each in self.received) or "nothing"
        return f"node saw {seen}; client got {list(self.statuses)}" + "".join(f"; {fault}" for fault in self.faults)


Outcomes = Mapping[str, Outcome]  # of one case, by the proxy's name


@dataclass
class Recorder:
    """A node. It says 200 to everything."""

    received: dict[str, list[Received]] = field(default_factory=dict)  # by the client's address
    faults: dict[str, list[str]] = field(default_factory=dict)
    port: int = 0

    async def __aenter__(self) -> Self:
        self._open: dict[asyncio.StreamWriter, asyncio.Task[None] | None] = {}
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=_LIMIT_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._open:
            writer.close()
        await asyncio.gather(*(task for task in self._open.values() if task is not None))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open[writer] = asyncio.current_task()
        client = "?"
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if told := _CLIENT.search(head):
                    client = told[1].decode()
                body = await _body(head, reader)
                line = head.partition(b"\r\n")[0]
                if HEALTH.encode() not in line:
                    self.received.setdefault(client, []).append(Received(line, body))
                writer.write(_ANSWER)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # a proxy may find out late that a request is bad, and take it back; it never was whole
        except (ValueError, asyncio.LimitOverrunError) as error:
            self.faults.setdefault(client, []).append(f"unreadable: {error}")
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            del self._open[writer]


async def _body(head: bytes, reader: asyncio.StreamReader) -> bytes:
    """By the framing that the proxy chose. Raises ValueError when there are two."""
    lengths, chunked = _LENGTH.findall(head), _CHUNKED.search(head)
    if len(lengths) + bool(chunked) > 1:
        raise ValueError(f"two framings in {head!r}")
    if not chunked:
        return await reader.readexactly(int(lengths[0]) if lengths else 0)
    parts = []
    while size := int((await reader.readuntil(b"\r\n"))[:-2].partition(b";")[0], 16):
        parts.append(await reader.readexactly(size))
        if await reader.readexactly(2) != b"\r\n":
            raise ValueError("no line end behind a chunk")
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass
    return b"".join(parts)


@dataclass
class Comparison:
    """Sends to proxies by name; ``ports`` are theirs, ``nodes`` are behind them."""

    ports: dict[str, int]
    nodes: dict[str, Recorder]
    _clients: int = 0

    async def exchange(self, data: bytes, quiet_s: float) -> Outcomes:
        """One connection to each proxy, that sends ``data`` and no more."""
        client = str(_FIRST_CLIENT + self._clients)
        self._clients += 1
        answers = await asyncio.gather(*(_send(port, data, client, quiet_s) for port in self.ports.values()))
        return {
            name: Outcome(
                received=tuple(self.nodes[name].received.get(client, ())),
                statuses=tuple(int(status) for status in _STATUS.findall(answer)),
                faults=tuple(self.nodes[name].faults.get(client, ())),
                ended=ended,
            )
            for name, (answer, ended) in zip(self.ports, answers, strict=True)
        }

    async def exchanges(self, all_data: Iterable[bytes], *, at_once: int, quiet_s: float) -> list[Outcomes]:
        """The same for many, in their order."""
        gate = asyncio.Semaphore(at_once)

        async def one(data: bytes) -> Outcomes:
            async with gate:
                return await self.exchange(data, quiet_s)

        return await asyncio.gather(*map(one, all_data))


async def _send(port: int, data: bytes, client: str, quiet_s: float) -> tuple[bytes, bool]:
    """All that comes back until the proxy closes, and whether it did."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(client, 0))
    answer, ended = bytearray(), True
    try:
        async with asyncio.timeout(END_S):
            writer.write(data)
            with contextlib.suppress(TimeoutError):
                while more := await asyncio.wait_for(reader.read(65_536), quiet_s):
                    answer += more
                return bytes(answer), True
            writer.write_eof()
            answer += await reader.read()
    except ConnectionError:
        pass  # a reset is an end
    except TimeoutError:
        ended = False
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    return bytes(answer), ended


def faults(case: RequestCase, outcomes: Outcomes) -> list[str]:
    """What is wrong with Spawn's reading of a case, beside its file and its peers' readings."""
    spawn, peers = outcomes[SPAWN], [outcome for name, outcome in outcomes.items() if name != SPAWN]
    found = list(spawn.faults)
    if not spawn.ended:
        found.append("Spawn keeps a connection that its client has ended")
    if spawn.count != case.accepted:
        found.append(f"Spawn's node saw {spawn.count} requests, and the file says {case.accepted}")
    if spawn.statuses.count(200) < spawn.count:
        found.append("Spawn's node saw a request that the client got no answer to")
    laxer = is_laxer(outcomes)
    if laxer and not case.laxer:
        found.append("Spawn is laxer than both, and the file has no 'laxer' with the reason")
    if case.laxer and not laxer:
        found.append("Spawn is not laxer than both, as the file's 'laxer' would have it")
    if all(peer.count for peer in peers) and not spawn.refused and spawn.count not in {peer.count for peer in peers}:
        found.append("Spawn made another number of requests of it than either")
    pairs = [pair for peer in peers for pair in zip(spawn.received, peer.received, strict=False)]
    if any(ours.body != its.body for ours, its in pairs):
        found.append("a body differs from a peer's")
    return found


def is_laxer(outcomes: Outcomes) -> bool:
    """Whether Spawn let something through that every peer refused."""
    return outcomes[SPAWN].count > max(outcome.count for name, outcome in outcomes.items() if name != SPAWN)


def summary(all_outcomes: Sequence[Outcomes]) -> str:
    """One line: how often Spawn agrees with its peers."""
    counts = Counter(map(_agreement, all_outcomes))
    return f"{len(all_outcomes)} cases: " + ", ".join(f"{counts[name]} {name}" for name in _AGREEMENTS)


_AGREEMENTS = ("as both peers", "as one of them", "stricter than both", "laxer than both")


def _agreement(outcomes: Outcomes) -> str:
    ours, *theirs = (outcomes[name].count for name in (SPAWN, *sorted(set(outcomes) - {SPAWN})))
    if set(theirs) == {ours}:
        return "as both peers"
    if ours in theirs:
        return "as one of them"
    return "laxer than both" if is_laxer(outcomes) else "stricter than both"
