"""Binding, starting and stopping a port."""

from __future__ import annotations

import errno
import gc
import resource
import time

import gevent
import pytest
from gevent import socket
from gevent.event import Event

from spawn.counters import Counters
from spawn.errors import ClientGone, StartError
from spawn.http11.binding import listen
from spawn.http11.deadlines import Deadlines
from spawn.http11.message import Request, ResponseWriter
from spawn.http11.server import HttpServer, ServerLimits, ServerTimeouts
from tests.support.rawhttp import Echo, RawClient, running_server, wait_until

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
HINT = '--api-port / "api.port"'


class TestBinding:
    def test_a_port_in_use(self) -> None:
        sock = listen("127.0.0.1", 0, HINT)
        port = sock.getsockname()[1]
        with pytest.raises(StartError) as caught:
            listen("127.0.0.1", port, HINT)
        assert str(caught.value) == (
            f"port {port} on 127.0.0.1 is in use: stop the other program or choose another with {HINT}"
        )
        sock.close()

    def test_an_address_of_another_machine(self) -> None:
        with pytest.raises(StartError, match=r"^192\.0\.2\.1 is not an address of this machine: .*api\.host"):
            listen("192.0.2.1", 0, HINT)

    @pytest.mark.parametrize("name", ["no-such-name.invalid", "a..b", "x" * 300, "a b"])
    def test_a_name_that_is_none(self, name: str) -> None:
        with pytest.raises(StartError, match=r"^cannot listen on .*api\.host") as caught:
            listen(name, 0, HINT)
        assert "\n" not in str(caught.value)

    def test_no_permission(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def bind(self: object, address: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")  # a test may run as root, who has it

        monkeypatch.setattr(socket.socket, "bind", bind)
        with pytest.raises(StartError, match=r"^no permission to listen on port 80 of 0\.0\.0\.0: .*api\.port"):
            listen("0.0.0.0", 80, HINT)

    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "::"])
    def test_addresses_and_names(self, host: str) -> None:
        if host == "::" and not socket.has_ipv6:
            pytest.skip("no IPv6 on this machine")
        with running_server(echo := Echo(), host=host) as server, RawClient(server.port) as client:
            assert client.send(GET).answer().status == 200
            assert echo.seen[0].peer == "127.0.0.1"

    def test_ipv6(self) -> None:
        try:
            listener = listen("::1", 0, HINT)
        except StartError:
            pytest.skip("no IPv6 on this machine")
        server = HttpServer(
            listener,
            echo := Echo(),
            limits=ServerLimits(),
            timeouts=ServerTimeouts(),
            deadlines=Deadlines(),
            counters=Counters(),
            name="proxy",
        )
        server.bind()
        server.start()
        with socket.create_connection(("::1", server.port)) as client:
            client.sendall(GET)
            assert client.recv(100).startswith(b"HTTP/1.1 200")
        server.stop(1)
        assert echo.seen[0].peer == "::1"

    def test_clients_may_connect_before_the_start(self) -> None:
        deadlines = Deadlines()
        server = HttpServer(
            ("127.0.0.1", 0),
            Echo(),
            limits=ServerLimits(),
            timeouts=ServerTimeouts(),
            deadlines=deadlines,
            counters=Counters(),
            name="proxy",
        )
        server.bind()
        with RawClient(server.port) as client:
            client.send(GET)
            server.start()
            assert client.answer().status == 200
        server.stop(1)


class Slow:
    """A handler that answers when it is told to."""

    def __init__(self) -> None:
        self.entered = 0
        self.go_on = Event()
        self.left: list[str] = []

    def __call__(self, request: Request, writer: ResponseWriter) -> None:
        self.entered += 1
        try:
            self.go_on.wait()
            writer.reply(200, "done")
            self.left.append("answered")
        except ClientGone:
            self.left.append("client gone")
            raise
        except gevent.GreenletExit:
            self.left.append("cut")
            raise


class TestStop:
    def test_requests_in_flight_finish_and_idle_connections_go_at_once(self) -> None:
        slow = Slow()
        with running_server(slow) as server, RawClient(server.port) as idle, RawClient(server.port) as busy:
            slow.go_on.set()
            assert idle.send(GET).answer().status == 200
            slow.go_on.clear()
            busy.send(GET + GET)
            wait_until(lambda: slow.entered == 2, "the request is in flight")
            stopping = gevent.spawn(server.stop, 10)
            assert idle.at_end()
            with pytest.raises(ConnectionRefusedError):
                RawClient(server.port)
            assert not stopping.ready()
            slow.go_on.set()
            answer = busy.answer()
            assert (answer.status, answer.closes) == (200, True)
            assert busy.end().at_end(), "a request behind it is not begun"
            stopping.join(2)
            assert stopping.ready()
            server.stop(1)
        assert slow.entered == 2

    def test_what_is_left_at_the_deadline_is_cut(self, capfd: pytest.CaptureFixture[str]) -> None:
        slow = Slow()
        with running_server(slow) as server, RawClient(server.port) as client:
            client.send(GET)
            wait_until(lambda: slow.entered, "the request is in flight")
            began = time.monotonic()
            server.stop(0.2)
            assert 0.15 < time.monotonic() - began < 3
            assert slow.left == ["cut"]
            assert client.at_end()
        assert capfd.readouterr().err == ""

    def test_half_a_head_is_not_waited_for(self) -> None:
        with running_server(Echo()) as server, RawClient(server.port) as client:
            client.send(b"GET / HT")
            wait_until(lambda: any(c.channel.reading_head for c in server.connections), "some bytes are there")
            began = time.monotonic()
            server.stop(20)
            assert time.monotonic() - began < 5
            assert client.answer().status == 408

    def test_a_request_that_had_arrived_is_still_answered(self) -> None:
        with running_server(echo := Echo()) as server, RawClient(server.port) as client:
            assert client.send(GET).answer().status == 200
            client.sock.sendall(GET)
            server.stop(5)
            assert client.answer().status == 200
            assert client.at_end()
        assert len(echo.seen) == 2

    def test_a_server_that_was_never_started(self) -> None:
        server = HttpServer(
            ("127.0.0.1", 0),
            Echo(),
            limits=ServerLimits(),
            timeouts=ServerTimeouts(),
            deadlines=Deadlines(),
            counters=Counters(),
            name="proxy",
        )
        server.stop(1)
        server.stop(1)


def test_running_out_of_descriptors_pauses_accepting_and_recovers(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with running_server(Echo()) as server:
        client = RawClient(server.port)
        assert client.send(GET).answer().status == 200
        waiting = socket.socket()
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (waiting.fileno() + 1, hard))
            waiting.connect(("127.0.0.1", server.port))
            waiting.sendall(GET)
            wait_until(lambda: caplog.records, "the operator is told")
            assert client.send(GET).answer().status == 200, "who is in is served"
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        waiting.settimeout(5)
        assert waiting.recv(100).startswith(b"HTTP/1.1 200")
        waiting.close()
        client.sock.close()
    assert len(caplog.records) == 1
    assert "Traceback" not in capfd.readouterr().err


def test_connections_leave_nothing_behind() -> None:
    echo = Echo()
    with running_server(echo) as server:

        def visit() -> None:
            with RawClient(server.port) as client:
                client.send(GET)
                assert client.answer().status == 200
            echo.seen.clear()

        for _ in range(10):
            visit()
        wait_until(lambda: not server.connections, "all closed")
        gc.collect()
        before = len(gc.get_objects())
        for _ in range(200):
            visit()
        wait_until(lambda: not server.connections, "all closed")
        gc.collect()
        assert len(gc.get_objects()) - before < 200
