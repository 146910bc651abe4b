"""However a message is cut, its pieces are the message; and a short one is cut everywhere."""

from __future__ import annotations

import pytest

from tests.support.splits import LIMITS, SHORT_BYTES, STRIDE, dripped, in_thirds, in_two, one_by_one, places

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n"
MESSAGES = [b"x", b"\r\n", HEAD + b"abc", HEAD + b"x" * 1_000, b"X: y\r\n" * 50_000]


@pytest.mark.parametrize("data", MESSAGES, ids=len)
def test_the_pieces_are_the_message(data: bytes) -> None:
    for pieces in (in_thirds(data), dripped(data), one_by_one(data), one_by_one(data, 10), *in_two(data)):
        assert b"".join(pieces) == data
        assert all(pieces)


def test_a_short_message_is_cut_at_every_boundary() -> None:
    assert places(b"x" * SHORT_BYTES) == list(range(1, SHORT_BYTES))
    assert list(in_two(b"abc")) == [(b"a", b"bc"), (b"ab", b"c")]


def test_a_long_message_is_cut_where_it_matters() -> None:
    data = HEAD + b"x" * 70_000
    found = places(data)
    near_the_end_of_the_head = set(range(len(HEAD) - 5, len(HEAD) + 6))
    near_limits = {limit + offset for limit in LIMITS for offset in range(-5, 6)}
    assert near_the_end_of_the_head | near_limits | {1, len(data) - 1, STRIDE, 2 * STRIDE} <= set(found)
    assert len(found) < 300


def test_single_bytes_where_most_depends_on_them() -> None:
    assert dripped(HEAD + b"abcdefgh")[-3:] == [b"f", b"g", b"h"]
    assert [piece for piece in dripped(HEAD + b"abcdefgh") if len(piece) == 1][:5] == [b"\r", b"\n", b"\r", b"\n", b"a"]
    assert {len(piece) for piece in one_by_one(b"x" * 1_000)} == {1}
