"""What clients get, byte for byte: nodes that answer with given bytes, a whole Spawn, a client's socket.

Each answer is asked for by a read, by an update, whose answer is the reference, and by a client that speaks HTTP/1.0.
Heads are compared as a whole; a node sends each answer in one piece and byte by byte.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from gevent.event import Event

from spawn.config.schema import RuleConfig
from tests.support.rawcluster import DATE, OK, RawCluster, chunked, length
from tests.support.rawhttp import RawClient
from tests.support.scriptednode import Peer

CHUNKED = b"Transfer-Encoding: chunked\r\n"
PACKED = gzip.compress(b"hello " * 1_000, mtime=0)
LARGE = bytes(range(256)) * 1_200  # more than a spool keeps in memory
COOKIES = (
    b"Set-Cookie: a=1; Path=/; HttpOnly\r\nX-A: 1\r\nset-cookie: b=2; Expires=Wed, 09 Jun 2027 10:18:14 GMT\r\n"
    b"Set-Cookie: a=3\r\nSET-COOKIE: \r\n"
)
PART = b"Content-Range: bytes 2-5/10\r\nAccept-Ranges: bytes\r\nContent-Type: text/plain\r\n"
MANY = (
    b"x-lower: 1\r\nX-MiXeD: 2\r\nServer: me/1 (x)\r\nX-Twice: 1\r\nx-between: 2\r\nX-Twice: 3\r\nETag: W/\"a\"\r\n"
    b"Vary: *\r\nVia: 1.1 inner\r\nX-Latin: caf\xe9 \xff\r\nX-Tab: a\tb\r\nX-Empty: \r\nX_U: 1\r\nLocation: /%2f\r\n"
    b"WWW-Authenticate: Basic realm=\"a, b\"\r\nAge: 0\r\nWarning: 199 - \"x\"\r\nX-Long: " + b"l" * 20_000 + b"\r\n"
)  # fmt: skip
HOPS = (
    b"Connection: X-Gone, keep-alive\r\nx-gone: 1\r\nKeep-Alive: timeout=5\r\nTrailer: X-Sum\r\nUpgrade: h2c\r\n"
    b"Proxy-Authenticate: Basic\r\nProxy-Connection: x\r\nSpawn-Sequence: 77\r\nSpawn-Behind: 5\r\nTE: x\r\n"
)


@dataclass(frozen=True, slots=True)
class Case:
    """An answer, and what of it a client gets."""

    name: str
    line: bytes = b"200 OK"
    fields: bytes = DATE  # that pass
    framing: bytes = b""  # as the node says it, with whatever does not pass
    raw: bytes = b""  # the body with its framing
    body: bytes = b""
    end: bool = False  # the node closes
    minor: int = 1
    before: bytes = b""  # 1xx

    @property
    def answer(self) -> bytes:
        status = b"HTTP/1.%d %b\r\n" % (self.minor, self.line)
        return self.before + status + self.fields + self.framing + b"\r\n" + self.raw

    @property
    def bodyless(self) -> bool:
        return self.line[:3] in (b"204", b"304")

    @property
    def has_length(self) -> bool:
        return b"content-length" in self.framing.lower()


def whole(name: str, body: bytes, line: bytes = b"200 OK", fields: bytes = DATE, more: bytes = b"") -> Case:
    return Case(name, line, fields, length(body) + more, body, body)


CASES = [
    whole("length", b"hello"),
    whole("empty", b""),
    whole("large", LARGE),
    Case("chunked", framing=CHUNKED, raw=chunked(b"hel", b"lo"), body=b"hello"),
    Case("chunked, empty", framing=CHUNKED, raw=chunked()),
    Case("chunked, large", framing=CHUNKED, raw=chunked(LARGE[:99], LARGE[99:]), body=LARGE),
    Case("trailers", framing=CHUNKED, raw=b"5;x=y\r\nhello\r\n0\r\nX-Sum: 1\r\nDate: x\r\n\r\n", body=b"hello"),
    Case("close", raw=b"hello", body=b"hello", end=True),
    Case("close, empty", end=True),
    Case("close, large", framing=b"Connection: close\r\n", raw=LARGE, body=LARGE, end=True),
    Case("1.0, length", framing=length(b"hello"), raw=b"hello", body=b"hello", minor=0, end=True),
    Case("1.0, close", raw=b"hello", body=b"hello", minor=0, end=True),
    Case("1.0, kept", framing=length(b"ok") + b"Connection: Keep-Alive\r\n", raw=b"ok", body=b"ok", minor=0),
    Case("204", b"204 No Content"),
    Case("204 with length", b"204 No Content", framing=b"Content-Length: 0\r\n"),
    whole("206", b"cdef", b"206 Partial Content", DATE + PART),
    whole("416", b"", b"416 Range Not Satisfiable", DATE + b"Content-Range: bytes */10\r\n"),
    whole("gzip", PACKED, fields=DATE + b"Content-Encoding: gzip\r\nVary: Accept-Encoding\r\nETag: \"z\"\r\n"),
    Case("gzip, chunked", b"200 OK", DATE + b"Content-Encoding: gzip\r\n", CHUNKED, chunked(PACKED), PACKED),
    whole("cookies", b"x", fields=COOKIES + DATE),
    whole("many", b"x", fields=MANY + DATE),
    whole("hops", b"x", more=HOPS),
    whole("no reason", b"x", b"200 "),
    whole("odd reason", b"x", b"201 caf\xe9 \"so\"  what?"),
    whole("unknown good status", b"x", b"299 Fine"),
    whole("303", b"x", b"303 See Other", DATE + b"Location: /a%2fb/../x\r\n"),
    whole("404", b"none", b"404 Not Found"),
    whole("unknown bad status", b"x", b"499 Client Gone"),
    Case("100", framing=length(b"ok"), raw=b"ok", body=b"ok", before=b"HTTP/1.1 100 Continue\r\n\r\n"),
    Case("1xx", framing=length(b"ok"), raw=b"ok", body=b"ok", before=b"".join(
        b"HTTP/1.1 %b\r\n\r\n" % line
        for line in (b"102 Processing", b"103 Early Hints\r\nLink: </x>; rel=preload\r\nX-A: 1", b"199 ")
    )),
]  # fmt: skip


HEADS = [
    (b"HEAD", b"200 OK", length(b"x" * 1_234), length(b"x" * 1_234)),
    (b"HEAD", b"200 OK", CHUNKED, b""),
    (b"HEAD", b"200 OK", b"", b""),
    (b"HEAD", b"404 Not Found", b"Content-Length: 0\r\n", b"Content-Length: 0\r\n"),
    (b"HEAD", b"304 Not Modified", b"Content-Length: 99\r\n", b"Content-Length: 99\r\n"),
    (b"GET", b"304 Not Modified", b'ETag: "a"\r\nContent-Length: 1234\r\n', b'ETag: "a"\r\nContent-Length: 1234\r\n'),
    (b"GET", b"304 Not Modified", b'ETag: "a"\r\n', b'ETag: "a"\r\n'),
    (b"GET", b"204 No Content", b"", b""),
]  # of the node, and what passes: a length that announces no body is about the body that GET would have got


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RawCluster]:
    rules = (RuleConfig(url="^/update", as_="update"),)
    with RawCluster(tmp_path_factory.mktemp("answers"), rules=rules, timeouts={"agree": 0.05}) as cluster:
        yield cluster


@pytest.fixture
def cluster(running: RawCluster) -> RawCluster:
    running.clear()
    return running


def play(cluster: RawCluster, case: Case, way: str) -> None:
    """Every node answers so. Of a long answer the beginning drips."""
    dripped = 0 if way == "whole" else min(len(case.answer), 700)

    def script(peer: Peer) -> bool:
        for at in range(dripped):
            peer.send(case.answer[at : at + 1])
        peer.send(case.answer[dripped:])
        return case.end

    cluster.answer(script)


def expect(client: RawClient, cluster: RawCluster, case: Case, *, sequence: int = 0) -> None:
    """The answer, with a length unless the node gave none."""
    framing = b"" if case.bodyless else length(case.body)
    client.expect(cluster.for_client(case.line, case.fields, framing, case.body, minor=case.minor, sequence=sequence))


@pytest.mark.parametrize("way", ["whole", "drip"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
class TestEachAnswer:
    def test_to_a_read(self, cluster: RawCluster, case: Case, way: str) -> None:
        """An unknown length stays one; the pieces need not be the node's."""
        play(cluster, case, way)
        with cluster.client() as client:
            client.send(b"GET /x HTTP/1.1\r\nHost: app.test\r\n\r\n")
            if case.bodyless or case.has_length:
                expect(client, cluster, case)
            else:
                client.expect(cluster.for_client(case.line, case.fields, CHUNKED, minor=case.minor))
                assert client.chunks() == case.body
            cluster.answer(OK)
            client.send(b"GET /y HTTP/1.1\r\nHost: app.test\r\n\r\n")
            client.expect(cluster.for_client(framing=length(b"ok"), body=b"ok"))

    def test_to_an_update(self, cluster: RawCluster, case: Case, way: str) -> None:
        """Where the length was unknown it is known to Spawn when the whole answer is there in a moment."""
        play(cluster, case, way)
        with cluster.client() as client:
            client.send(b"POST /x HTTP/1.1\r\nHost: app.test\r\nContent-Length: 1\r\n\r\nx")
            head = client.until(b"\r\n\r\n")
            if CHUNKED in head:
                assert not case.has_length
                assert head == cluster.for_client(
                    case.line, case.fields, CHUNKED, minor=case.minor, sequence=cluster.head
                )
                assert client.chunks() == case.body
            else:
                client.buffer = head + client.buffer
                expect(client, cluster, case, sequence=cluster.head)
            cluster.clear()
            client.send(b"POST /y HTTP/1.1\r\nHost: app.test\r\n\r\n")
            client.expect(cluster.for_client(framing=length(b"ok"), body=b"ok", sequence=cluster.head + 1))

    def test_to_an_old_client(self, cluster: RawCluster, case: Case, way: str) -> None:
        """What has no length ends with the connection, for which no other framing is said."""
        play(cluster, case, way)
        with cluster.client() as client:
            client.send(b"GET /x HTTP/1.0\r\nHost: app.test\r\n\r\n")
            framing = length(case.body) if case.has_length and not case.bodyless else b""
            expected = cluster.for_client(case.line, case.fields, framing, case.body, minor=case.minor, close=True)
            assert client.rest() == expected


