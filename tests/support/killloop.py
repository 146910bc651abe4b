"""The kill loop: a load, a real Spawn and real nodes, and a plan by which they are killed, paused and brought back.

``run_kill_loop`` carries the plan out, waits until everything is drained and judges what happened. It asserts nothing
about the promises itself: the ``KillReport`` names what was broken and counts the rest. A kill that came too late for
the moment that the plan has for it counts as one at random, and what was never met, a moment or a fault of a node, is
made up for in the end.
"""

from __future__ import annotations

import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from tests.support import history
from tests.support.cluster import Cluster
from tests.support.faults import FAULTS, Deed, Moment, Plan, Step, Verb
from tests.support.history import Applied
from tests.support.load import Load
from tests.support.processes import Processes
from tests.support.repeats import Evidence, Life, Reason

CLIENTS = 8
CLIENT_PAUSE_S = 0.015  # the nodes have to be able to work off what gathers
CATCH_UP_WAIT_S = 3.0
STOP_AFTER_S = 0.15  # SIGKILL comes at most this long after SIGTERM
RECOVERY_SHARE = 1.2  # of a start's time, within which the start is killed
DRAIN_S = 90.0
TRIES = 8  # to meet a moment that the plan has missed
READY = " serves on "  # what Spawn says when its start is over

