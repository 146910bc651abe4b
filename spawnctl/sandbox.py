"""Test mode's own nodes: a small REST store, three times, each as a process of its own.

A node keeps its items in memory. What makes it fit to stand behind Spawn is how ``POST`` names a new item: by the
``Idempotency-Key`` that Spawn sends along, so every node makes the same id for the same update, and an update that is
delivered twice still makes one item. (An application that rolls dice here cannot be kept in step by anybody.)

A node of test mode ends when its standard input does (``--until-eof``). Its parent holds the other end, so no node
outlives a parent that was killed.
Nodes are sessions of their own: Ctrl-C on the terminal is for Spawn, which stops them when it is done with them.

Run one by hand: ``python -m spawnctl.sandbox --port 8001``, in the background if you like.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable, Sequence
from http import HTTPStatus
from typing import Any

from docopt import docopt

from spawn.errors import StartError

USAGE = """\
A node of Spawn's test mode: a small REST store in memory.

Usage:
  sandbox [--port=PORT] [--until-eof]

Options:
  --port=PORT  Port on 127.0.0.1, 0 for a free one [default: 0]
  --until-eof  End with standard input, as a child of test mode does

SIGTERM or Ctrl-C ends it.
"""
HOST = "127.0.0.1"
START_TIMEOUT_S = 20.0  # an interpreter's start on a busy machine
STOP_TIMEOUT_S = 5.0
BODY_LIMIT_BYTES = 1_048_576
STORE_LIMIT_BYTES = 67_108_864
MAX_ID_CHARS = 200
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

Answer = tuple[HTTPStatus, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], object]


class Store:
    """The application: items by id. A WSGI callable; every answer but ``/info`` is JSON and ends with a newline."""

    def __init__(self) -> None:
        self._items: dict[str, str] = {}
        self._bytes = 0

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        status, content = self._answer(environ)
        text = content if isinstance(content, str) else json.dumps(content)
        body = b"" if status is HTTPStatus.NO_CONTENT else f"{text}\n".encode()
        headers = [("Content-Type", "text/plain" if isinstance(content, str) else "application/json")]
        if status is not HTTPStatus.NO_CONTENT:
            headers.append(("Content-Length", str(len(body))))
        start_response(f"{status.value} {status.phrase}", headers)
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else body]

    def _answer(self, environ: dict[str, Any]) -> Answer:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"].encode("latin-1").decode(errors="replace")
        reading = method in ("GET", "HEAD")
        if path == "/info" and reading:
            return HTTPStatus.OK, "version:1"
        if path == "/items" and reading:
            return HTTPStatus.OK, {"items": [self._item(name) for name in sorted(self._items)]}
        if path == "/items" and method == "POST":
            key = environ.get("HTTP_IDEMPOTENCY_KEY") or uuid.uuid4().hex  # without Spawn, any new id will do
            return self._put(hashlib.sha256(key.encode("latin-1")).hexdigest()[:12], environ)
        name = path.removeprefix("/items/")
        if name == path or not 0 < len(name) <= MAX_ID_CHARS:
            return HTTPStatus.NOT_FOUND, {"error": "there is /info, /items and /items/<id>"}
        if method == "PUT":
            return self._put(name, environ)
        if name not in self._items:
            return HTTPStatus.NOT_FOUND, {"error": f"no item '{name}'"}
        if method == "DELETE":
            self._bytes -= len(self._items.pop(name))
            return HTTPStatus.NO_CONTENT, {}
        if reading:
            return HTTPStatus.OK, self._item(name)
        return HTTPStatus.METHOD_NOT_ALLOWED, {"error": f"{method} is not for an item"}

    def _put(self, name: str, environ: dict[str, Any]) -> Answer:
        body = environ["wsgi.input"].read(BODY_LIMIT_BYTES + 1)
        if len(body) > BODY_LIMIT_BYTES:
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": f"an item has at most {BODY_LIMIT_BYTES} bytes"}
        value = body.decode(errors="replace")
        old = self._items.get(name)
        grown = self._bytes - len(old or "") + len(value)
        if grown > STORE_LIMIT_BYTES:
            return HTTPStatus.INSUFFICIENT_STORAGE, {"error": "this node keeps its items in memory, and it is full"}
        self._items[name], self._bytes = value, grown
        return (HTTPStatus.CREATED if old is None else HTTPStatus.OK), self._item(name)

    def _item(self, name: str) -> dict[str, Any]:
        value: Any = self._items[name]
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(value)
        return {"id": name, "value": value}


def serve(port: int, until_eof: bool) -> None:
    """Serve one node, for ever or until standard input ends; its address is the one line on standard output."""
    from gevent import socket
    from gevent.event import Event
    from gevent.pywsgi import WSGIServer

    server = WSGIServer((HOST, port), Store(), log=None)
    server.start()
    server.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it; else 40 ms each
    with contextlib.suppress(BrokenPipeError):  # a parent that went away meanwhile has closed the input, too
        os.write(sys.stdout.fileno(), f"{HOST}:{server.server_port}\n".encode())
    if until_eof:
        _until_end(socket.wait_read)
    else:
        Event().wait()
    server.stop(timeout=1)


def _until_end(wait_read: Callable[[int], object]) -> None:
    while True:
        wait_read(sys.stdin.fileno())
        if not os.read(sys.stdin.fileno(), 4096):
            return


class Sandbox:
    """Nodes as child processes. ``stop()`` may be called twice, and is due after a ``start()`` that failed, too."""

    def __init__(self, count: int = 3) -> None:
        self._count = count
        self._nodes: list[subprocess.Popen[str]] = []
        self.addresses: list[tuple[str, int]] = []

    def start(self) -> None:
        """Return when each node has told its port. Raises StartError."""
        for _ in range(self._count):
            self._launch()
        self.addresses = [self._address(node) for node in self._nodes]

    def _launch(self) -> None:
        """Signals wait until the node is on the list: one that interrupted us here would leave it to itself."""
        command = [sys.executable, "-m", "spawnctl.sandbox", "--port=0", "--until-eof"]
        pipe = subprocess.PIPE
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            self._nodes.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, start_new_session=True))
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    @staticmethod
    def _address(node: subprocess.Popen[str]) -> tuple[str, int]:
        assert node.stdout
        readable, _, _ = select.select([node.stdout], [], [], START_TIMEOUT_S)
        host, _, port = (node.stdout.readline() if readable else "").strip().rpartition(":")
        if not port:
            raise StartError("a sandbox node of test mode did not start")
        return host, int(port)

    def stop(self, deadline_s: float = STOP_TIMEOUT_S) -> None:
        """End the nodes by closing their standard input, and kill what does not heed it."""
        for node in self._nodes:
            assert node.stdin
            node.stdin.close()
        for node in self._nodes:
            try:
                node.wait(deadline_s)
            except subprocess.TimeoutExpired:
                node.kill()
                node.wait()
            assert node.stdout
            node.stdout.close()
        self._nodes = []


def main(argv: Sequence[str] | None = None) -> int:
    options = docopt(USAGE, argv)
    port = options["--port"]
    if not port.isdecimal() or int(port) > 65_535:
        print(f"--port: {port} is not a port", file=sys.stderr)
        return 2
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # a parent that blocks them passes that on
    try:
        serve(int(port), options["--until-eof"])
    except KeyboardInterrupt:
        pass
    except OSError as error:
        print(f"cannot listen on {HOST}:{port}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
