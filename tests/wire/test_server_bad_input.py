"""Bad input to a server alone: behind good requests, over limits, from clients that leave."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from spawn.http11.server import HttpServer, ServerLimits, ServerTimeouts
from tests.support.corpus import RequestCase, name_of, request_cases
from tests.support.rawhttp import Echo, RawClient, let_sockets_be_served, running_server, wait_until
from tests.support.splits import in_thirds

REFUSED = [case for case in request_cases() if isinstance(case.expect, int) and not case.limits]


@pytest.fixture(scope="module")
def echo() -> Echo:
    return Echo()


@pytest.fixture(scope="module")
def server(echo: Echo) -> Iterator[HttpServer]:
    with running_server(echo) as running:
        yield running


@pytest.fixture(autouse=True)
def no_noise(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Whatever a client sends, it is not worth a warning, and never a traceback."""
    yield
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("case", REFUSED, ids=name_of)
def test_bad_input_in_three_pieces_behind_a_good_request(case: RequestCase, server: HttpServer) -> None:
    """The good one is answered, the bad one refused: what came before lends it nothing."""
    first, *others = in_thirds(case.data)
    with RawClient(server.port) as client:
        client.send(b"GET /good HTTP/1.1\r\nHost: a\r\n\r\n" + first)
        for piece in others:
            let_sockets_be_served()
            client.try_send(piece)
        assert client.answer().status == 200
        answer = client.answer()
        assert (answer.status, answer.closes) == (case.expect, True)
        assert client.at_end()


def test_after_all_that_only_good_requests_were_seen(server: HttpServer, echo: Echo) -> None:
    assert {seen.target for seen in echo.seen} == {b"/good"}
    assert len(echo.seen) == server.counters.value("proxy.refused") == len(REFUSED)
    wait_until(lambda: not server.connections, "all connections closed")


class TestBodiesOverTheLimit:
    LIMITS = ServerLimits(body=100_000)

    def test_by_length_before_it_is_read(self) -> None:
        with running_server(echo := Echo(), limits=self.LIMITS) as server, RawClient(server.port) as client:
            answer = client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100001\r\n\r\n").answer()
            assert (answer.status, answer.closes) == (413, True)
            assert client.end().at_end()
        assert echo.seen == []

    def test_the_client_reads_the_answer_although_it_goes_on_sending(self) -> None:
        with running_server(echo := Echo(), limits=self.LIMITS) as server, RawClient(server.port) as client:
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\n", b"x" * 250_000, b"x" * 250_000)
            assert client.answer().status == 413
            assert client.end().at_end()
        assert echo.seen == []

    def test_while_counting_chunks(self) -> None:
        with running_server(echo := Echo(), limits=self.LIMITS) as server, RawClient(server.port) as client:
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
            client.try_send(b"8000\r\n" + b"x" * 0x8000 + b"\r\n", *[b"8000\r\n" + b"x" * 0x8000 + b"\r\n"] * 3)
            assert client.answer().status == 413
            assert client.end().at_end()
        assert echo.seen == []

    def test_the_largest_that_passes(self) -> None:
        body = b"x" * 100_000
        with running_server(echo := Echo(), limits=self.LIMITS) as server, RawClient(server.port) as client:
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + body)
            assert client.answer().body == body
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
            client.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
            assert client.answer().body == body
        assert len(echo.seen) == 2


class TestClientsThatLeave:
    @pytest.mark.parametrize(
        "sent",
        [
            b"",
            b"\r\n",
            b"GET / HT",
            b"GET / HTTP/1.1\r\nHost: a\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nab",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
        ],
    )
    def test_an_unfinished_request_is_no_request(self, sent: bytes, server: HttpServer, echo: Echo) -> None:
        before = len(echo.seen)
        with RawClient(server.port) as client:
            assert client.send(sent).end().at_end()
        assert len(echo.seen) == before

    def test_a_reset_while_uploading_makes_no_noise(self, server: HttpServer, echo: Echo) -> None:
        before = len(echo.seen)
        gone = server.counters.value("proxy.client-gone")
        client = RawClient(server.port)
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n" + b"x" * 100_000)
        client.sock.setsockopt(1, 13, b"\x01\0\0\0\0\0\0\0")  # SO_LINGER 0: close with a reset
        client.sock.close()
        wait_until(lambda: server.counters.value("proxy.client-gone") > gone, "the server noticed")
        assert len(echo.seen) == before


def test_too_many_connections_are_told_so() -> None:
    with running_server(Echo(), limits=ServerLimits(connections=2)) as server:
        with RawClient(server.port) as first, RawClient(server.port) as second:
            for client in (first, second):
                client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                assert client.answer().status == 200
            with RawClient(server.port) as third:
                answer = third.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer()
                assert (answer.status, answer.closes) == (503, True)
                assert third.end().at_end()
            assert first.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer().status == 200
        wait_until(lambda: not server.connections, "both closed")
        with RawClient(server.port) as fourth:
            assert fourth.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer().status == 200
        assert server.counters.value("proxy.refused-connections") == 1


def test_the_limits_of_a_head_are_settings_and_change_at_run_time() -> None:
    with running_server(Echo(), limits=ServerLimits(head=200, headers=3)) as server, RawClient(server.port) as client:
        good = b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\nX: y\r\n\r\n"
        assert client.send(good).answer().status == 200
        server.limits = ServerLimits(head=200, headers=2)
        assert client.send(good).answer().status == 431
        with RawClient(server.port) as other:
            assert other.send(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 200 + b"\r\n\r\n").answer().status == 431


def test_time_outs_are_settings_too() -> None:
    with running_server(Echo(), timeouts=ServerTimeouts(idle=0.1)) as server, RawClient(server.port) as client:
        assert client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer().status == 200
        assert client.at_end()
