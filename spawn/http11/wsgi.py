"""A WSGI application (PEP 3333) as a handler of the server: environ from a ``Request``, its answer to the writer.

The body is read in full, within ``limit_bytes``, before the application is called: what is wrong with it (too large,
too slow, cut short) is the server's to answer and must not come up inside an application that would log it as its own
failure. So ``CONTENT_LENGTH`` is always true, for chunked bodies too.

An exception of the application goes on to the server, which logs it once and answers 500.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes

from spawn.errors import ProtocolError
from spawn.http11.field import Header
from spawn.http11.message import Headers, Request, ResponseWriter

BODY_BYTES = 1_048_576

# PEP 3333 leaves these to the server; what was decoded is not told again
_SERVER_HEADERS = frozenset({b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"trailer", b"te"})

Environ = dict[str, Any]


class WsgiApp(Protocol):
    """The application's side of PEP 3333."""

    def __call__(self, environ: Environ, start_response: Callable[..., Callable[[bytes], None]], /) -> Iterable[bytes]:
        """Answer one request."""


def wsgi_handle(app: WsgiApp, *, limit_bytes: int = BODY_BYTES) -> Callable[[Request, ResponseWriter], None]:
    """A handler for ``HttpServer`` that runs ``app``; bodies over ``limit_bytes`` get 413."""

    def handle(request: Request, writer: ResponseWriter) -> None:
        environ = make_environ(request, _read_body(request, limit_bytes))
        answer = _WsgiAnswer(writer, request.head.method == b"HEAD")
        parts = app(environ, answer.start_response)
        try:
            answer.send(parts)
        finally:
            close = getattr(parts, "close", None)
            if close is not None:
                close()

    return handle


def make_environ(request: Request, body: bytes) -> Environ:
    """The environ of a request whose body has been read. Bytes become text as latin-1, as PEP 3333 wants it."""
    head = request.head
    path, _, query = head.target.partition(b"?")
    name, port = _server_name(head.host, request.scheme)
    environ: Environ = {
        "REQUEST_METHOD": head.method.decode("latin-1"),
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query.decode("latin-1"),
        "RAW_URI": head.target.decode("latin-1"),
        "SERVER_NAME": name,
        "SERVER_PORT": port,
        "SERVER_PROTOCOL": f"HTTP/1.{head.minor}",
        "REMOTE_ADDR": request.peer,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": request.scheme.decode("latin-1"),
        "wsgi.input": io.BytesIO(body),
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,  # greenlets interleave where they wait
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    if head.framing.length is not None or head.framing.chunked:
        environ["CONTENT_LENGTH"] = str(len(body))
    _add_headers(environ, head.headers)
    return environ


def _add_headers(environ: Environ, headers: Headers) -> None:
    for name, value in headers:
        lower = name.lower()
        if lower in _SERVER_HEADERS or lower == b"content-length":
            continue
        text = value.decode("latin-1")
        key = name.decode("latin-1").upper().replace("-", "_")
        if key != "CONTENT_TYPE":
            key = f"HTTP_{key}"
        if key in environ:
            text = environ[key] + ("; " if key == "HTTP_COOKIE" else ",") + text
        environ[key] = text


def _server_name(host: bytes, scheme: bytes) -> tuple[str, str]:
    name, _, port = host.decode("latin-1").rpartition(":")
    if not name or port.endswith("]"):
        name, port = host.decode("latin-1"), ""
    return name or "localhost", port or ("443" if scheme == b"https" else "80")


def _read_body(request: Request, limit_bytes: int) -> bytes:
    """The whole body. Raises ``ProtocolError`` 413 when it is, or is said to be, over the limit."""
    if (request.head.framing.length or 0) > limit_bytes:
        raise ProtocolError(413, "the body is too large")
    parts: list[bytes] = []
    size = 0
    while data := request.body.read():
        size += len(data)
        if size > limit_bytes:
            raise ProtocolError(413, "the body is too large")
        parts.append(data)
    return b"".join(parts)


class _WsgiAnswer:
    """``start_response`` and what comes after it."""

    def __init__(self, writer: ResponseWriter, head_only: bool) -> None:
        self._writer = writer
        self._head_only = head_only
        self._start: tuple[int, bytes, list[Header], int | None] | None = None
        self._begun = False

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], None]:
        """PEP 3333; a second call is only for errors before anything was sent."""
        if exc_info is not None and self._begun:
            try:
                raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        if self._start is not None and exc_info is None:
            raise ValueError("start_response was called twice")
        code, _, reason = status.partition(" ")
        kept: list[Header] = []
        length: int | None = None
        for name, value in headers:
            key, content = name.encode("latin-1"), value.encode("latin-1")
            if key.lower() == b"content-length":
                length = int(content)
            elif key.lower() not in _SERVER_HEADERS:
                kept.append((key, content))
        self._start = (int(code), reason.encode("latin-1"), kept, length)
        return self._write

    def send(self, parts: Iterable[bytes]) -> None:
        """Send the body that the application returned, and end the answer."""
        if self._known_whole(parts) and self._start is not None and self._start[3] is None:
            code, reason, headers, _ = self._start
            self._start = (code, reason, headers, sum(map(len, parts)))
        for part in parts:
            if part:
                self._write(part)
        self._begin()
        self._writer.finish()

    def _known_whole(self, parts: Iterable[bytes]) -> bool:
        return isinstance(parts, list | tuple) and not self._begun and not (self._head_only and not parts)

    def _begin(self) -> int:
        if self._start is None:
            raise ValueError("the application did not call start_response")
        if not self._begun:
            self._begun = True
            self._writer.start(*self._start)
        return self._start[0]

    def _write(self, data: bytes) -> None:
        status = self._begin()
        if not self._head_only and status not in (204, 304):
            self._writer.write(data)
