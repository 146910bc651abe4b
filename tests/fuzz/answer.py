"""Whatever a node answers, and wherever it is cut, its client gets just that answer, or a 502, or sees that it was cut.

The node's bytes take the way that ``spawn.http11.client`` takes, the answer that of ``spawn.proxy.reads``. What the
client gets is read by a strict reader and by h11: both find one answer with the node's status, reason, headers and body
and nothing behind it, or, when the node's body broke off, one that is not complete. Whether and how an answer is to be
passed on is what a strict reader of the node's bytes says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import h11

from spawn.errors import AnswerCut, ProtocolError
from spawn.http11.bodies import BodyDecoder
from spawn.http11.exchange import EMPTY_BODY, Answer
from spawn.http11.forwarding import forward_response_headers
from spawn.http11.message import Headers, ResponseHead
from spawn.http11.wire import BadAnswer, HeadLimits, decoder_for, find_head_end, parse_request_head, parse_response_head
from spawn.proxy.reads import stream
from tests.fuzz.seeds import ANSWER_TOKENS, ANSWERS
from tests.fuzz.splits import PLANS, cut
from tests.support.hops import HOP_BY_HOP, named_by_connection
from tests.support.strictreader import Incomplete, Reader, Reading, Refused, read_answer, read_answer_head

# The first byte says who asked: an index into this.
ASKED = [(method, minor) for minor in (1, 0) for method in (b"GET", b"HEAD", b"POST")]
PLAN = slice(1, 3)
RAW = slice(3, None)

_WAYS = [b"\0" + plan for plan in PLANS] + [bytes([asked]) + PLANS[0] for asked in range(1, len(ASKED))]
SEEDS = [way + seed for seed in ANSWERS for way in _WAYS]
TOKENS = ANSWER_TOKENS

LIMITS = HeadLimits(head_bytes=1_024, headers=12, line_bytes=1_024)
VIA = b"spawn-0123abcd"
OURS = (b"date", b"connection", b"content-length", b"transfer-encoding")
BAD = "bad"  # no answer that could be passed on: 502


class Wire:
    """What a client gets, in place of its channel."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.was_reset = False

    def send(self, data: bytes, timeout_s: float) -> None:
        self.sent += data

    send_soon = send

    def reset(self) -> None:
        self.was_reset = True


class Server:
    """The context of an answer."""

    stopping = False

    def date(self) -> bytes:
        return b"Thu, 26 Nov 2026 20:00:00 GMT"


class NodeAnswer:
    """A node's answer as ``spawn.http11.client`` has it, of bytes that are all there."""

    def __init__(self, head: ResponseHead, first: bytes, parts: Iterator[bytes]) -> None:
        self.head = head
        self._parts = parts
        self._decoder: BodyDecoder | None = decoder_for(head.framing, endless=True)
        self._cut = ""
        self._ready = b""
        if first:
            self._decode(first)

    @property
    def complete(self) -> bool:
        """Whether nothing has to be waited for any more."""
        return not self._cut and (self._decoder is None or self._decoder.done)

    def read(self, limit_bytes: int = 65_536) -> bytes:
        while not self._ready:
            if self._cut:
                raise AnswerCut(self._cut)
            if self.complete:
                return b""
            self._decode(next(self._parts, b""))
        data, self._ready = self._ready[:limit_bytes], self._ready[limit_bytes:]
        return data

    def _decode(self, part: bytes) -> None:
        decoder = self._decoder
        if decoder is None:
            return
        try:
            if part:
                self._ready = decoder.feed(part)
            elif decoder.eof():
                self._decoder = None
            else:
                self._cut = "the node closed the connection amid the answer"
        except ProtocolError as fault:
            self._cut = str(fault)


def check(data: bytes) -> None:
    method, minor = ASKED[data[0] % len(ASKED)] if data else ASKED[0]
    raw = data[RAW]
    outcome = pass_on([raw], method, minor)
    in_pieces = pass_on(cut(raw, data[PLAN]), method, minor)
    if isinstance(outcome, str):
        assert in_pieces == outcome, "in pieces it is passed on, whole it is not"
        check_not_passed_on(raw)
        return
    assert not isinstance(in_pieces, str), "whole it is passed on, in pieces it is not"
    check_passed_on(raw, outcome, method, minor)
    check_passed_on(raw, in_pieces, method, minor)


