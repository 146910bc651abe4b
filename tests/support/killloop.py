"""The kill loop: a load, a real Spawn and real nodes, and a plan by which they are killed, paused and brought back.

``run_kill_loop`` carries the plan out, waits until everything is drained and judges what happened. It asserts nothing
about the promises itself: the ``KillReport`` names what was broken and counts the rest.
"""

from __future__ import annotations

import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.support import history
from tests.support.cluster import Cluster
from tests.support.faults import Deed, Moment, Plan, Step, Verb
from tests.support.history import Applied
from tests.support.load import Load
from tests.support.processes import Processes
from tests.support.repeats import Evidence, Life, Pause, Reason

CLIENTS = 8
CLIENT_PAUSE_S = 0.015  # the nodes have to be able to work off what gathers
CATCH_UP_WAIT_S = 3.0
STOP_AFTER_S = 0.15  # SIGKILL comes at most this long after SIGTERM
RECOVERY_SHARE = 1.2  # of a start's time, within which the start is killed
DRAIN_S = 90.0

SETTINGS: dict[str, Any] = {
    "health-check": {"seconds": 0.25, "timeout": 0.5, "fall": 2, "url": "/info", "regexp": "^version:[0-9]+$"},
    "timeouts": {"answer": 1.5, "connect": 1, "shutdown": 8},
}
ALLOWED_ERRORS = ("no node serves:",)  # all may be away at once: the operator is told, and clients get 202
ONE_MORE = Step(Moment.RANDOM, (), linger_s=0.3, aim=0.0, gap_deeds=(), look=False)
_ERROR = re.compile(r"^\S+ \S+ (ERROR|CRITICAL) +(.*)$", re.MULTILINE)


@dataclass(slots=True)
class KillReport:
    """What a run of the kill loop came to. ``faults`` are one sentence each; the promises hold if there are none."""

    seed: int
    faults: list[str] = field(default_factory=list)
    sent: int = 0
    acknowledged: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    unanswered: int = 0
    injected: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    invented: int = 0
    reordered: int = 0
    repeats: Counter[Reason] = field(default_factory=Counter)
    overwritten: int = 0  # items whose newest update a paused node overwrote by an older one that it had in a buffer

    def __str__(self) -> str:
        repeated = ", ".join(f"{reason.value} {self.repeats[reason]}" for reason in Reason)
        return (
            f"seed {self.seed}: {self.sent} sent, {self.acknowledged} acknowledged, "
            f"{self.unanswered} without an answer, "
            f"{self.lost} lost, {self.invented} invented, {self.reordered} reordered; repeated: {repeated}"
        )


def run_kill_loop(processes: Processes, plan: Plan, *, say: Callable[[str], None] = print) -> KillReport:
    """Three nodes in the directory of ``processes``; ``say`` gets a line for each step."""
    settings = SETTINGS | {"timeouts": SETTINGS["timeouts"] | {"deliver": plan.deliver_s}}
    cluster = Cluster(processes, (), ("--answer-delay", "0.002"), (), settings=settings)
    return _Loop(cluster, plan, say).run()


