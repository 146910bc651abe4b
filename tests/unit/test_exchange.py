"""An answer is sent in one piece when it is small, and never copied when it is large."""

from __future__ import annotations

from typing import cast

import pytest

from spawn.http11.channel import Channel
from spawn.http11.exchange import EMPTY_BODY, JOIN_BYTES, Answer
from spawn.http11.message import NO_BODY, RequestHead


class Recorder:
    """A channel that says what it was given."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def send(self, data: bytes, timeout_s: float) -> None:
        self.pieces.append(data)

    send_soon = send


class Context:
    stopping = False

    def date(self) -> bytes:
        return b"now"


@pytest.mark.parametrize(("size", "pieces"), [(1, 1), (JOIN_BYTES, 1), (JOIN_BYTES + 1, 2), (250_000, 2)])
def test_a_large_body_is_not_copied_to_stand_behind_its_head(size: int, pieces: int) -> None:
    """A client that takes it slowly would keep the copy in memory, beside what the body is in."""
    channel, body = Recorder(), b"x" * size
    head = RequestHead(b"POST", b"/", 1, [], [], frozenset(), b"h", NO_BODY, keep_alive=True)
    answer = Answer(cast(Channel, channel), head, EMPTY_BODY, Context(), 1.0)
    answer.pass_on(200, b"OK", b"", size)
    answer.finish(body)
    assert len(channel.pieces) == pieces
    assert b"".join(channel.pieces).endswith(b"\r\n\r\n" + body)
    assert pieces == 1 or channel.pieces[-1] is body