@pytest.mark.parametrize(("method", "line", "fields", "passed"), HEADS)
@pytest.mark.parametrize("target", [b"/read", b"/update"])
def test_answers_without_a_body(
    cluster: RawCluster, method: bytes, line: bytes, fields: bytes, passed: bytes, target: bytes
) -> None:
    cluster.answer(b"HTTP/1.1 %b\r\n%b%b\r\n" % (line, DATE, fields))
    tag, _, framing = passed.rpartition(b"Content-Length") if b"Content-Length" in passed else (passed, b"", b"")
    with cluster.client() as client:
        for _ in range(2):
            client.send(b"%b %b HTTP/1.1\r\nHost: app.test\r\n\r\n" % (method, target))
            sequence = cluster.head + 1 if target == b"/update" else 0
            framing_line = b"Content-Length" + framing if framing else b""
            client.expect(cluster.for_client(line, DATE + tag, framing_line, sequence=sequence))


@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_a_date_is_added_where_a_node_gives_none(cluster: RawCluster, method: bytes) -> None:
    """RFC 9110 §6.6.1."""
    cluster.answer(b"HTTP/1.1 200 OK\r\nA: 1\r\nContent-Length: 0\r\nX-Date: 1\r\n\r\n")
    with cluster.client() as client:
        head = client.send(method + b" / HTTP/1.1\r\nHost: app.test\r\n\r\n").until(b"\r\n\r\n")
    expected = cluster.for_client(
        fields=b"A: 1\r\nX-Date: 1\r\n",
        framing=b"Date: *\r\nContent-Length: 0\r\n",
        sequence=cluster.head if method == b"POST" else 0,
    )
    date = rb"Date: [A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT\r\n"
    assert re.sub(date, b"Date: *\r\n", head) == expected


