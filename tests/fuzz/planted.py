"""No body has a chunk of more than nine bytes: not true, so that a test can see what is done about a finding."""

from __future__ import annotations

from spawn.errors import ProtocolError
from spawn.http11.bodies import ChunkedDecoder
from tests.fuzz.seeds import CHUNK_TOKENS

SEEDS = [b"3\r\nabc\r\n0\r\n\r\n"]
TOKENS = CHUNK_TOKENS


def check(data: bytes) -> None:
    try:
        body = ChunkedDecoder().feed(data)
    except ProtocolError:
        return
    assert len(body) < 10, "there it is"


def explain(data: bytes) -> str:
    return repr(data)
