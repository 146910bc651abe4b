"""Runs for the check of fresh reads: clients on a few registers, faults from a seed, and a report. Real processes.

Some registers have one writer, some several. A writer waits for each answer, then reads its register at once; readers
read all the time. Meanwhile one node is slow, and nodes and Spawn itself are struck as ``plan`` says. The plan comes
from the seed alone, so a seed repeats a run as far as scheduling allows.

A node counts as healthy from the moment Spawn lets it serve until it is struck; while Spawn is down, none does.
"""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.support import registers
from tests.support.cluster import Cluster, LoggingNode, Settings
from tests.support.processes import Processes
from tests.support.registers import Read, Write
from tests.support.waiting import eventually

WRITERS = {"r0": 1, "r1": 2, "r2": 3}  # register → how many writers
READERS = 4
SLOW = ("--delay", "0.01")
TIMEOUT_S = 30.0
RECOVERY_S = 40.0
KINDS = ("maintenance", "node-pause", "node-kill", "spawn-kill")  # in this order when several come together
SETTINGS: Settings = {
    "health-check": {"seconds": 0.3, "timeout": 1.0, "fall": 2, "url": "/info", "regexp": "^version:[0-9]+$"},
    "timeouts": {"answer": 2.0},
}


@dataclass(frozen=True, slots=True)
class Strike:
    kind: str
    node: int = 0


@dataclass(frozen=True, slots=True)
class Fault:
    """What is struck together, for how long, and the peace that follows the recovery."""

    strikes: tuple[Strike, ...]
    lasts_s: float
    peace_s: float


def plan(seed: int, count: int, nodes: int = 3) -> list[Fault]:
    """Each kind alone first, then mixtures: mostly one strike at a time, sometimes all nodes at once.

    No node is paused while Spawn is killed: it would find two requests in its buffers later, that of the old Spawn and
    that of the new one, and might carry out the older one last. No choice of a node helps a read against that.
    """
    dice = random.Random(seed)
    first = list(KINDS)
    dice.shuffle(first)
    made = []
    for number in range(count):
        if number < len(first):
            kinds = [first[number]]
        else:
            kinds = [dice.choice(KINDS) for _ in range(dice.choices((1, 2, 3), (6, 3, 1))[0])]
        if "spawn-kill" in kinds:
            kinds = ["node-kill" if kind == "node-pause" else kind for kind in kinds]
        order = dice.sample(range(nodes), nodes)
        strikes = {Strike(kind, 0 if kind == "spawn-kill" else order[n]) for n, kind in enumerate(kinds)}
        ordered = tuple(sorted(strikes, key=lambda strike: (KINDS.index(strike.kind), strike.node)))
        made.append(Fault(ordered, dice.uniform(0.1, 1.2), dice.uniform(0.1, 0.5)))
    return made


@dataclass(frozen=True, slots=True)
class HistoryReport:
    """What happened; ``faults`` is empty when every promise held."""

    seed: int
    sent: int
    acknowledged: int  # by a reference answer below 500
    accepted: int  # by a 202
    unknown: int  # no answer, or one that tells nothing
    reads: int  # answered ones
    failed_reads: int
    marked: int
    reads_while_two_healthy: int
    marked_while_two_healthy: int
    stale: int
    injected: dict[str, int] = field(default_factory=dict)  # strikes by kind
    faults: list[str] = field(default_factory=list)

    @property
    def marked_share(self) -> float:
        """Of the reads that were made while two nodes were healthy."""
        return self.marked_while_two_healthy / max(1, self.reads_while_two_healthy)


class Health:
    """How many nodes were healthy, over time."""

    def __init__(self, nodes: int) -> None:
        self._changes: list[tuple[float, int]] = [(0.0, nodes)]

    def now(self, healthy: int) -> None:
        self._changes.append((time.monotonic(), healthy))

    def split(self, reads: Sequence[Read], least: int) -> list[Read]:
        """The reads during which at least so many nodes were healthy all the time."""
        times = [*(at_s for at_s, _ in self._changes[1:]), float("inf")]
        kept, at = [], 0
        for read in sorted(reads, key=lambda read: read.began_s):
            while times[at] < read.began_s:
                at += 1
            end = at
            lowest = self._changes[at][1]
            while times[end] < read.ended_s:
                end += 1
                lowest = min(lowest, self._changes[end][1])
            if lowest >= least:
                kept.append(read)
        return kept


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: str
    sequence: int | None
    behind: int
    head_at_s: float
    ended_s: float


