"""Any bytes in chunked coding are decoded as the grammar has it, refused at the line that breaks it and never before.

Wherever they are cut: body, end and what follows are those of a strict reader; a body that more bytes would complete is
neither refused nor taken for complete; and once a line is broken, its end is not waited for in vain.
"""

from __future__ import annotations

from collections.abc import Iterable

from spawn.errors import ProtocolError
from spawn.http11.bodies import ChunkedDecoder
from tests.fuzz.seeds import CHUNK_TOKENS, CHUNKED
from tests.fuzz.splits import PLAN_BYTES, PLANS, cut
from tests.support.strictreader import Incomplete, Reader, Refused, read_chunks

SEEDS = [plan + seed for seed in CHUNKED for plan in PLANS]
TOKENS = CHUNK_TOKENS

Decoded = tuple[bytes, bytes]  # body and what follows
REFUSED, INCOMPLETE = "refused", "incomplete"


def check(data: bytes) -> None:
    raw = data[PLAN_BYTES:]
    for endless in (False, True):
        outcome = decode([raw], endless)
        in_pieces = decode(cut(raw, data[:PLAN_BYTES]), endless)
        assert outcome == in_pieces, f"whole {outcome}, in pieces {in_pieces}"
        compare(raw, outcome)


def decode(pieces: Iterable[bytes], endless: bool) -> Decoded | str:
    decoder = ChunkedDecoder(endless=endless)
    body, left = b"", iter(pieces)
    try:
        for piece in left:
            body += decoder.feed(piece)
            if decoder.done:
                assert decoder.eof()
                return body, decoder.leftover + b"".join(left)
    except ProtocolError as fault:
        assert fault.status in (400, 431), fault
        return REFUSED
    assert not decoder.eof()
    return INCOMPLETE


def compare(raw: bytes, outcome: Decoded | str) -> None:
    reader = Reader(raw)
    try:
        expected: Decoded | str = read_chunks(reader), raw[reader.at :]
    except Refused:
        # A trailer is looked at when its line is complete, a chunk's size and data at once.
        expected = INCOMPLETE if outcome == INCOMPLETE and b"\n" not in raw[reader.at :] else REFUSED
    except Incomplete:
        expected = INCOMPLETE
    assert outcome == expected, f"{outcome}, but a strict reader says {expected}"


def explain(data: bytes) -> str:
    """The input as a person reads it."""
    return f"{data[PLAN_BYTES:]!r}\nin these pieces: {cut(data[PLAN_BYTES:], data[:PLAN_BYTES])!r}"