class _Loop:
    def __init__(self, cluster: Cluster, plan: Plan, say: Callable[[str], None]) -> None:
        self._cluster, self._spawn, self._nodes = cluster, cluster.spawn, cluster.nodes
        self._plan = plan
        self._say = say
        self._report = KillReport(plan.seed)
        self._lives: list[Life] = []
        self._started_s = 0.0
        self._kills_s: list[float] = []
        self._pauses: dict[str, list[Pause]] = {node.name: [] for node in self._nodes}
        self._paused_s: dict[int, float] = {}
        self._resting: set[int] = set()
        self._start_takes_s = 1.0
        self._wal = self._spawn.state_dir / "journal" / "journal.db-wal"

    def run(self) -> KillReport:
        for node in self._nodes:
            node.start()
        self._start_spawn()
        self._start_takes_s = time.time() - self._started_s
        with Load(self._spawn.url, total=1_000_000, clients=CLIENTS, pause_s=CLIENT_PAUSE_S) as load:
            load.wait_acknowledged(50)
            for number, step in enumerate(self._plan.steps, start=1):
                self._step(step)
                self._say(f"  {number}/{len(self._plan.steps)} Spawn, {step}; {len(load.acknowledged)} acknowledged")
            while len(self._kills_s) < self._plan.kills:  # a stop was quicker than its kill
                self._step(ONE_MORE)
            self._start_spawn()
            for deed in self._plan.last_deeds:
                self._do(deed)
        self._judge(load, self._drain())
        return self._report

    # -- one step

    def _step(self, step: Step) -> None:
        if not self._spawn.process.alive:
            self._start_spawn(wait=step.moment is not Moment.RECOVERY)
        for deed in step.deeds:
            self._do(deed)
        ended_in_order = self._aim(step)
        self._end_life(step.moment, ended_in_order)
        for deed in step.gap_deeds:
            self._do(deed)
        if step.look:
            self._look(f"after a kill {step.moment.value}")

    def _aim(self, step: Step) -> bool:
        """Wait for the moment and end Spawn; True when it came to its end in order."""
        if step.moment is Moment.RECOVERY:
            time.sleep(step.aim * RECOVERY_SHARE * self._start_takes_s)
        elif step.moment is Moment.CATCH_UP:
            self._wait_for_catching_up(step.deeds[-1].node)
            time.sleep(step.aim * 0.15)
        else:
            time.sleep(step.linger_s)
        if step.moment is Moment.APPEND:
            self._wait_for_append()
            time.sleep(step.aim * 0.003)
        if step.moment is Moment.CLEAN:
            return self._spawn.stop(40) == 0
        if step.moment is Moment.STOP:
            self._spawn.process.send(signal.SIGTERM)
            time.sleep(step.aim * STOP_AFTER_S)
        self._spawn.kill()
        return self._spawn.process.exit_code == 0

    def _wait_for_append(self) -> None:
        """Until the journal's file changes. Without it (nothing was written yet) this kill is one at random."""

        def stamp() -> int:
            return self._wal.stat().st_mtime_ns if self._wal.exists() else 0

        before, deadline_s = stamp(), time.monotonic() + 1.0
        while stamp() == before and time.monotonic() < deadline_s:
            time.sleep(0.0005)

    def _wait_for_catching_up(self, node: int) -> None:
        """Until the node that has come back gets something. It may have missed nothing: then go on."""
        path = self._nodes[node].log_path
        before, deadline_s = path.stat().st_size, time.monotonic() + CATCH_UP_WAIT_S
        while path.stat().st_size == before and time.monotonic() < deadline_s:
            time.sleep(0.002)

    def _start_spawn(self, *, wait: bool = True) -> None:
        self._started_s = time.time()
        self._spawn.start(wait=wait)
        if wait:
            self._check_resting()

    def _end_life(self, moment: Moment, in_order: bool) -> None:
        self._lives.append(Life(self._started_s, killed=not in_order))
        if in_order and moment is not Moment.CLEAN:
            self._report.injected["clean stop instead of a kill"] += 1
            return
        self._report.injected[f"Spawn {'stopped' if in_order else 'killed'} ({moment.value})"] += 1
        if not in_order:
            self._kills_s.append(time.time())
        if moment is Moment.CLEAN and not in_order:
            self._report.faults.append(f"a clean stop ended with {self._spawn.process.exit_code}")

    def _check_resting(self) -> None:
        """What was changed by API survives."""
        for number in self._resting:
            node = self._nodes[number]
            if (state := self._spawn.api.queue(node.port)["state"]) != "maintenance":
                self._report.faults.append(f"{node.name} was put in maintenance and is {state} after a start")

    # -- the nodes

    def _do(self, deed: Deed) -> None:
        time.sleep(deed.after_s)
        node, verb = self._nodes[deed.node], deed.verb
        self._report.injected[f"node {verb.value}"] += 1
        if verb is Verb.KILL:
            node.kill()
        elif verb is Verb.START:
            node.start()
        elif verb is Verb.PAUSE:
            self._paused_s[deed.node] = time.time()
            node.process.pause()
        elif verb is Verb.RESUME:
            node.process.resume()
            self._pauses[node.name].append(Pause(self._paused_s.pop(deed.node), time.time()))
        else:
            self._spawn.api.maintenance(node.port, on=verb is Verb.REST)
            (self._resting.add if verb is Verb.REST else self._resting.discard)(deed.node)

    # -- the verdict

    def _look(self, when: str) -> None:
        self._report.faults += [f"{fault} ({when})" for fault in history.check_prefixes(self._cluster.logs())]

    def _drain(self) -> dict[str, dict[str, str]]:
        """Until every node has everything; what each holds then. Spawn is stopped."""
        contents: dict[str, dict[str, str]] = {}
        with self._noting_failures():
            self._spawn.api.wait_settled(DRAIN_S)
            contents = {node.name: node.items() for node in self._nodes}
            self._check_flags()
        with self._noting_failures():
            code = self._spawn.stop(40)
            if code != 0:
                self._report.faults.append(f"the last stop ended with {code}")
        self._lives.append(Life(self._started_s, killed=False))
        return contents

    @contextmanager
    def _noting_failures(self) -> Iterator[None]:
        """What does not come to pass is a fault like others, so that they are all seen."""
        try:
            yield
        except AssertionError as error:
            self._report.faults.append(str(error))

    def _check_flags(self) -> None:
        for row in self._spawn.api.queues():
            raised = [flag for flag in ("diverged", "refused", "held", "out-of-sync") if row[flag]]
            if raised:
                self._report.faults.append(f"node {row['port']} is {', '.join(raised)}: {row}")

    def _judge(self, load: Load, contents: dict[str, dict[str, str]]) -> None:
        report, logs = self._report, self._cluster.logs()
        evidence = Evidence(self._lives, self._kills_s, self._pauses, self._plan.deliver_s)
        self._count(load, logs, evidence)
        late = {node: evidence.late_items(node, log) for node, log in logs.items()}
        report.overwritten = sum(len(items) for items in late.values())
        report.faults += history.check(logs, load.attempted, load.acknowledged, evidence)
        report.faults += history.check_keys(logs, load.keys)
        report.faults += history.check_clients(load.by_client, load.acknowledged)
        report.faults += history.check_contents(contents, late)
        report.faults += self._output_faults()

    def _count(self, load: Load, logs: dict[str, list[Applied]], evidence: Evidence) -> None:
        report = self._report
        report.sent, report.acknowledged = len(load.attempted), len(load.acknowledged)
        report.statuses.update(load.statuses)
        report.unanswered = len(load.failures)
        report.lost = len(history.lost_updates(logs, load.acknowledged))
        report.invented = len({applied.update for log in logs.values() for applied in log} - set(load.attempted))
        report.reordered = history.count_reordered(logs)
        for node, log in logs.items():
            report.repeats.update(repeat.reason for repeat in evidence.repeats(node, log))

    def _output_faults(self) -> list[str]:
        """What no run may print. The processes of a test are looked at for tracebacks and warnings when they end."""
        output = self._spawn.process.output()
        errors = [line for _, line in _ERROR.findall(output) if not line.startswith(ALLOWED_ERRORS)]
        processes = [self._spawn.process, *(node.process for node in self._nodes)]
        complaints = [line for process in processes for line in process.complaints()]
        return [f"printed: {line}" for line in dict.fromkeys(errors + complaints)]
