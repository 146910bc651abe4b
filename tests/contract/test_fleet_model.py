"""The fleet against a model: any sequence of operators' changes, health checks, updates, deliveries and refusals.

The model remembers what operators and health checks said last, where each node was put and what it was given since.
What may be done with a node must follow from that: whether it has a worker, may be read from, may speak for others.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import gevent
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from spawn.config.schema import QueryMode, Timeouts
from spawn.delivery.feed import QUEUE_ENTRIES
from spawn.delivery.retention import Retention
from spawn.delivery.types import NodeChange, PositionConflict
from spawn.delivery.worker import Worker, WorkerEvents
from spawn.http11.message import Request
from spawn.journal.base import Outcome
from spawn.nodes.balance import Balancer
from spawn.nodes.node import Node, NodeEvent, NodeState
from spawn.proxy.context import Cluster, ProxySettings
from spawn.proxy.reads import _Read
from spawn.proxy.turnedaway import TurnedAway
from tests.support.fleets import FleetUnderTest, IdleWorker

PORTS = st.sampled_from([1, 2, 3])
FRACTION = st.one_of(st.just(1.0), st.floats(0, 1))
MOSTLY = st.sampled_from([True, True, True, False])
RETAIN_S = 50.0
S = NodeState


class SlowWorker(IdleWorker):
    """Has a delivery in flight when it is told to stop."""

    def stop(self, deadline_s: float) -> bool:
        gevent.sleep(0)
        return super().stop(deadline_s)


class Fleet(FleetUnderTest):
    """Remembers every worker that was ever started."""

    def __init__(self, directory: Path, ports: Sequence[int]) -> None:
        self.started: list[IdleWorker] = []
        super().__init__(directory, ports, max_bytes=1 << 26)

    def _make_worker(self, node: Node, events: WorkerEvents) -> Worker:
        worker = self.workers[node.id] = SlowWorker(node, events)
        self.started.append(worker)
        return cast(Worker, worker)

    def running(self, node: Node) -> list[IdleWorker]:
        return [worker for worker in self.started if worker.node is node and not worker.stopped]


@dataclass
class Known:
    """Of one node: what was said about it last, and what follows."""

    active: bool = False
    maintenance: bool = False
    out_of_sync: bool = False
    up: bool = False  # the last health check since it came was good
    held: bool = False
    diverged: bool = False
    position: int = 0
    target: int = 0  # the head as it stood when it came back or was put somewhere

    @property
    def delivers(self) -> bool:
        return self.active and not self.maintenance and not self.out_of_sync


class FleetModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.made = Fleet(self.root, [1, 2])
        self.journal = self.made.journal
        self.retention = Retention(self.made.fleet, self.journal, RETAIN_S, now=lambda: self.made.now_s)
        self.known = {port: Known(active=True, up=True) for port in (1, 2)}  # by port

    def teardown(self) -> None:
        self.made.close()
        shutil.rmtree(self.root)

    @property
    def head(self) -> int:
        return self.journal.head

    def node(self, port: int) -> Node:
        return self.made.node(port)

    # -- operators

    @rule(port=PORTS, active=MOSTLY, maintenance=st.booleans())
    def put_node(self, port: int, active: bool, maintenance: bool) -> None:
        self.made.put(port, active=active, maintenance=maintenance)
        self.was_put(port, active, maintenance)

    @rule(maintenance=st.booleans())
    def put_all_nodes(self, maintenance: bool) -> None:
        change = NodeChange(maintenance=maintenance)
        self.made.changes.put_nodes([("h", port, change) for port in self.known], "test")
        for port, known in self.known.items():
            self.was_put(port, known.active, maintenance)

    def was_put(self, port: int, active: bool, maintenance: bool) -> None:
        known = self.known.get(port)
        if known is None:
            known = self.known[port] = Known(out_of_sync=self.head > 0)
        elif active and not known.active:
            known.out_of_sync = known.out_of_sync or known.position < self.head
        if not active:
            known.held = False
        if not (active and known.active and not known.maintenance and not maintenance):
            known.up = False  # it left or came: nothing is known of it
        known.active, known.maintenance = active, maintenance

    @rule(port=PORTS, sure=MOSTLY)
    def delete_node(self, port: int, sure: bool) -> None:
        if sure:
            return  # else there are seldom any
        assert self.made.changes.delete_nodes("h", port, "test") == (port in self.known)
        self.known.pop(port, None)

    @precondition(lambda self: len(self.known) in (1, 2))
    @rule(data=st.data())
    def move_node(self, data: st.DataObject) -> None:
        origin = data.draw(st.sampled_from(sorted(self.known)))
        target = data.draw(st.sampled_from(sorted({1, 2, 3} - set(self.known))))
        self.made.put(origin, port=target)
        known = self.known[target] = self.known.pop(origin)
        known.up = False

    @rule(port=PORTS, fraction=FRACTION)
    def set_position(self, port: int, fraction: float) -> None:
        known = self.known.get(port)
        if known is None:
            return
        position = round(fraction * (self.head + 1))
        try:
            self.made.changes.set_position("h", port, position, "test")
        except PositionConflict:
            assert position > self.head or position < self.journal.tail - 1
            return
        assert self.journal.tail - 1 <= position <= self.head
        skipped = position > known.position and known.active and not known.out_of_sync
        known.diverged, known.held, known.out_of_sync = skipped, False, False
        known.position, known.target = position, self.head

    @rule(port=PORTS)
    def resume(self, port: int) -> None:
        if port in self.known:
            self.made.changes.resume("h", port, "test")
            self.known[port].held = False

    @rule(port=PORTS)
    def clear_diverged(self, port: int) -> None:
        if port in self.known:
            self.made.changes.clear_diverged("h", port, "test")
            self.known[port].diverged = False

    # -- what happens by itself

    @rule(port=PORTS, good=st.booleans())
    def check_health(self, port: int, good: bool) -> None:
        if port not in self.known or self.node(port) not in self.made.checker.nodes:
            return
        known, node = self.known[port], self.node(port)
        node.healthy = good
        self.made.fleet.on_health(node, NodeEvent.UP if good else NodeEvent.FAIL)
        if known.active and not known.maintenance:
            if good and not known.up:
                known.target = self.head
            known.up = good

    @rule(count=st.integers(1, 8))
    def append(self, count: int) -> None:
        before = self.head
        self.made.append(count)
        assert self.head == before + count
        for port in self.known:
            for worker in self.made.running(self.node(port)):
                assert worker.offered[-count:] == list(range(before + 1, self.head + 1))

    @rule()
    def append_more_than_a_queue_holds(self) -> None:
        self.append(QUEUE_ENTRIES // 2 + 1)

    @rule(port=PORTS, fraction=FRACTION, outcome=st.sampled_from([None, None, None, Outcome.REFUSED]))
    def deliver(self, port: int, fraction: float, outcome: Outcome | None) -> None:
        """A worker brings its node some updates, in order; a refused one leaves the node diverged."""
        known = self.known.get(port)
        if known is None or not self.made.running(self.node(port)):
            return
        upto = known.position + round(fraction * (self.head - known.position))
        if upto == known.position:
            return
        assert next(iter(self.journal.read(known.position, 1, 1))).sequence == known.position + 1
        node, (worker,) = self.node(port), self.made.running(self.node(port))
        if outcome is not None:
            self.journal.record(node.id, upto, upto, outcome)
            worker.events.differs(node)
            known.diverged = True
        if known.held:
            node.held = known.held = False
            worker.events.changed(node)
        self.made.deliver(port, upto)
        known.position = upto

    @rule(port=PORTS)
    def hold(self, port: int) -> None:
        """Its worker finds that it takes nothing any more."""
        known = self.known.get(port)
        if known is None or known.position == self.head:
            return
        for worker in self.made.running(self.node(port)):
            self.node(port).held = known.held = True
            worker.events.changed(self.node(port))

    @rule(port=PORTS)
    def lose_place(self, port: int) -> None:
        """Its worker finds that what it needs cannot be read."""
        if port in self.known:
            for worker in self.made.running(self.node(port)):
                self.node(port).out_of_sync = self.known[port].out_of_sync = True
                worker.events.changed(self.node(port))

    @rule(port=PORTS, fraction=FRACTION)
    def lose_place_and_be_put(self, port: int, fraction: float) -> None:
        """The operator is there before the worker has stopped."""
        self.lose_place(port)
        self.set_position(port, fraction)

    @rule(seconds=st.sampled_from([1.0, 30.0, 60.0]))
    def prune(self, seconds: float) -> None:
        self.made.now_s += seconds
        self.retention.prune()

    @rule(fraction=FRACTION)
    def run_out_of_room(self, fraction: float) -> None:
        usage = self.journal.usage()
        before = {
            port: known.delivers or (known.active and not known.out_of_sync) for port, known in self.known.items()
        }
        self.retention.make_room(round(usage.max_bytes - usage.used_bytes * fraction))
        lost = [port for port in self.known if before[port] and self.node(port).out_of_sync]
        for port in lost:
            assert self.known[port].position < self.head, "a node that has everything is not in the way"
            self.known[port].out_of_sync = True
        if lost:
            assert any(before[port] and port not in lost for port in self.known), "somebody has to go on"

    # -- what has to be true

    @invariant()
    def all_nodes_are_as_they_were_told_to_be(self) -> None:
        for _ in range(5):
            gevent.sleep(0)  # what was left to greenlets happens now
        assert sorted(node.record.port for node in self.made.registry.nodes) == sorted(self.known)
        for port, known in self.known.items():
            node = self.node(port)
            assert (node.record.active, node.record.maintenance) == (known.active, known.maintenance)
            assert (node.out_of_sync, node.held, node.diverged) == (known.out_of_sync, known.held, known.diverged)
            assert node.state in self.possible_states(known)

    def possible_states(self, known: Known) -> set[NodeState]:
        if not known.active:
            return {S.INACTIVE}
        if known.maintenance:
            return {S.MAINTENANCE}
        if not known.up:
            return {S.DOWN}
        if known.position < known.target:
            return {S.CATCHING_UP}
        if known.out_of_sync or self.head - known.position > QUEUE_ENTRIES:
            return {S.CATCHING_UP, S.SERVING}  # it may have served before; the flag bars it from all
        return {S.SERVING}

    @invariant()
    def positions_are_what_was_delivered(self) -> None:
        for port, known in self.known.items():
            assert 0 <= self.node(port).position <= self.head
            assert self.node(port).position == known.position
            assert self.journal.positions()[self.node(port).id] == known.position

    @invariant()
    def who_delivers_has_one_worker_and_nobody_else_has_any(self) -> None:
        for port, known in self.known.items():
            assert len(self.made.running(self.node(port))) == known.delivers
        gone = [worker for worker in self.made.started if worker.node not in self.made.registry.nodes]
        assert all(worker.stopped for worker in gone)

    @invariant()
    def what_a_node_still_needs_is_kept(self) -> None:
        for known in self.known.values():
            if known.active and not known.out_of_sync:
                assert self.journal.tail - 1 <= known.position

    @invariant()
    def reads_go_to_nodes_that_may_have_them(self) -> None:
        floor = self.head // 2
        for isolate in (False, True):
            read = self.a_read(floor, isolate)
            for held in (False, True):
                for node in read._candidates(held):
                    known = self.known[node.record.port]
                    assert known.delivers
                    assert known.up
                    assert held or not known.held
                    assert not (isolate and known.diverged)
            choice = read._fresh()
            able = [
                k for k in self.known.values() if k.delivers and k.up and not k.held and not (isolate and k.diverged)
            ]
            if choice is not None:
                known = self.known[choice[0].record.port]
                assert known in able
                assert known.position >= max(floor, known.target), "it has caught up since it came"
                assert not known.diverged or all(k.diverged for k in able if k.position >= max(floor, k.target))
            else:
                sure = [k for k in able if self.possible_states(k) == {S.SERVING} and k.position >= floor]
                assert not sure, "a node that has everything is not shut out"

    def a_read(self, floor: int, isolate: bool) -> _Read:
        cluster = SimpleNamespace(
            registry=self.made.registry, freshness=self.made.freshness, balancer=Balancer(QueryMode(round_robin=True))
        )
        config = SimpleNamespace(isolate_diverged=isolate, timeouts=Timeouts(fresh=0), consistency="fresh")
        request: Any = SimpleNamespace(head=SimpleNamespace(method=b"GET", target=b"/"))
        told = TurnedAway("reads")
        return _Read(cast(Cluster, cluster), cast(ProxySettings, config), floor, cast(Request, request), [], None, told)

    @invariant()
    def only_nodes_that_are_sound_speak_for_all(self) -> None:
        by_id = {node.id: self.known[node.record.port] for node in self.made.registry.nodes}
        speakers = [by_id[node_id] for node_id in self.made.fleet.speakers]
        for known in speakers:
            assert known.delivers
            assert known.up
            assert not known.held
            assert known.position >= known.target
        if any(not known.diverged for known in speakers):
            assert not any(known.diverged for known in speakers)
        sure = [k for k in by_id.values() if k.delivers and not k.held and self.possible_states(k) == {S.SERVING}]
        assert bool(speakers) or not sure


TestFleetModel = pytest.mark.patches_source(FleetModel.TestCase)
TestFleetModel.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
