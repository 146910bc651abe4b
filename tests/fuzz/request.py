"""Any bytes are one refusal or one request, wherever they are cut, and a node gets just that request and no more.

The bytes take the way of codec calls that ``spawn.http11.serving`` takes. What comes of it has to be what a strict
reader makes of the same bytes; and what a node would be sent is read by that one and by h11, whose authors never heard
of Spawn: both have to find one request with the method, target, headers and body that were taken in, and nothing
behind it. A reader that is stricter or laxer than the node's is how requests are smuggled.
"""

from __future__ import annotations

import h11

from spawn.delivery.outgoing import outgoing
from spawn.errors import ProtocolError
from spawn.http11.exchange import EMPTY_BODY
from spawn.http11.forwarding import TrustedProxies, forward_request_headers
from spawn.http11.message import Headers, OutgoingRequest, Request, get
from spawn.http11.outgoing import pieces
from spawn.http11.wire import HeadLimits
from spawn.journal.base import Entry
from tests.fuzz.seeds import REQUEST_TOKENS, REQUESTS
from tests.fuzz.splits import PLAN_BYTES, PLANS, cut
from tests.support.codec import Outcome, Taken, outcome
from tests.support.hops import FRAMING, HOP_BY_HOP, pairs, rendered
from tests.support.strictreader import Incomplete, Refused, read_request

LIMITS = HeadLimits(head_bytes=400, headers=12, line_bytes=120)  # small, so that short inputs reach them
AT_LIMITS = [
    b"GET /%b HTTP/1.1\r\nHost: a.test\r\n\r\n" % (b"a" * 106),
    b"\r\nGET / HTTP/1.1\r\nHost: a.test\r\n%bX: %b\r\n\r\n" % (b"X: y\r\n" * 10, b"y" * 303),
]
SEEDS = [plan + seed for seed in REQUESTS + AT_LIMITS for plan in PLANS]
TOKENS = REQUEST_TOKENS

OF_LIMITS = (413, 414, 417, 431)  # refusals that say nothing about the grammar
REFUSALS = (400, 501, 505, *OF_LIMITS)
INCOMPLETE = 0
NEVER_SENT = HOP_BY_HOP | FRAMING | {b"expect"}
NOBODY = TrustedProxies(())
VIA = b"spawn-0123abcd"
NODE = ("node.test", 8_080)
AUTHORITY = "node.test:8080"


def check(data: bytes) -> None:
    raw = data[PLAN_BYTES:]
    whole = outcome([raw], LIMITS)
    in_pieces = outcome(cut(raw, data[:PLAN_BYTES]), LIMITS)
    if whole in REFUSALS:  # of two faults either may be seen first
        assert in_pieces in REFUSALS, f"in pieces {in_pieces}, whole {whole}"
    else:
        assert in_pieces == whole, f"in pieces {in_pieces}, whole {whole}"
    check_reading(raw, whole)
    if isinstance(whole, Taken):
        check_passed_on(whole)
    else:
        assert whole in (INCOMPLETE, *REFUSALS)


def check_reading(raw: bytes, found: Outcome) -> None:
    """Whoever reads strictly reads the same."""
    try:
        reading = read_request(raw)
    except Refused as fault:
        assert not isinstance(found, Taken), f"taken in, but a strict reader refuses it: {fault}"
        return
    except Incomplete:
        assert found in (INCOMPLETE, *OF_LIMITS), f"{found}, but more bytes could put it right"
        return
    if found in OF_LIMITS:
        return
    assert isinstance(found, Taken), f"{found}, but a strict reader takes it"
    head = found.head
    kept = [(name, value) for name, value in reading.headers if b"_" not in name]
    assert (head.method, head.target, head.host) == (reading.method, reading.target, reading.host)
    assert (head.minor, head.dropped_headers) == (reading.minor, len(reading.headers) - len(kept))
    assert head.headers == with_host(kept, reading.host)
    assert (found.body, found.rest) == (reading.body, raw[reading.size :])


def check_passed_on(taken: Taken) -> None:
    """A node gets this request, whole and alone, as a read or as an update."""
    try:
        headers = pairs(forward_request_headers(Request(taken.head, EMPTY_BODY, "192.0.2.7"), NOBODY, VIA))
    except ProtocolError as fault:
        assert fault.status == 508, fault
        return
    names = {name.lower() for name, _ in headers}
    assert not names & NEVER_SENT
    assert not [name for name in names if name.startswith(b"spawn-")]
    for request in (as_read(taken, headers), as_update(taken, headers)):
        sent = b"".join(pieces(request, NODE))
        check_sent(sent, taken, request)


def as_read(taken: Taken, headers: Headers) -> OutgoingRequest:
    return OutgoingRequest(taken.head.method, taken.head.target, rendered(headers), body_of(taken))


def as_update(taken: Taken, headers: Headers) -> OutgoingRequest:
    head = taken.head
    key = get(headers, b"idempotency-key")
    entry = Entry(7, 0.0, head.method, head.target, rendered(headers), body_of(taken), key, None)
    return outgoing(entry, "0123abcd", AUTHORITY, {})


def body_of(taken: Taken) -> bytes | None:
    framing = taken.head.framing
    return None if framing.length is None and not framing.chunked else taken.body


def check_sent(sent: bytes, taken: Taken, request: OutgoingRequest) -> None:
    head = taken.head
    reading = read_request(sent)
    assert (reading.method, reading.target, reading.minor) == (head.method, head.target, 1)
    assert (reading.body, sent[reading.size :]) == (taken.body, b"")
    framing = [] if request.body is None else [(b"Content-Length", b"%d" % len(taken.body))]
    host = [] if b"\r\nHost: " in b"\r\n" + request.headers else [(b"Host", AUTHORITY.encode())]
    assert host + pairs(request.headers) + framing == reading.headers
    if head.target.isascii():  # h11 takes no other target
        assert read_by_h11(sent) == (head.method, head.target, taken.body)


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


def with_host(headers: Headers, host: bytes) -> Headers:
    """The authority of the target stands in place of Host, or first."""
    if host and get(headers, b"host") is None:
        return [(b"Host", host), *headers]
    return [(name, host if name.lower() == b"host" else value) for name, value in headers]


def explain(data: bytes) -> str:
    """The input as a person reads it."""
    return f"{data[PLAN_BYTES:]!r}\nin these pieces: {cut(data[PLAN_BYTES:], data[:PLAN_BYTES])!r}"
