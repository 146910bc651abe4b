"""Sent, surely not sent, or unknown: the client never claims more than it can know."""

from __future__ import annotations

import socket as blocking
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gevent
import psutil
import pytest
from gevent import socket

from spawn.errors import NotSent, Unknown
from spawn.http11.client import BodyUnreadable, OutgoingRequest
from spawn.http11.spool import SpooledFile
from tests.support.scriptednode import ClientUnderTest, Peer, ScriptedNode, get, post, read_all, serve, until

MIB = 1_048_576


@pytest.fixture(autouse=True)
def deadline() -> Iterator[None]:
    with gevent.Timeout(60):
        yield


@pytest.fixture(params=[True, False], ids=["careful", "quick"])
def client(request: pytest.FixtureRequest) -> Iterator[ClientUnderTest]:
    """Also checks that no socket is left when all is done."""
    with ClientUnderTest(careful=request.param) as under_test:
        yield under_test
    assert not under_test.client._in_use


@pytest.fixture(autouse=True)
def no_socket_stays_open() -> Iterator[None]:
    before = len(psutil.Process().net_connections("tcp"))
    yield
    until(lambda: len(psutil.Process().net_connections("tcp")) <= before)


def file_of(path: Path, size: int) -> SpooledFile:
    file = path / "body"
    with file.open("wb") as out:
        out.truncate(size - 3)
        out.seek(size - 3)
        out.write(b"end")
    return SpooledFile(str(file), size)


