"""Where a body ends: decoders that turn the bytes of a connection into the bytes of one body, and keep the rest.

A decoder is fed whatever arrived and says which of it is body, whether the body is complete, and what came after it
(the next message's first bytes). There is no I/O here, and each byte is looked at once.

The grammar of chunked coding is that of RFC 9112 §7.1, strict:
CRLF only, at most 15 digits, no control characters in extensions or trailers. Trailers are checked and dropped.
Runs of small chunks, which cost a step each and not a byte each, are taken by one expression that knows no more than
the plainest form of them; all else, and every fault, is left to the steps.
"""

from __future__ import annotations

import re
from typing import Protocol

from spawn.errors import ProtocolError
from spawn.http11.message import Framing

LAST_CHUNK = b"0\r\n\r\n"

CHUNK_LINE_BYTES = 4_096  # longest size line with its extensions, the bound Go's net/http has
TRAILER_BYTES = 16_384
FREE_FRAMING_BYTES = 16  # of framing per chunk that is nobody's fault: Go's guard against bodies that are all framing
SPARE_FRAMING_BYTES = 16_384  # of framing beyond that and beyond twice the data, over a whole body
UPLOAD_FRAMING_BYTES = 262_144  # of framing beyond twice the data, over a whole upload: some 87,000 chunks of one byte

_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?\r\n")
_SIZE_LINE_SO_FAR = re.compile(rb"[0-9A-Fa-f]{1,15}(?:[ \t]*|[ \t]*;[\t\x20-\x7e\x80-\xff]*)\r?")
_TRAILER_LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r\n")


def _small_chunks() -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    """A run of whole chunks of 1 to 15 bytes, and one of them with its data as the only group.

    None in a run has more framing than what is free and twice its data. So a run never adds to ``_excess``, and whether
    its chunks are counted together or one by one, which depends on how the bytes arrived, makes no difference.
    """
    size, data = rb"0{0,13}[1-9A-Fa-f]\r\n", b"|".join(rb"(?<=[%x%X]\r\n).{%d}" % (n, n, n) for n in range(1, 16))
    run, one = rb"(?:%b(?:%b)\r\n)++" % (size, data), rb"%b(%b)\r\n" % (size, data)
    return re.compile(run, re.DOTALL), re.compile(one, re.DOTALL)


_SMALL_CHUNKS, _SMALL_CHUNK = _small_chunks()


class BodyDecoder(Protocol):
    """One body. ``feed`` must not be called once ``done`` is true."""

    @property
    def done(self) -> bool:
        """Whether the body is complete."""

    @property
    def leftover(self) -> bytes:
        """Bytes fed that are not of this body; only meaningful when ``done``."""

    def feed(self, data: bytes) -> bytes:
        """The body bytes in ``data``, possibly none."""

    def eof(self) -> bool:
        """Whether an end of the connection here is a clean end of the body."""


class LengthDecoder:
    """A body of exactly ``length`` bytes."""

    __slots__ = ("done", "leftover", "remaining")

    def __init__(self, length: int) -> None:
        self.remaining = length
        self.done = length == 0
        self.leftover = b""

    def feed(self, data: bytes) -> bytes:
        remaining = self.remaining - len(data)
        if remaining > 0:
            self.remaining = remaining
            return data
        self.done = True
        if remaining < 0:
            self.leftover = data[self.remaining :]
            data = data[: self.remaining]
        self.remaining = 0
        return data

    def eof(self) -> bool:
        return self.done


class UntilCloseDecoder:
    """A body that ends with the connection."""

    __slots__ = ()

    done = False
    leftover = b""

    def feed(self, data: bytes) -> bytes:
        return data

    def eof(self) -> bool:
        return True


