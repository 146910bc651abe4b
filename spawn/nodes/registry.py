"""The live set of nodes, and its stored form.

The registry owns which nodes there are and in what order; what a change means for deliveries is the fleet's business.
The configuration file seeds the first start. Later, a node of the file is added only when the file, as it was last
read, did not name it: what an operator deleted through the API stays deleted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gevent.lock import RLock

from spawn.config.schema import NodeConfig
from spawn.nodes.node import Node, NodeRecord, new_node_id
from spawn.state.nodes import NodeStore, Stored, StoredNode


class Registry:
    """Nodes in configuration order. ``save`` is to be called after every change that has to survive a restart."""

    def __init__(self, store: NodeStore) -> None:
        self._store = store
        self._saving = RLock()
        self._nodes: list[Node] = []
        self._seen_in_file: set[str] = set()
        self.journal = ""  # uuid of the journal that the nodes' positions are in; empty: none that lasts

    @property
    def nodes(self) -> Sequence[Node]:
        return self._nodes

    @property
    def path(self) -> str:
        """Where they are stored, for the operator."""
        return self._store.path

    def load(self) -> bool:
        """Read the stored nodes; False when there are none yet. Raises ``StateError`` when they are damaged."""
        stored = self._store.load()
        if stored is None:
            return False
        self._seen_in_file = set(stored.seen_in_file)
        self.journal = stored.journal
        self._nodes = [_from_stored(item) for item in stored.nodes]
        return True

    def new_in_file(self, file_nodes: Iterable[NodeConfig]) -> list[NodeRecord]:
        """Records of the file that are to be added now; remembers what the file names for the next time."""
        records = [_record_of(item) for item in file_nodes]
        known = {node.record.authority for node in self._nodes} | self._seen_in_file
        self._seen_in_file = {record.authority for record in records}
        return [record for record in records if record.authority not in known]

    def add(self, record: NodeRecord) -> Node:
        node = Node(id=new_node_id(), record=record)
        self._nodes.append(node)
        return node

    def remove(self, node: Node) -> None:
        self._nodes = [other for other in self._nodes if other is not node]

    def find(self, host: str | None = None, port: int | None = None) -> list[Node]:
        """Nodes that match what is given, in configuration order."""
        wanted = host.lower() if host is not None else None
        return [
            node
            for node in self._nodes
            if (wanted is None or node.record.host.lower() == wanted) and (port is None or node.record.port == port)
        ]

    def by_id(self, node_id: str) -> Node | None:
        return next((node for node in self._nodes if node.id == node_id), None)

    def save(self, diverged: Node | None = None) -> None:
        """Store the set as it is now, durable on return; blocks only the calling greenlet.

        ``diverged`` is stored as such before it is: the caller sets the flag on return. Raises ``StateError``.
        """
        with self._saving:
            nodes = [_to_stored(node, node.diverged or node is diverged) for node in self._nodes]
            self._store.save(Stored(nodes=nodes, seen_in_file=sorted(self._seen_in_file), journal=self.journal))


def _record_of(item: NodeConfig) -> NodeRecord:
    return NodeRecord(
        host=item.host, port=item.port, priority=item.priority, active=item.active, maintenance=item.maintenance
    )


def _from_stored(item: StoredNode) -> Node:
    record = NodeRecord(
        host=item.host, port=item.port, priority=item.priority, active=item.active, maintenance=item.maintenance
    )
    return Node(
        id=item.id,
        record=record,
        held=item.held,
        diverged=item.diverged,
        out_of_sync=item.out_of_sync,
        refused=item.refused,
        settled=item.settled,
    )


def _to_stored(node: Node, diverged: bool) -> StoredNode:
    record = node.record
    return StoredNode(
        id=node.id,
        host=record.host,
        port=record.port,
        priority=record.priority,
        active=record.active,
        maintenance=record.maintenance,
        held=node.held,
        diverged=diverged,
        out_of_sync=node.out_of_sync,
        refused=node.refused,
        settled=node.settled,
    )
