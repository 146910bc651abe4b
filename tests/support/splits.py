"""Ways to cut a message into pieces, since none of them may change what it means.

A long message is mostly the middle of something, where one cut is as good as another. It is cut near the places where
a reader changes its mind (a line ends, the head ends, a limit is passed) and at every ``STRIDE`` bytes between them,
fewer where it is longer than a head may be; which is prime, so that it falls on all phases of whatever repeats.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

Pieces = Sequence[bytes]

SHORT_BYTES = 700  # up to here every single boundary is tried
NEAR_BYTES = 5
ENDS_BYTES = 300
STRIDE = 1_999
LINES = 12  # whose ends are looked at, from either end of the message
LIMITS = (4_096, 8_192, 16_384, 65_536)  # of a chunk's size line, a request line, trailers, a head


def single_bytes(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def places(data: bytes) -> list[int]:
    """Where to cut in two: everywhere in a short message, near all that counts in a long one."""
    if len(data) <= SHORT_BYTES:
        return list(range(1, len(data)))
    line_ends = [match.end() for match in re.finditer(rb"\r\n", data)]
    head_end = data.find(b"\r\n\r\n") + 4
    wanted = {0, len(data), head_end, *LIMITS, *line_ends[:LINES], *line_ends[-LINES:]}
    near = {mark + offset for mark in wanted for offset in range(-NEAR_BYTES, NEAR_BYTES + 1)}
    stride = STRIDE * (1 + len(data) // 100_000)
    return sorted(at for at in near.union(range(stride, len(data), stride)) if 0 < at < len(data))


def cut_at(data: bytes, places: Iterable[int]) -> list[bytes]:
    """Cut at all of these places, in any order and some maybe outside. No piece is empty."""
    ends = [0, *sorted(place for place in set(places) if 0 < place < len(data)), len(data)]
    return [data[start:end] for start, end in pairwise(ends) if end > start]


def in_two(data: bytes) -> Iterator[Pieces]:
    """Every way (or for a long message, every one that may matter) to cut it in two."""
    for at in places(data):
        yield data[:at], data[at:]


def one_by_one(data: bytes, most: int = 100_000) -> Pieces:
    """Byte by byte; of a message of more than ``most`` bytes the inner part in blocks of ``STRIDE``."""
    if len(data) <= most:
        return single_bytes(data)
    end = max(ENDS_BYTES, len(data) - ENDS_BYTES)
    return [*single_bytes(data[:ENDS_BYTES]), *_blocks(data[ENDS_BYTES:end]), *single_bytes(data[end:])]


def in_thirds(data: bytes) -> Pieces:
    third = max(1, len(data) // 3)
    return [piece for piece in (data[:third], data[third : 2 * third], data[2 * third :]) if piece]


def dripped(data: bytes) -> Pieces:
    """Single bytes around the end of the head and at the end of all, where most depends on them; the rest at once."""
    border = data.find(b"\r\n\r\n") + 4
    cuts = sorted(at for at in {*range(border - 4, border + 3), *range(len(data) - 3, len(data))} if 0 < at < len(data))
    return [data[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def _blocks(data: bytes) -> list[bytes]:
    return [data[at : at + STRIDE] for at in range(0, len(data), STRIDE)]
