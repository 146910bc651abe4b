"""Slow clients: each way to be slow has a deadline, what is not slow has none, and nobody else notices."""

from __future__ import annotations

import time
from collections.abc import Iterator

import gevent
import pytest

from spawn.errors import ClientGone
from spawn.http11.binding import UNSENT_BYTES
from spawn.http11.message import Request, ResponseWriter
from spawn.http11.server import ServerTimeouts
from tests.support.rawhttp import Echo, RawClient, running_server, wait_until

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n"


@pytest.fixture(autouse=True)
def no_noise(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    yield
    assert caplog.records == []
    assert capfd.readouterr().err == ""


def drip(client: RawClient, data: bytes, every_s: float) -> gevent.Greenlet[..., None]:
    """Send byte by byte until the server has had enough."""

    def run() -> None:
        for at in range(len(data)):
            try:
                client.sock.sendall(data[at : at + 1])
            except OSError:
                return
            gevent.sleep(every_s)

    return gevent.spawn(run)


class TestHead:
    TIMEOUTS = ServerTimeouts(head=0.2)

    def test_a_connection_without_a_byte_is_just_closed(self) -> None:
        with running_server(Echo(), timeouts=self.TIMEOUTS) as server, RawClient(server.port) as client:
            assert client.at_end()

    def test_an_empty_line_is_not_a_request_either(self) -> None:
        with running_server(Echo(), timeouts=self.TIMEOUTS) as server, RawClient(server.port) as client:
            assert client.send(b"\r\n").at_end()

    def test_half_a_head(self) -> None:
        with running_server(echo := Echo(), timeouts=self.TIMEOUTS) as server, RawClient(server.port) as client:
            answer = client.send(b"GET / HTTP/1.1\r\nHost").answer()
            assert (answer.status, answer.closes) == (408, True)
            assert client.at_end()
            assert server.counters.value("proxy.timed-out") == 1
        assert echo.seen == []

    def test_a_head_that_drips(self) -> None:
        began = time.monotonic()
        with running_server(echo := Echo(), timeouts=self.TIMEOUTS) as server, RawClient(server.port) as client:
            dripping = drip(client, GET + b"X" * 10_000, 0.01)
            assert client.answer().status == 408
            assert client.at_end()
            dripping.kill()
        assert echo.seen == []
        assert time.monotonic() - began < 3

    def test_a_second_head_has_its_own_time(self) -> None:
        with running_server(Echo(), timeouts=self.TIMEOUTS) as server, RawClient(server.port) as client:
            client.send(GET)
            assert client.answer().status == 200
            gevent.sleep(0.3)  # idle, which has another limit
            assert client.send(b"GET / HT").answer().status == 408


class TestIdle:
    def test_closed_after_the_idle_time(self) -> None:
        with running_server(Echo(), timeouts=ServerTimeouts(idle=0.2)) as server, RawClient(server.port) as client:
            client.send(GET)
            assert client.answer().status == 200
            assert client.at_end()

    def test_a_handler_may_take_its_time(self) -> None:
        def handle(request: Request, writer: ResponseWriter) -> None:
            gevent.sleep(0.4)
            writer.reply(200, "done")

        short = ServerTimeouts(head=0.1, body=0.1, idle=0.1, send=0.1)
        with running_server(handle, timeouts=short) as server, RawClient(server.port) as client:
            assert client.send(GET).answer().status == 200


class TestBody:
    TIMEOUTS = ServerTimeouts(body=0.2)

    def test_a_pause(self) -> None:
        with running_server(echo := Echo(), timeouts=self.TIMEOUTS) as server, RawClient(server.port) as client:
            answer = client.send(POST + b"x" * 999).answer()
            assert (answer.status, answer.closes) == (408, True)
            assert client.at_end()
        assert echo.seen == []

    @pytest.mark.parametrize("head", [POST, POST.replace(b"Content-Length: 1000", b"Transfer-Encoding: chunked")])
    def test_a_drip(self, head: bytes) -> None:
        """Never a pause as long as the time-out, but far below 500 B/s."""
        with running_server(echo := Echo(), timeouts=self.TIMEOUTS) as server, RawClient(server.port) as client:
            client.send(head)
            dripping = drip(client, b"1;" + b"x" * 998, 0.02)
            assert client.answer().status == 408
            assert client.at_end()
            dripping.kill()
        assert echo.seen == []

    def test_a_quick_beginning_buys_no_drip(self) -> None:
        head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"
        with running_server(echo := Echo(), timeouts=self.TIMEOUTS) as server, RawClient(server.port) as client:
            client.send(head + b"x" * 900_000)
            dripping = drip(client, b"x" * 1_000, 0.02)
            assert client.answer().status == 408
            dripping.kill()
        assert echo.seen == []

    def test_slow_but_fast_enough(self) -> None:
        with running_server(Echo(), timeouts=self.TIMEOUTS) as server, RawClient(server.port) as client:
            client.send(POST)
            for _ in range(10):  # 0.5 s in all, more than two windows
                client.send(b"x" * 100)
                gevent.sleep(0.05)
            assert client.answer().status == 200

    def test_the_time_a_handler_takes_does_not_count(self) -> None:
        def handle(request: Request, writer: ResponseWriter) -> None:
            while request.body.read(100):
                gevent.sleep(0.05)
            writer.reply(200, "done")

        with running_server(handle, timeouts=self.TIMEOUTS) as server, RawClient(server.port) as client:
            assert client.send(POST + b"x" * 1000).answer().status == 200

    def test_a_body_that_nobody_reads_is_not_waited_for_long(self) -> None:
        def handle(request: Request, writer: ResponseWriter) -> None:
            writer.reply(200, "not interested")

        with running_server(handle, timeouts=self.TIMEOUTS) as server, RawClient(server.port) as client:
            assert client.send(POST).answer().status == 200
            assert client.at_end()


class Flood:
    """A handler that writes more than any kernel buffers, and says how it ended."""

    def __init__(self, total: int = 64 * 2**20, step: int = 65_536) -> None:
        self.total, self.step = total, step
        self.gone: list[ClientGone] = []
        self.written = 0  # bytes that the kernel has taken
        self.finished = 0

    def __call__(self, request: Request, writer: ResponseWriter) -> None:
        writer.start(200, b"OK", [], self.total)
        try:
            for _ in range(self.total // self.step):
                writer.write(b"x" * self.step)
                self.written += self.step
        except ClientGone as gone:
            self.gone.append(gone)
            raise
        writer.finish()
        self.finished += 1


class TestSend:
    def test_a_client_that_takes_nothing_is_cut(self) -> None:
        flood = Flood()
        with (
            running_server(flood, timeouts=ServerTimeouts(send=0.2)) as server,
            RawClient(server.port, receive_buffer=4096) as client,
        ):
            client.send(GET)
            wait_until(lambda: flood.gone, "the handler is told")
            wait_until(lambda: not server.connections, "the connection is closed")
            with pytest.raises(ConnectionResetError):
                while client.sock.recv(65_536):
                    pass

    def test_the_kernel_keeps_little_for_a_client_that_takes_nothing(self) -> None:
        flood = Flood()
        with (
            running_server(flood, timeouts=ServerTimeouts(send=0.2)) as server,
            RawClient(server.port, receive_buffer=4096) as client,
        ):
            client.send(GET)
            wait_until(lambda: flood.gone, "the handler is told")
        assert flood.written < 2 * UNSENT_BYTES

    def test_a_client_below_the_least_rate_is_cut(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It takes something in every window, 20 kB/s, but the rule (raised, so that it takes no minute) wants 200."""
        monkeypatch.setattr("spawn.http11.channel.MIN_BYTES_PER_S", 200_000)
        flood = Flood()
        with (
            running_server(flood, timeouts=ServerTimeouts(send=0.4)) as server,
            RawClient(server.port, receive_buffer=4096) as client,
        ):
            client.send(GET)
            got = 0
            while not flood.gone and got < 100_000:
                got += len(client.sock.recv(1000))
                gevent.sleep(0.05)
            assert flood.gone

    def test_a_client_that_drips_is_cut(self) -> None:
        flood = Flood()
        with (
            running_server(flood, timeouts=ServerTimeouts(send=0.3)) as server,
            RawClient(server.port, receive_buffer=4096) as client,
        ):
            client.send(GET)

            def sip() -> None:
                try:
                    while client.sock.recv(1):
                        gevent.sleep(0.02)
                except OSError:
                    return

            sipping = gevent.spawn(sip)
            wait_until(lambda: flood.gone, "the handler is told")
            sipping.kill()

    def test_a_slow_client_that_is_fast_enough_gets_everything(self) -> None:
        """Far slower than the kernel frees a third of its buffer per window, which is when it takes more."""
        flood = Flood(total=6 * 2**20)
        with (
            running_server(flood, timeouts=ServerTimeouts(send=0.1)) as server,
            RawClient(server.port, receive_buffer=32_768) as client,
        ):
            client.send(GET)
            got = 0
            while got < flood.total:
                got += len(client.sock.recv(32_768))
                gevent.sleep(0.005)
            wait_until(lambda: flood.finished, "the handler is done")

    def test_an_endless_answer_is_not_cut_while_nothing_is_pending(self) -> None:
        def handle(request: Request, writer: ResponseWriter) -> None:
            writer.start(200, b"OK", [], None)
            writer.flush()
            for _ in range(3):
                gevent.sleep(0.2)
                writer.write(b"event")
            writer.finish()

        short = ServerTimeouts(head=0.1, body=0.1, idle=0.1, send=0.1)
        with running_server(handle, timeouts=short) as server, RawClient(server.port) as client:
            assert client.send(GET).answer().body == b"event" * 3


def test_many_slow_clients_leave_a_normal_one_alone() -> None:
    """And are gone when their time is up."""
    timeouts = ServerTimeouts(head=1.0)
    with running_server(Echo(), timeouts=timeouts) as server:
        slow = [RawClient(server.port).send(b"GET / HT") for _ in range(200)]
        with RawClient(server.port) as client:
            for _ in range(50):
                began = time.monotonic()
                assert client.send(GET).answer().status == 200
                assert time.monotonic() - began < 0.5
            for one in slow:
                assert one.answer().status == 408
                one.sock.close()
        wait_until(lambda: not server.connections, "all are gone")
