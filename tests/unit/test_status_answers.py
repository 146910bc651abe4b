"""What ``spawnctl status`` makes of whatever may answer on the API's port: lines, within its deadline, every time."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from spawnctl import status
from tests.support.waiting import eventually

Answer = Callable[[socket.socket, str], None]  # what is done with a connection that asked for this path
Describe = Callable[[Answer], list[str]]

INFO = {"Spawn Sync Service": {"Release": {"Date": "2026-11-23", "Number": "1.0.0"}}}
HEALTH = {"data": {"info": "serving", "success": True}, "duration": 1, "took": "1ns"}
NODE = {"host": "node1", "port": 7017, "state": "serving", "position": 5, "backlog": 0, "last-error": "", "held": False}
QUEUES = {"data": {"head": 5, "results": [NODE], "success": True, "total": 1}}
NOT_SPAWN = "what answers at {api} is not the API of Spawn"
PIECES = 2_000  # of 1 MiB: more than any test would wait for, and an end all the same


class Stranger:
    """Listens, and gives each connection to a thread of its own."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = [self._listener]
        self.api = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.asked: list[str] = []
        self._run(self._accept)

    def close(self) -> None:
        for each in list(self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()
        for each in self._sockets:
            each.close()

    def _run(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._sockets.append(connection)
                self._run(self._talk, connection)

    def _talk(self, connection: socket.socket) -> None:
        with suppress(OSError):
            while head := self._head(connection):
                path = head.split(" ")[1]
                self.asked.append(path)
                self._answer(connection, path)

    @staticmethod
    def _head(connection: socket.socket) -> str:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            piece = connection.recv(65_536)
            if not piece:
                return ""
            head += piece
        return head.decode("latin-1")


@pytest.fixture
def stranger(request: pytest.FixtureRequest) -> Iterator[Callable[[Answer], Stranger]]:
    made: list[Stranger] = []

    def make(answer: Answer) -> Stranger:
        made.append(Stranger(answer))
        return made[-1]

    yield make
    for each in made:
        each.close()
    eventually(
        lambda: not any(thread.name == "status" for thread in threading.enumerate()),
        timeout_s=10,
        what="the thread that asked has ended",
    )


def whole(body: bytes, code: int = 200) -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (code, len(body), body)


def spawn_like(**changed: bytes) -> Answer:
    """Answers like Spawn but for the paths that are named."""
    usual = {"info": INFO, "health": HEALTH, "queues": QUEUES}

    def answer(connection: socket.socket, path: str) -> None:
        name = path.strip("/")
        connection.sendall(changed[name] if name in changed else whole(json.dumps(usual[name]).encode()))

    return answer


def with_node(**fields: Any) -> bytes:
    return whole(json.dumps({"data": {"head": 5, "results": [NODE | fields]}}).encode())


def with_queues(text: str) -> bytes:
    return whole(text.encode())


Make = Callable[[Answer], Stranger]


def test_what_spawn_answers_is_shown(stranger: Make) -> None:
    summary, heading, row = status.describe(stranger(spawn_like()).api, os.getpid())
    assert summary.startswith("version 1.0.0, up ")
    assert summary.endswith(", journal at update 5")
    assert heading.split() == ["NODE", "STATE", "BACKLOG"]
    assert row.split() == ["node1:7017", "serving", "0"]


def test_a_service_that_does_not_serve_says_why(stranger: Make) -> None:
    body = json.dumps({"data": {"error": 503, "info": "no node serves", "message": "Not serving", "success": False}})
    lines = status.describe(stranger(spawn_like(health=whole(body.encode(), 503))).api, os.getpid())
    assert lines[0].endswith(", not serving (no node serves)")


def test_without_nodes(stranger: Make) -> None:
    body = b'{"data": {"head": 0, "results": []}}'
    lines = status.describe(stranger(spawn_like(queues=whole(body))).api, os.getpid())
    assert lines[1:] == ["no nodes are configured"]


def test_ten_thousand_nodes_are_shown(stranger: Make) -> None:
    many = [NODE | {"host": f"{'n' * 240}{n}", "last-error": "e" * 300} for n in range(10_000)]
    body = json.dumps({"data": {"head": 5, "results": many}}).encode()
    lines = status.describe(stranger(spawn_like(queues=whole(body))).api, os.getpid())
    assert len(lines) == 10_002


def test_a_long_name_does_not_widen_the_rows_of_all_others(stranger: Make) -> None:
    many = [NODE | {"host": "n" * 255}, NODE]
    body = json.dumps({"data": {"head": 5, "results": many}}).encode()
    lines = status.describe(stranger(spawn_like(queues=whole(body))).api, os.getpid())
    assert len(lines[2]) > 255
    assert len(lines[3]) < 120


def test_everything_that_is_shown_is_escaped_and_ascii_where_it_is_ours(stranger: Make) -> None:
    node = {"host": "a\x1b]0;x\x07\nb", "state": "serv\u2028ing", "last-error": "\u202eno\r" + "x" * 100}
    info = {"Spawn Sync Service": {"Release": {"Number": "1\x9b31m"}}}
    health = {"data": {"success": False, "info": "so\n\x00"}}
    answer = spawn_like(
        info=whole(json.dumps(info).encode()), health=whole(json.dumps(health).encode()), queues=with_node(**node)
    )
    lines = status.describe(stranger(answer).api, os.getpid())
    assert all(line.isprintable() and line.isascii() for line in lines)
    assert r"1\x9b31m" in lines[0]
    assert r"a\x1b]0;x\x07\nb:7017" in lines[2]
    assert lines[2].endswith("xxx...")


@pytest.mark.parametrize(
    "queues",
    [
        with_node(port="\x1b]0;owned\x07\n"),
        with_node(port=1e300),
        with_node(port=70_000),
        with_node(backlog="1"),
        with_node(backlog=None),
        with_node(backlog=-1),
        with_node(backlog=10**300),
        with_node(host=7),
        with_node(host="h" * 300),
        with_node(state=["serving"]),
        with_node(held={"a": 1}),
        with_queues('{"data": {"head": 1e999, "results": []}}'),
        with_queues('{"data": {"head": Infinity, "results": []}}'),
        with_queues('{"data": {"head": NaN, "results": []}}'),
        with_queues('{"data": {"head": ' + "9" * 10_000 + ', "results": []}}'),
        with_queues(r'{"data": {"head": 5, "results": [{"host": "\ud800", "port": 1, "state": "", "backlog": 0}]}}'),
        with_queues("[" * 100_000),
        with_queues('{"data": {"head": 5, "results": [], "more": ' + '{"a":' * 100_000),
        with_queues('{"data": null}'),
        with_queues('{"data": {"results": 7}}'),
        with_queues('{"data": {"results": [[]]}}'),
        with_queues("[]"),
        with_queues("null"),
        with_queues("7"),
        with_queues("<html>"),
        with_queues(""),
        whole(b"\xff\xfe{}"),
        whole(b"Not Found", 404),
        whole(b'{"data": {"error": 404, "success": false}}', 404),
        whole(b"", 503),
        b"HTTP/1.1 204 X\r\n\r\n",
        b"HTTP/1.1 200 X\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
    ],
)
def test_nonsense_ends_in_one_line(stranger: Make, queues: bytes) -> None:
    there = stranger(spawn_like(queues=queues))
    assert status.describe(there.api, os.getpid()) == [NOT_SPAWN.format(api=there.api)]


@pytest.mark.parametrize("path", ["info", "health"])
@pytest.mark.parametrize("body", [b"{}", b"[1]", b'{"Spawn Sync Service": 1}', b'{"data": {"success": 1}}'])
def test_nonsense_elsewhere(stranger: Make, path: str, body: bytes) -> None:
    there = stranger(spawn_like(**{path: whole(body)}))
    assert status.describe(there.api, os.getpid()) == [NOT_SPAWN.format(api=there.api)]


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "its answer cannot be read"),
        (b"HTTP/1.1 200 X\r\n" + b"a" * 100_000 + b"\r\n\r\n", "its answer cannot be read"),
        (b"HTTP/1.1 200 X\r\n" + b"a: b\r\n" * 1_000 + b"\r\n", "its answer cannot be read"),
        (b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n", "its answer cannot be read"),
        (b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n-7\r\n", "its answer cannot be read"),
    ],
)
def test_what_is_not_even_http(stranger: Make, info: bytes, reason: str, capfd: pytest.CaptureFixture[str]) -> None:
    there = stranger(spawn_like(info=info))
    assert status.describe(there.api, os.getpid()) == [f"its API at {there.api} does not answer: {reason}"]
    assert capfd.readouterr() == ("", ""), "no library complains by itself"


def test_heads_that_libraries_complain_about_are_not_complained_about(
    stranger: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    fields = b"Set-Cookie: a=b; expires=nonsense; domain=\xff\r\n no: colon\r\nContent-Length: 2\r\nbad\r\n"
    head = b"HTTP/1.1 200 X\r\n" + fields + b"\r\n{}"
    there = stranger(spawn_like(info=head))
    assert status.describe(there.api, os.getpid()) == [NOT_SPAWN.format(api=there.api)]
    assert capfd.readouterr() == ("", "")


def test_a_cut_answer(stranger: Make) -> None:
    def answer(connection: socket.socket, path: str) -> None:
        connection.sendall(b"HTTP/1.1 200 X\r\nContent-Length: 100\r\n\r\n{")
        connection.shutdown(socket.SHUT_RDWR)

    there = stranger(answer)
    [line] = status.describe(there.api, os.getpid())
    assert line == f"its API at {there.api} does not answer: its answer cannot be read"


def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        api = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert status.describe(api, os.getpid()) == [f"its API at {api} does not answer: no connection"]


def test_silence_ends_with_the_deadline_of_a_piece(stranger: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "READ_S", 0.2)
    there = stranger(lambda connection, path: None)
    assert "nothing comes within" in status.describe(there.api, os.getpid())[0]


def test_silence_within_a_body_as_well(stranger: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "READ_S", 0.2)
    there = stranger(spawn_like(info=b"HTTP/1.1 200 X\r\nContent-Length: 100\r\n\r\n{"))
    assert "nothing comes within" in status.describe(there.api, os.getpid())[0]


@pytest.mark.parametrize(
    "beginning", [b"", b"HTTP/1.1 200 X\r\nA: ", b"HTTP/1.1 200 X\r\nContent-Length: 9999\r\n\r\n{"]
)
def test_a_drip_ends_with_the_deadline_of_all(
    stranger: Make, monkeypatch: pytest.MonkeyPatch, beginning: bytes
) -> None:
    monkeypatch.setattr(status, "TOTAL_S", 0.5)
    closed = threading.Event()

    def drip(connection: socket.socket, path: str) -> None:
        connection.sendall(beginning or b"H")
        while not closed.wait(0.05):
            connection.sendall(b" ")

    there = stranger(drip)
    began_s = time.monotonic()
    try:
        [line] = status.describe(there.api, os.getpid())
    finally:
        closed.set()
    assert time.monotonic() - began_s < 3
    assert line.startswith(f"its API at {there.api} does not answer: not all has come within ")


def endless(head: bytes, piece: bytes) -> Answer:
    def answer(connection: socket.socket, path: str) -> None:
        connection.sendall(head)
        for _ in range(PIECES):
            connection.sendall(piece)

    return answer


MIB = b"7" * 1_048_576


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"HTTP/1.1 200 X\r\n\r\n", MIB),
        (b"HTTP/1.1 200 X\r\nContent-Length: 99999999999\r\n\r\n", MIB),
        (b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n", b"100000\r\n" + MIB + b"\r\n"),
        (b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n", MIB),  # a size without an end
        (b"HTTP/1.1 302 X\r\nLocation: /elsewhere\r\n\r\n", MIB),
        (b"HTTP/1.1 404 X\r\n\r\n", MIB),
        (b"", MIB),
        (b"HTTP/1.1 200 X\r\n", b"A: " + MIB),
    ],
)
def test_an_endless_answer_is_not_kept(stranger: Make, head: bytes, piece: bytes) -> None:
    there = stranger(endless(head, piece))
    tracemalloc.start()
    try:
        [line] = status.describe(there.api, os.getpid())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert line in (
        NOT_SPAWN.format(api=there.api),
        f"its API at {there.api} does not answer: its answer cannot be read",
    )
    assert peak < 4 * status.ANSWER_BYTES


def test_a_redirect_is_not_followed(stranger: Make) -> None:
    there = stranger(spawn_like(info=b"HTTP/1.1 302 X\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"))
    assert status.describe(there.api, os.getpid()) == [NOT_SPAWN.format(api=there.api)]
    assert "/elsewhere" not in there.asked