class _Line:
    """A client's connection, made anew after a failure."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)

    def ask(self, method: str, target: str, body: str | None = None) -> _Answer | None:
        """None: no whole answer. Raises ``ConnectionRefusedError`` when nobody listens, so that nothing was sent."""
        try:
            self._connection.request(method, target, body)
            answer = self._connection.getresponse()
            head_at_s = time.monotonic()
            text = answer.read().decode()
        except ConnectionRefusedError:
            self.close()
            raise
        except (OSError, http.client.HTTPException):
            self.close()
            return None
        sequence = answer.getheader("Spawn-Sequence")
        return _Answer(
            status=answer.status,
            body=text,
            sequence=None if sequence is None else int(sequence),
            behind=int(answer.getheader("Spawn-Behind", "0")),
            head_at_s=head_at_s,
            ended_s=time.monotonic(),
        )

    def close(self) -> None:
        self._connection.close()


class RegisterClients:
    """Writers and readers, each a thread with a connection and a random source of its own."""

    def __init__(self, port: int, seed: int, *, pause_s: float = 0.1) -> None:
        """``pause_s``: the mean pause of a writer between two updates."""
        self._port = port
        self._seed = seed
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._writing = threading.Event()
        self._writing.set()
        self.writes: list[Write] = []
        self.reads: list[Read] = []
        self.failed_reads: list[int | None] = []  # statuses
        jobs: list[tuple[str, Callable[[str, random.Random, _Line], None]]] = [
            (f"{register}w{n}", self._write) for register, count in WRITERS.items() for n in range(count)
        ]
        jobs += [(f"reader{n}", self._read_any) for n in range(READERS)]
        self._threads = [threading.Thread(target=self._run, args=job, daemon=True, name=job[0]) for job in jobs]

    def __enter__(self) -> RegisterClients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(TIMEOUT_S + 5)
            assert not thread.is_alive(), f"{thread.name} still waits for an answer"

    def rest_writers(self) -> None:
        """No update is begun from now on; reads go on."""
        self._writing.clear()

    def _run(self, name: str, job: Callable[[str, random.Random, _Line], None]) -> None:
        line = _Line(self._port)
        dice = random.Random(f"{self._seed} {name}")
        while not self._stop.is_set():
            try:
                job(name, dice, line)
            except ConnectionRefusedError:
                self._stop.wait(0.05)  # nobody listens: do not spin
        line.close()

    def _write(self, name: str, dice: random.Random, line: _Line) -> None:
        self._stop.wait(dice.uniform(0.0, 2 * self._pause_s))
        if not self._writing.is_set():
            return
        register = name.partition("w")[0]
        value = f"{name}-{dice.getrandbits(64):016x}"
        began_s = time.monotonic()
        answer = line.ask("PUT", f"/items/{register}", value)
        known = answer is not None and answer.status < 500 and answer.status != 202
        self.writes.append(
            Write(
                register=register,
                value=value,
                client=name,
                began_s=began_s,
                acknowledged_s=answer.head_at_s if answer is not None and known else None,
                sequence=None if answer is None else answer.sequence,
                status=None if answer is None else answer.status,
            )
        )
        self._read(register, line)

    def _read_any(self, name: str, dice: random.Random, line: _Line) -> None:
        self._read(dice.choice(list(WRITERS)), line)
        self._stop.wait(dice.uniform(0.0, 0.004))

    def _read(self, register: str, line: _Line) -> None:
        began_s = time.monotonic()
        answer = line.ask("GET", f"/items/{register}")
        if answer is None or answer.status not in (200, 404):
            self.failed_reads.append(None if answer is None else answer.status)
            self._stop.wait(0.02)
            return
        value = answer.body if answer.status == 200 else None
        self.reads.append(Read(register, value, began_s, answer.ended_s, answer.behind))


class Striker:
    """Carries a plan out, one fault after the other, and knows how many nodes are healthy meanwhile."""

    def __init__(self, cluster: Cluster) -> None:
        self._spawn = cluster.spawn
        self._nodes = cluster.nodes
        self.health = Health(len(cluster.nodes))
        self.injected: Counter[str] = Counter()

    def carry_out(self, faults: Sequence[Fault], until_s: float) -> None:
        """Each kind once, and more while there is time."""
        for number, fault in enumerate(faults):
            if number >= len(KINDS) and time.monotonic() >= until_s:
                return
            self._fault(fault)
            _lie_idle(fault.peace_s)

    def _fault(self, fault: Fault) -> None:
        spawn_too = any(strike.kind == "spawn-kill" for strike in fault.strikes)
        self.health.now(0 if spawn_too else len(self._nodes) - len(fault.strikes))
        for strike in fault.strikes:
            self.injected[strike.kind] += 1
            self._begin(strike.kind, self._nodes[strike.node])
        _lie_idle(fault.lasts_s)
        for strike in reversed(fault.strikes):  # Spawn first: it has to hear of the end of a maintenance
            self._end(strike.kind, self._nodes[strike.node])
        self._recover()

    def _begin(self, kind: str, node: LoggingNode) -> None:
        if kind == "maintenance":
            self._spawn.api.maintenance(node.port, on=True)
        elif kind == "node-pause":
            node.process.pause()
        elif kind == "node-kill":
            node.kill()
        else:
            self._spawn.kill()

    def _end(self, kind: str, node: LoggingNode) -> None:
        if kind == "maintenance":
            self._spawn.api.maintenance(node.port, on=False)
        elif kind == "node-pause":
            node.process.resume()
        elif kind == "node-kill":
            node.start()
        else:
            self._spawn.start()

    def _recover(self) -> None:
        """Until all nodes serve; each counts as soon as it does."""
        counted = -1
        rows: list[object] = []

        def all_serve() -> bool:
            nonlocal counted
            rows[:] = queues = self._spawn.api.queues()
            serving = sum(bool(row["state"] == "serving") for row in queues)
            if serving != counted:
                counted = serving
                self.health.now(serving)
            return bool(serving == len(self._nodes))

        try:
            eventually(all_serve, timeout_s=RECOVERY_S, what="all nodes serve again")
        except AssertionError as error:
            raise AssertionError(f"{error}; the queues: {rows}") from None


def _lie_idle(seconds: float) -> None:
    """Let a fault, or peace, last; nothing is waited for."""
    threading.Event().wait(seconds)


def run_history(
    processes: Processes,
    seed: int,
    duration_s: float,
    *,
    settings: Settings | None = None,
    node_options: Sequence[Sequence[str]] = ((), (), SLOW),
    strikes: bool = True,
) -> HistoryReport:
    """A cluster of its own, ``duration_s`` of clients and faults, then quiet, the nodes' logs and the verdict.

    ``processes`` must not have any of the same names yet (one run for each ``Processes``).
    """
    cluster = Cluster(processes, *node_options, settings={**SETTINGS, **dict(settings or {})}).start()
    striker = Striker(cluster)
    until_s = time.monotonic() + duration_s
    with RegisterClients(cluster.spawn.port, seed) as clients:
        if strikes:
            striker.carry_out(plan(seed, count=len(KINDS) + int(duration_s * 5)), until_s)
        _lie_idle(until_s - time.monotonic())
    cluster.spawn.api.wait_settled()
    return _report(seed, cluster, clients, striker)


def node_logs(cluster: Cluster) -> dict[str, list[tuple[str, int]]]:
    """Value and sequence of all applications, for each node."""
    return {
        node.name: [(record["value"], int(record["sequence"])) for record in node.records()] for node in cluster.nodes
    }


def _report(seed: int, cluster: Cluster, clients: RegisterClients, striker: Striker) -> HistoryReport:
    logs = node_logs(cluster)
    writes = registers.with_sequences(clients.writes, {value: n for log in logs.values() for value, n in log})
    reads = clients.reads
    in_peace = striker.health.split(reads, least=2)
    faults = registers.check(reads, writes) + registers.check_client_order(writes, logs)
    acknowledged = sum(write.acknowledged_s is not None for write in writes)
    accepted = sum(write.status == 202 for write in writes)
    return HistoryReport(
        seed=seed,
        sent=len(writes),
        acknowledged=acknowledged,
        accepted=accepted,
        unknown=len(writes) - acknowledged - accepted,
        reads=len(reads),
        failed_reads=len(clients.failed_reads),
        marked=sum(read.behind > 0 for read in reads),
        reads_while_two_healthy=len(in_peace),
        marked_while_two_healthy=sum(read.behind > 0 for read in in_peace),
        stale=registers.count_stale(faults),
        injected=dict(striker.injected),
        faults=faults,
    )
