"""An update: spool the body, append to the journal, wait for the reference answer, respond.

Once the append has returned the update will be applied by every node, whatever happens to this client or this
connection. Before that, everything that can be wrong is said with a status that means *nothing was done*.
"""

from __future__ import annotations

import json
import logging

from spawn.config.schema import Timeouts
from spawn.delivery.answers import Accepted, Reference, Removed, Ticket
from spawn.errors import JournalAtLimit, JournalBroken, JournalError, JournalFull, JournalSlow, ProtocolError
from spawn.http11.field import Header
from spawn.http11.forwarding import forward_request_headers, forward_response_headers
from spawn.http11.message import NO_BODY, Request, RequestHead, ResponseWriter, render
from spawn.journal.base import FileBody, NewUpdate
from spawn.proxy.bodies import Upload, announced_length, pass_on_body, receive_body
from spawn.proxy.context import Cluster, ProxySettings
from spawn.proxy.rules import Kind
from spawn.proxy.turnedaway import TurnedAway

log = logging.getLogger("spawn.proxy")

READY_BYTES = 65_536  # of the answer's body; a shorter one is complete before its head is passed on
READY_S = 1.0
READY_OPEN_S = 0.05  # the same for an answer of unknown length: it may be endless, and its first bytes are waited for
DURABLE_S = 10.0
ACCEPTED = (
    "no node has given an answer that counts yet; the update is durable and will be delivered to every node in order"
)
ROUGH_BYTES = 16_384  # of an update besides its headers and body, at most about that: room is made a little early