@contextmanager
def full_listener() -> Iterator[ScriptedNode]:
    """A port whose accept queue is full, so that more connects hang."""
    with blocking.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        node = ScriptedNode()
        node.port = listener.getsockname()[1]
        fillers = [blocking.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", node.port))
        yield node
        for filler in fillers:
            filler.close()


def upload(body: bytes | SpooledFile | None) -> OutgoingRequest:
    return OutgoingRequest(b"PUT", b"/file", b"Host: app.test\r\n", body)


class TestWhatIsWritten:
    def test_target_and_headers_arrive_byte_for_byte(self, client: ClientUnderTest) -> None:
        with ScriptedNode() as node:
            headers = b"hOST: app.test\r\nX-A: 1\r\nX-A:   2\r\nx-b: \xff\r\n"
            client.fetch(node, OutgoingRequest(b"BREW", b"/a%2fb/../x?q=%20&&", headers))
            assert node.requests == [b"BREW /a%2fb/../x?q=%20&& HTTP/1.1\r\n" + headers + b"\r\n"]

    @pytest.mark.parametrize("body", [b"", b"x", b"y" * 300_000])
    def test_a_body_is_framed_by_its_length(self, client: ClientUnderTest, body: bytes) -> None:
        with ScriptedNode() as node:
            assert client.fetch(node, post(body)) == (200, b"hello")
            head, _, received = node.requests[0].partition(b"\r\n\r\n")
            assert head.endswith(b"\r\nContent-Length: %d" % len(body))
            assert received == body

    def test_no_body_has_no_framing(self, client: ClientUnderTest) -> None:
        with ScriptedNode() as node:
            client.fetch(node, upload(None))
            assert b"ontent-" not in node.requests[0]
            assert b"ransfer-" not in node.requests[0]

    def test_an_empty_file_is_an_empty_body(self, client: ClientUnderTest, tmp_path: Path) -> None:
        (tmp_path / "empty").touch()
        with ScriptedNode() as node:
            client.fetch(node, upload(SpooledFile(str(tmp_path / "empty"), 0)))
            assert node.requests[0].endswith(b"\r\nContent-Length: 0\r\n\r\n")

    def test_a_request_without_host_gets_the_nodes(self, client: ClientUnderTest) -> None:
        with ScriptedNode() as node:
            client.fetch(node, OutgoingRequest(b"GET", b"/", b"X-Host: no\r\n"))
            assert node.requests[0].startswith(b"GET / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nX-Host" % node.port)

    def test_head_and_small_body_leave_in_one_segment(self, client: ClientUnderTest) -> None:
        sizes: list[int] = []

        def script(peer: Peer) -> None:
            sizes.append(len(peer.sock.recv(65_536)))
            peer.answer()

        with ScriptedNode(script) as node:
            client.fetch(node, post(b"z" * 1000))
            assert sizes[0] > 1000

    def test_a_large_file_goes_out_whole_in_bounded_memory(self, client: ClientUnderTest, tmp_path: Path) -> None:
        size = 30 * MIB
        taken: list[int] = []

        def script(peer: Peer) -> None:
            peer.read_head()
            peak = 0
            for _ in range(size // 65_536):
                peer.read_exactly(65_536)
                peak = max(peak, psutil.Process().memory_info().rss)
            taken.append(peak)
            peer.answer(b"ok")

        before = psutil.Process().memory_info().rss
        with ScriptedNode(script) as node:
            assert client.fetch(node, upload(file_of(tmp_path, size))) == (200, b"ok")
        assert taken[0] - before < 12 * MIB

    def test_on_sent_comes_after_the_request_and_before_the_answer(self, client: ClientUnderTest) -> None:
        story: list[str] = []

        def script(peer: Peer) -> None:
            peer.read_request()
            until(lambda: story)
            story.append("answered")
            peer.answer()

        with ScriptedNode(script) as node:
            client.fetch(node, post(b"x" * 400_000), on_sent=lambda: story.append("sent"))
            assert story == ["sent", "answered"]


class TestNotSent:
    def test_nobody_listens(self, client: ClientUnderTest) -> None:
        node = ScriptedNode()
        with node:
            pass
        with pytest.raises(NotSent, match="refused") as caught:
            client.send(node)
        assert caught.value.refused

    def test_a_name_that_does_not_exist(self, client: ClientUnderTest) -> None:
        node = ScriptedNode(host="no-such-name.invalid")
        with pytest.raises(NotSent, match="cannot resolve") as caught:
            client.send(node)
        assert not caught.value.refused

    def test_a_node_that_accepts_nothing(self) -> None:
        with ClientUnderTest(connect_timeout_s=0.2) as client, full_listener() as node:
            with pytest.raises(NotSent, match="timed out") as caught:
                client.send(node)
            assert not caught.value.refused

    def test_a_caller_killed_while_connecting_leaves_no_socket(self) -> None:
        with ClientUnderTest(connect_timeout_s=20) as client, full_listener() as node:
            connecting = gevent.spawn(client.send, node)
            gevent.sleep(0.05)
            assert not connecting.ready()
            connecting.kill()

    def test_a_body_file_that_is_gone(self, client: ClientUnderTest, tmp_path: Path) -> None:
        with ScriptedNode() as node:
            with pytest.raises(NotSent, match="cannot be read"):
                client.send(node, upload(SpooledFile(str(tmp_path / "gone"), 10)))
            assert node.requests == []

    def test_the_second_address_of_a_name_is_tried(self, client: ClientUnderTest) -> None:
        with ScriptedNode(host="127.0.0.1") as node:
            client.resolver._lookup = lambda *_, **__: [
                (family, 1, 6, "", (ip, 0))
                for family, ip in [(socket.AF_INET, "127.0.0.2"), (socket.AF_INET, "127.0.0.1")]
            ]
            answer = client.client.send("k", "two.test", node.port, get(), progress_timeout_s=5, max_idle_s=0)
            assert read_all(answer) == b"hello"

    def test_after_stop(self) -> None:
        with ScriptedNode() as node, ClientUnderTest() as client:
            client.client.stop(1)
            client.client.stop(1)
            with pytest.raises(NotSent, match="stopping"):
                client.send(node)


class TestUnknown:
    @pytest.mark.parametrize(
        "half",
        [
            b"",
            b"H",
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\n",
        ],
    )
    @pytest.mark.parametrize("ending", ["close", "reset", "silence"])
    def test_an_answer_that_ends_before_its_head(self, client: ClientUnderTest, half: bytes, ending: str) -> None:
        def script(peer: Peer) -> None:
            peer.read_request()
            peer.send(half)
            if ending == "silence":
                peer.read_to_end()
            elif ending == "reset":
                peer.reset()

        sent: list[bool] = []
        with ScriptedNode(script) as node:
            with pytest.raises(Unknown) as caught:
                client.send(node, post(b"x"), progress_timeout_s=0.2, on_sent=lambda: sent.append(True))
            assert sent == [True]
            assert not caught.value.malformed
            assert not caught.value.reused_and_silent  # it was a fresh connection
            assert node.connections == 1  # surely not sent again
            if ending == "silence":
                late = (
                    "not complete after 0.2 s" if half and not half.endswith(b"\r\n\r\n") else "no progress for 0.2 s"
                )
                assert late in str(caught.value)
                assert caught.value.timed_out

    def test_a_trickled_body_has_progress(self, client: ClientUnderTest) -> None:
        def script(peer: Peer) -> None:
            peer.read_request()
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n")
            peer.trickle(b"x" * 50, 0.02)

        with ScriptedNode(script) as node:
            assert client.fetch(node, progress_timeout_s=0.3) == (200, b"x" * 50)

    @pytest.mark.parametrize("before", [b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 3])
    @pytest.mark.parametrize("reads", [True, False])
    def test_a_trickled_head_ends_at_one_deadline(self, client: ClientUnderTest, before: bytes, reads: bool) -> None:
        def script(peer: Peer) -> None:
            if reads:
                peer.read_request()
            else:
                peer.read_head()
            peer.send(before)
            peer.trickle(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 30_000, 0.02)

        began_s = time.monotonic()
        with ScriptedNode(script) as node:
            with pytest.raises(Unknown, match=r"not complete after 0\.3 s") as caught:
                client.send(node, post(b"x" if reads else b"x" * 30 * MIB), progress_timeout_s=0.3)
            assert caught.value.timed_out
            assert not caught.value.malformed
        assert time.monotonic() - began_s < 10

    def test_signs_of_life_count_once(self, client: ClientUnderTest) -> None:
        def script(peer: Peer) -> None:
            peer.read_request()
            for _ in range(20):
                gevent.sleep(0.2)
                peer.send(b"HTTP/1.1 102 Processing\r\n\r\n")
            peer.answer()

        with ScriptedNode(script) as node, pytest.raises(Unknown, match=r" 0\.4 s") as caught:
            client.send(node, post(b"x"), progress_timeout_s=0.4)
        assert caught.value.timed_out  # in silence, or just as one more sign of life came

    def test_a_sign_of_life_before_a_slow_upload_sets_no_deadline_for_it(self, client: ClientUnderTest) -> None:
        def script(peer: Peer) -> None:
            peer.read_head()
            peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            for _ in range(12):
                peer.read_exactly(65_536)
                gevent.sleep(0.1)
            peer.read_exactly(20 * MIB - 12 * 65_536)
            peer.answer(b"ok")

        with ScriptedNode(script) as node:
            assert client.fetch(node, post(b"x" * 20 * MIB), progress_timeout_s=0.4) == (200, b"ok")

    def test_a_node_that_stops_reading_the_body(self, client: ClientUnderTest) -> None:
        def script(peer: Peer) -> None:
            peer.read_head()
            gevent.sleep(30)

        with ScriptedNode(script) as node, pytest.raises(Unknown, match="no progress"):
            client.send(node, post(b"x" * 30 * MIB), progress_timeout_s=0.2)

    def test_a_node_that_reads_slowly_has_progress(self, client: ClientUnderTest) -> None:
        def script(peer: Peer) -> None:
            peer.read_head()
            for _ in range(12):
                peer.read_exactly(65_536)  # far less than the kernel waits for before it takes more
                gevent.sleep(0.1)
            peer.read_exactly(size - 12 * 65_536)
            peer.answer(b"ok")

        size = 20 * MIB
        with ScriptedNode(script) as node:
            assert client.fetch(node, post(b"x" * size), progress_timeout_s=0.4) == (200, b"ok")

    @pytest.mark.parametrize("how", ["close", "reset"])
    def test_a_node_that_goes_away_amid_the_body(self, client: ClientUnderTest, how: str) -> None:
        def script(peer: Peer) -> None:
            peer.read_head()
            getattr(peer, how)()

        sent: list[bool] = []
        with ScriptedNode(script) as node, pytest.raises(Unknown):
            client.send(node, post(b"x" * 20 * MIB), on_sent=lambda: sent.append(True))
        assert sent == []

    def test_a_body_file_shorter_than_it_says(self, client: ClientUnderTest, tmp_path: Path) -> None:
        body = SpooledFile(file_of(tmp_path, MIB).path, 2 * MIB)
        with ScriptedNode() as node:
            with pytest.raises(BodyUnreadable, match="shorter"):
                client.send(node, upload(body))
            assert node.requests == []


MALFORMED = {
    "not HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "TLS alert": b"\x15\x03\x01\x00\x02\x02\x46",
    "bad version": b"HTTP/3.7 200 OK\r\n\r\n",
    "no status": b"HTTP/1.1 OK\r\n\r\n",
    "long status": b"HTTP/1.1 2000 OK\r\n\r\n",
    "low status": b"HTTP/1.1 099 X\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "bad length": b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\na",
    "length and chunked": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "unknown coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
    "bare CR": b"HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: b\r\n\r\n",
    "NUL": b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
    "folded": b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
    "space before colon": b"HTTP/1.1 200 OK\r\nX : a\r\n\r\n",
    "no colon": b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n",
    "upgrade": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "endless 1xx": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 21,
    "endless head": b"HTTP/1.1 200 OK\r\n" + b"X: " + b"a" * 70_000,
    "bare LF": b"HTTP/1.1 200 OK\n",
    "bare LF for CRLFCRLF": b"HTTP/1.1 200 OK\r\nContent-Length: 0\n\n",
    "endless headers": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 201 + b"\r\n",
}


@pytest.mark.parametrize("answer", MALFORMED.values(), ids=MALFORMED.keys())
def test_an_answer_that_is_not_http_is_unknown_at_once(client: ClientUnderTest, answer: bytes) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        peer.send(answer)
        peer.read_to_end()  # keeps the connection open: nobody has to wait for its end

    with ScriptedNode(script) as node, pytest.raises(Unknown, match="something that is not HTTP: ") as caught:
        client.send(node, post(b"x"), progress_timeout_s=20)
    assert caught.value.malformed
    assert not caught.value.reused_and_silent


class TestAnswersBeforeTheBodyIsSent:
    REFUSAL = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 5\r\n\r\nlarge"

    @pytest.mark.parametrize("then", ["close", "reset", "wait", "read"])
    @pytest.mark.parametrize("kind", ["bytes", "file"])
    def test_the_answer_counts(self, client: ClientUnderTest, tmp_path: Path, then: str, kind: str) -> None:
        def script(peer: Peer) -> None:
            peer.read_head()
            peer.send(self.REFUSAL)
            if then == "wait":
                until(lambda: answered, 30)  # takes nothing of the body any more and keeps the connection
            elif then == "read":
                peer.read_to_end()
            elif then == "reset":
                gevent.sleep(0.05)  # so that the answer is on its way: RST may overtake what is not
                peer.reset()

        answered: list[int] = []
        sent: list[bool] = []
        body = b"x" * 20 * MIB if kind == "bytes" else file_of(tmp_path, 20 * MIB)
        with ScriptedNode(script, serve) as node:
            request = upload(body)
            with client.send(node, request, progress_timeout_s=20, on_sent=lambda: sent.append(True)) as answer:
                answered.append(answer.head.status)
                assert answer.head.status == 413
                if then != "reset":
                    assert read_all(answer) == b"large"
            assert sent == []
            client.fetch(node)
            assert node.connections == 2  # half a request went out on the first one: it must not be used again

    def test_an_answer_in_front_of_a_reset_is_found(self, client: ClientUnderTest) -> None:
        """Everything arrives before the client looks: answer, then RST, then its own failing write."""

        def script(peer: Peer) -> None:
            peer.read_head()
            peer.send(self.REFUSAL)
            peer.reset()

        with ScriptedNode(script) as node:
            outcomes = set()
            for _ in range(10):
                try:
                    with client.send(node, post(b"x" * 5 * MIB), progress_timeout_s=5) as answer:
                        outcomes.add(answer.head.status)
                except Unknown:
                    outcomes.add(0)  # the kernel threw the answer away with the reset: then it is honestly unknown
            assert outcomes <= {0, 413}

    def test_100_continue_does_not_end_the_sending(self, client: ClientUnderTest) -> None:
        def script(peer: Peer) -> None:
            head = peer.read_head()
            peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            assert b"Content-Length: %d" % (8 * MIB) in head
            peer.read_exactly(8 * MIB)
            peer.answer(b"whole")

        with ScriptedNode(script) as node:
            assert client.fetch(node, post(b"x" * 8 * MIB)) == (200, b"whole")


class TestKilledAndTimedOut:
    """A caller that is killed or timed out anywhere in a request leaves no socket behind."""

    @pytest.mark.parametrize("where", ["head", "body", "upload"])
    @pytest.mark.parametrize("how", ["kill", "timeout"])
    def test_the_connection_is_closed(self, client: ClientUnderTest, where: str, how: str) -> None:
        def script(peer: Peer) -> None:
            peer.read_head()
            if where == "body":
                peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab")
            if where == "upload":
                gevent.sleep(0.3)
            peer.read_to_end()

        def use() -> None:
            with gevent.Timeout(0.1 if how == "timeout" else None, False):  # type: ignore[arg-type]
                answer = client.send(node, post(b"x" * 20 * MIB) if where == "upload" else get(), progress_timeout_s=20)
                read_all(answer)

        with ScriptedNode(script) as node:
            using = gevent.spawn(use)
            until(lambda: node.open)
            gevent.sleep(0.02)
            if how == "kill":
                using.kill()
            using.join(5)
            assert using.ready()
            assert not client.client._in_use
            until(lambda: node.open == 0)

    def test_stop_waits_for_what_is_in_use_then_cuts_it(self) -> None:
        def script(peer: Peer) -> None:
            peer.read_request()
            peer.read_to_end()

        with ScriptedNode(script) as node, ClientUnderTest() as client:
            waiting = gevent.spawn(client.send, node, progress_timeout_s=30)
            until(lambda: client.client._in_use and node.requests)
            client.client.stop(0.05)
            with pytest.raises(Unknown, match="stopped"):
                waiting.get(timeout=5)


def test_an_interim_answer_is_a_sign_of_life_that_counts_once(client: ClientUnderTest) -> None:
    def script(peer: Peer) -> None:
        peer.read_request()
        for _ in range(2):
            gevent.sleep(0.4)
            peer.send(b"HTTP/1.1 102 Processing\r\n\r\n")
        gevent.sleep(0.4)
        peer.answer(b"late")

    with ScriptedNode(script) as node, pytest.raises(Unknown) as caught:
        client.send(node, post(b"x"), progress_timeout_s=0.5)
    assert caught.value.timed_out
