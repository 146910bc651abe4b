"""A node: its record, its state as a pure transition table, and the live object the rest of the service shares.

The state says what may be done with the node, the flags say what is wrong with it. Only ``Node.apply`` changes the
state, and only along ``TRANSITIONS``; an event that means nothing in a state leaves it as it is.
"""

from __future__ import annotations

import enum
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec


class NodeState(enum.Enum):
    INACTIVE = "inactive"  # no deliveries, no backlog, no reads
    MAINTENANCE = "maintenance"  # no deliveries, no reads, the backlog grows
    DOWN = "down"  # fails its health check: no reads, deliveries are tried at the back-off's pace
    CATCHING_UP = "catching-up"  # healthy, deliveries run, no reads yet
    SERVING = "serving"


class NodeEvent(enum.Enum):
    ACTIVATE = "activate"
    DEACTIVATE = "deactivate"
    ENTER_MAINTENANCE = "enter-maintenance"
    LEAVE_MAINTENANCE = "leave-maintenance"
    UP = "up"  # the health check passes
    FAIL = "fail"  # the health check fails
    CAUGHT_UP = "caught-up"  # reached the head as it stood on return, and the rest fits the queue
    FELL_BEHIND = "fell-behind"  # rewound, or declared out of sync


_S, _E = NodeState, NodeEvent
TRANSITIONS: Mapping[tuple[NodeState, NodeEvent], NodeState] = {
    (_S.INACTIVE, _E.ACTIVATE): _S.DOWN,  # nothing is known of its health yet
    (_S.MAINTENANCE, _E.DEACTIVATE): _S.INACTIVE,
    (_S.MAINTENANCE, _E.LEAVE_MAINTENANCE): _S.DOWN,
    (_S.DOWN, _E.DEACTIVATE): _S.INACTIVE,
    (_S.DOWN, _E.ENTER_MAINTENANCE): _S.MAINTENANCE,
    (_S.DOWN, _E.UP): _S.CATCHING_UP,
    (_S.CATCHING_UP, _E.DEACTIVATE): _S.INACTIVE,
    (_S.CATCHING_UP, _E.ENTER_MAINTENANCE): _S.MAINTENANCE,
    (_S.CATCHING_UP, _E.FAIL): _S.DOWN,
    (_S.CATCHING_UP, _E.CAUGHT_UP): _S.SERVING,
    (_S.SERVING, _E.DEACTIVATE): _S.INACTIVE,
    (_S.SERVING, _E.ENTER_MAINTENANCE): _S.MAINTENANCE,
    (_S.SERVING, _E.FAIL): _S.DOWN,
    (_S.SERVING, _E.FELL_BEHIND): _S.CATCHING_UP,
}


def transition(state: NodeState, event: NodeEvent) -> NodeState:
    """The state after ``event``; the same state where the event means nothing."""
    return TRANSITIONS.get((state, event), state)


class NodeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the admin API shows and changes of a node, in the order in which it is rendered."""

    host: str
    port: int
    priority: int = 0
    active: bool = False
    maintenance: bool = False

    @property
    def authority(self) -> str:
        """``host:port``, an IPv6 address in brackets (RFC 3986 §3.2.2)."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def new_node_id() -> str:
    return uuid.uuid4().hex


@dataclass(slots=True, eq=False)
class Node:
    """The live node. Identity is ``id``; host and port may change, position and backlog stay with the id."""

    id: str
    record: NodeRecord
    state: NodeState = NodeState.INACTIVE
    held: bool = False
    diverged: bool = False
    out_of_sync: bool = False
    position: int = 0  # the last update done with on this node (its durable position may be a little behind)
    attempts: int = 0  # deliveries tried for the update at hand
    refused: int = 0  # updates given up on this node since it was added or told its position
    last_error: str = ""  # why the last check or delivery failed; empty after a success
    slow: str = ""  # how slowly it takes the update that is being sent, if it does; shown as the last error meanwhile
    healthy: bool = False  # what the health checker thinks, whatever the state
    in_doubt: bool = False  # the update at hand was sent and its fate is not known
    doubt_until: int = 0  # updates up to this one may have been delivered by an earlier process, or worker
    resend: bool = False  # an operator wants it sent again, whatever its fate
    in_row: set[int] = field(default_factory=set)  # updates given up one after the other; the third one holds the node
    turn: int = 0  # when it was last chosen for a read, counted in reads; 0: never
    settled: bool = False  # the last stop was in order: it has got nothing beyond its position

    @property
    def name(self) -> str:
        """How log lines and answers call it."""
        return self.record.authority

    def apply(self, event: NodeEvent) -> bool:
        """Move along the table; True when the state changed."""
        before = self.state
        self.state = transition(before, event)
        return self.state is not before


def sort_key(record: NodeRecord) -> tuple[int, int]:
    """Priority order of the original: 1, 2, 3, … then 0, then -1, -2, -3, …"""
    priority = record.priority
    if priority > 0:
        return (0, priority)
    if priority == 0:
        return (1, 0)
    return (2, -priority)