class Updates:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._turned_away = TurnedAway("updates")

    def serve(self, request: Request, response: ResponseWriter, settings: ProxySettings) -> None:
        """Answer an update. Raises ``ProtocolError`` and ``ClientGone`` as the request's body does: nothing is done."""
        if self._refused(response, settings):
            return
        key = _key(request.head)
        lines = forward_request_headers(request, settings.trusted, self._cluster.via)
        upload = self._receive(request)
        ticket = Ticket()
        try:
            if upload is not None and self._refused(response, settings):  # again: the body may have taken minutes
                return
            self._append(request, lines, key, upload, ticket)
        except JournalFull as full:
            self._cluster.counters.add("updates.not-taken")
            if isinstance(full, JournalAtLimit):  # of a full disk the journal says when it begins and ends
                self._turned_away.one(507, f"{full}; GET /queues tells who still needs what it holds")
            response.reply(507, f"the update was not taken: {full}")
            return
        except JournalBroken:
            response.reply(503, "the update's outcome is unknown: the journal has failed while it was written")
            return
        except JournalSlow as slow:
            ticket.gone = True
            response.reply(503, f"the update's outcome is unknown: {slow}")
            return
        except JournalError as error:
            self._cluster.counters.add("updates.not-taken")
            response.reply(503, f"the update was not taken: {error}", [(b"Retry-After", b"5")])
            return
        finally:
            if upload is not None:
                upload.discard()
        self._turned_away.served()
        self._cluster.counters.add("updates.journalled")
        self._respond(ticket, request, response, settings)

    # -- before the journal

    def _refused(self, response: ResponseWriter, settings: ProxySettings) -> bool:
        """Whether the client was told that no update can be taken now."""
        refusal = self._refusal(settings)
        if refusal is None:
            return False
        self._cluster.counters.add("updates.not-taken")
        self._turned_away.one(503, f"{refusal}; GET /queues tells which node is in what state", refusal)
        response.reply(503, refusal, [(b"Retry-After", b"5")])
        return True

    def _receive(self, request: Request) -> Upload | None:
        cluster = self._cluster
        try:
            return receive_body(request, Kind.UPDATE, cluster.make_spool, cluster.room, self._turned_away)
        except ProtocolError as error:
            if error.status == 507:
                cluster.counters.add("updates.not-taken")
            raise

    def _refusal(self, settings: ProxySettings) -> str | None:
        """Why no update can be taken now."""
        fleet = self._cluster.fleet
        if not fleet.any_in_sync():
            return "no active node is in sync: there is nobody to apply an update"
        if fleet.least_lag() > settings.limits.lag:
            return f"every serving node is more than {settings.limits.lag} updates behind"
        return None

    def _append(self, request: Request, head: bytes, key: bytes | None, upload: Upload | None, ticket: Ticket) -> None:
        cluster = self._cluster
        usage = cluster.journal.usage()
        size = ROUGH_BYTES + len(head) + (upload.size if upload is not None else 0)
        if usage.used_bytes + size > usage.max_bytes:
            cluster.retention.make_room(size)
        update = NewUpdate(
            method=request.head.method,
            target=request.head.target,
            head=head,
            body=None if upload is None else upload.hand_over(),
            key=key,
        )
        try:
            cluster.journal.append(update, ticket)
        except JournalFull:
            # Others were quicker to use the room. A body's file is gone with the first attempt.
            if isinstance(update.body, FileBody) or not cluster.retention.make_room(size):
                raise
            cluster.journal.append(update, ticket)

    # -- after it

    def _respond(self, ticket: Ticket, request: Request, response: ResponseWriter, settings: ProxySettings) -> None:
        timeouts = settings.timeouts
        result = ticket.wait(timeouts.answer, timeouts.deliver) or self._cluster.board.give_up(ticket)
        sequence: Header = (b"Spawn-Sequence", b"%d" % ticket.sequence)
        if isinstance(result, Reference):
            self._pass_on(result, sequence, request.head.method, response, timeouts)
        elif isinstance(result, Removed):
            message = f"update {result.sequence} was journalled, but no node is left to answer"
            response.reply(503, message, [sequence])
        else:
            self._accepted(result, sequence, request.head.method, response)

    def _accepted(self, result: Accepted, sequence: Header, method: bytes, response: ResponseWriter) -> None:
        self._cluster.counters.add("updates.accepted")
        body = json.dumps({"status": 202, "sequence": result.sequence, "message": ACCEPTED}).encode() + b"\n"
        response.start(202, b"Accepted", [(b"Content-Type", b"application/json"), sequence], len(body))
        if method != b"HEAD":
            response.write(body)
        response.finish()

    def _pass_on(
        self, reference: Reference, sequence: Header, method: bytes, response: ResponseWriter, timeouts: Timeouts
    ) -> None:
        spool, head = reference.spool, reference.head
        try:
            if reference.rejected and not self._is_noted():
                # Told now and forgotten by a crash, the update would be applied after all.
                response.reply(503, "the update's outcome is unknown: the journal is slow", [sequence])
                return
            is_open = head.framing.chunked or head.framing.until_close
            spool.wait_ready(READY_BYTES, READY_OPEN_S if is_open else READY_S)
            if reference.rejected:
                self._cluster.counters.add("updates.rejected")
            else:
                self._cluster.counters.add("updates.answer-cut" if spool.failed else "updates.answered")
                self._cluster.freshness.raise_to(reference.sequence)
            if spool.failed:
                message = f"a node has answered the update with {head.status}, but its answer was cut short"
                response.reply(head.status if reference.rejected else 502, message, [sequence])
                return
            lines = forward_response_headers(head, self._cluster.via) + render([sequence])
            length = spool.size if spool.complete and head.framing != NO_BODY else announced_length(head, method)
            response.pass_on(head.status, head.reason, lines, length)
            whole = spool.content if spool.complete else None
            if whole is not None:
                response.finish(whole)
                return
            if length is None:
                response.flush()
            pass_on_body(spool.reader(timeouts.deliver), response, [sequence])
        finally:
            spool.discard()

    def _is_noted(self) -> bool:
        """Make durable what the references are."""
        try:
            return self._cluster.journal.flush(DURABLE_S)
        except JournalError:
            return False


def _key(head: RequestHead) -> bytes | None:
    """The client's Idempotency-Key. One without a value names nothing: it is removed, Spawn's own takes its place."""
    keys = [field for field in head.fields if field.name == b"idempotency-key"]
    if any(not field.value for field in keys):
        head.fields = [field for field in head.fields if field.value or field.name != b"idempotency-key"]
    return next((field.value for field in keys if field.value), None)
