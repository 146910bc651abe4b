"""What the fuzzer starts from: the corpus, messages that have many things at once, and words to put others from."""

from __future__ import annotations

from tests.support.corpus import answer_cases, request_cases

LONGEST_SEED = 700  # what is longer is about a limit, and the targets have smaller ones

_GET = b"GET /x HTTP/1.1\r\nHost: a.test\r\n"
_POST = b"POST /x HTTP/1.1\r\nHost: a.test\r\n"
_OK = b"HTTP/1.1 200 OK\r\n"
_CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"

_CHUNKS = [
    b"0\r\n\r\n",
    b"3\r\nabc\r\n0\r\n\r\nnext",
    b"100\r\n" + b"a" * 256 + b"\r\n0\r\n\r\n",
    b'1\r\nx\r\n003;a=b;c="d e"\r\nabc\r\n1 ; f\r\n\n\r\n000\r\nX: y\r\nX-Two:\r\n\r\nGET / HTTP/1.1\r\n\r\n',
    b"0F\r\nabcdefghijklmno\r\n10\r\nabcdefghijklmnop\r\n000000000000001\r\nx\r\n000000000000000\r\n\r\n",
]
_REQUESTS = [
    b"\r\n" + _GET + b"Accept: */*\r\nX-A:  two  words \r\nx-a:\r\nCookie: a=\xe9\r\n\r\n" + _GET + b"\r\n",
    b"OPTIONS https://b.test HTTP/1.0\r\nX-Forwarded-For: 1.2.3.4\r\nVia: 1.1 a, 1.0 b (c)\r\n\r\n",
    _POST + b"Content-Length: 0\r\nIdempotency-Key: k\r\nSpawn-Sequence: 9\r\n\r\n",
    _POST
    + b"Connection: close, X-Hop\r\nX-Hop: 1\r\nTE: trailers\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\na",
    _POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent_Length: 9\r\ncontent-length: 003\r\n\r\nabc",
]
_ANSWERS = [
    _OK + b"Content-Length: 3\r\nDate: Thu, 26 Nov 2026 20:00:00 GMT\r\nSet-Cookie: a\r\nset-cookie: b\r\n\r\nabc",
    _OK + b"Content-Length: 0\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nSpawn-Sequence: 9\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    + _OK
    + b"Content-Length: 1\r\n\r\na",
    b"HTTP/1.0 404 \xc3\xa4 b\r\nX: y \r\n\r\nabc",
]


def _short(messages: list[bytes]) -> list[bytes]:
    return [message for message in messages if len(message) <= LONGEST_SEED]


REQUESTS = [*_REQUESTS, *(_POST + _CHUNKED + body for body in _CHUNKS), *_short([c.data for c in request_cases()])]
ANSWERS = [*_ANSWERS, *(_OK + _CHUNKED + body for body in _CHUNKS), *_short([case.data for case in answer_cases()])]
CHUNKED = [*_CHUNKS, *(data.partition(_CHUNKED)[2] for data in REQUESTS + ANSWERS if _CHUNKED in data)]

# fmt: off
CHUNK_TOKENS = [
    b"0\r\n\r\n", b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"1\r\nx\r\n", b"00", b"0000000000000", b"a\r\n", b"F\r\n",
    b";", b"; a=b", b'="c d"', b" ", b"\t", b"X: y\r\n", b":", b"0x", b"-", b"+", b"\x00", b"\xa0",
]
_FIELD_TOKENS = [
    b"Host: a.test\r\n", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: ", b"close",
    b"Upgrade: h2c\r\n", b"Via: 1.1 spawn-0123abcd\r\n", b"X_Y: z\r\n", b"Spawn-Sequence: 1\r\n", b"\r\n x\r\n",
    b"identity", b"gzip, ", b", ", b"HTTP/1.1", b"HTTP/1.0", b"\x0b", b"Trailer: X\r\n",
]
_REQUEST_TOKENS = [
    b"GET / HTTP/1.1\r\n", b"OPTIONS * ", b"CONNECT ", b"HTTP/2.0", b"http://b.test", b"https://[::1]:8", b"#", b"?",
    b"@", b"Expect: 100-continue\r\n", b"X-Forwarded-For: 1.2.3.4\r\n", b"Idempotency-Key: k\r\n", b"Cookie",
    b"Keep-Alive",
]
_ANSWER_TOKENS = [
    b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\n", b" 204 ", b" 304 ", b" 101 ", b" 199 ", b"Date: x\r\n",
    b"Set-Cookie: a\r\n", b"Spawn-Behind: 1\r\n",
]
# fmt: on
REQUEST_TOKENS = CHUNK_TOKENS + _FIELD_TOKENS + _REQUEST_TOKENS
ANSWER_TOKENS = CHUNK_TOKENS + _FIELD_TOKENS + _ANSWER_TOKENS
