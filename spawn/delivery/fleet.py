"""All nodes together: which worker runs, who may speak and who serves.

Every event of a node, whether it comes from the health checker, a worker or an operator, ends here, so that its
consequences are in one place: the state table moves, a worker starts or stops, waiting reads and clients look again,
and what has to survive a restart is stored. What operators change is in ``changes``, what they are shown in
``report``.
"""

from __future__ import annotations

import contextlib
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import gevent
from gevent.lock import RLock

from spawn.config.schema import NodeConfig
from spawn.counters import Counters
from spawn.delivery.answers import ReferenceBoard, Ticket
from spawn.delivery.feed import QUEUE_ENTRIES
from spawn.delivery.freshness import Freshness
from spawn.delivery.policy import is_good
from spawn.delivery.refusals import Blame, Refusals
from spawn.delivery.retries import End
from spawn.delivery.saver import Saver
from spawn.delivery.skips import Skips
from spawn.delivery.texts import NO_STORED_NODES, OTHER_JOURNAL, counted, out_of_sync
from spawn.delivery.types import NotPossibleNow
from spawn.delivery.worker import HOLD_AFTER, WINDOW, Worker, WorkerEvents
from spawn.errors import JournalError, JournalFull, JournalSlow
from spawn.journal.base import Journal, Published
from spawn.nodes.health import HealthChecker
from spawn.nodes.node import Node, NodeEvent, NodeRecord, NodeState
from spawn.nodes.registry import Registry

log = logging.getLogger("spawn.fleet")

IN_FLIGHT_S = 10.0  # a delivery in flight may take this long when its worker is told to stop
SETTLE_S = 2.0


