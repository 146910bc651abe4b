"""Every error Spawn raises on purpose, under one root.

The classes say *whose* fault it is, because that decides what happens next: a client's fault is answered, a node's
fault is retried, an operator's fault is one line and a non-zero exit. This module imports nothing, not even gevent.
"""

from __future__ import annotations


class SpawnError(Exception):
    """The root of all errors below."""


class ConfigError(SpawnError):
    """A configuration that cannot be used.

    ``faults`` holds one complete line for each fault (file, key path, what is wrong, nearest valid key).
    """

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class StartError(SpawnError):
    """The service cannot start; the message is the one line an operator reads."""


class StateError(StartError):
    """The state directory cannot be used: not writable, locked by another service, or its records are damaged."""


class JournalError(SpawnError):
    """Something about the journal; see the subclasses."""


class JournalDamaged(JournalError, StartError):
    """The journal on disk is not readable as one, or was written by a newer version."""


class JournalFull(JournalError):
    """No room for another update: answered with 507. Of a full disk the journal itself says when it begins and ends."""


class JournalAtLimit(JournalFull):
    """No room within ``journal.max-bytes``."""


class JournalBroken(JournalError):
    """A commit failed in a way that leaves its outcome unknown; the journal takes no more appends."""


class JournalSlow(JournalError):
    """The disk has not finished a write in time: whether the update gets into the journal is not known yet."""


class NoBackup(JournalError):
    """This kind of journal cannot be copied."""


class Pruned(JournalError):
    """The asked-for sequence existed, but its record is no longer retained: answered with 410."""


class ProtocolError(SpawnError):
    """A client's request breaks HTTP or a limit; ``status`` is the answer it gets, and the connection is closed."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class ClientGone(SpawnError):
    """The client closed, reset or stalled past its deadline, so there is nobody to answer."""


class UpstreamError(SpawnError):
    """A node could not be talked to; the message is fit for a log line and holds no secrets."""


class NotSent(UpstreamError):
    """The node surely did not get the request: not one byte of it was written on a connection that lived.

    ``refused``: nothing listens at any of the node's addresses, so it is down for sure.
    """

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


class Unknown(UpstreamError):
    """Something was sent and no complete final head came back: the request may or may not have been applied.

    ``malformed``: the node answered, but not with HTTP that may be passed on. ``reused_and_silent``: a connection kept
    from an earlier request was dropped before any byte of an answer, which is how an idle time-out of the node looks.
    ``timed_out``: the node kept the connection and made no progress.
    """

    def __init__(
        self, message: str, *, malformed: bool = False, reused_and_silent: bool = False, timed_out: bool = False
    ) -> None:
        super().__init__(message)
        self.timed_out = timed_out
        self.malformed = malformed
        self.reused_and_silent = reused_and_silent


class AnswerCut(UpstreamError):
    """A final head came, but the body of the answer ended before it was complete."""
