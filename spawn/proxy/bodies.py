"""Bodies on their way through the proxy: a client's into a spool, a node's back to the client."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from spawn.errors import AnswerCut, ClientGone, JournalError, ProtocolError
from spawn.http11.field import Header
from spawn.http11.message import BodyReader, Request, ResponseHead, ResponseWriter, get
from spawn.http11.spool import Spool, SpoolFull
from spawn.journal.base import INLINE_BODY_BYTES, Body, FileBody, Journal
from spawn.proxy.rules import Kind
from spawn.proxy.turnedaway import TurnedAway

NO_ROOM = "there is no room for the body beside the journal and other bodies on their way"


class Room:
    """What bodies that clients send take of ``journal.max-bytes`` until the journal counts them or they are read.

    What has arrived is counted, in memory and in files; what was only announced is not, or a client that sends nothing
    could keep out all others.
    """

    def __init__(
        self, journal: Journal, make_room: Callable[[int], bool], could_make_room: Callable[[int], bool]
    ) -> None:
        self.used_bytes = 0
        self._journal = journal
        self._make_room = make_room
        self._could_make_room = could_make_room

    def fits(self, count: int, may_make_room: bool) -> bool:
        """Whether so much more, which is here, fits now, after ``make_room`` where that may help."""
        return self._fits(count) or (may_make_room and self._ask(self._make_room, count) and self._fits(count))

    def could_fit(self, count: int) -> bool:
        """Whether so much more, which was only announced, may fit; nothing that hurts a node is done for it."""
        return self._fits(count) or self._ask(self._could_make_room, count)

    def _ask(self, ask: Callable[[int], bool], count: int) -> bool:
        needed = self.used_bytes + count
        if needed > self._journal.usage().max_bytes:  # no node is given up in vain
            return False
        try:
            return ask(needed)
        except JournalError:
            return False

    def _fits(self, count: int) -> bool:
        usage = self._journal.usage()
        return usage.used_bytes + self.used_bytes + count <= usage.max_bytes


class Upload:
    """The body of one request. Whoever makes it calls ``discard`` in the end, on every path; it may be called twice."""

    def __init__(self, spool: Spool, room: Room, kind: Kind) -> None:
        self._spool = spool
        self._room = room
        self._kind = kind
        self._counted = 0

    @property
    def size(self) -> int:
        return self._spool.size

    def receive(self, request: Request) -> None:
        """Raises ``SpoolFull``, ``ProtocolError(507)`` and what ``request.body`` raises."""
        announced = request.head.framing.length or 0
        if self._kind is Kind.UPDATE and not self._room.could_fit(announced):
            raise ProtocolError(507, NO_ROOM)  # before the client is told to go on
        if self._kind is Kind.READ:
            self._check(announced)
        while data := request.body.read(self._spool.piece_bytes):
            self._check(len(data))
            self._room.used_bytes += len(data)
            self._counted += len(data)
            self._spool.write(data)
        self._spool.close_write()

    def lend(self) -> Body:
        """The complete body to send from; the upload keeps it."""
        content = self._spool.content
        if content is not None:
            return content
        assert self._spool.path is not None
        return FileBody(self._spool.path, self._spool.size)

    def hand_over(self) -> Body:
        """The complete body for the journal, which owns its file and counts its bytes from now on."""
        taken = self._spool.take()
        self._give_back()
        return taken if isinstance(taken, bytes) else FileBody(taken.path, taken.size)

    def discard(self) -> None:
        self._give_back()
        self._spool.discard()

    def _check(self, count: int) -> None:
        """A read takes nothing for long: no node is given up for it, and a small one passes however full it is."""
        if self._kind is Kind.READ and self.size + count <= INLINE_BODY_BYTES:
            return
        if not self._room.fits(count, self._kind is Kind.UPDATE):
            raise ProtocolError(507, NO_ROOM)

    def _give_back(self) -> None:
        self._room.used_bytes -= self._counted
        self._counted = 0


def receive_body(
    request: Request, kind: Kind, make_spool: Callable[[], Spool], room: Room, turned_away: TurnedAway
) -> Upload | None:
    """The whole body of a request, or None when it has none at all; the caller discards it.

    Raises what ``request.body`` raises, and ``ProtocolError`` when there is no room for it.
    """
    framing = request.head.framing
    if framing.length is None and not framing.chunked:
        return None
    upload = Upload(make_spool(), room, kind)
    try:
        upload.receive(request)
    except SpoolFull as full:
        upload.discard()
        if not full.disk:
            raise ProtocolError(413, str(full)) from None
        turned_away.one(507, str(full), "disk")  # a path is for the operator
        raise ProtocolError(507, "the disk has no room for the body") from None
    except BaseException as error:
        upload.discard()
        if isinstance(error, ProtocolError) and error.status == 507:
            turned_away.one(507, f"{error.reason}; GET /queues tells who still needs what the journal holds")
        raise
    return upload


def announced_length(head: ResponseHead, method: bytes) -> int | None:
    """The length to announce: the node's own, also where no body comes with it (HEAD, 304)."""
    framing = head.framing
    if framing.length is not None or framing.chunked or framing.until_close:
        return framing.length
    announced = get(head.headers, b"content-length")
    return int(announced) if announced is not None and announced.isdigit() else (None if method == b"HEAD" else 0)


def pass_on_body(body: BodyReader, response: ResponseWriter, headers: Iterable[Header] = ()) -> None:
    """Send what comes to the client. Raises ``ClientGone``.

    When it is cut short, the client's connection is cut too; but where nothing has left yet, the client gets 502 with
    ``headers``.
    """
    try:
        while data := body.read():
            response.write(data)
        response.finish()
    except AnswerCut:
        if response.started:
            response.abort()
        else:
            response.reply(502, "a node's answer was cut short", headers)
    except ClientGone:
        response.abort()
        raise
