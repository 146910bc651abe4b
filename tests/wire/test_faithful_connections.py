"""Connections of clients and nodes over a whole Spawn: kept, pipelined, told to go on, cut, and replaced by others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from gevent.event import Event

from spawn.config.schema import RuleConfig
from tests.support.rawcluster import DATE, OK, RawCluster, Script, chunked, hang_up, length, say
from tests.support.scriptednode import Peer

GO_ON = b"HTTP/1.1 100 Continue\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
RULES = (RuleConfig(method="POST", url="^/search", as_="read"),)
BODY = b"q" * 300_000  # of a read, in a file


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RawCluster]:
    directory = tmp_path_factory.mktemp("connections")
    with RawCluster(directory, rules=RULES, limits={"body": 1_000_000}, health_check={"seconds": 60.0}) as cluster:
        yield cluster


@pytest.fixture
def cluster(running: RawCluster) -> RawCluster:
    running.clear()
    running.forget_kept_connections()
    return running


def echo(peer: Peer, request: bytes) -> None:
    """The request line, as the body of the answer."""
    line = request.partition(b" HTTP/")[0]
    peer.send(b"HTTP/1.1 200 OK\r\n" + DATE + length(line) + b"\r\n" + line)


# --- clients


def requests_and_answers(cluster: RawCluster, count: int) -> tuple[list[bytes], list[bytes]]:
    """Reads and updates in turn, with and without bodies, and what has to come back."""
    asked, answered = [], []
    sequence = cluster.head
    for number in range(count):
        method, body = [(b"GET", b""), (b"PUT", b"x" * 700), (b"REPORT", b"y"), (b"DELETE", b"")][number % 4]
        line = b"%b /%d" % (method, number)
        coded = CHUNKED + b"\r\n" + chunked(body) if number % 8 == 5 else length(body) + b"\r\n" + body
        asked.append(line + b" HTTP/1.1\r\nHost: app.test\r\n" + (coded if body else b"\r\n"))
        sequence += method in (b"PUT", b"DELETE")
        mark = sequence if method in (b"PUT", b"DELETE") else 0
        answered.append(cluster.for_client(framing=length(line), body=line, sequence=mark))
    return asked, answered


def answer_with_the_request_line(cluster: RawCluster) -> None:
    for node in cluster.raw_nodes:
        node.script = lambda peer, node=node: echo(peer, node.heard[-1])  # type: ignore[misc]


def test_a_kept_connection(cluster: RawCluster) -> None:
    answer_with_the_request_line(cluster)
    asked, answered = requests_and_answers(cluster, 40)
    with cluster.client() as client:
        for request, expected in zip(asked, answered, strict=True):
            client.send(request).expect(expected)
        assert client.buffer == b""


def test_pipelined_requests_are_answered_in_order(cluster: RawCluster) -> None:
    """An update is journalled only when the answer to what was asked before it is out."""
    answer_with_the_request_line(cluster)
    asked, answered = requests_and_answers(cluster, 40)
    with cluster.client() as client:
        client.send(b"".join(asked)).expect(b"".join(answered))
        assert client.buffer == b""
    heard = [[request.partition(b" HTTP/")[0] for request in node] for node in cluster.heard()]
    lines = [request.partition(b" HTTP/")[0] for request in asked]
    assert heard == [lines, *[[line for line in lines if line[:3] in (b"PUT", b"DEL")]] * 2]


def test_whatever_is_behind_the_last_request_is_no_request(cluster: RawCluster) -> None:
    with cluster.client() as client:
        client.send(
            b"GET /last HTTP/1.1\r\nHost: app.test\r\nConnection: CLOSE\r\n\r\nPUT /late HTTP/1.1\r\nHost: a\r\n\r\n"
        )
        assert client.rest() == cluster.for_client(framing=length(b"ok"), body=b"ok", close=True)
    assert cluster.heard() == [[cluster.for_node(b"GET /last")], [], []]


@pytest.mark.parametrize("method", [b"REPORT", b"PUT"])
@pytest.mark.parametrize("coded", [True, False])
def test_a_client_that_waits_is_told_to_go_on(cluster: RawCluster, method: bytes, coded: bool) -> None:
    """RFC 9110 §10.1.1: by Spawn, which is why nothing of it reaches a node, whose own 100 goes no further."""
    cluster.answer(GO_ON + OK)
    sequence = cluster.head + 1 if method == b"PUT" else 0
    with cluster.client() as client:
        for _ in range(2):
            client.send(method + b" /e HTTP/1.1\r\nHost: app.test\r\nExpect: 100-Continue\r\nA: 1\r\n")
            client.send(CHUNKED + b"\r\n" if coded else length(b"body") + b"\r\n").expect(GO_ON)
            assert [node.heard for node in cluster.raw_nodes] == [[], [], []]
            client.send(chunked(b"bo", b"dy") if coded else b"body")
            client.expect(cluster.for_client(framing=length(b"ok"), body=b"ok", sequence=sequence))
            expected = cluster.for_node(method + b" /e", b"A: 1\r\n", b"body", sequence=sequence)
            assert cluster.heard() == ([[expected]] * 3 if sequence else [[expected], [], []])
            sequence += bool(sequence)
            cluster.clear()
        assert client.buffer == b""


def test_a_client_that_does_not_wait_is_not_told_to(cluster: RawCluster) -> None:
    """Nor is one whose request has no body, or that speaks HTTP/1.0."""
    with cluster.client() as client:
        client.send(b"PUT / HTTP/1.1\r\nHost: app.test\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx")
        client.expect(cluster.for_client(framing=length(b"ok"), body=b"ok", sequence=cluster.head + 1))
        client.send(b"PUT / HTTP/1.1\r\nHost: app.test\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n")
        client.expect(cluster.for_client(framing=length(b"ok"), body=b"ok", sequence=cluster.head + 1))
    with cluster.client() as client:
        client.send(b"PUT / HTTP/1.0\r\nHost: app.test\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n", b"x")
        expected = cluster.for_client(framing=length(b"ok"), body=b"ok", sequence=cluster.head + 1, close=True)
        assert client.rest() == expected


@pytest.mark.parametrize(
    ("fields", "status"), [(length(b"x" * 2_000_000), 413), (b"Via: 1.1 %b\r\nContent-Length: 9\r\n", 508)]
)
def test_a_client_that_waits_in_vain_is_told_why(cluster: RawCluster, fields: bytes, status: int) -> None:
    fields = fields.replace(b"%b", cluster.via)
    with cluster.client() as client:
        client.send(b"PUT / HTTP/1.1\r\nHost: app.test\r\nExpect: 100-continue\r\n%b\r\n" % fields)
        answer = client.answer()
        assert (answer.status, answer.closes, client.at_end()) == (status, True, True)
    assert cluster.heard() == [[], [], []]


# --- nodes


def test_nodes_connections_are_kept(cluster: RawCluster) -> None:
    before = [node.connections for node in cluster.raw_nodes]
    with cluster.client() as client:
        for number in range(30):
            client.send(b"%b / HTTP/1.1\r\nHost: app.test\r\n\r\n" % (b"GET", b"PUT")[number % 2])
            assert client.answer().status == 200
    assert all(node.connections - old <= 2 for node, old in zip(cluster.raw_nodes, before, strict=True))


def test_trailers_are_no_part_of_what_follows(cluster: RawCluster) -> None:
    """On either side: the next request and the next answer on the same connections are understood."""
    tail = chunked(b"ab")[:-2] + b"X-Sum: 1\r\nX-More: GET /x HTTP/1.1\r\n\r\n"
    cluster.answer(b"HTTP/1.1 200 OK\r\n" + DATE + CHUNKED + b"\r\n" + tail)
    before = cluster.raw_nodes[0].connections
    request = b"REPORT / HTTP/1.1\r\nHost: app.test\r\n" + CHUNKED + b"\r\n" + tail
    with cluster.client() as client:
        client.send(request * 3)
        for _ in range(3):
            client.expect(cluster.for_client(framing=CHUNKED))
            assert client.chunks() == b"ab"
    assert cluster.heard() == [[cluster.for_node(b"REPORT /", body=b"ab")] * 3, [], []]
    assert cluster.raw_nodes[0].connections == before + 1


@pytest.mark.parametrize("answer", [
    OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
    b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
])  # fmt: skip
def test_a_connection_that_a_node_does_not_keep_is_not_used_again(cluster: RawCluster, answer: bytes) -> None:
    """Not even when the node has not closed it yet."""
    cluster.answer(answer)
    before = cluster.raw_nodes[0].connections
    with cluster.client() as client:
        for _ in range(5):
            assert client.send(b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n").answer().body == b"ok"
    assert cluster.raw_nodes[0].connections == before + 5


def cut(data: bytes, how: str, when: Event) -> Script:
    """``when``: the client has what came before the end."""

    def script(peer: Peer) -> bool:
        peer.send(data)
        when.wait()
        if how == "reset":
            peer.reset()
        return True

    return script


@pytest.mark.parametrize("how", ["end", "reset"])
@pytest.mark.parametrize("framing", [length(b"x" * 200_000), CHUNKED])
@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_an_answer_that_breaks_off_breaks_off_for_the_client(
    cluster: RawCluster, method: bytes, framing: bytes, how: str
) -> None:
    """No last chunk, not as many bytes as were announced; and nobody else is asked, for that much was heard."""
    piece, received = b"x" * 100_000, Event()
    sent = chunked(piece)[:-5] if framing == CHUNKED else piece
    cluster.raw_nodes[0].script = cut(b"HTTP/1.1 200 OK\r\n" + DATE + framing + b"\r\n" + sent, how, received)
    for node in cluster.raw_nodes[1:]:
        node.script = lambda peer: received.wait() and peer.answer()  # the first one's answer is the reference
    with cluster.client() as client:
        client.send(method + b" / HTTP/1.1\r\nHost: app.test\r\n\r\n")
        head = client.until(b"\r\n\r\n")
        assert head == cluster.for_client(framing=framing, sequence=cluster.head if method == b"POST" else 0)
        client.until(b"x" * 1_000)
        received.set()
        rest = client.rest()
        assert rest.count(b"x") == 99_000
        assert not rest.endswith(b"0\r\n\r\n")
    assert [len(requests) for requests in cluster.heard()] == [1, *[int(method == b"POST")] * 2]


@pytest.mark.parametrize("version", [1, 0])
def test_an_answer_that_ends_by_a_reset_is_not_ended_cleanly(cluster: RawCluster, version: int) -> None:
    received = Event()
    cluster.answer(cut(b"HTTP/1.1 200 OK\r\n" + DATE + b"\r\nhalf", "reset", received))
    with cluster.client() as client:
        client.send(b"GET / HTTP/1.%d\r\nHost: app.test\r\n\r\n" % version).until(b"half")
        received.set()
        if version:
            assert client.rest() == b"\r\n"  # of the chunk, and no last one
        else:
            with pytest.raises(ConnectionResetError):
                client.sock.recv(1)


# --- moving on


@pytest.mark.parametrize(
    "refusal", [hang_up, say(b"HTTP/1.1 200 OK\r\nDate: x\r\n", end=True), say(b"SSH-2.0-x\r\n", end=True)]
)
@pytest.mark.parametrize("body", [b"", BODY])
def test_the_next_node_gets_the_same_bytes(cluster: RawCluster, refusal: Script, body: bytes) -> None:
    """Nothing of what the first ones said has reached the client."""
    for node in cluster.raw_nodes[:2]:
        node.script = refusal
    with cluster.client() as client:
        framing = length(body) if body else b""
        client.send(b"SEARCH /a%2fb/../x?q HTTP/1.1\r\nHost: app.test\r\nA: 1\r\n" + framing + b"\r\n" + body)
        client.expect(cluster.for_client(framing=length(b"ok"), body=b"ok"))
    expected = cluster.for_node(b"SEARCH /a%2fb/../x?q", b"A: 1\r\n", body or None)
    assert cluster.heard() == [[expected]] * 3


@pytest.mark.parametrize("body", [b"q", BODY])
def test_what_may_not_be_repeated_is_not(cluster: RawCluster, body: bytes) -> None:
    """Not over a kept connection either, which the node may have dropped before or after it did something."""
    request = b"POST /search HTTP/1.1\r\nHost: app.test\r\n" + length(body) + b"\r\n" + body
    with cluster.client() as client:
        client.send(request).expect(cluster.for_client(framing=length(b"ok"), body=b"ok"))
        cluster.answer(hang_up)
        assert client.send(request).answer().status == 502
    assert cluster.heard() == [[cluster.for_node(b"POST /search", body=body)] * 2, [], []]


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PROPFIND", b"REPORT", b"SEARCH"])
def test_a_kept_connection_that_drops_is_replaced(cluster: RawCluster, method: bytes) -> None:
    """It says nothing about the node, which is asked again; only then it is the next one's turn."""
    first = cluster.raw_nodes[0]
    request = method + b" / HTTP/1.1\r\nHost: app.test\r\n\r\n"
    answer = cluster.for_client(framing=length(b"ok"), body=b"" if method == b"HEAD" else b"ok")
    said = OK[:-2] if method == b"HEAD" else OK
    cluster.answer(said)
    with cluster.client() as client:
        client.send(request).expect(answer)
        replies = iter([hang_up, say(said), hang_up, hang_up])
        first.script = lambda peer: next(replies)(peer)
        client.send(request).expect(answer)
        assert [len(requests) for requests in cluster.heard()] == [3, 0, 0]
        client.send(request).expect(answer)
    assert [len(requests) for requests in cluster.heard()] == [5, 1, 0]


