"""Nodes that read a whole request body, throw it away, and only then answer: nginx's ``return`` answers at once.

    python -m bench.sink PORT…

All nodes are this one process. ``/info`` is the health check, as nginx's nodes have it. Bodies need a Content-Length.
"""

from __future__ import annotations

import argparse
import selectors
import socket

from bench.programs import BODY

HEAD_BYTES = 65_536
DISCARDED = bytearray(4 << 20)  # never written
ANSWER = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{}"
HEALTH = b"version:1"


class Connection:
    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._head = b""
        self._left = 0  # of the body
        self._answer = b""

    def readable(self) -> bool:
        """False when the peer has gone."""
        if self._left:
            # The kernel drops the bytes without copying them (tcp(7)): a node should cost little.
            received = self._socket.recv_into(DISCARDED, min(self._left, len(DISCARDED)), socket.MSG_TRUNC)
            self._left -= received
        else:
            data = self._socket.recv(HEAD_BYTES)
            received = len(data)
            self._head += data
            self._begin()
        if self._answer and not self._left:
            self._socket.sendall(self._answer)
            self._answer = b""
        return received > 0

    def _begin(self) -> None:
        head, end, rest = self._head.partition(b"\r\n\r\n")
        if not end:
            return
        lines = head.lower().split(b"\r\n")
        lengths = [int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:")]
        assert not any(line.startswith(b"transfer-encoding:") for line in lines), head
        self._left = sum(lengths) - len(rest)
        self._head = b""
        body = HEALTH.decode() if b" /info " in lines[0] else BODY
        self._answer = ANSWER.format(len(body), body).encode()


def serve(ports: list[int]) -> None:
    selector = selectors.DefaultSelector()
    for port in ports:
        selector.register(socket.create_server(("127.0.0.1", port), backlog=1024), selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            assert isinstance(key.fileobj, socket.socket)
            if key.data is None:
                accepted, _ = key.fileobj.accept()
                selector.register(accepted, selectors.EVENT_READ, Connection(accepted))
            elif not _lives(key.data):
                selector.unregister(key.fileobj)
                key.fileobj.close()


def _lives(connection: Connection) -> bool:
    try:
        return connection.readable()
    except ConnectionError:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ports", type=int, nargs="+")
    serve(parser.parse_args().ports)


if __name__ == "__main__":
    main()
