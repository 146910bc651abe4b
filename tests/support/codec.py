"""What the codec alone makes of bytes: the calls that a server and a client make, without a socket."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from spawn.errors import ProtocolError
from spawn.http11.bodies import BodyDecoder
from spawn.http11.message import RequestHead, ResponseHead
from spawn.http11.wire import (
    BadAnswer,
    HeadLimits,
    check_partial_head,
    decoder_for,
    find_head_end,
    parse_request_head,
    parse_response_head,
)

BODY_BYTES = 1_073_741_824


@dataclass(frozen=True, slots=True)
class Taken:
    """A whole request, and what came behind it."""

    head: RequestHead
    body: bytes
    rest: bytes


Outcome = Taken | int  # or the status of a refusal; 0: more bytes are needed


def outcome(pieces: Iterable[bytes], limits: HeadLimits | None = None, body_bytes: int = BODY_BYTES) -> Outcome:
    """What becomes of the first request in ``pieces``, which arrive one after the other."""
    arriving = iter(pieces)
    try:
        found = _head(arriving, limits or HeadLimits())
        return 0 if found is None else _body(*found, arriving, body_bytes)
    except ProtocolError as fault:
        return fault.status


def _head(arriving: Iterable[bytes], limits: HeadLimits) -> tuple[RequestHead, bytes] | None:
    buffer = bytearray()
    checked = 0
    for piece in arriving:
        buffer += piece
        end = find_head_end(buffer, checked - 3)
        if end > 0:
            return parse_request_head(bytes(buffer[:end]), limits), bytes(buffer[end:])
        check_partial_head(buffer, checked, limits)
        checked = len(buffer)
    return None


def _body(head: RequestHead, first: bytes, arriving: Iterable[bytes], limit_bytes: int) -> Outcome:
    if (head.framing.length or 0) > limit_bytes:
        return 413
    decoder = decoder_for(head.framing)
    if decoder is None:
        return Taken(head, b"", b"".join([first, *arriving]))
    body = _decode(decoder, first, arriving, limit_bytes)
    if body is None:
        return 413
    return Taken(head, body, b"".join([decoder.leftover, *arriving])) if decoder.done else 0


def _decode(decoder: BodyDecoder, first: bytes, arriving: Iterable[bytes], limit_bytes: int) -> bytes | None:
    """As much of the body as there is; None when that is too much."""
    body = bytearray(decoder.feed(first)) if first else bytearray()
    while not decoder.done and len(body) <= limit_bytes:
        piece = next(iter(arriving), None)
        if piece is None:
            break
        body += decoder.feed(piece)
    return bytes(body) if len(body) <= limit_bytes else None


def answer_outcome(pieces: Iterable[bytes]) -> tuple[ResponseHead, bytes, bytes] | str:
    """What becomes of an answer to GET on a connection that stays open: head, body and rest; "bad"; "not whole"."""
    buffer, arriving = bytearray(), iter(pieces)
    try:
        while (end := find_head_end(buffer)) < 0:
            piece = next(arriving, b"")
            if not piece:
                return "not whole"
            buffer += piece
        head = parse_response_head(bytes(buffer[:end]), b"GET", HeadLimits())
        decoder = decoder_for(head.framing, endless=True)
        if decoder is None:
            return head, b"", b"".join([bytes(buffer[end:]), *arriving])
        body = _decode(decoder, bytes(buffer[end:]), arriving, BODY_BYTES)
    except (BadAnswer, ProtocolError):
        return "bad"
    return (head, body or b"", b"".join([decoder.leftover, *arriving])) if decoder.done else "not whole"