SETTINGS: dict[str, Any] = {
    "health-check": {"seconds": 0.25, "timeout": 0.5, "fall": 2, "url": "/info", "regexp": "^version:[0-9]+$"},
    "timeouts": {"answer": 1.5, "connect": 1, "shutdown": 8},
}
ALLOWED_ERRORS = ("no node serves:",)  # all may be away at once: the operator is told, and clients get 202
ONE_MORE = Step(Moment.RANDOM, (), linger_s=0.3, aim=0.2, gap_deeds=(), look=False)
COMEBACK = (Deed(0, Verb.KILL, 0.0), Deed(0, Verb.START, 0.8))
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
        self._output_before = 0
        self._met: Counter[Moment] = Counter()
        self._resting: set[int] = set()
        self._start_takes_s = 1.0
        self._wal = self._spawn.state_dir / "journal" / "journal.db-wal"

    def run(self) -> KillReport:
        for node in self._nodes:
            node.start()
        self._start_spawn()
        self._start_takes_s = time.time() - self._started_s
        load = Load(self._spawn.url, total=1_000_000, clients=CLIENTS, pause_s=CLIENT_PAUSE_S, deletes=True)
        with load:
            load.wait_acknowledged(50)
            for number, step in enumerate(self._plan.steps, start=1):
                self._step(step)
                self._say(f"  {number}/{len(self._plan.steps)} Spawn, {step}; {len(load.acknowledged)} acknowledged")
            while sum(life.killed for life in self._lives) < self._plan.kills:  # a stop was quicker than its kill
                self._step(ONE_MORE)
            self._start_spawn()
            for deed in self._plan.last_deeds:
                self._do(deed)
            self._make_up()
        self._judge(load, self._drain())
        return self._report

    # -- one step

    def _step(self, step: Step) -> None:
        if not self._spawn.process.alive:
            self._start_spawn(wait=step.moment is not Moment.RECOVERY)
        for deed in step.deeds:
            self._do(deed)
        met = self._await_moment(step)
        in_order = self._end_spawn(step)
        if step.moment is Moment.RECOVERY:
            met = READY not in self._spawn.process.output()[self._output_before :]
        self._end_life(step.moment if met else Moment.RANDOM, in_order)
        for deed in step.gap_deeds:
            self._do(deed)
        if step.look:
            self._look(f"after a kill {step.moment.value}")

    def _make_up(self) -> None:
        """Meet what the plan has missed. Every node is there; in the end Spawn serves."""
        for moment in Moment:
            for _ in range(TRIES):
                if self._met[moment]:
                    break
                if moment is Moment.RECOVERY:
                    self._step(ONE_MORE)
                self._step(replace(ONE_MORE, moment=moment, deeds=COMEBACK if moment is Moment.CATCH_UP else ()))
        for fault, its_end in FAULTS.items():
            if not self._report.injected[f"node {fault.value}"]:
                self._step(replace(ONE_MORE, deeds=(Deed(0, fault, 0.0), Deed(0, its_end, 0.8))))
        if not self._spawn.process.alive:
            self._start_spawn()

    def _await_moment(self, step: Step) -> bool:
        """Whether it was met."""
        met = True
        if step.moment is Moment.RECOVERY:
            time.sleep(step.aim * RECOVERY_SHARE * self._start_takes_s)
        elif step.moment is Moment.CATCH_UP:
            met = self._wait_for_catching_up(step.deeds[-1].node)
            time.sleep(step.aim * 0.15)
        else:
            time.sleep(step.linger_s)
        if step.moment is Moment.APPEND:
            met = self._wait_for_append()
            time.sleep(step.aim * 0.003)
        return met

    def _end_spawn(self, step: Step) -> bool:
        """True when it came to its end in order."""
        if step.moment is Moment.CLEAN:
            return self._spawn.stop(40) == 0
        if step.moment is Moment.STOP:
            self._spawn.process.send(signal.SIGTERM)
            time.sleep(step.aim * STOP_AFTER_S)
        self._spawn.kill()
        return self._spawn.process.exit_code == 0

    def _wait_for_append(self) -> bool:
        """Until the journal's file changes, as far as it does."""

        def stamp() -> int:
            return self._wal.stat().st_mtime_ns if self._wal.exists() else 0

        before, deadline_s = stamp(), time.monotonic() + 1.0
        while stamp() == before and time.monotonic() < deadline_s:
            time.sleep(0.0005)
        return stamp() != before

    def _wait_for_catching_up(self, number: int) -> bool:
        """Until the node that has come back gets something of its backlog. It may have missed nothing: then go on."""
        node = self._nodes[number]
        before, deadline_s = node.log_path.stat().st_size, time.monotonic() + CATCH_UP_WAIT_S
        while node.log_path.stat().st_size == before and time.monotonic() < deadline_s:
            time.sleep(0.002)
        return bool(self._spawn.api.queue(node.port)["state"] == "catching-up")

    def _start_spawn(self, *, wait: bool = True) -> None:
        """It marks what it sends as its own."""
        life = {f"127.0.0.1:{node.port}": {"Test-Life": str(len(self._lives))} for node in self._nodes}
        self._spawn.write_config({"delivery": {"set-headers": life}})
        self._output_before = len(self._spawn.process.output())
        self._started_s = time.time()
        self._spawn.start(wait=wait)
        if wait:
            self._check_resting()

    def _end_life(self, moment: Moment, in_order: bool) -> None:
        self._lives.append(Life(self._started_s, time.time(), killed=not in_order))
        if in_order and moment is not Moment.CLEAN:
            self._report.injected["clean stop instead of a kill"] += 1
            return
        self._report.injected[f"Spawn {'stopped' if in_order else 'killed'} ({moment.value})"] += 1
        self._met[moment] += 1
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
            node.process.pause()
        elif verb is Verb.RESUME:
            node.process.resume()
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
        self._lives.append(Life(self._started_s, time.time(), killed=False))
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
        evidence = Evidence(self._lives, self._plan.deliver_s)
        self._count(load, logs, evidence)
        late = {node: evidence.late_items(log) for node, log in logs.items()}
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
        for log in logs.values():
            report.repeats.update(repeat.reason for repeat in evidence.repeats(log))

    def _output_faults(self) -> list[str]:
        """What no run may print. The processes of a test are looked at for tracebacks and warnings when they end."""
        output = self._spawn.process.output()
        errors = [line for _, line in _ERROR.findall(output) if not line.startswith(ALLOWED_ERRORS)]
        processes = [self._spawn.process, *(node.process for node in self._nodes)]
        complaints = [line for process in processes for line in process.complaints()]
        return [f"printed: {line}" for line in dict.fromkeys(errors + complaints)]
