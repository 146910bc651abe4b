"""A request on its way to a node, as bytes: rendered once, and a large body in pieces.

Invariants: target and headers leave as they were given; there is exactly one framing, by length; of a body in a file
at most one piece is in memory, and it is read in a thread.
"""

from __future__ import annotations

import os
from collections.abc import Generator

from spawn.errors import NotSent
from spawn.http11.message import BodyFile, OutgoingRequest
from spawn.http11.spool import DiskFile
from spawn.http11.threads import in_thread

PIECE_BYTES = 262_144  # what is read of a body file at a time


class BodyUnreadable(NotSent):
    """The request's body file cannot be read, so no node can have got the whole request.

    ``lost``: the file is gone or shorter than it should be; trying again cannot help.
    """

    def __init__(self, message: str, *, lost: bool) -> None:
        super().__init__(message)
        self.lost = lost


def in_one_piece(request: OutgoingRequest, node: tuple[str, int]) -> bytes | None:
    """All bytes of a request with a small body or none; None for one that has to be sent in ``pieces``."""
    body = request.body
    if body is None:
        return _render(request, node, None)
    if isinstance(body, bytes) and len(body) <= PIECE_BYTES:
        return _render(request, node, len(body)) + body
    return None


def pieces(request: OutgoingRequest, node: tuple[str, int]) -> Generator[bytes | memoryview, None, None]:
    """The bytes of a request in pieces; the first holds the head and a small body, or the first step of a file."""
    body = request.body
    if (data := in_one_piece(request, node)) is not None:
        yield data
    elif isinstance(body, bytes):
        yield _render(request, node, len(body))
        view = memoryview(body)
        for start in range(0, len(body), PIECE_BYTES):
            yield view[start : start + PIECE_BYTES]
    elif body is not None:
        yield from _file_pieces(_render(request, node, body.size), body)


def body_bytes(request: OutgoingRequest) -> int:
    body = request.body
    if body is None:
        return 0
    return len(body) if isinstance(body, bytes) else body.size


def _file_pieces(head: bytes, body: BodyFile) -> Generator[bytes, None, None]:
    file = DiskFile(body.path, os.O_RDONLY)
    try:
        offset = 0
        while offset < body.size or head:
            data = in_thread(file.read_at, offset, min(PIECE_BYTES, body.size - offset)) if body.size else b""
            if not data and offset < body.size:
                raise BodyUnreadable(f"the body's file is shorter than {body.size} bytes", lost=True)
            offset += len(data)
            yield head + data
            head = b""
    except OSError as error:
        lost = isinstance(error, FileNotFoundError)
        raise BodyUnreadable(f"the body's file cannot be read: {error.strerror}", lost=lost) from None
    finally:
        in_thread(file.close)


def _render(request: OutgoingRequest, node: tuple[str, int], length: int | None) -> bytes:
    headers = request.headers
    if not headers.startswith(b"Host:") and headers[:5].lower() != b"host:" and b"\r\nhost:" not in headers.lower():
        host, port = node  # an HTTP/1.0 client may leave Host out, an HTTP/1.1 request may not
        headers = (f"Host: [{host}]:{port}\r\n" if ":" in host else f"Host: {host}:{port}\r\n").encode() + headers
    framing = b"" if length is None else b"Content-Length: %d\r\n" % length
    return b"%b %b HTTP/1.1\r\n%b%b\r\n" % (request.method, request.target, headers, framing)
