"""Any bytes are one refusal or one request, wherever they are cut, and a node gets just that request and no more.

The bytes take the way of codec calls that ``spawn.http11.serving`` takes. What comes of it has to be what a strict
reader makes of the same bytes; and what a node would be sent is read by that one and by h11, whose authors never heard
of Spawn: both have to find one request with the method, target, headers and body that were taken in, and nothing
behind it. A reader that is stricter or laxer than the node's is how requests are smuggled.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import h11

from spawn.delivery.outgoing import outgoing
from spawn.errors import ProtocolError
from spawn.http11.exchange import EMPTY_BODY
from spawn.http11.forwarding import FRAMING, HOP_BY_HOP, TrustedProxies, forward_request_headers
from spawn.http11.message import Headers, Request, RequestHead, get, render
from spawn.http11.outgoing import OutgoingRequest, pieces
from spawn.http11.wire import HeadLimits, check_partial_head, decoder_for, find_head_end, parse_request_head
from spawn.journal.base import Entry
from tests.fuzz.seeds import REQUEST_TOKENS, REQUESTS
from tests.fuzz.splits import PLAN_BYTES, PLANS, cut
from tests.support.strictreader import Incomplete, Refused, read_request

LIMITS = HeadLimits(head_bytes=400, headers=12, line_bytes=120)  # small, so that short inputs reach them
AT_LIMITS = [
    b"GET /%b HTTP/1.1\r\nHost: a.test\r\n\r\n" % (b"a" * 106),
    b"\r\nGET / HTTP/1.1\r\nHost: a.test\r\n%bX: %b\r\n\r\n" % (b"X: y\r\n" * 10, b"y" * 303),
]
SEEDS = [plan + seed for seed in REQUESTS + AT_LIMITS for plan in PLANS]
TOKENS = REQUEST_TOKENS

OF_LIMITS = (414, 417, 431)  # refusals that say nothing about the grammar
STATUSES = (400, 501, 505, *OF_LIMITS)
# llhttp does not take a tab behind the coding for white space. It is legal, nobody sends it, and refusing it is safe.
TAB_BEHIND_CODING = re.compile(rb"chunked *\t[ \t]*\r\n", re.IGNORECASE)
NEVER_SENT = HOP_BY_HOP | FRAMING | {b"expect"}
NOBODY = TrustedProxies(())
VIA = b"spawn-0123abcd"
NODE = ("node.test", 8_080)
AUTHORITY = "node.test:8080"


@dataclass(frozen=True)
class Received:
    """A request that was taken in whole, and the bytes behind it."""

    head: RequestHead
    body: bytes
    leftover: bytes


Outcome = Received | int | None  # None: more bytes are waited for; a number: the status of a refusal


def check(data: bytes) -> None:
    raw = data[PLAN_BYTES:]
    outcome = receive([raw])
    in_pieces = receive(cut(raw, data[:PLAN_BYTES]))
    if isinstance(outcome, int):  # of two faults either may be seen first
        assert isinstance(in_pieces, int), f"in pieces {in_pieces}, whole {outcome}"
    else:
        assert in_pieces == outcome, f"in pieces {in_pieces}, whole {outcome}"
    check_reading(raw, outcome)
    if isinstance(outcome, Received):
        check_passed_on(outcome)


def receive(parts: Iterable[bytes]) -> Outcome:
    """What the server makes of bytes that come in these parts."""
    try:
        return _receive(iter(parts))
    except ProtocolError as fault:
        assert fault.status in STATUSES, fault
        return fault.status


def _receive(parts: Iterable[bytes]) -> Received | None:
    buffer = bytearray()
    checked = 0
    for part in parts:
        buffer += part
        end = find_head_end(buffer, checked - 3)
        if end > 0:
            break
        check_partial_head(buffer, checked, LIMITS)
        checked = len(buffer)
    else:
        return None
    head = parse_request_head(bytes(buffer[:end]), LIMITS)
    part = bytes(buffer[end:])
    decoder = decoder_for(head.framing)
    if decoder is None:
        return Received(head, b"", part + b"".join(parts))
    body = decoder.feed(part) if part else b""
    while not decoder.done:
        part = next(iter(parts), b"")
        if not part:
            return None
        body += decoder.feed(part)
    return Received(head, body, decoder.leftover + b"".join(parts))


def check_reading(raw: bytes, outcome: Outcome) -> None:
    """Whoever reads strictly reads the same."""
    if outcome == 400 and TAB_BEHIND_CODING.search(raw):
        return
    try:
        reading = read_request(raw)
    except Refused as fault:
        assert not isinstance(outcome, Received), f"taken in, but a strict reader refuses it: {fault}"
        return
    except Incomplete:
        assert outcome is None or outcome in OF_LIMITS, f"{outcome}, but more bytes could put it right"
        return
    if outcome in OF_LIMITS:
        return
    assert isinstance(outcome, Received), f"{outcome}, but a strict reader takes it"
    head = outcome.head
    kept = [(name, value) for name, value in reading.headers if b"_" not in name]
    assert (head.method, head.target, head.host) == (reading.method, reading.target, reading.host)
    assert (head.minor, head.dropped_headers) == (reading.minor, len(reading.headers) - len(kept))
    assert head.headers == with_host(kept, reading.host)
    assert (outcome.body, outcome.leftover) == (reading.body, raw[reading.size :])


def check_passed_on(received: Received) -> None:
    """A node gets this request, whole and alone, as a read or as an update."""
    try:
        headers = forward_request_headers(Request(received.head, EMPTY_BODY, "192.0.2.7"), NOBODY, VIA)
    except ProtocolError as fault:
        assert fault.status == 508, fault
        return
    names = {name.lower() for name, _ in headers}
    assert not names & NEVER_SENT
    assert not [name for name in names if name.startswith(b"spawn-")]
    for request in (as_read(received, headers), as_update(received, headers)):
        sent = b"".join(pieces(request, NODE))
        check_sent(sent, received, request)


def as_read(received: Received, headers: Headers) -> OutgoingRequest:
    return OutgoingRequest(received.head.method, received.head.target, render(headers), body_of(received))


def as_update(received: Received, headers: Headers) -> OutgoingRequest:
    head = received.head
    key = get(headers, b"idempotency-key")
    entry = Entry(7, 0.0, head.method, head.target, render(headers), body_of(received), key, None)
    return outgoing(entry, "0123abcd", AUTHORITY, {})


def body_of(received: Received) -> bytes | None:
    framing = received.head.framing
    return None if framing.length is None and not framing.chunked else received.body


def check_sent(sent: bytes, received: Received, request: OutgoingRequest) -> None:
    head = received.head
    reading = read_request(sent)
    assert (reading.method, reading.target, reading.minor) == (head.method, head.target, 1)
    assert (reading.body, sent[reading.size :]) == (received.body, b"")
    framing = [] if request.body is None else [(b"Content-Length", b"%d" % len(received.body))]
    host = [] if b"\r\nHost: " in b"\r\n" + request.headers else [(b"Host", AUTHORITY.encode())]
    assert host + lines_of(request.headers) + framing == reading.headers
    if head.target.isascii():  # h11 takes no other target
        assert read_by_h11(sent) == (head.method, head.target, received.body)


def read_by_h11(sent: bytes) -> tuple[bytes, bytes, bytes]:
    """Method, target and body of the one request that there is."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(sent)
    request = connection.next_event()
    assert isinstance(request, h11.Request), request
    parts = []
    while isinstance(event := connection.next_event(), h11.Data):
        parts.append(bytes(event.data))
    assert isinstance(event, h11.EndOfMessage), event
    assert not event.headers
    assert connection.trailing_data == (b"", False)
    return request.method, request.target, b"".join(parts)


def lines_of(headers: bytes) -> Headers:
    return [(name, value) for name, _, value in (line.partition(b": ") for line in headers.split(b"\r\n")[:-1])]


def with_host(headers: Headers, host: bytes) -> Headers:
    """The authority of the target stands in place of Host, or first."""
    if host and get(headers, b"host") is None:
        return [(b"Host", host), *headers]
    return [(name, host if name.lower() == b"host" else value) for name, value in headers]


def explain(data: bytes) -> str:
    """The input as a person reads it."""
    return f"{data[PLAN_BYTES:]!r}\nin these pieces: {cut(data[PLAN_BYTES:], data[:PLAN_BYTES])!r}"
