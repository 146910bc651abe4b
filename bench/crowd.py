"""Idle clients: each connects, asks once, and keeps its connection until the process is ended.

python -m bench.crowd PORT CLIENTS
"""

from __future__ import annotations

import argparse
import signal
import socket

READY = "all are connected"
REQUEST = b"GET /items/1 HTTP/1.1\r\nHost: idle.example.com\r\n\r\n"
ANSWER_S = 30.0


def idle_client(port: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=ANSWER_S)
    client.sendall(REQUEST)
    answer = client.recv(65_536)
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    return client


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("clients", type=int)
    chosen = parser.parse_args()
    clients = [idle_client(chosen.port) for _ in range(chosen.clients)]
    print(READY, flush=True)
    signal.pause()
    assert clients


if __name__ == "__main__":
    main()
