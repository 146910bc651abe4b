"""WSGI over our server: the environ, the answer, and whose fault is whose."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.validate import validator

import pytest

from spawn.http11.wsgi import wsgi_handle
from tests.support.rawhttp import RawClient, running_server

Environ = dict[str, Any]
Start = Callable[..., Callable[[bytes], None]]


class Recorder:
    """An application that remembers its environ and answers with the body it got."""

    def __init__(self) -> None:
        self.environs: list[Environ] = []

    def __call__(self, environ: Environ, start_response: Start) -> Iterable[bytes]:
        self.environs.append(environ)
        body: bytes = environ["wsgi.input"].read()
        start_response("200 Fine", [("Content-Type", "text/plain"), ("Connection", "keep-alive")])
        return [body]


def test_the_environ() -> None:
    app = Recorder()
    with running_server(wsgi_handle(app)) as server, RawClient(server.port) as client:
        client.send(
            b"PATCH /n%C3%A4me/a%2fb?q=%41 HTTP/1.1\r\nHost: a.test:81\r\nContent-Type: text/x\r\nContent-Length: 3\r\n"
            b"Cookie: a\r\nCookie: b\r\nX-Two: 1\r\nx-two: 2\r\nConnection: x\r\n\r\nabc"
        )
        answer = client.answer()
    assert (answer.status, answer.reason, answer.body, answer.closes) == (200, b"Fine", b"abc", False)
    assert answer.get(b"content-length") == b"3"
    environ = app.environs[0]
    expected = {
        "REQUEST_METHOD": "PATCH",
        "PATH_INFO": "/n\xc3\xa4me/a/b",
        "QUERY_STRING": "q=%41",
        "RAW_URI": "/n%C3%A4me/a%2fb?q=%41",
        "SERVER_NAME": "a.test",
        "SERVER_PORT": "81",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "CONTENT_TYPE": "text/x",
        "CONTENT_LENGTH": "3",
        "HTTP_HOST": "a.test:81",
        "HTTP_COOKIE": "a; b",
        "HTTP_X_TWO": "1,2",
        "wsgi.url_scheme": "http",
        "wsgi.input_terminated": True,
    }
    assert {key: environ.get(key) for key in expected} == expected
    assert "HTTP_CONNECTION" not in environ
    assert "HTTP_CONTENT_LENGTH" not in environ


@pytest.mark.parametrize(
    ("host", "name", "port"),
    [(b"Host: [::1]:9\r\n", "[::1]", "9"), (b"Host: [::1]\r\n", "[::1]", "80"), (b"Host: b\r\n", "b", "80"),
     (b"", "localhost", "80")],
)  # fmt: skip
def test_the_server_name(host: bytes, name: str, port: str) -> None:
    app = Recorder()
    with running_server(wsgi_handle(app)) as server, RawClient(server.port) as client:
        assert client.send(b"GET / HTTP/1.0\r\n" + host + b"\r\n").answer().status == 200
    assert (app.environs[0]["SERVER_NAME"], app.environs[0]["SERVER_PORT"]) == (name, port)


def test_a_chunked_body_has_a_length() -> None:
    app = Recorder()
    with running_server(wsgi_handle(app)) as server, RawClient(server.port) as client:
        client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
        assert client.answer().body == b"abcde"
    assert app.environs[0]["CONTENT_LENGTH"] == "5"
    assert "HTTP_TRANSFER_ENCODING" not in app.environs[0]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"Content-Length: 1001\r\n\r\n", 413),
        (b"Transfer-Encoding: chunked\r\n\r\n" + b"1f4\r\n" + b"x" * 500 + b"\r\n" + b"1f5\r\n" + b"x" * 501, 413),
        (b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    ],
)
def test_a_bad_body_never_reaches_the_application(sent: bytes, status: int, caplog: pytest.LogCaptureFixture) -> None:
    app = Recorder()
    with running_server(wsgi_handle(app, limit_bytes=1000)) as server, RawClient(server.port) as client:
        answer = client.send(b"POST / HTTP/1.1\r\nHost: a\r\n" + sent).answer()
        assert (answer.status, answer.closes) == (status, True)
    assert app.environs == []
    assert caplog.records == []


def test_the_largest_body_that_passes() -> None:
    with running_server(wsgi_handle(Recorder(), limit_bytes=1000)) as server, RawClient(server.port) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000)
        assert client.answer().body == b"x" * 1000


class Closing:
    """An iterable of unknown length that has to be closed."""

    def __init__(self, *parts: bytes) -> None:
        self.parts = iter(parts)
        self.closed = 0

    def __iter__(self) -> Closing:
        return self

    def __next__(self) -> bytes:
        return next(self.parts)

    def close(self) -> None:
        self.closed += 1


def test_an_iterable_is_streamed_and_closed() -> None:
    made: list[Closing] = []

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [])
        made.append(Closing(b"abc", b"", b"def"))
        return made[-1]

    with running_server(wsgi_handle(app)) as server, RawClient(server.port) as client:
        answer = client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer()
        assert (answer.body, answer.get(b"transfer-encoding")) == (b"abcdef", b"chunked")
    assert made[0].closed == 1


def test_head_and_empty_answers() -> None:
    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        status = environ["PATH_INFO"][1:]
        start_response(status, [("Content-Length", "3")] if status == "200 OK" else [])
        return [b"abc"] if status == "200 OK" else []

    with running_server(wsgi_handle(app)) as server, RawClient(server.port) as client:
        head = client.send(b"HEAD /200%20OK HTTP/1.1\r\nHost: a\r\n\r\n").answer(b"HEAD")
        assert head.get(b"content-length") == b"3"
        empty = client.send(b"GET /204%20No%20Content HTTP/1.1\r\nHost: a\r\n\r\n").answer()
        assert (empty.status, empty.get(b"content-length")) == (204, None)
        assert client.send(b"GET /200%20OK HTTP/1.1\r\nHost: a\r\n\r\n").answer().body == b"abc"


def test_the_write_callable_of_old_applications() -> None:
    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        write = start_response("200 OK", [])
        write(b"abc")
        return [b"def"]

    with running_server(wsgi_handle(app)) as server, RawClient(server.port) as client:
        assert client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer().body == b"abcdef"


def test_a_second_start_replaces_the_first_for_an_error() -> None:
    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [])
        start_response("503 Sorry", [], (ValueError, ValueError(), None))
        return [b"sorry"]

    with running_server(wsgi_handle(app)) as server, RawClient(server.port) as client:
        assert client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer().status == 503


@pytest.mark.parametrize("fault", ["raises", "starts twice", "does not start", "injects", "bad length"])
def test_a_fault_of_the_application_is_logged_once_and_is_a_500(fault: str, caplog: pytest.LogCaptureFixture) -> None:
    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        if fault == "raises":
            raise RuntimeError("fault")
        if fault == "injects":
            start_response("200 OK", [("X", "a\r\nY: b")])
        if fault == "starts twice":
            start_response("200 OK", [])
            start_response("200 OK", [])
        if fault == "bad length":
            start_response("200 OK", [("Content-Length", "5")])
        return [b""]

    with running_server(wsgi_handle(app)) as server, RawClient(server.port) as client:
        answer = client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer()
        assert (answer.status, answer.closes) == (500, True)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_wsgiref_has_nothing_to_say_against_it() -> None:
    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        size = int(environ.get("CONTENT_LENGTH") or 0)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [environ["wsgi.input"].read(size)]

    with running_server(wsgi_handle(validator(app))) as server, RawClient(server.port) as client:
        client.send(b"POST /x?y HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
        assert client.answer().body == b"abc"
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.answer().status == 200