def test_an_idle_connection_that_the_node_has_closed_takes_no_request(cluster: RawCluster) -> None:
    """So one that must not be repeated is not lost on it."""
    request = b"POST /search HTTP/1.1\r\nHost: app.test\r\nContent-Length: 1\r\n\r\nq"
    for _ in range(5):
        with cluster.client() as client:
            client.send(request).expect(cluster.for_client(framing=length(b"ok"), body=b"ok"))
        cluster.raw_nodes[0].drop_connections()
    assert [len(requests) for requests in cluster.heard()] == [5, 0, 0]


def test_a_node_that_is_gone_is_passed_over(tmp_path: Path) -> None:
    """A request that may not be repeated moves on too: surely nobody has got it."""
    with RawCluster(tmp_path, rules=RULES, health_check={"seconds": 60.0}) as cluster:
        cluster.raw_nodes[0].go_away()
        with cluster.client() as client:
            client.send(b"POST /search HTTP/1.1\r\nHost: app.test\r\n" + length(BODY) + b"\r\n" + BODY)
            client.expect(cluster.for_client(framing=length(b"ok"), body=b"ok"))
            client.send(b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n")
            client.expect(cluster.for_client(framing=length(b"ok"), body=b"ok"))
        second = [cluster.for_node(b"POST /search", body=BODY), cluster.for_node(b"GET /")]
        assert cluster.heard() == [[], second, []]