def test_a_clients_request_for_a_part_and_its_conditions_reach_the_node(cluster: RawCluster) -> None:
    """Spawn is no cache: what a validator or a range means is the node's business."""
    fields = b'Range: bytes=2-5\r\nIf-Range: "a"\r\nIf-None-Match: *\r\nAccept-Encoding: gzip\r\n'
    cluster.answer(b"HTTP/1.1 206 Partial Content\r\n" + DATE + PART + length(b"cdef") + b"\r\ncdef")
    with cluster.client() as client:
        client.send(b"GET /part HTTP/1.1\r\nHost: app.test\r\n%b\r\n" % fields)
        client.expect(cluster.for_client(b"206 Partial Content", DATE + PART, length(b"cdef"), b"cdef"))
    assert cluster.heard()[0] == [cluster.for_node(b"GET /part", fields)]


def test_an_update_by_head_that_nobody_answers_yet(tmp_path: Path) -> None:
    """Rules may make an update of any method; the 202 announces its body and has none."""
    rules = (RuleConfig(url="^/update", as_="update"),)
    with RawCluster(tmp_path, rules=rules, timeouts={"answer": 0.05}) as cluster:
        gate = Event()
        cluster.answer(lambda peer: gate.wait() and peer.send(OK[:-2]))
        with cluster.client() as client:
            client.send(b"HEAD /update HTTP/1.1\r\nHost: app.test\r\n\r\n")
            answer = client.answer(b"HEAD")
            assert (answer.status, answer.get(b"spawn-sequence"), client.buffer) == (202, b"1", b"")
        gate.set()
        cluster.until_applied(1)
