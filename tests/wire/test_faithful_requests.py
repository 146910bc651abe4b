"""What nodes get, byte for byte: a client's socket, a whole Spawn, nodes that keep what arrives.

Reads are seen by one node and updates by three. Every head is compared as a whole, so that nothing is added that is not
said here, and there is exactly one framing.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.rawcluster import RawCluster, chunked, length
from tests.support.scriptednode import Peer

PATHS = [
    b"/a%2fb%7e/../x|y//z?q=%zz&w=a+b%20",
    b"/",
    b"//",
    b"/?",
    b"/.//./..?",
    b"/caf\xc3\xa9/\xff?\x80",
    b"/%",
    b"/a\\b^`{}\"<>[]'",
    b"/;p=1;q?a=1&a=2&&=",
    b"/" + b"%61" * 2_700,
    b"/http://other.test/?http://third.test",
]
READS = [b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PROPFIND", b"REPORT", b"SEARCH"]
UPDATES = [
    *(b"POST", b"PUT", b"PATCH", b"DELETE", b"MKCOL", b"COPY", b"MOVE", b"LOCK", b"UNLOCK", b"PROPPATCH", b"ACL"),
    *(
        b"PURGE",
        b"LINK",
        b"M-SEARCH",
        b"PRI",
        b"FROB",
        b"get",
        b"Get",
        b"post",
        b"GETT",
        b"X" * 200,
        b"!#$%&'*+-.^_`|~0",
    ),
]
FIELDS = (
    b"x-lower: 1\r\nX-MiXeD: 2\r\nX-UPPER: 3\r\nAccept: text/html, */*;q=0.1\r\nX-Twice: first\r\nx-between: 4\r\n"
    b"X-Twice: second\r\nx-twice: third\r\nCookie: a=1; b=2\r\nCookie: c=3\r\nAuthorization: Basic Og==\r\n"
    b"Accept-Encoding: gzip, br\r\nRange: bytes=2-5,7-\r\nIf-None-Match: W/\"x\", \"y\"\r\nX-Tab: a\tb  c\r\n"
    b"X-Latin: caf\xe9 \xc3\xa9 \xff\r\nX-Quoted: \"a\\\"b\" (c), d\r\nUser-Agent: me/1\r\nContent-Type: x/y; z=w\r\n"
    b"!#$%&'*+-.^`|~9: token\r\nX-Long: " + b"l" * 20_000 + b"\r\nPragma: no-cache\r\nCache-Control: no-store\r\n"
    b"Content-Encoding: gzip\r\nContent-MD5: AAAA\r\nOrigin: null\r\nSec-Fetch-Mode: cors\r\nMax-Forwards: 0\r\n"
)  # fmt: skip


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RawCluster]:
    with RawCluster(tmp_path_factory.mktemp("requests")) as cluster:
        yield cluster


@pytest.fixture
def cluster(running: RawCluster) -> RawCluster:
    running.clear()
    return running


def send(cluster: RawCluster, *pieces: bytes) -> None:
    with cluster.client() as client:
        answer = client.send(*pieces).answer(pieces[0].split(b" ")[0])
        assert answer.status == 200, answer


def assert_read(cluster: RawCluster, *expected: bytes) -> None:
    assert cluster.heard() == [list(expected), [], []]


def assert_update(cluster: RawCluster, *expected: bytes) -> None:
    assert cluster.heard() == [list(expected)] * 3


# --- the request line


@pytest.mark.parametrize("target", PATHS, ids=range(len(PATHS)))
def test_a_target_stays_as_it_is(cluster: RawCluster, target: bytes) -> None:
    send(cluster, b"GET %b HTTP/1.1\r\nHost: app.test\r\n\r\n" % target)
    read = cluster.for_node(b"GET " + target)
    assert_read(cluster, read)
    send(cluster, b"PUT %b HTTP/1.1\r\nHost: app.test\r\nContent-Length: 1\r\n\r\nx" % target)
    first, *others = cluster.heard()
    update = cluster.for_node(b"PUT " + target, body=b"x", sequence=cluster.head)
    assert [first, *others] == [[read, update], [update], [update]]


def test_an_asterisk_stays_one(cluster: RawCluster) -> None:
    send(cluster, b"OPTIONS * HTTP/1.1\r\nHost: app.test\r\n\r\n")
    assert_read(cluster, cluster.for_node(b"OPTIONS *"))


@pytest.mark.parametrize("rest", [b"/a%2fb/../x?y=%zz", b"?q", b""])
def test_an_absolute_target_becomes_a_path_and_its_authority_the_host(cluster: RawCluster, rest: bytes) -> None:
    path = rest if rest.startswith(b"/") else b"/" + rest
    send(cluster, b"DELETE HTTP://Other.test:8080%b HTTP/1.1\r\nX-A: 1\r\nHost: app.test\r\n\r\n" % rest)
    assert_update(
        cluster, cluster.for_node(b"DELETE " + path, b"X-A: 1\r\n", host=b"Other.test:8080", sequence=cluster.head)
    )


@pytest.mark.parametrize("method", READS)
def test_every_method_that_reads(cluster: RawCluster, method: bytes) -> None:
    send(cluster, method + b" /m HTTP/1.1\r\nHost: app.test\r\n\r\n")
    assert_read(cluster, cluster.for_node(method + b" /m"))


@pytest.mark.parametrize("method", UPDATES)
def test_every_other_method(cluster: RawCluster, method: bytes) -> None:
    send(cluster, method + b" /m HTTP/1.1\r\nHost: app.test\r\n\r\n")
    assert_update(cluster, cluster.for_node(method + b" /m", sequence=cluster.head))


# --- headers


@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_order_case_and_duplicates(cluster: RawCluster, method: bytes) -> None:
    """Host first and what Spawn says last; between them all as it came, wherever Host stood."""
    send(cluster, b"%b /h HTTP/1.1\r\n%bhOST: app.test\r\nLast: 1\r\n\r\n" % (method, FIELDS))
    sequence = cluster.head if method == b"POST" else 0
    expected = cluster.for_node(method + b" /h", FIELDS + b"Last: 1\r\n", sequence=sequence)
    assert cluster.heard() == ([[expected]] * 3 if sequence else [[expected], [], []])


@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_only_the_white_space_around_values_changes(cluster: RawCluster, method: bytes) -> None:
    send(cluster, method + b" / HTTP/1.1\r\nHost:\t app.test \r\nA:1\r\nB: \t 2 \t\r\nC:\r\nD:   \r\nE: : \r\n\r\n")
    sequence = cluster.head if method == b"POST" else 0
    expected = cluster.for_node(method + b" /", b"A: 1\r\nB: 2\r\nC: \r\nD: \r\nE: :\r\n", sequence=sequence)
    assert cluster.heard()[0] == [expected]


@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_hop_by_hop_headers_stay_behind(cluster: RawCluster, method: bytes) -> None:
    """RFC 9110 §7.6.1; what Connection must not name goes on, and close, which is for Spawn, ends this connection."""
    sent = (
        b"A: 1\r\nConnection: X-Gone, close ,\tx-other\r\nx-gone: 1\r\nKeep-Alive: timeout=5\r\nTE: deflate\r\n"
        b"B: 2\r\nTrailer: X-Sum\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nProxy-Connection: keep-alive\r\n"
        b"Proxy-Authorization: Basic Og==\r\nX-Gone: 2\r\nX-Other: 3\r\nX_Under: 1\r\nspawn-sequence: 77\r\n"
        b"Spawn-Time: never\r\nSpawn-New: 1\r\nConnection: cookie, host, via\r\nCookie: c=1\r\nC: 3\r\nX-Go: 4\r\n"
    )
    with cluster.client() as client:
        client.send(b"%b /hop HTTP/1.1\r\nHost: app.test\r\n%b\r\n" % (method, sent))
        assert client.answer().closes
        assert client.at_end()
    sequence = cluster.head if method == b"POST" else 0
    kept = b"A: 1\r\nB: 2\r\nCookie: c=1\r\nC: 3\r\nX-Go: 4\r\n"
    assert cluster.heard()[0] == [cluster.for_node(method + b" /hop", kept, sequence=sequence)]


@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_a_stranger_does_not_say_where_it_comes_from(cluster: RawCluster, method: bytes) -> None:
    claims = (
        b"X-Forwarded-For: 1.2.3.4\r\nx-forwarded-host: evil.test\r\nX-FORWARDED-PROTO: https\r\nX-Real-IP: 1.2.3.4\r\n"
        b"Forwarded: for=1.2.3.4\r\nX-Forwarded-Prefix: /x\r\nA: 1\r\n"
    )
    send(cluster, b"%b / HTTP/1.1\r\nHost: app.test\r\n%b\r\n" % (method, claims))
    sequence = cluster.head if method == b"POST" else 0
    assert cluster.heard()[0] == [cluster.for_node(method + b" /", b"A: 1\r\n", sequence=sequence)]


def test_a_clients_own_key_stays_where_it_was(cluster: RawCluster) -> None:
    fields = b'A: 1\r\nidempotency-KEY: "k 1"\r\nB: 2\r\n'
    send(cluster, b"POST / HTTP/1.1\r\nHost: app.test\r\n%b\r\n" % fields)
    assert_update(cluster, cluster.for_node(b"POST /", fields, key=b"", sequence=cluster.head))


# --- Via


@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_via_is_appended(cluster: RawCluster, method: bytes) -> None:
    """A line of its own at the end is the same as an element at the end of a list (RFC 9110 §5.3)."""
    fields = b"Via: 1.0 fred, 1.1 p.example.net (a, b)\r\nA: 1\r\nvia: HTTP/1.1 spawn-00000000\r\n"
    send(cluster, b"%b / HTTP/1.1\r\nHost: app.test\r\n%b\r\n" % (method, fields))
    sequence = cluster.head if method == b"POST" else 0
    assert cluster.heard()[0] == [cluster.for_node(method + b" /", fields, sequence=sequence)]


@pytest.mark.parametrize("method", [b"GET", b"POST"])
@pytest.mark.parametrize("via", [b"1.1 %b", b"1.0 a, 1.1 %b (x), 1.1 b", b"HTTP/1.1 %b"])
def test_a_request_that_was_here_before_is_refused(cluster: RawCluster, method: bytes, via: bytes) -> None:
    before = cluster.head
    with cluster.client() as client:
        client.send(b"%b / HTTP/1.1\r\nHost: app.test\r\nVia: %b\r\n\r\n" % (method, via % cluster.via.upper()))
        assert client.answer().status == 508
    assert (cluster.heard(), cluster.head) == ([[], [], []], before)


# --- bodies


@pytest.mark.parametrize("size", [0, 1, 65_536, 262_144, 262_145, 1_500_000])
@pytest.mark.parametrize("way", ["length", "chunked"])
@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_a_body_arrives_whole_and_with_one_framing(cluster: RawCluster, method: bytes, way: str, size: int) -> None:
    """A node gets a length however the body came; trailers and extensions of chunks are dropped."""
    body = (bytes(range(256)) * (size // 256 + 1))[:size]
    head = b"%b /b HTTP/1.1\r\nHost: app.test\r\nA: 1\r\n" % method
    if way == "length":
        send(cluster, head + length(body) + b"B: 2\r\n\r\n" + body)
    else:
        chunks = chunked(*(body[at : at + 100_000] for at in range(0, size, 100_000)))
        chunks = chunks.replace(b"\r\n", b' ; x="y"\r\n', 1)[:-2] + b"X-Sum: 1\r\nB: 3\r\n\r\n"
        send(cluster, head + b"Transfer-Encoding: Chunked\r\nTrailer: X-Sum\r\nB: 2\r\n\r\n", chunks)
    sequence = cluster.head if method == b"POST" else 0
    expected = cluster.for_node(method + b" /b", b"A: 1\r\nB: 2\r\n", body, sequence=sequence)
    assert cluster.heard() == ([[expected]] * 3 if sequence else [[expected], [], []])


@pytest.mark.parametrize("method", [b"GET", b"POST", b"DELETE"])
def test_no_body_stays_none(cluster: RawCluster, method: bytes) -> None:
    """Other than an empty one, which says Content-Length: 0."""
    send(cluster, method + b" / HTTP/1.1\r\nHost: app.test\r\n\r\n")
    sequence = cluster.head if method != b"GET" else 0
    assert cluster.heard()[0] == [cluster.for_node(method + b" /", sequence=sequence)]


def test_a_body_in_the_smallest_pieces(cluster: RawCluster) -> None:
    sent = (
        b"PUT /p HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"ab", b"c") + b"GET / HT"
    )
    with cluster.client() as client:
        for at in range(len(sent)):
            client.sock.sendall(sent[at : at + 1])
        assert client.answer().status == 200
        client.send(b"TP/1.1\r\nHost: app.test\r\n\r\n")
        assert client.answer().status == 200
    update = cluster.for_node(b"PUT /p", body=b"abc", sequence=cluster.head)
    assert cluster.heard() == [[update, cluster.for_node(b"GET /")], [update], [update]]


# --- HTTP/1.0


@pytest.mark.parametrize("method", [b"GET", b"POST"])
@pytest.mark.parametrize("keep", [b"", b"Connection: keep-alive\r\n"])
def test_an_old_client_is_answered_by_close(cluster: RawCluster, method: bytes, keep: bytes) -> None:
    with cluster.client() as client:
        client.send(b"%b /old HTTP/1.0\r\nHost: app.test\r\n%b%b\r\nx" % (method, keep, length(b"x")))
        sequence = cluster.head + 1 if method == b"POST" else 0
        client.expect(cluster.for_client(framing=length(b"ok"), body=b"ok", sequence=sequence, close=True))
        assert client.at_end()
    assert cluster.heard()[0] == [cluster.for_node(method + b" /old", body=b"x", minor=0, sequence=sequence)]


@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_an_old_client_that_names_no_host(cluster: RawCluster, method: bytes) -> None:
    """A node has to get a Host in HTTP/1.1: its own address, and nothing is forwarded that nobody said."""
    send(cluster, method + b" /old HTTP/1.0\r\nA: 1\r\n\r\n")
    heard = cluster.heard()
    assert [len(requests) for requests in heard] == ([1, 1, 1] if method == b"POST" else [1, 0, 0])
    for node, request in (
        (node, request) for node, got in zip(cluster.raw_nodes, heard, strict=True) for request in got
    ):
        assert request.startswith(method + b" /old HTTP/1.1\r\n")
        assert request.count(b"\r\nHost: 127.0.0.1:%d\r\n" % node.port) == 1
        assert request.lower().count(b"\r\nhost:") == 1
        assert b"x-forwarded-host" not in request.lower()


# --- trusted-proxies


@pytest.fixture(scope="module")
def trusting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RawCluster]:
    with RawCluster(tmp_path_factory.mktemp("trusting"), trusted_proxies=("127.0.0.0/8",)) as cluster:
        yield cluster


@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_a_trusted_proxy_is_believed(trusting: RawCluster, method: bytes) -> None:
    trusting.clear()
    fields = (
        b"A: 1\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\nX-Real-IP: 1.2.3.4\r\nForwarded: for=_x\r\n"
    )
    more = b"X-Forwarded-Host: shop.test\r\nx-forwarded-for: 5.6.7.8\r\nX-Forwarded-Port: 443\r\nB: 2\r\n"
    send(trusting, b"%b / HTTP/1.1\r\nHost: app.test\r\n%b%b\r\n" % (method, fields, more))
    passed = (fields + more).replace(b"X-Forwarded-For: 1.2.3.4\r\n", b"").replace(b"x-forwarded-for: 5.6.7.8\r\n", b"")
    sequence = trusting.head if method == b"POST" else 0
    said = trusting.for_node(method + b" /", passed, chain=b"1.2.3.4, 5.6.7.8, 127.0.0.1", sequence=sequence)
    expected = said.replace(b"127.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: app.test\r\n", b"127.0.0.1\r\n")
    assert trusting.heard()[0] == [expected]


def test_a_trusted_proxy_that_says_nothing(trusting: RawCluster) -> None:
    trusting.clear()
    send(trusting, b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n")
    assert trusting.heard()[0] == [trusting.for_node(b"GET /")]


# --- a node that leads back here


def test_a_loop_ends_at_once(cluster: RawCluster) -> None:
    """The node is a careless proxy: it sends what it got to Spawn again, which sees itself in Via."""

    def relay(peer: Peer) -> None:
        request = cluster.raw_nodes[0].heard[-1]
        with cluster.client() as client:
            answer = client.send(request).answer()
        peer.answer(status=b"%d Told" % answer.status)

    cluster.raw_nodes[0].script = relay
    with cluster.client() as client:
        assert client.send(b"GET /loop HTTP/1.1\r\nHost: app.test\r\n\r\n").answer().status == 508
    assert_read(cluster, cluster.for_node(b"GET /loop"))
