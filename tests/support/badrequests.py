"""Requests that must be refused, with the status that says why. For the codec, both ports and the whole service."""

from __future__ import annotations

from typing import NamedTuple


class BadRequest(NamedTuple):
    """One case. The bytes are all that the client sends."""

    name: str
    data: bytes
    status: int


def _with(line: bytes, *, method: bytes = b"GET") -> bytes:
    """A good request but for one more header line (raw, so that it may hold anything)."""
    return method + b" / HTTP/1.1\r\nHost: a.test\r\n" + line + b"\r\n\r\n"


def _start(line: bytes) -> bytes:
    return line + b"\r\nHost: a.test\r\n\r\n"


def _body(line: bytes, body: bytes) -> bytes:
    return b"POST / HTTP/1.1\r\nHost: a.test\r\n" + line + b"\r\n\r\n" + body


def _chunked(body: bytes) -> bytes:
    return _body(b"Transfer-Encoding: chunked", body)


_SMUGGLED = b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n"

FRAMING = [
    ("length and coding", _body(b"Content-Length: 3\r\nTransfer-Encoding: chunked", _SMUGGLED), 400),
    ("coding and length", _body(b"Transfer-Encoding: chunked\r\nContent-Length: 3", _SMUGGLED), 400),
    ("coding and length, odd case", _body(b"tRANSFER-eNCODING: CHUNKED\r\ncontent-LENGTH: 3", _SMUGGLED), 400),
    ("same length twice", _body(b"Content-Length: 3\r\nContent-Length: 3", b"abc"), 400),
    ("two lengths", _body(b"Content-Length: 3\r\nContent-Length: 4", b"abcd"), 400),
    ("two lengths in two cases", _body(b"Content-Length: 3\r\ncONTENT-lENGTH: 4", b"abcd"), 400),
    *[
        (f"length {value!r}", _body(b"Content-Length: " + value, b"abc"), 400)
        for value in (
            b"+3",
            b"0_3",
            b"-1",
            b"3, 3",
            b"3,3",
            b"3;3",
            b"3 3",
            b"0x3",
            b"3.0",
            b"1e2",
            b"",
            b"abc",
            b"9" * 30,
            b"\x0b3",
            b"\x0c3",
            b"\xa03",
            b"3\xa0",
            b"3\x00",
            "٣".encode(),
            b"9" * 19,
            b"18446744073709551619",
        )
    ],
    *[
        (f"coding {value!r}", _body(b"Transfer-Encoding: " + value, _SMUGGLED), status)
        for value, status in (
            (b"gzip", 501),
            (b"identity", 501),
            (b"xchunked", 501),
            (b"chunkedx", 501),
            (b"gzip, chunked", 501),
            (b"gzip,chunked", 501),
            (b"deflate;q=1, chunked", 501),
            (b"chunked, chunked", 400),
            (b"chunked, gzip", 400),
            (b"chunked,", 400),
            (b",chunked", 400),
            (b"", 400),
            (b"chunk ed", 400),
            (b"\x0bchunked", 400),
            (b"\xa0chunked", 400),
            (b"chunked\x00", 400),
            (b'"chunked"', 400),
            (b"chunked;a=b", 501),
        )
    ],
    ("coding twice", _body(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", _SMUGGLED), 400),
    ("codings in two lines", _body(b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked", _SMUGGLED), 400),
    ("coding and identity", _body(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", _SMUGGLED), 400),
    ("folded coding", _body(b"Transfer-Encoding:\r\n chunked", _SMUGGLED), 400),
    ("coding in HTTP/1.0", b"POST / HTTP/1.0\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n" + _SMUGGLED, 400),
    ("coding before a space", _body(b"Transfer-Encoding : chunked", _SMUGGLED), 400),
    ("coding after a LF", _body(b"X: y\nTransfer-Encoding: chunked", _SMUGGLED), 400),
    ("coding after a CR", _body(b"X: y\rTransfer-Encoding: chunked", _SMUGGLED), 400),
]

HEADERS = [
    *[
        (f"header line {line!r}", _with(line), 400)
        for line in (
            b"X : y",
            b"X\t: y",
            b"no colon",
            b": empty name",
            b" : y",
            b" X: y",
            b"\tX: y",
            b"X: y\r\n folded",
            b"X: y\r\n\tfolded",
            b"X: a\rb",
            b"X: a\r",
            b"X: a\r\r",
            b"X: a\x00b",
            b"X: a\x01b",
            b"X: a\x0bb",
            b"X: a\x0cb",
            b"X: a\x1bb",
            b"X: a\x7fb",
            b"X: a\nY: b",
            b"X:\nY: b",
            b"X\n: b",
            b"X(y): z",
            b"X@: z",
            b"X[: z",
            b"X=: z",
            b'"X": y',
            b"X\\: y",
            b"X/y: z",
            b"X{: z",
            b"X,Y: z",
            b"X;Y: z",
            b"X?: z",
            b"X<: z",
            b"\x00X: y",
            b"X\x00: y",
            b"\x80: y",
            b"X\xe9: y",
            b"X\xa0: y",
            b"X\x0b: y",
        )
    ],
    ("lines end with LF", b"GET / HTTP/1.1\nHost: a.test\n\n", 400),
    ("request line ends with LF", b"GET / HTTP/1.1\nHost: a.test\r\n\r\n", 400),
    ("head ends with LF", b"GET / HTTP/1.1\r\nHost: a.test\r\n\n", 400),
    ("head ends with CR CR LF", b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\r\n\r\n", 400),
    ("space after the request line", b"GET / HTTP/1.1\r\n Host: a.test\r\n\r\n", 400),
    ("a long header", _with(b"X: " + b"y" * 66_000), 431),
    ("a long header name", _with(b"X" * 66_000 + b": y"), 431),
    ("an endless header", b"GET / HTTP/1.1\r\nHost: a.test\r\nX: " + b"y" * 66_000, 431),
    ("many headers", _with(b"\r\n".join(b"X-%d: y" % n for n in range(100))), 431),
    ("an unknown expectation", _body(b"Content-Length: 3\r\nExpect: 200-ok", b"abc"), 417),
    ("two expectations", _body(b"Content-Length: 3\r\nExpect: 100-continue\r\nExpect: x", b"abc"), 417),
]

HOSTS = [
    ("no Host", b"GET / HTTP/1.1\r\n\r\n", 400),
    ("no Host, but an authority", b"GET http://a.test/ HTTP/1.1\r\n\r\n", 400),
    ("two Hosts", _with(b"Host: b.test"), 400),
    ("the same Host twice", _with(b"host: a.test"), 400),
    ("two Hosts in HTTP/1.0", b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    *[
        (f"Host {host!r}", b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n", 400)
        for host in (
            b"",
            b"a,b",
            b"a b",
            b"a\tb",
            b"a/b",
            b"a@b",
            b"a?b",
            b"a#b",
            b"a:x",
            b"a:1:2",
            b"a:123456",
            b":80",
            b"[::1",
            b"::1",
            b"[x]",
            b"[::1]x",
            b"a\\b",
            b"a%00b",
            b"a\xe9",
            b"\xa0a",
            b"<a>",
            b"a;b",
            b"a'b",
            b"a" * 300,
        )
    ],
]

LINES = [
    *[
        (f"target {target!r}", _start(b"GET " + target + b" HTTP/1.1"), 400)
        for target in (
            b"@evil",
            b"evil.test",
            b"evil.test:80",
            b"*",
            b"?q",
            b"\\evil",
            b"/a#b",
            b"/#",
            b"#",
            b"/a b",
            b"/a\tb",
            b"/a\x00b",
            b"/a\x0bb",
            b"/a\x7fb",
            b"/a\rb",
            b"ftp://a.test/",
            b"http:/a",
            b"http://",
            b"http:///x",
            b"http://u@evil/",
            b"http://a b/",
            b"http://a.test:x/",
            b"http://a.test/#f",
            b"file:///etc/passwd",
            b"javascript:x",
            b"http://a,b/",
            b"mailto:x",
            b"HTTP//a",
        )
    ],
    *[
        (f"request line {line!r}", _start(line), 400)
        for line in (
            b"GET /",
            b"GET",
            b"",
            b"GET  / HTTP/1.1",
            b"GET /  HTTP/1.1",
            b" GET / HTTP/1.1",
            b"GET / HTTP/1.1 ",
            b"GET\t/ HTTP/1.1",
            b"GET /\tHTTP/1.1",
            b"GET\x0b/ HTTP/1.1",
            b"GET\x0c/\x0cHTTP/1.1",
            b"GET\xa0/\xa0HTTP/1.1",
            b"GET / HTTP/0.9",
            b"GET / HTTP/1.2",
            b"GET / HTTP/1.9",
            b"GET / HTTP/01.01",
            b"GET / HTTP/1.01",
            b"GET / HTTP/1",
            b"GET / HTTP/1.",
            b"GET / HTTP/.1",
            b"GET / HTTP/1.1.1",
            b"GET / HTTP/+1.1",
            b"GET / HTTP/a.b",
            b"GET / http/1.1",
            b"GET / HTTP 1.1",
            b"GET / HTTPS/1.1",
            b"GET / RTSP/1.0",
            b"GET / ICE/1.0",
            b"GET / HTTP/1.1\x00",
            b"G(T / HTTP/1.1",
            b"G\x00T / HTTP/1.1",
            b"G\xc9T / HTTP/1.1",
            b'"GET" / HTTP/1.1',
            b"GET: / HTTP/1.1",
            b"/ GET HTTP/1.1",
            b"HTTP/1.1",
            b"HTTP/1.1 200 OK",
            b"GET / HTTP/-1.1",
            b"GET / HTTP/1,1",
            "GET / HTTP/1.١".encode(),
        )
    ],
    ("leading garbage", b"xx\x00\x01" + _start(b"GET / HTTP/1.1"), 400),
    ("two empty lines first", b"\r\n\r\n" + _start(b"GET / HTTP/1.1"), 400),
    ("an empty line with LF first", b"\n" + _start(b"GET / HTTP/1.1"), 400),
    ("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x5a" * 32, 400),
    ("HTTP/0.9", b"GET /\r\n", 400),
    ("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ("HTTP/2.0", _start(b"GET / HTTP/2.0"), 505),
    ("HTTP/3.0", _start(b"GET / HTTP/3.0"), 505),
    ("CONNECT", _start(b"CONNECT a.test:443 HTTP/1.1"), 501),
    ("CONNECT with a path", _start(b"CONNECT / HTTP/1.1"), 501),
    ("a long target", _start(b"GET /" + b"a" * 8_200 + b" HTTP/1.1"), 414),
    ("an endless target", b"GET /" + b"a" * 9_000, 414),
    ("an endless method", b"G" * 9_000, 414),
]

CHUNKS = [
    *[
        (f"chunks {body!r}"[:60], _chunked(body), 400)
        for body in (
            b"x\r\nabc\r\n0\r\n\r\n",
            b"\r\n\r\n",
            b"\r\nabc",
            b";a\r\nabc",
            b"+3\r\nabc\r\n0\r\n\r\n",
            b"-3\r\nabc\r\n",
            b"0x3\r\nabc\r\n0\r\n\r\n",
            b"3_0\r\nabc",
            b" 3\r\nabc\r\n0\r\n\r\n",
            b"3 \r\nabc\r\n0\r\n\r\n",
            b"3\nabc\r\n0\r\n\r\n",
            b"3\r\nabc\n0\r\n\r\n",
            b"3\r\nabc0\r\n\r\n",
            b"3\r\nabcd\r\n0\r\n\r\n",
            b"3\r\nabc\r0\r\n\r\n",
            b"3\r\rabc",
            b"3\rX\nabc",
            b"3;a\nb\r\nabc\r\n0\r\n\r\n",
            b"3;a\rb\r\nabc\r\n0\r\n\r\n",
            b"3;a\x00b\r\nabc\r\n0\r\n\r\n",
            b"3 x\r\nabc",
            b"3,3\r\nabc",
            b"ffffffffffffffff\r\nabc",
            b"f" * 1_000 + b"\r\nabc",
            b"0" * 1_000 + b"3\r\nabc\r\n0\r\n\r\n",
            b"3;" + b"a" * 5_000 + b"\r\nabc\r\n0\r\n\r\n",
            b"3;" + b"a" * 5_000,
            b"-0\r\n\r\n",
            b"0\n\n",
            b"0\r\n\n",
            b"0\r\nX : y\r\n\r\n",
            b"0\r\nno colon\r\n\r\n",
            b"0\r\nX: a\nY: b\r\n\r\n",
            b"0\r\n folded\r\n\r\n",
            b"0\r\nX: \x00\r\n\r\n",
            b"0\r\nX: a\rb\r\n\r\n",
            b"1;" + b"a" * 4_000 + b"\r\n" + (b"x\r\n1;" + b"a" * 4_000 + b"\r\n") * 5 + b"x\r\n0\r\n\r\n",
        )
    ],
    ("endless trailers", _chunked(b"0\r\n" + b"X: y\r\n" * 4_000 + b"\r\n"), 431),
    ("an endless trailer", _chunked(b"0\r\nX: " + b"y" * 20_000), 431),
]

BAD_HEADS = [BadRequest(*case) for case in FRAMING + HEADERS + HOSTS + LINES]
BAD_BODIES = [BadRequest(*case) for case in CHUNKS]
BAD_REQUESTS = BAD_HEADS + BAD_BODIES


def name_of(case: BadRequest) -> str:
    return case.name[:60]