class Fleet:
    """``make_worker`` builds the worker of a node with the events it is given."""

    def __init__(
        self,
        registry: Registry,
        journal: Journal,
        freshness: Freshness,
        make_worker: Callable[[Node, WorkerEvents], Worker],
        counters: Counters,
        forget_connections: Callable[[str], None] = lambda node_id: None,
    ) -> None:
        self.registry = registry
        self.journal = journal
        self.freshness = freshness
        self._announces = False  # before the start is over nothing serves, and that is no news
        self.speakers: frozenset[str] = frozenset()  # ids of the nodes whose answer may be the client's
        self._make_worker = make_worker
        self._counters = counters
        self._forget_connections = forget_connections
        self._workers: dict[str, Worker] = {}
        self._targets: dict[str, int] = {}  # the head as it stood when a node came back
        self.changing = RLock()  # one change of the set of nodes at a time, whoever makes it
        self.refusals = Refusals(
            self.ids_in_sync, self.in_reach, registry.by_id, self._vindicate, self._on_late_success
        )
        self.skips = Skips(journal)
        self._nobody_serves = True
        self._switching: defaultdict[str, RLock] = defaultdict(RLock)  # a node never has two workers
        self._saver = Saver(registry)
        self._stopping = False
        self.board: ReferenceBoard
        self.checker: HealthChecker

    def attach(self, board: ReferenceBoard, checker: HealthChecker) -> None:
        """The two that need the fleet themselves; before ``start``."""
        self.board = board
        self.checker = checker

    # -- life

    def start(self, file_nodes: Iterable[NodeConfig], journal_lasts: bool = True, restored: bool = False) -> None:
        """Take up the stored nodes and those that are new in the file. The journal has started.

        ``journal_lasts``: it is the same at the next start, unless somebody takes it away. ``restored``: an operator
        says that journal and nodes come from a backup.
        """
        found = self.registry.load()
        expected, self.registry.journal = self.registry.journal, self.journal.uuid if journal_lasts else ""
        if self.registry.nodes and (restored or (expected and expected != self.registry.journal)):
            self._lose_place(restored)
        if not journal_lasts:
            self._doubt_memory()
        positions = self.journal.positions()
        if not found and positions and self.journal.head:
            log.critical(NO_STORED_NODES, self.registry.path, self.journal.head, counted(len(positions), "node"))
        for node in self.registry.nodes:
            self._adopt(node, positions.get(node.id))
            self.skips.load(node)
            node.in_row = set(range(-HOLD_AFTER + 1, 0)) if node.held else set()
        self.freshness.raise_to(self.journal.head)
        for node in self.registry.nodes:
            window = 0 if node.settled else 1 if node.held else WINDOW  # a held node was asked about one only
            node.doubt_until = min(node.position + window, self.journal.head)
            node.settled = False
        self.registry.save()  # before anything is delivered
        for node in list(self.registry.nodes):
            if node.out_of_sync and node.record.active:
                log.warning("node %s is %s", node.name, out_of_sync(node.record))
            self.enter(node)
        self.add_file_nodes(file_nodes)
        self._saver.start()

    def _doubt_memory(self) -> None:
        """The journal was in memory and its end was sudden: what the nodes had still to get is not known."""
        for node in self.registry.nodes:
            if not node.settled and not node.out_of_sync:
                log.error("node %s may lack updates that were only in memory when Spawn was killed", node.name)
                node.diverged = True

    def _lose_place(self, restored: bool) -> None:
        """The positions are in a journal that is not here. What the nodes had still to get is not known any more."""
        if not restored:  # else the operator knows
            log.critical(OTHER_JOURNAL)
        for node in self.registry.nodes:
            node.out_of_sync = True

    def _adopt(self, node: Node, position: int | None) -> None:
        """A stored node meets the journal, which may have been lost or replaced since."""
        head = self.journal.head
        if position is not None and position <= head:
            node.position = position
        elif head == 0 and position is None:
            self.set_position(node, 0)
        else:
            node.out_of_sync = True
            self.set_position(node, min(position or 0, head))
            log.error("node %s has no place in this journal and is %s", node.name, out_of_sync(node.record))

    def stop(self, deadline_s: float) -> None:
        """Let every worker finish the delivery in flight, then store what has to be."""
        self._stopping = True
        self._saver.stopping()
        stops = {node_id: gevent.spawn(worker.stop, deadline_s) for node_id, worker in self._workers.items()}
        gevent.joinall(list(stops.values()), timeout=deadline_s + 2.0)
        for node in self.registry.nodes:
            if node.id in stops and stops[node.id].value is not True:
                _was_cut(node)
        self._workers.clear()
        if self._saver.stop():
            self._settle()

    def _settle(self) -> None:
        """Store for which nodes the position says all, so that the next start takes no answer for that to a repeat."""
        try:
            durable = self.journal.flush(SETTLE_S)
        except JournalError:
            durable = False
        for node in self.registry.nodes:
            node.settled = durable and not node.in_doubt and node.position >= node.doubt_until
        self._saver.save()

    # -- joining and leaving

    def add_file_nodes(self, file_nodes: Iterable[NodeConfig]) -> list[Node]:
        """Add the nodes that the file did not name when it was last read."""
        with self.changing:
            records = self.registry.new_in_file(file_nodes)
            added = [self.join(record) for record in records if not self.registry.find(record.host, record.port)]
            self.registry.save()
        return added

    def join(self, record: NodeRecord, silent: bool = False) -> Node:
        """A new node. In sync only while the journal is empty; else it has to be told its position.

        ``silent``: the caller tells it, or says himself that it is out of sync.
        """
        node = self.registry.add(record)
        node.out_of_sync = self.journal.head > 0
        self.set_position(node, 0)
        self.enter(node)
        if node.out_of_sync and not silent:
            log.warning("node %s is added and %s", node.name, out_of_sync(record))
        elif not node.out_of_sync:
            log.info("node %s is added", node.name)
        return node

    def set_position(self, node: Node, position: int) -> None:
        """Durable on return, unless the disk is full or hangs: then it holds and becomes durable later."""
        with contextlib.suppress(JournalFull, JournalSlow):
            self.journal.set_position(node.id, position)
        node.position = position

    def enter(self, node: Node) -> None:
        """Bring a node that was just made or loaded into the state that its record asks for."""
        if node.record.active:
            node.apply(NodeEvent.ACTIVATE)
            if node.record.maintenance:
                node.apply(NodeEvent.ENTER_MAINTENANCE)
            self.checker.add(node)
        self.reconcile(node)

    def leave(self, node: Node) -> None:
        """Stop everything about a node; what it still had to get is no longer its business."""
        self.checker.remove(node)
        self.stop_worker(node)
        self.refusals.forget(node)
        self.skips.forget(node)
        self._targets.pop(node.id, None)

    def forget(self, node: Node) -> None:
        """It has left and is no more: keep nothing of it."""
        self._switching.pop(node.id, None)
        self._forget_connections(node.id)

    # -- workers

    def may_deliver(self, node: Node) -> bool:
        return node.state not in (NodeState.INACTIVE, NodeState.MAINTENANCE) and not node.out_of_sync

    def reconcile(self, node: Node) -> None:
        """Start or stop the node's worker as its state and flags ask; waits for a delivery in flight."""
        with self._switching[node.id]:
            worker = self._workers.get(node.id)
            if self.may_deliver(node) and worker is None and not self._stopping:
                self._start_worker(node)
            elif worker is not None and not self.may_deliver(node):
                self.stop_worker(node)
        self.refresh()

    def _start_worker(self, node: Node) -> None:
        if node.in_doubt:
            node.doubt_until = max(node.doubt_until, node.position + 1)
        events = WorkerEvents(
            self._on_advanced,
            self._on_flagged,
            self.checker.poke,
            self._on_given_up,
            self.mark_diverged,
            self._saver.save,
            self._on_unconfirmed,
            self.skips.have,
            self.refusals.retract,
        )
        worker = self._make_worker(node, events)
        self._workers[node.id] = worker
        worker.start()

    def stop_worker(self, node: Node) -> None:
        with self._switching[node.id]:
            worker = self._workers.pop(node.id, None)
            if worker is not None and not worker.stop(IN_FLIGHT_S):
                _was_cut(node)
                log.warning("node %s: the delivery in flight was cut after %g s", node.name, IN_FLIGHT_S)

    def resume(self, node: Node) -> None:
        """Lift a hold: the update at hand is sent, again if need be, and its refusals in a row begin anew."""
        node.held, node.resend = False, True
        if node.in_doubt:  # its declaration is taken back, or a restart would hold it again
            self.journal.record(node.id, node.position + 1, node.position + 1, None)
        node.in_row.clear()
        worker = self._workers.get(node.id)
        if worker is not None:
            worker.resume()

    def retry(self, node: Node, sequence: int) -> End:
        """Have the node's worker deliver once more what it is done with; see ``Retries.ask`` for what it raises."""
        worker = self._workers.get(node.id)
        if worker is None:
            raise NotPossibleNow(f"no deliveries to node {node.name} are under way")
        return worker.retry(sequence)

    # -- events

    def publish(self, batch: Sequence[Published]) -> None:
        """Called by the journal's committer, on the hub, with whole batches in order."""
        for entry, token in batch:
            if isinstance(token, Ticket):
                self.board.open(entry, token)
            for worker in self._workers.values():
                worker.offer(entry)

    def on_health(self, node: Node, event: NodeEvent) -> None:
        """The checker's verdict; says the same again and again while nothing changes."""
        if not node.apply(event):
            return
        if event is NodeEvent.UP:
            self._targets[node.id] = self.journal.head
            worker = self._workers.get(node.id)
            if worker is not None:
                worker.wake()
            self._check_caught_up(node)
        self.refresh()

    def _on_advanced(self, node: Node) -> None:
        if node.state is NodeState.CATCHING_UP:
            self._check_caught_up(node)
        elif node.state is NodeState.SERVING:
            self.freshness.reached(node.position)

    def _on_flagged(self, node: Node) -> None:
        """A worker has set or cleared a flag; it may be the very worker that has to stop, so that is left to a
        greenlet of its own."""
        self._saver.flag()
        if node.out_of_sync:
            self.behind(node)
            gevent.spawn(self.reconcile, node)
        self.refresh()

    def _on_given_up(self, node: Node, sequence: int) -> Blame:
        blame = self.refusals.note(node, sequence)
        if blame is not Blame.UPDATE:
            return blame
        log.critical(
            "update %d was taken, but every node was given it in vain (the last one %s); all go on without it, "
            "GET /updates/%d names it",
            sequence,
            node.last_error,
            sequence,
        )
        self._saver.flag()
        self.refresh()
        return blame

    def _on_late_success(self, node: Node, sequence: int) -> None:
        self._counters.add("delivery.diverged")
        log.error(
            "node %s differs from the others: it gave up update %d, which was applied after all", node.name, sequence
        )
        self.mark_diverged(node)

    def mark_diverged(self, node: Node) -> None:
        """Its data surely differs from that of the others."""
        node.diverged = True
        self.refusals.settle(node)
        self._on_flagged(node)

    def _on_unconfirmed(self, node: Node, sequence: int) -> None:
        self.refusals.flag(node, sequence)
        self._on_flagged(node)

    def on_settled(self, sequence: int, status: int) -> None:
        """An update has its reference answer."""
        if status >= 500:
            log.info("update %d is rejected: every serving node answered %d; others will not get it", sequence, status)
            for node in self.registry.nodes:
                if node.in_doubt and node.position == sequence - 1 and node.id in self._workers:
                    self._workers[node.id].wake()  # it may have applied it: that is to be known soon
        if is_good(status):
            differing = self.refusals.confirm(sequence)
            if differing:
                self._counters.add("delivery.diverged", differing)

    def _vindicate(self, node_id: str, sequence: int, by_all: bool) -> None:
        worker = self._workers.get(node_id)
        if worker is not None:
            worker.vindicate(sequence, by_all)

    def present(self) -> frozenset[str]:
        """Ids of the nodes that can apply updates now."""
        states = (NodeState.SERVING, NodeState.CATCHING_UP)
        return frozenset(n.id for n in self.registry.nodes if n.state in states and not n.out_of_sync)

    def in_reach(self, sequence: int) -> frozenset[str]:
        """Ids of the nodes that can apply that update now, or are past it."""
        present = self.present()
        nodes = self.registry.nodes
        return frozenset(n.id for n in nodes if n.id in present and not n.held and n.position >= sequence - 1)

    def ids_in_sync(self) -> frozenset[str]:
        """Ids of the nodes that are to apply updates, whether they can now or not."""
        return frozenset(node.id for node in self.registry.nodes if node.record.active and not node.out_of_sync)

    def on_disagreement(self, node_id: str, sequence: int, status: int, reference: int) -> None:
        """A node has applied what the others turned down; that was learnt after it had gone on."""
        node = self.registry.by_id(node_id)
        if node is None:
            return
        self._counters.add("delivery.diverged")
        log.error(
            "node %s differs from the others: it answered update %d with %d, the reference answer is %d",
            node.name,
            sequence,
            status,
            reference,
        )
        self.mark_diverged(node)

    def behind(self, node: Node) -> None:
        """The node has lost its place or was given another: it catches up before it serves again."""
        node.apply(NodeEvent.FELL_BEHIND)
        self._targets[node.id] = self.journal.head
        self._check_caught_up(node)

    def _check_caught_up(self, node: Node) -> None:
        head = self.journal.head
        if (
            node.out_of_sync
            or node.position < self._targets.get(node.id, 0)
            or head - node.position > QUEUE_ENTRIES
            or not node.apply(NodeEvent.CAUGHT_UP)
        ):
            return
        log.info("node %s has caught up at update %d and serves", node.name, node.position)
        self.refresh()

    def refresh(self) -> None:
        """States or flags have changed: whoever decided by them decides anew."""
        serving = [
            node
            for node in self.registry.nodes
            if node.state is NodeState.SERVING and not node.held and not node.out_of_sync
        ]
        self._say_whether_any_serves(bool(serving))
        clean = [node for node in serving if not node.diverged]
        self.speakers = frozenset(node.id for node in clean or serving)
        self.freshness.notify()
        self.board.recheck()

    def _say_whether_any_serves(self, any_serves: bool) -> None:
        if any_serves is not self._nobody_serves:
            return
        self._nobody_serves = not any_serves
        if any_serves and self._announces:
            log.info("there is a node that serves again")
        elif not self._stopping and self._announces:
            self._say_that_nobody_serves()

    def announce(self) -> None:
        """The start is over: from now on it is news when nobody serves, or when somebody does."""
        self._announces = True
        if self._nobody_serves and self.registry.nodes:
            self._say_that_nobody_serves()

    def _say_that_nobody_serves(self) -> None:
        kept = "updates are kept and answered with 202"
        behind = 'reads are answered by a node that lacks updates (503 with "consistency": "strict")'
        log.error(
            "no node serves: %s, %s",
            behind if self.present() else "reads get 503",
            kept if self.any_in_sync() else "updates get 503",
        )

    def is_about_to_serve(self) -> bool:
        """Whether no node serves, and one that is well only lacks some updates."""
        catching_up = (node for node in self.registry.nodes if node.state is NodeState.CATCHING_UP)
        return self._nobody_serves and any(not (node.held or node.out_of_sync) for node in catching_up)

    def any_in_sync(self) -> bool:
        """Whether there is a node that would ever apply an update."""
        for node in self.registry.nodes:  # noqa: SIM110 (asked for every update; any() with a generator costs twice that)
            if node.record.active and not node.out_of_sync:
                return True
        return False

    # -- storing

    def flag(self) -> None:
        """Something about a node has to be stored soon."""
        self._saver.flag()

    def store(self) -> None:
        """Store what was just changed. Raises ``StateError`` when it holds but is not stored yet: it is tried again."""
        self._saver.store()

    # -- measures

    def least_lag(self) -> int:
        """How far the freshest serving node is behind the head; 0 when none serves."""
        serving, freshest = NodeState.SERVING, -1  # looked up once: this is asked for every update
        for node in self.registry.nodes:
            if node.state is serving and node.position > freshest:
                freshest = node.position
        return self.journal.head - freshest if freshest >= 0 else 0


def _was_cut(node: Node) -> None:
    """Its worker was stopped in the middle of a delivery."""
    node.in_doubt = True
    node.doubt_until = max(node.doubt_until, node.position + 1)
