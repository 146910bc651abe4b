"""What the fleet tells and is told about nodes and updates: plain values and the errors of a change. Pure.

The field order of the structs is the order in which the admin API renders them. None of them holds a header, a body
or a query string of an update.
"""

from __future__ import annotations

import enum
from datetime import datetime
from typing import Literal, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from spawn.errors import SpawnError
from spawn.nodes.node import NodeRecord

Position = int | Literal["head"]  # a sequence that counts as the last one applied, or the journal's head as it stands


class NoSuchNode(SpawnError):
    """The node is not there, or not any more."""


class NodeConflict(SpawnError):
    """A node cannot move to where another node is."""


class PositionConflict(SpawnError):
    """A node cannot be put at this position; the message says why (not retained, out of range)."""


class NoSuchUpdate(SpawnError):
    """The sequence was never given."""


class VerbConflict(SpawnError):
    """What an operator asks for does not fit how things stand, or was done and failed; the message says why."""


class NotPossibleNow(SpawnError):
    """It may be possible later; the message says what stands in the way."""


class StillUnknown(SpawnError):
    """A node gave no complete answer to an update that an operator had sent again."""


class NodeChange(msgspec.Struct, frozen=True, kw_only=True):
    """A partial record: what is unset keeps its value, or takes 0 or false in a new node."""

    host: str | UnsetType = UNSET
    port: int | UnsetType = UNSET
    priority: int | UnsetType = UNSET
    active: bool | UnsetType = UNSET
    maintenance: bool | UnsetType = UNSET


class PutResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a change; ``note`` is for the operator and empty when there is nothing to say."""

    created: bool
    record: NodeRecord
    note: str = ""


class QueueChange(NamedTuple):
    """What became of a position, or an operator's verb, on a queue; ``note`` as in ``PutResult``."""

    row: QueueStatus
    note: str = ""


class QueueStatus(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """How a node stands towards the journal."""

    host: str
    port: int
    state: str  # one of ``report.STATES``
    position: int
    backlog: int  # updates
    backlog_seconds: float  # age of the oldest update that is still to be delivered
    attempts: int
    last_error: str
    refused: int
    held: bool
    diverged: bool
    out_of_sync: bool


class BackupMade(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """A copy of the journal, on the machine that Spawn runs on."""

    path: str
    head: int  # the last update in it
    size_bytes: int


class UpdateStatus(enum.Enum):
    """What became of one update on one node."""

    APPLIED = "applied"
    PENDING = "pending"
    UNKNOWN = "unknown"
    REFUSED = "refused"
    SKIPPED = "skipped"
    REJECTED = "rejected"
    DROPPED = "dropped"
    OUT_OF_SYNC = "out-of-sync"


class ActionTaken(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator did to an update on one node."""

    time: datetime  # UTC
    verb: str
    by: str  # the address it was asked for from


class NodeFate(msgspec.Struct, frozen=True, kw_only=True):
    host: str
    port: int
    status: UpdateStatus
    actions: tuple[ActionTaken, ...] = ()  # the oldest first


class UpdateFate(msgspec.Struct, frozen=True, kw_only=True):
    """One update and its status on every node."""

    sequence: int
    time: datetime  # UTC, of the append
    method: str
    path: str  # without the query string
    reference: int | None  # status of the answer that the client was given
    nodes: tuple[NodeFate, ...]
