"""Good requests over real sockets: what a handler sees, what a client gets, and who closes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress

import gevent
import pytest

from spawn.errors import ClientGone, ProtocolError
from spawn.http11.message import Request, ResponseWriter
from spawn.http11.server import ServerTimeouts
from tests.support.rawhttp import Echo, RawClient, running_server, wait_until

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def answering(status: int, length: int | None, *parts: bytes) -> Callable[[Request, ResponseWriter], None]:
    def handle(request: Request, writer: ResponseWriter) -> None:
        writer.start(status, b"Fine", [(b"X-A", b"1"), (b"x-a", b"2")], length)
        for part in parts:
            writer.write(part)
        writer.finish()

    return handle


class TestRequests:
    def test_bytes_reach_the_handler_as_they_are(self) -> None:
        with running_server(echo := Echo()) as server, RawClient(server.port) as client:
            target = b"/a%2fb%7e/../x|y//z?q=%zz&w=a+b%20"
            client.send(b"FROB " + target + b" HTTP/1.1\r\nhost: a:80\r\nX-b: 1\r\nX-A: 2\r\nX-b: 3\r\n\r\n")
            assert client.answer().status == 200
            seen = echo.seen[0]
            assert (seen.method, seen.target, seen.host, seen.peer) == (b"FROB", target, b"a:80", "127.0.0.1")
            assert seen.headers == [(b"host", b"a:80"), (b"X-b", b"1"), (b"X-A", b"2"), (b"X-b", b"3")]

    def test_pipelined_requests_are_answered_in_order(self) -> None:
        count = 300
        with running_server(echo := Echo()) as server, RawClient(server.port) as client:
            client.send(
                b"".join(
                    b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%d" % (n, len(str(n)), n)
                    if n % 2
                    else b"POST /%d HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%d\r\n0\r\n\r\n"
                    % (n, len(str(n)), n)
                    for n in range(count)
                )
            )
            assert [client.answer().body for _ in range(count)] == [b"%d" % n for n in range(count)]
        assert [seen.target for seen in echo.seen] == [b"/%d" % n for n in range(count)]

    def test_a_pipelining_client_does_not_keep_others_waiting(self) -> None:
        with running_server(Echo()) as server, RawClient(server.port) as greedy, RawClient(server.port) as other:
            greedy.send(GET * 5_000)
            gevent.sleep(0)
            assert other.send(GET).answer().status == 200
            assert server.counters.value("proxy.requests") < 4_000

    @pytest.mark.parametrize("chunked", [False, True])
    def test_two_mebibytes_up_and_down(self, chunked: bool) -> None:
        body = bytes(range(256)) * 8192
        with running_server(echo := Echo()) as server, RawClient(server.port) as client:
            if chunked:
                client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
                parts = [body[at : at + 30_000] for at in range(0, len(body), 30_000)]
                client.send(b"".join(b"%X;x=y\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\nT: u\r\n\r\n")
            else:
                client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            assert client.answer().body == body
            assert client.send(GET).answer().status == 200, "kept open"
        assert echo.seen[0].body == body

    def test_upgrade_is_ignored(self) -> None:
        with running_server(echo := Echo()) as server, RawClient(server.port) as client:
            client.send(
                b"POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc"
            )
            client.send(GET)
            assert client.answer().body == b"abc"
            assert client.answer().body == b""
        assert len(echo.seen) == 2

    @pytest.mark.parametrize(
        "request_bytes",
        [
            b"GET / HTTP/1.0\r\n\r\n",
            b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n",
        ],
    )
    def test_answered_by_close(self, request_bytes: bytes) -> None:
        with running_server(echo := Echo()) as server, RawClient(server.port) as client:
            answer = client.send(request_bytes + GET).answer()
            assert (answer.status, answer.closes) == (200, True)
            assert client.at_end()
        assert len(echo.seen) == 1, "nothing is served after the last request"

    def test_a_half_closed_client_gets_its_answers(self) -> None:
        with running_server(Echo()) as server, RawClient(server.port) as client:
            client.send(GET * 3).end()
            assert [client.answer().status for _ in range(3)] == [200] * 3
            assert client.at_end()

    def test_an_empty_line_between_requests(self) -> None:
        with running_server(Echo()) as server, RawClient(server.port) as client:
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\r\n" + GET)
            assert (client.answer().body, client.answer().body) == (b"abc", b"")

    def test_absolute_form(self) -> None:
        with running_server(echo := Echo()) as server, RawClient(server.port) as client:
            assert client.send(b"GET http://b:8/x HTTP/1.1\r\nHost: a\r\n\r\n").answer().status == 200
        assert (echo.seen[0].target, echo.seen[0].host, echo.seen[0].headers) == (b"/x", b"b:8", [(b"Host", b"b:8")])


class TestExpectContinue:
    HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 3\r\n\r\n"

    def test_the_client_is_told_to_go_on_when_the_body_is_wanted(self) -> None:
        with running_server(Echo()) as server, RawClient(server.port) as client:
            assert client.send(self.HEAD).answer().status == 100
            assert client.send(b"abc").answer().body == b"abc"
            assert client.send(GET).answer().status == 200

    def test_not_if_the_body_is_there_already(self) -> None:
        with running_server(Echo()) as server, RawClient(server.port) as client:
            answer = client.send(self.HEAD + b"abc").answer()
            assert (answer.status, answer.body) == (200, b"abc")

    def test_an_answer_without_the_body_ends_the_connection(self) -> None:
        with running_server(answering(403, 0)) as server, RawClient(server.port) as client:
            answer = client.send(self.HEAD).answer()
            assert (answer.status, answer.closes) == (403, True)
            assert client.at_end()


class TestUnreadBodies:
    def test_a_small_one_is_swallowed(self) -> None:
        with running_server(answering(200, 0)) as server, RawClient(server.port) as client:
            for framed in (b"Content-Length: 3\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"):
                answer = client.send(b"POST / HTTP/1.1\r\nHost: a\r\n" + framed).answer()
                assert (answer.status, answer.closes) == (200, False)
            assert client.send(GET).answer().status == 200

    def test_a_large_one_ends_the_connection_after_the_answer(self) -> None:
        with running_server(answering(200, 0)) as server, RawClient(server.port) as client:
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n" + b"x" * 300_000 + GET)
            answer = client.answer()
            assert (answer.status, answer.closes) == (200, True)
            assert client.end().at_end()

    def test_a_large_chunked_one_too(self) -> None:
        with running_server(answering(200, 0)) as server, RawClient(server.port) as client:
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
            client.send((b"8000\r\n" + b"x" * 0x8000 + b"\r\n") * 10 + b"0\r\n\r\n" + GET)
            assert client.answer().status == 200
            assert client.end().at_end()


class TestAnswers:
    def test_with_a_length(self) -> None:
        with running_server(answering(200, 6, b"abc", b"", b"def")) as server, RawClient(server.port) as client:
            answer = client.send(GET).answer()
            assert (answer.status, answer.reason, answer.body) == (200, b"Fine", b"abcdef")
            names = [name for name, _ in answer.headers]
            assert names == [b"X-A", b"x-a", b"Date", b"Content-Length"]

    def test_without_a_length(self) -> None:
        with running_server(answering(200, None, b"abc", b"def")) as server, RawClient(server.port) as client:
            answer = client.send(GET).answer()
            assert (answer.body, answer.get(b"transfer-encoding"), answer.closes) == (b"abcdef", b"chunked", False)
            assert client.send(GET).answer().body == b"abcdef"

    def test_without_a_length_for_http_1_0(self) -> None:
        with running_server(answering(200, None, b"abc", b"def")) as server, RawClient(server.port) as client:
            answer = client.send(b"GET / HTTP/1.0\r\n\r\n").answer()
            assert (answer.body, answer.get(b"transfer-encoding"), answer.closes) == (b"abcdef", None, True)

    @pytest.mark.parametrize(
        ("method", "status", "length", "announced"),
        [
            (b"HEAD", 200, 7, b"7"),
            (b"HEAD", 200, None, None),
            (b"HEAD", 204, None, None),
            (b"GET", 204, None, None),
            (b"GET", 204, 0, None),
            (b"GET", 304, None, None),
            (b"GET", 304, 7, b"7"),
            (b"GET", 304, 0, None),
        ],
    )
    def test_without_a_body(self, method: bytes, status: int, length: int | None, announced: bytes | None) -> None:
        with running_server(answering(status, length)) as server, RawClient(server.port) as client:
            for _ in range(2):
                answer = client.send(method + b" / HTTP/1.1\r\nHost: a\r\n\r\n").answer(method)
                assert (answer.status, answer.get(b"content-length")) == (status, announced)
                assert answer.get(b"transfer-encoding") is None
            assert client.end().at_end()

    def test_a_date_of_the_handler_is_kept(self) -> None:
        def handle(request: Request, writer: ResponseWriter) -> None:
            writer.start(200, b"OK", [(b"date", b"then")], 0)
            writer.finish()

        with running_server(handle) as server, RawClient(server.port) as client:
            answer = client.send(GET).answer()
            assert [value for name, value in answer.headers if name.lower() == b"date"] == [b"then"]

    def test_an_endless_answer_is_streamed_as_it_comes(self) -> None:
        go_on = gevent.event.Event()

        def handle(request: Request, writer: ResponseWriter) -> None:
            writer.start(200, b"OK", [], None)
            writer.flush()
            go_on.wait()
            writer.write(b"abc")
            writer.finish()

        with running_server(handle) as server, RawClient(server.port) as client:
            assert client.send(GET).until(b"\r\n\r\n").startswith(b"HTTP/1.1 200")
            go_on.set()
            assert client.chunks() == b"abc"

    def test_a_reply_of_our_own(self) -> None:
        def handle(request: Request, writer: ResponseWriter) -> None:
            writer.start(200, b"OK", [(b"X", b"y")], 1000)  # never left, so it may be replaced
            assert not writer.started
            writer.reply(503, 'no "node"', [(b"Retry-After", b"1")])
            assert writer.started

        with running_server(handle) as server, RawClient(server.port) as client:
            answer = client.send(GET).answer()
            assert (answer.status, answer.reason, answer.get(b"retry-after")) == (503, b"Service Unavailable", b"1")
            assert answer.get(b"x") is None
            assert answer.json == {"error": 503, "message": 'no "node"'}
            head = client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").answer(b"HEAD")
            assert head.get(b"content-length") == str(len(answer.body)).encode()
            assert client.send(GET).answer().status == 503

    @pytest.mark.parametrize("version", [b"1.1", b"1.0"])
    @pytest.mark.parametrize("length", [None, 1000])
    def test_an_aborted_answer_has_no_clean_end(self, version: bytes, length: int | None) -> None:
        def handle(request: Request, writer: ResponseWriter) -> None:
            writer.start(200, b"OK", [], length)
            writer.write(b"abc")
            gevent.sleep(0.05)  # let it arrive, since a reset may overtake it
            writer.abort()

        with running_server(handle) as server, RawClient(server.port) as client:
            client.send(b"GET / HTTP/" + version + b"\r\nHost: a\r\n\r\n").until(b"abc")
            if version == b"1.0" and length is None:
                with pytest.raises(ConnectionResetError):
                    client.sock.recv(100)
            else:
                assert client.rest() in (b"", b"\r\n"), "no last chunk"


class TestLastBytes:
    """``finish`` with a body leaves sending to the next turn; what a client does not take waits for it."""

    BODY = b"0123456789" * 1_200

    def handle(self, request: Request, writer: ResponseWriter) -> None:
        while request.body.read():
            pass
        writer.start(200, b"OK", [], len(self.BODY))
        writer.finish(self.BODY)

    def test_answers_that_pile_up_come_whole_and_in_order(self) -> None:
        """The client asks on and on without reading, until neither kernel takes any more."""
        count = 1_000
        with running_server(self.handle) as server, RawClient(server.port, receive_buffer=4_096) as client:
            for _ in range(count):
                client.send(GET)
            gevent.sleep(0.1)
            assert server.counters.value("proxy.requests") < count, "the server waits for the client"
            assert all(client.answer().body == self.BODY for _ in range(count))

    def test_a_client_that_takes_nothing_is_given_up(self) -> None:
        with running_server(self.handle, timeouts=ServerTimeouts(send=0.2, idle=60)) as server:
            with RawClient(server.port, receive_buffer=4_096) as client:
                with suppress(OSError):
                    for _ in range(1_000):
                        client.send(GET)
                wait_until(lambda: server.counters.value("proxy.client-gone") == 1, "it is given up")
            wait_until(lambda: not server.connections, "its connection is closed")

    @pytest.mark.parametrize(
        "begun", [b"GET / HTTP/1.1\r\nHo", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab"]
    )
    def test_an_answer_does_not_wait_for_the_rest_of_the_next_request(self, begun: bytes) -> None:
        """However many of them the kernel takes at once: its turn may come in vain while nobody waits for it."""
        with running_server(self.handle, timeouts=ServerTimeouts(head=1.5, body=1.5)) as server:
            for count in range(1, 80, 6):
                with RawClient(server.port, receive_buffer=4_096) as client:
                    client.send(GET * count + begun)
                    gevent.sleep(0.05)
                    with gevent.Timeout(1.0):
                        assert all(client.answer().body == self.BODY for _ in range(count))

    def test_a_client_that_left_is_noticed(self) -> None:
        with running_server(self.handle) as server:
            with RawClient(server.port) as client:
                client.send(GET)
            wait_until(lambda: not server.connections, "its connection is closed")

    def test_an_idle_time_begins_after_it(self) -> None:
        with running_server(self.handle, timeouts=ServerTimeouts(idle=0.3)) as server, RawClient(server.port) as client:
            assert client.send(GET).answer().body == self.BODY
            assert client.at_end()


class TestFaultyHandlers:
    """What the handler does wrong is logged once, is a 500 if nothing was said, and ends the connection."""

    @staticmethod
    def _raises(request: Request, writer: ResponseWriter) -> None:
        raise RuntimeError("the fault")

    @staticmethod
    def _times_out(request: Request, writer: ResponseWriter) -> None:
        with gevent.Timeout(0.01):
            gevent.sleep(1)

    @staticmethod
    def _disk_fails(request: Request, writer: ResponseWriter) -> None:
        raise OSError(28, "No space left")

    @staticmethod
    def _says_nothing(request: Request, writer: ResponseWriter) -> None:
        pass

    @staticmethod
    def _does_not_finish(request: Request, writer: ResponseWriter) -> None:
        writer.start(200, b"OK", [], 0)

    @staticmethod
    def _injects(request: Request, writer: ResponseWriter) -> None:
        writer.start(200, b"OK", [(b"X", b"a\r\nY: b")], 0)

    @staticmethod
    def _injects_lf(request: Request, writer: ResponseWriter) -> None:
        writer.start(200, b"OK", [(b"X\nY", b"a")], 0)

    @staticmethod
    def _injects_in_the_reason(request: Request, writer: ResponseWriter) -> None:
        writer.start(200, b"OK\r\nX: y", [], 0)

    @staticmethod
    def _frames(request: Request, writer: ResponseWriter) -> None:
        writer.start(200, b"OK", [(b"Transfer-Encoding", b"chunked")], 0)

    @staticmethod
    def _interim(request: Request, writer: ResponseWriter) -> None:
        writer.start(100, b"Continue", [], 0)

    @staticmethod
    def _writes_nul(request: Request, writer: ResponseWriter) -> None:
        writer.start(200, b"OK", [(b"X", b"\0")], 0)

    @pytest.mark.parametrize(
        "name",
        ["_raises", "_times_out", "_disk_fails", "_says_nothing", "_does_not_finish", "_injects", "_injects_lf",
         "_injects_in_the_reason", "_frames", "_interim", "_writes_nul"],
    )  # fmt: skip
    def test_before_it_answered(
        self, name: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
    ) -> None:
        with running_server(getattr(self, name)) as server, RawClient(server.port) as client:
            answer = client.send(b"GET /path?secret HTTP/1.1\r\nHost: a\r\n\r\n").answer()
            assert (answer.status, answer.closes) == (500, True)
            assert client.end().at_end()
        [record] = caplog.records
        assert record.levelno == logging.ERROR
        assert "GET /path failed" in record.getMessage()
        assert record.exc_info is not None
        assert "secret" not in caplog.text
        assert capfd.readouterr().err == ""

    def test_after_it_began(self, caplog: pytest.LogCaptureFixture) -> None:
        def handle(request: Request, writer: ResponseWriter) -> None:
            writer.start(200, b"OK", [], 6)
            writer.write(b"abc")
            writer.finish()  # too early

        with running_server(handle) as server, RawClient(server.port) as client:
            assert client.send(GET).rest().endswith(b"\r\n\r\nabc")
        assert len(caplog.records) == 1

    def test_too_much_body(self, caplog: pytest.LogCaptureFixture) -> None:
        with running_server(answering(200, 2, b"ab", b"c")) as server, RawClient(server.port) as client:
            assert client.send(GET).rest().endswith(b"\r\n\r\nab")
        assert len(caplog.records) == 1

    def test_a_refusal_by_the_handler_is_no_fault(self, caplog: pytest.LogCaptureFixture) -> None:
        def handle(request: Request, writer: ResponseWriter) -> None:
            raise ProtocolError(508, "a loop")

        with running_server(handle) as server, RawClient(server.port) as client:
            answer = client.send(GET).answer()
            assert (answer.status, answer.closes, answer.json["message"]) == (508, True, "a loop")
        assert caplog.records == []

    def test_a_swallowed_fault_of_the_body_still_ends_the_connection(self) -> None:
        def handle(request: Request, writer: ResponseWriter) -> None:
            for _ in range(2):
                with pytest.raises(ProtocolError):
                    request.body.read()
            writer.reply(200, "never mind")

        with running_server(handle) as server, RawClient(server.port) as client:
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n" + GET)
            assert client.answer().closes
            assert client.end().at_end()


def test_writing_to_a_client_that_left_is_no_fault(caplog: pytest.LogCaptureFixture) -> None:
    caught: list[ClientGone] = []

    def handle(request: Request, writer: ResponseWriter) -> None:
        writer.start(200, b"OK", [], None)
        try:
            while True:
                writer.write(b"x" * 65_536)
        except ClientGone as gone:
            caught.append(gone)
            raise

    with running_server(handle) as server:
        with RawClient(server.port) as client:
            client.send(GET)._more()
        wait_until(lambda: caught, "the handler is told")
        wait_until(lambda: not server.connections, "the connection is closed")
        assert server.counters.value("proxy.client-gone") == 1
    assert caplog.records == []