def pass_on(parts: Iterable[bytes], method: bytes, minor: int) -> Wire | str:
    """What the client gets of a node's bytes that come in these parts and end with the connection."""
    left = iter(parts)
    try:
        head, rest = receive_head(left, method)
    except BadAnswer:
        return BAD
    wire = Wire()
    asked = parse_request_head(b"%b / HTTP/1.%d\r\nHost: a.test\r\n\r\n" % (method, minor), LIMITS)
    response = Answer(wire, asked, EMPTY_BODY, Server(), 1.0)  # type: ignore[arg-type]
    node = NodeAnswer(head, rest, left)
    stream(node, forward_response_headers(head, VIA), response, method)  # type: ignore[arg-type]
    assert response.finished
    return wire


def receive_head(parts: Iterator[bytes], method: bytes) -> tuple[ResponseHead, bytes]:
    """The final head and what came with it. Raises BadAnswer, also when there is none."""
    buffer = bytearray()
    for part in parts:
        buffer += part
        while (end := find_head_end(buffer)) > 0:
            head = parse_response_head(bytes(buffer[:end]), method, LIMITS)
            del buffer[:end]
            if head.status == 101:
                raise BadAnswer("an upgrade nobody asked for")
            if head.status >= 200:
                return head, bytes(buffer)
    raise BadAnswer("no head")


def check_not_passed_on(raw: bytes) -> None:
    try:
        read_answer_head(reader := Reader(raw))
    except (Refused, Incomplete):
        return
    too_long = any(
        len(head) + 4 > LIMITS.head_bytes or head.count(b"\n") > LIMITS.headers for head in heads(raw, reader)
    )
    assert too_long, "refused, but a strict reader takes it"


def heads(raw: bytes, reader: Reader) -> list[bytes]:
    return raw[: reader.at].split(b"\r\n\r\n")


def check_passed_on(raw: bytes, wire: Wire, method: bytes, minor: int) -> None:
    """The client gets the node's answer if that is whole, and else sees that something is missing."""
    minor_of_node, status, reason, headers = read_answer_head(Reader(raw))  # raises if no strict reader takes it
    sent = bytes(wire.sent)
    try:
        whole: Reading | None = read_answer(raw, method)
    except (Refused, Incomplete):
        whole = None
    if whole is None:
        check_seen_as_cut(wire, sent, method)
        return
    assert not wire.was_reset
    reading = read_answer(sent, method)
    assert (reading.status, reading.reason, reading.minor) == (status, reason, 1)
    assert (reading.body, sent[reading.size :]) == (whole.body, b"")
    assert end_to_end(reading.headers) == [*end_to_end(headers), (b"Via", b"1.%d %b" % (minor_of_node, VIA))]
    assert len(reading.values(b"date")) >= 1
    check_framing(reading, minor)
    assert read_by_h11(sent, method) == (status, reason, whole.body)


def check_framing(reading: Reading, minor: int) -> None:
    """One framing at most, none that the client does not know, and a close that it is told of."""
    codings, lengths = reading.values(b"transfer-encoding"), reading.values(b"content-length")
    assert len(codings) + len(lengths) <= 1
    assert not (codings and minor == 0)
    assert reading.values(b"connection") == ([b"close"] if minor == 0 else [])


def check_seen_as_cut(wire: Wire, sent: bytes, method: bytes) -> None:
    if wire.was_reset:
        return
    try:
        reading = read_answer(sent, method)
    except Incomplete:
        return
    in_its_place = reading.status == 502 and (method == b"HEAD" or b"cut short" in reading.body)
    assert in_its_place, "the node's answer was cut short, the client's looks whole"


def end_to_end(headers: Headers) -> Headers:
    """The headers that a hop passes on, without those it gives itself."""
    named = named_by_connection(headers)
    return [
        (name, value)
        for name, value in headers
        if (key := name.lower()) not in HOP_BY_HOP
        and key not in named
        and not key.startswith(b"spawn-")
        and (key not in OURS or (key == b"date" and value != Server().date()))
    ]


def read_by_h11(sent: bytes, method: bytes) -> tuple[int, bytes, bytes]:
    """Status, reason and body of the one answer that there is; the connection is closed behind it."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "a.test")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(sent)
    connection.receive_data(b"")
    response = connection.next_event()
    assert isinstance(response, h11.Response), response
    parts = []
    while isinstance(event := connection.next_event(), h11.Data):
        parts.append(bytes(event.data))
    assert isinstance(event, h11.EndOfMessage), event
    assert connection.trailing_data[0] == b""
    return response.status_code, bytes(response.reason), b"".join(parts)


def explain(data: bytes) -> str:
    """The input as a person reads it."""
    method, minor = ASKED[data[0] % len(ASKED)] if data else ASKED[0]
    raw = data[RAW]
    asked = f"an answer to {method.decode()} of an HTTP/1.{minor} client"
    return f"{asked}: {raw!r}\nin these pieces: {cut(raw, data[PLAN])!r}"