class ChunkedDecoder:
    """A body in chunked coding. ``feed`` raises ``ProtocolError`` 400 at the first byte that cannot be right.

    ``endless`` is for answers, which may be event streams: tiny chunks are as good as others, however many come.
    """

    __slots__ = ("_endless", "_excess", "_in_trailers", "_left", "_overhead", "_partial", "_trailer_bytes", "done",
                 "leftover")  # fmt: skip

    def __init__(self, trailer_bytes: int = TRAILER_BYTES, *, endless: bool = False) -> None:
        self._left = 0  # bytes to come of the current chunk, its CRLF included
        self._partial = b""  # of a size or trailer line that has not ended yet
        self._in_trailers = False
        self._trailer_bytes = trailer_bytes
        self._endless = endless
        self._excess = 0  # framing beyond what is free and beyond twice the data; never less than 0
        self._overhead = 0  # framing beyond twice the data
        self.done = False
        self.leftover = b""

    def feed(self, data: bytes) -> bytes:
        parts: list[bytes] = []
        position, end = 0, len(data)
        while position < end:
            if self._left:
                position = self._take(data, position, parts)
                continue
            if not self._partial and not self._in_trailers and (run_end := self._run_end(data, position)):
                self._take_run(data, position, run_end, parts)
                position = run_end
                continue
            line_end = data.find(b"\n", position) + 1
            line = self._partial + data[position : line_end or end]
            if not line_end:
                self._check_partial(line)
                self._partial = line
                break
            position = line_end
            self._partial = b""
            if self._in_trailers:
                if self._end_of_trailers(line):
                    self.done = True
                    self.leftover = data[position:]
                    break
            else:
                self._begin_chunk(line)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def eof(self) -> bool:
        return self.done

    def _take(self, data: bytes, position: int, parts: list[bytes]) -> int:
        """Take data of the current chunk, and the CRLF behind it, which counts as its last two bytes."""
        left, have = self._left, len(data) - position
        content = min(left - 2, have)
        if content > 0:
            parts.append(data[position : position + content])
            position, left, have = position + content, left - content, have - content
        if left == 2 and have:
            if data[position] != 0x0D:
                raise ProtocolError(400, "a chunk is longer than its size, or not ended by CRLF")
            position, left, have = position + 1, 1, have - 1
        if left == 1 and have:
            if data[position] != 0x0A:
                raise ProtocolError(400, "a chunk is not ended by CRLF")
            position, left = position + 1, 0
        self._left = left
        return position

    def _begin_chunk(self, line: bytes) -> None:
        match = _SIZE_LINE.fullmatch(line)
        if match is None or len(line) > CHUNK_LINE_BYTES:
            raise ProtocolError(400, "malformed chunk size")
        size = int(match[1], 16)
        if not size:
            self._in_trailers = True
            return
        self._left = size + 2
        self._count(1, len(line) + 2, size)

    def _run_end(self, data: bytes, position: int) -> int:
        """Where the run of small chunks ends that begins here, 0 if none does.

        It is not so long that the framing in it could go beyond its bound and its data make up for that again.
        """
        end = len(data) if self._endless else position + UPLOAD_FRAMING_BYTES - self._overhead
        run = _SMALL_CHUNKS.match(data, position, end)
        return run.end() if run else 0

    def _take_run(self, data: bytes, position: int, end: int, parts: list[bytes]) -> None:
        found = _SMALL_CHUNK.findall(data, position, end)
        joined = b"".join(found)
        parts.append(joined)
        self._count(len(found), end - position - len(joined), len(joined))

    def _count(self, chunks: int, framing: int, size: int) -> None:
        """Refuse a body that is mostly framing: it makes more work than it brings data."""
        self._excess = max(0, self._excess + framing - FREE_FRAMING_BYTES * chunks - 2 * size)
        self._overhead += framing - 2 * size
        if self._excess > SPARE_FRAMING_BYTES or (self._overhead > UPLOAD_FRAMING_BYTES and not self._endless):
            raise ProtocolError(400, "the chunked body is mostly framing")

    def _end_of_trailers(self, line: bytes) -> bool:
        if line == b"\r\n":
            return True
        self._trailer_bytes -= len(line)
        if self._trailer_bytes < 0:
            raise ProtocolError(431, "the trailers are too long")
        if not _TRAILER_LINE.fullmatch(line):
            raise ProtocolError(400, "malformed trailer")
        return False

    def _check_partial(self, line: bytes) -> None:
        """Refuse what no further byte can put right, so that nobody waits for the rest of it."""
        if self._in_trailers:
            if len(line) > self._trailer_bytes:
                raise ProtocolError(431, "the trailers are too long")
        elif len(line) > CHUNK_LINE_BYTES or not _SIZE_LINE_SO_FAR.fullmatch(line):
            raise ProtocolError(400, "malformed chunk size")


def decoder_for(framing: Framing, *, endless: bool = False) -> BodyDecoder | None:
    """The decoder for a body framed so; None if there is no body. ``endless``: see ``ChunkedDecoder``."""
    if framing.chunked:
        return ChunkedDecoder(endless=endless)
    if framing.length:
        return LengthDecoder(framing.length)
    return UntilCloseDecoder() if framing.until_close else None


def chunk(data: bytes) -> bytes:
    """``data`` as one chunk. It must not be empty: that would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)
