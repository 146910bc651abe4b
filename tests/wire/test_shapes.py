"""Messages of every shape, through the codec and over sockets: what is good arrives exactly, what is nearly so does not."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from spawn.errors import ProtocolError
from spawn.http11.bodies import LAST_CHUNK, ChunkedDecoder, chunk
from spawn.http11.wire import HeadLimits, check_partial_head, parse_request_head


def decode(pieces: Iterable[bytes], *, endless: bool = False) -> tuple[bytes, bytes] | int | None:
    """Body and what follows it, the status of a refusal, or None: more is waited for."""
    decoder = ChunkedDecoder(endless=endless)
    body, left = [], iter(pieces)
    try:
        for piece in left:
            body.append(decoder.feed(piece))
            if decoder.done:
                return b"".join(body), decoder.leftover + b"".join(left)
    except ProtocolError as fault:
        return fault.status
    return None


class TestLimitsDoNotDependOnSplits:
    def test_an_empty_line_before_a_head_of_the_largest_size_costs_nothing(self) -> None:
        head = b"GET / HTTP/1.1\r\nHost: a.test\r\nX: %b\r\n\r\n" % (b"y" * 100)
        limits = HeadLimits(head_bytes=len(head))
        data = b"\r\n" + head
        assert parse_request_head(data, limits)
        for size in range(1, len(data)):
            check_partial_head(data[:size], size - 1, limits)
        with pytest.raises(ProtocolError, match="too long"):
            check_partial_head(data[:-4] + b"yyyyy", 0, limits)

    @pytest.mark.parametrize("size", [1, 1_000, 65_536, 10_000_000])
    def test_an_upload_is_refused_at_the_same_chunk(self, size: int) -> None:
        """It has too much framing at one time, although by its end there would be data enough."""
        body = chunk(b"x") * 87_400 + chunk(b"x" * 15) * 900 + LAST_CHUNK
        assert decode(body[at : at + size] for at in range(0, len(body), size)) == 400

    @pytest.mark.parametrize("size", [1, 1_000, 65_536, 10_000_000])
    def test_an_endless_answer_is_refused_at_the_same_chunk(self, size: int) -> None:
        """Data that came before does not make up for sizes that are mostly zeros."""
        body = chunk(b"x" * 15) * 100 + b"000000000000001\r\nx\r\n" * 17_000 + LAST_CHUNK
        assert decode((body[at : at + size] for at in range(0, len(body), size)), endless=True) == 400
