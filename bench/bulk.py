"""A client that downloads or uploads one large body after the other, over one kept connection."""

from __future__ import annotations

import socket

from bench.programs import Broken

TIMEOUT_S = 60.0
PIECE_BYTES = 1 << 20
HEAD_BYTES = 65_536
PATH = "/large"


class BulkClient:
    """Raises ``Broken`` where an answer is not what it should be."""

    def __init__(self, port: int, size_bytes: int) -> None:
        self._size = size_bytes
        self._host = f"127.0.0.1:{port}"
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
        self._piece = memoryview(bytearray(PIECE_BYTES))

    def download(self) -> None:
        """A body of the size given."""
        self._socket.sendall(f"GET {PATH} HTTP/1.1\r\nHost: {self._host}\r\n\r\n".encode())
        length, received = self._answer()
        if length != self._size:
            raise Broken(f"a download has {length} bytes instead of {self._size}")
        self._discard(length - received)

    def upload(self) -> None:
        head = f"PUT {PATH} HTTP/1.1\r\nHost: {self._host}\r\nContent-Length: {self._size}\r\n\r\n"
        self._socket.sendall(head.encode())
        for begin in range(0, self._size, PIECE_BYTES):
            self._socket.sendall(self._piece[: self._size - begin])
        length, received = self._answer()
        self._discard(length - received)

    def close(self) -> None:
        self._socket.close()

    def _answer(self) -> tuple[int, int]:
        """The length of the answer's body, and how much of it came with the head."""
        data = b""
        while b"\r\n\r\n" not in data:
            more = self._socket.recv(HEAD_BYTES)
            if not more:
                raise Broken(f"the connection was closed after {data[:200]!r}")
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        if not head.startswith(b"HTTP/1.1 200 ") or not lengths:
            raise Broken(f"unexpected answer {head[:200]!r}")
        return int(lengths[0].partition(b":")[2]), len(body)

    def _discard(self, left: int) -> None:
        while left:
            received = self._socket.recv_into(self._piece, min(left, PIECE_BYTES))
            if not received:
                raise Broken(f"an answer ends {left} bytes early")
            left -= received
