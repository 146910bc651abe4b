"""Every row of the table of outcomes in a whole service: what is done, what counts it, and what setting governs it."""

from __future__ import annotations

import contextlib
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gevent
import msgspec
import pytest
from gevent import socket
from gevent.event import Event

from spawn.delivery import attempt, policy, worker
from spawn.nodes.health import HealthChecker
from spawn.nodes.node import NodeState
from spawn.service import Service
from tests.support.inprocess import Cluster, fetch, make_config, until
from tests.support.node import AppNode, Cut, Reply, Seen


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-offs and probes of some ten milliseconds."""
    monkeypatch.setattr(policy, "BACKOFF_FIRST_S", 0.01)
    monkeypatch.setattr(policy, "BACKOFF_LIMIT_S", 0.05)
    monkeypatch.setattr(worker, "PROBE_S", 0.05)


def two() -> list[AppNode]:
    return [AppNode("a"), AppNode("b")]


def always(status: int) -> Callable[[Seen], Reply]:
    return lambda seen: Reply(status if seen.sequence else 200)


# --- each row is counted


@dataclass
class Row:
    """What nodes ``a`` and ``b`` answer to one update, and what is counted by the time both are done with it."""

    a: list[Any] = field(default_factory=list)
    b: list[Any] = field(default_factory=list)
    counted: dict[str, int] = field(default_factory=dict)
    delivery: dict[str, Any] = field(default_factory=dict)


ROWS = {
    "agrees": Row(counted={"applied": 2}),
    "unknown, resent": Row(b=[Cut(), Cut()], counted={"applied": 2, "unknown": 2, "repeated": 2}),
    "unknown, skipped": Row(
        b=[Cut()],
        counted={"applied": 1, "unknown": 1, "skipped": 1, "diverged": 1},
        delivery={"ambiguous": "skip"},
    ),
    "not now": Row(b=[Reply(503), Reply(429), Reply(504)], counted={"applied": 2, "not-now": 3, "repeated": 1}),
    "disagrees, then not": Row(b=[Reply(500), Reply(404)], counted={"applied": 2, "disagreed": 2}),
    "refused": Row(
        b=[Reply(422)] * 3,
        counted={"applied": 1, "disagreed": 3, "refused": 1, "diverged": 1},
        delivery={"attempts": 3},
    ),
    "refused with 5xx": Row(
        b=[Reply(500)] * 3,
        counted={"applied": 1, "disagreed": 3, "refused": 1, "diverged": 1},
        delivery={"attempts": 3},
    ),
    "unknown behind a gateway, skipped": Row(
        b=[Reply(504)],
        counted={"applied": 1, "not-now": 1, "skipped": 1, "diverged": 1},
        delivery={"ambiguous": "skip"},
    ),
    "repeat behind a gateway": Row(b=[Reply(502), Reply(409)], counted={"applied": 2, "not-now": 1, "repeated": 1}),
    "good against 4xx": Row(a=[Reply(409)], b=[Reply(200, delay_s=0.2)], counted={"applied": 1, "diverged": 1}),
    "repeat": Row(b=[Cut(), Reply(409)], counted={"applied": 2, "unknown": 1, "repeated": 1}),
    "rejected": Row(a=[Reply(500)], b=[Reply(501)], counted={"rejected": 2}),
    "rejected, and one need not try": Row(
        a=[Reply(500, delay_s=0.3)],
        b=[Reply(503, headers=(("Retry-After", "1"),)), Reply(500)],
        counted={"rejected": 2, "not-now": 1},
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_every_row_is_counted(tmp_path: Path, quick: None, row: str) -> None:
    nodes = two()
    nodes[0].next_up.extend(ROWS[row].a)
    nodes[1].next_up.extend(ROWS[row].b)
    with Cluster(tmp_path, nodes, delivery=ROWS[row].delivery, timeouts={"agree": 0.02}) as cluster:
        assert cluster.post().sequence == 1
        cluster.until_applied(1)
        counted = cluster.service.counters.snapshot()
        names = {name.partition(".")[2]: value for name, value in counted.items() if name.startswith("delivery.")}
        assert names == ROWS[row].counted


def test_not_sent_is_counted_and_counts_against_nothing(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HealthChecker, "poke", lambda self, node: None)  # it stays healthy
    nodes = two()
    delivery = {"attempts": 1, "attempts_uncertain": 1, "outage": 0.0}
    with Cluster(tmp_path, nodes, delivery=delivery, health_check={"seconds": 60.0}) as cluster:
        live = cluster.live(nodes[1])
        nodes[1].go_away()
        assert cluster.post().status == 200
        until(lambda: cluster.service.counters.value("delivery.not-sent") > 5, "it is tried again and again")
        assert (live.healthy, live.refused) == (True, 0)
        nodes[1].come()
        cluster.until_applied(1)
        assert nodes[1].applied == [1]


def test_what_is_passed_over_refused_by_all_and_held_is_counted(tmp_path: Path, quick: None) -> None:
    nodes = two()
    with Cluster(tmp_path, nodes, delivery={"attempts": 1}) as cluster:
        nodes[1].go_away()
        cluster.until_state(nodes[1], NodeState.DOWN)
        nodes[0].next_up.append(Reply(500))
        assert cluster.post().status == 500
        assert [cluster.post().status for _ in range(4)] == [200] * 4
        nodes[1].answers = always(401)
        nodes[1].come()
        until(lambda: cluster.live(nodes[1]).held, "b is held")
        value = cluster.service.counters.value
        assert (value("delivery.passed-over"), value("delivery.refused"), value("delivery.held")) == (1, 2, 1)
        assert value("updates.rejected") == 1
        assert value("updates.answered") == 4
        nodes[1].answers = None
        cluster.until_applied(5)


# --- when it is tried again


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long a worker wanted to wait each time; it does not wait that long."""
    wanted: list[float] = []
    pause = worker.Worker._pause

    def short(self: worker.Worker, seconds: float) -> None:
        wanted.append(seconds)
        pause(self, min(seconds, 0.01))

    monkeypatch.setattr(worker.Worker, "_pause", short)
    return wanted


DATE = ("Date", "Mon, 23 Nov 2026 12:00:00 GMT")


@pytest.mark.parametrize(
    ("headers", "least_s", "most_s"),
    [
        ((("Retry-After", "7"),), 7, 7),
        ((("Retry-After", "86400"),), 60, 60),
        ((DATE, ("Retry-After", "Mon, 23 Nov 2026 12:00:09 GMT")), 9, 9),
        ((DATE, ("Retry-After", "Tue, 24 Nov 2026 12:00:09 GMT")), 60, 60),
        ((DATE, ("Retry-After", "Mon, 23 Nov 2026 11:00:00 GMT")), 0, 0.25),
        ((("Retry-After", "when it is over"),), 0, 0.25),
        ((("Retry-After", "-5"),), 0, 0.25),
        ((), 0, 0.25),
    ],
)
@pytest.mark.patches_source
def test_when_not_now_is_over(
    tmp_path: Path, pauses: list[float], headers: tuple[tuple[str, str], ...], least_s: float, most_s: float
) -> None:
    node = AppNode()
    node.next_up.append(Reply(503, headers=headers))
    with Cluster(tmp_path, [node]) as cluster:
        assert cluster.post().status == 200
    assert len(pauses) == 1
    assert least_s <= pauses[0] <= most_s


@pytest.mark.patches_source
def test_the_back_off_doubles_and_a_success_resets_it(
    tmp_path: Path, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    full = policy.Backoff.__init__

    class NoJitter(random.Random):
        def uniform(self, a: float, b: float) -> float:
            return b

    monkeypatch.setattr(policy.Backoff, "__init__", lambda self: full(self, NoJitter()))
    node = AppNode()
    node.next_up.extend([*[Reply(503)] * 9, Reply(200), Reply(503)])
    with Cluster(tmp_path, [node]) as cluster:
        assert [cluster.post().status, cluster.post().status] == [200, 200]
    assert pauses == [0.25, 0.5, 1, 2, 4, 8, 16, 30, 30, 0.25]


def test_a_worker_waits_for_the_others_no_longer_than_for_an_answer(tmp_path: Path, quick: None) -> None:
    """What a 5xx means depends on the others; but one that hangs must not keep the rest from going on."""
    gate = Event()
    nodes = two()
    nodes[0].next_up.append(Reply(500))
    nodes[1].next_up.append(Reply(200, gate=gate))
    with Cluster(tmp_path, nodes, timeouts={"answer": 0.3, "deliver": 60.0}) as cluster:
        began = time.monotonic()
        assert cluster.post().status == 202
        cluster.until_applied(1, nodes[0])  # at the second attempt, while b still hangs
        assert time.monotonic() - began > 0.25
        assert cluster.live(nodes[1]).position == 0
        assert len(nodes[0].updates) == 2
        gate.set()
        cluster.until_applied(1)


# --- which connection


@pytest.mark.parametrize(("method", "new"), [("POST", 1), ("PATCH", 1), ("LOCK", 1), ("PUT", 0), ("DELETE", 0)])
def test_what_must_not_be_done_twice_goes_over_no_connection_that_was_idle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, new: int
) -> None:
    monkeypatch.setattr(attempt, "REUSE_IDLE_STRICT_S", 0.05)
    node = AppNode()
    with Cluster(tmp_path, [node], health_check={"seconds": 60.0}) as cluster:
        assert cluster.post().status == 200
        assert fetch(cluster.port, method, "/x", b"y").status == 200  # at once: not idle for long
        before = node.connections
        gevent.sleep(0.1)
        assert fetch(cluster.port, method, "/x", b"y").status == 200
        assert node.connections - before == new


def test_a_connection_that_the_node_has_closed_is_no_doubt_about_an_update(tmp_path: Path) -> None:
    node = AppNode()
    with Cluster(tmp_path, [node], health_check={"seconds": 60.0}) as cluster:
        for number in range(5):
            assert cluster.post().status == 200
            node.drop_connections()
            assert len(node.updates) == number + 1
        assert cluster.service.counters.value("delivery.unknown") == 0
        assert cluster.service.counters.value("delivery.repeated") == 0


# --- the durable intent


def crash_image(cluster: Cluster, target: Path) -> Callable[[Seen], Reply]:
    """An application that copies Spawn's state as a crash would leave it, the moment it gets an update."""

    def answer(seen: Seen) -> Reply:
        if seen.sequence:
            unfinished = shutil.ignore_patterns("*.new")  # which may be renamed amid the copy
            shutil.copytree(cluster.state_dir, target / str(seen.sequence), ignore=unfinished)
        return Reply(200)

    return answer


@contextlib.contextmanager
def after_a_crash(cluster: Cluster, state: Path) -> Any:
    service = Service(cluster.config, state_dir=str(state))
    service.start()
    try:
        yield service
    finally:
        service.stop(2.0)


@pytest.mark.parametrize("choice", ["hold", "skip"])
def test_what_was_about_to_be_sent_is_known_after_a_crash(tmp_path: Path, choice: str) -> None:
    node = AppNode()
    images = tmp_path / "images"
    with Cluster(tmp_path, [node], delivery={"ambiguous": choice}) as cluster:
        node.answers = crash_image(cluster, images)
        assert [cluster.post().status for _ in range(2)] == [200, 200]
        cluster.service.stop(2.0)  # not two services on one node
        node.answers = None
        seen_before = len(node.updates)
        with after_a_crash(cluster, images / "2") as service:  # number 1 was answered, number 2 was being sent
            live = service._registry.nodes[0]
            if choice == "hold":
                until(lambda: live.held, "it is held")
                assert live.position == 1
            else:
                until(lambda: live.position == 2, "it is skipped")
                assert live.diverged
            assert len(node.updates) == seen_before  # neither is sent again


@pytest.mark.parametrize("choice", ["hold", "skip"])
def test_what_was_declared_and_answered_is_not_doubted_after_a_crash(tmp_path: Path, choice: str) -> None:
    """Also where the next update is one that needs no declaration."""
    node = AppNode()
    images = tmp_path / "images"
    with Cluster(tmp_path, [node], delivery={"ambiguous": choice}) as cluster:
        node.answers = crash_image(cluster, images)
        cluster.change(node, maintenance=True)  # so that no commit comes between the two
        assert cluster.post().status == 202
        assert fetch(cluster.port, "PUT", "/items/1", b"x").status == 202
        cluster.change(node, maintenance=False)
        cluster.until_applied(2)
        cluster.service.stop(2.0)
        node.answers = None
        with after_a_crash(cluster, images / "2") as service:  # number 1 was answered, number 2 was being sent
            live = service._registry.nodes[0]
            until(lambda: live.position == 2, "number 2 is sent again")
            assert (live.held, live.diverged) == (False, False)
    assert [seen.sequence for seen in node.updates] == [1, 2, 2]


def test_a_failure_where_others_turn_an_update_down_is_counted_as_a_difference(tmp_path: Path, quick: None) -> None:
    nodes = two()
    nodes[0].answers, nodes[1].answers = always(409), always(500)
    with Cluster(tmp_path, nodes, delivery={"attempts": 2}, timeouts={"agree": 0.05}) as cluster:
        assert cluster.post().status == 409
        cluster.until_applied(1)
        assert cluster.queue(nodes[1])["diverged"]
        assert cluster.service.counters.value("delivery.diverged") == 1


def test_refusals_hold_a_node_only_in_a_row(tmp_path: Path, quick: None) -> None:
    nodes = two()
    nodes[1].answers = lambda seen: Reply(422 if seen.body == b"bad" else 200)
    with Cluster(tmp_path, nodes, delivery={"attempts": 1}) as cluster:
        for body in (b"bad", b"good") * 4:
            assert cluster.post(body).status == 200
        cluster.until_applied(8)
        assert cluster.service.counters.value("delivery.held") == 0
        assert cluster.queue(nodes[1])["refused"] == 4


def test_a_second_nodes_long_answer_is_not_taken_to_its_end(tmp_path: Path) -> None:
    """Only the reference's body is somebody's; of others as much is drained as makes a connection worth keeping."""
    nodes = two()
    nodes[1].next_up.extend([Reply(200, b"short"), Reply(200, bytes(262_144)), Reply(200, bytes(262_144))])
    with Cluster(tmp_path, nodes) as cluster:
        for sequence in range(1, 5):
            assert fetch(cluster.port, "PUT", "/x", b"x").status == 200
            cluster.until_applied(sequence)
        assert nodes[1].applied == [1, 2, 3, 4]
        first, second, third, fourth = (seen.connection for seen in nodes[1].updates)
        assert first == second < third < fourth


def test_a_reload_reaches_the_update_in_hand(tmp_path: Path, quick: None) -> None:
    nodes = two()
    nodes[1].answers = lambda seen: Cut() if seen.sequence else Reply(200)
    with Cluster(tmp_path, nodes, delivery={"ambiguous": "resend"}) as cluster:
        b = nodes[1]
        cluster.post()
        until(lambda: len(b.updates) > 2, "it is sent again and again")
        settings = cluster.service._worker_settings
        settings.delivery = msgspec.structs.replace(settings.delivery, ambiguous="hold")
        until(lambda: cluster.live(b).held, "it is held")


def test_what_was_declared_is_applied_also_after_a_reload_that_declares_no_more(tmp_path: Path) -> None:
    nodes = two()
    with Cluster(tmp_path, nodes, delivery={"ambiguous": "hold"}) as cluster:
        cluster.post()
        cluster.until_applied(1)
        settings = cluster.service._worker_settings

        def reload_amid(seen: Seen) -> Reply:
            settings.delivery = msgspec.structs.replace(settings.delivery, ambiguous="resend")
            return Reply(200)

        for node in nodes:
            node.answers = reload_amid
        cluster.post()
        cluster.until_applied(2)
        assert [each["status"] for each in cluster.fate(2)["nodes"]] == ["applied", "applied"]


def test_without_a_choice_it_is_sent_again_with_the_same_key(tmp_path: Path) -> None:
    node = AppNode()
    images = tmp_path / "images"
    with Cluster(tmp_path, [node]) as cluster:
        node.answers = crash_image(cluster, images)
        assert cluster.post().status == 200
        cluster.service.stop(2.0)
        node.answers = None
        with after_a_crash(cluster, images / "1") as service:
            until(lambda: service._registry.nodes[0].position == 1, "it is applied")
            assert service.counters.value("delivery.repeated") == 1
    assert [seen.sequence for seen in node.updates] == [1, 1]
    assert len({seen.key for seen in node.updates}) == 1


# --- one bad update, one expired credential


@pytest.mark.parametrize("bad", [Reply(422), Reply(500), Reply(503), Reply(401), Cut()], ids=str)
def test_one_bad_update_does_not_stall_a_node(tmp_path: Path, quick: None, bad: Reply | Cut) -> None:
    nodes = two()
    nodes[1].answers = lambda seen: bad if seen.body == b"bad" else Reply(200)
    with Cluster(tmp_path, nodes, delivery={"attempts": 2, "attempts_uncertain": 3}) as cluster:
        for body in (b"1", b"bad", b"3", b"4"):
            assert cluster.post(body).status == 200
        cluster.until_applied(4)
        assert nodes[1].applied == [1, 3, 4]
        assert cluster.status_on(2, nodes[1]) == "refused"


def test_an_expired_credential_of_one_node_eats_no_backlog(tmp_path: Path, quick: None) -> None:
    nodes = two()
    with Cluster(tmp_path, nodes, delivery={"attempts": 2}) as cluster:
        nodes[1].go_away()
        cluster.until_state(nodes[1], NodeState.DOWN)
        for _ in range(30):
            assert cluster.post().status == 200
        nodes[1].answers = always(401)
        nodes[1].come()
        until(lambda: cluster.live(nodes[1]).held, "b is held")
        before = len(nodes[1].updates)
        until(lambda: len(nodes[1].updates) > before + 3, "it is probed")
        assert cluster.queue(nodes[1])["position"] == 2
        nodes[1].answers = None
        cluster.until_applied(30)
        assert nodes[1].applied == list(range(3, 31))


def test_a_held_node_that_still_refuses_after_a_restart_is_held_at_once(tmp_path: Path, quick: None) -> None:
    nodes = two()
    nodes[1].answers = always(401)
    with Cluster(tmp_path, nodes, delivery={"attempts": 1}) as cluster:
        for _ in range(6):
            assert cluster.post().status == 200
        until(lambda: cluster.live(nodes[1]).held, "b is held")
        cluster.restart()
        before = len(nodes[1].updates)
        until(lambda: len(nodes[1].updates) > before + 3, "it is probed")
        row = cluster.queue(nodes[1])
        assert (row["held"], row["position"]) == (True, 2)
        assert {seen.sequence for seen in nodes[1].updates} == {1, 2, 3}


# --- gentle catching up


def test_a_node_catches_up_no_faster_than_asked_and_live_updates_are_not_slowed(tmp_path: Path) -> None:
    nodes = two()
    arrivals: list[float] = []

    def arrived(seen: Seen) -> Reply:
        arrivals.append(time.monotonic())
        return Reply(200)

    with Cluster(tmp_path, nodes, delivery={"catch_up_rate": 25.0}) as cluster:
        nodes[1].go_away()
        cluster.until_state(nodes[1], NodeState.DOWN)
        for _ in range(11):
            assert cluster.post().status == 200
        nodes[1].answers = arrived
        nodes[1].come()
        cluster.until_applied(11)
        assert arrivals[10] - arrivals[0] > 0.3  # 10 pauses of 0.04 s
        cluster.until_serving(*nodes)
        slower = msgspec.structs.replace(cluster.config.delivery, catch_up_rate=0.2)
        cluster.service._worker_settings.delivery = slower
        nodes[1].answers = lambda seen: Reply(200, delay_s=0.02)
        clients = [cluster.background(cluster.post) for _ in range(40)]
        assert {client.get(timeout=20).status for client in clients} == {200}
        cluster.until_applied(51)  # within 10 s, rather than 5 s for each


# --- time-outs: each is that of the configuration


def ask(port: int, data: bytes) -> bytes:
    """Send, and read to the end of the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(data)
        received = b""
        while more := sock.recv(65_536):
            received += more
        return received


GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
HALF_A_BODY = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab"


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [("head", GET[:9], b"HTTP/1.1 408"), ("body", HALF_A_BODY, b"HTTP/1.1 408"), ("idle", GET, b"HTTP/1.1 200")],
)
def test_slow_clients_meet_the_configured_time_out(tmp_path: Path, name: str, data: bytes, expected: bytes) -> None:
    with Cluster(tmp_path, [AppNode()], timeouts={name: 0.2}) as cluster, gevent.Timeout(5.0):
        assert ask(cluster.port, data).startswith(expected)


def test_a_client_that_does_not_read_meets_the_configured_time_out(tmp_path: Path) -> None:
    node = AppNode(answers=lambda seen: Reply(200, bytes(30_000_000)))
    with (
        Cluster(tmp_path, [node], timeouts={"send": 0.2}) as cluster,
        socket.create_connection(("127.0.0.1", cluster.port)) as sock,
    ):
        sock.sendall(GET)
        until(lambda: cluster.service.counters.value("proxy.client-gone"), "it is given up")


def test_a_node_that_does_not_answer_an_update_meets_the_configured_time_out(tmp_path: Path, quick: None) -> None:
    nodes = two()
    nodes[1].next_up.append(Reply(200, gate=Event()))
    with Cluster(tmp_path, nodes, timeouts={"deliver": 0.2}) as cluster:
        assert cluster.post().status == 200
        cluster.until_applied(1)
        assert [seen.sequence for seen in nodes[1].updates] == [1, 1]
        assert cluster.service.counters.value("delivery.unknown") == 1


def test_a_node_that_does_not_accept_meets_the_configured_time_out(tmp_path: Path) -> None:
    """A listener whose queue is full: the kernel drops what comes."""
    with socket.socket() as listener, contextlib.ExitStack() as fillers:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            filler = fillers.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        node = AppNode(port=listener.getsockname()[1])
        config = make_config([node], {"timeouts": {"connect": 0.2}, "health_check": {"timeout": 5.0, "seconds": 60.0}})
        service = Service(config, state_dir=str(tmp_path / "state"))
        try:
            with gevent.Timeout(4.0):  # less than the health check's own
                service.start()
            [live] = service._registry.nodes
            assert "within 0.2 s" in live.last_error or "timed out" in live.last_error, live.last_error
        finally:
            service.stop(2.0)


def test_a_stop_takes_no_longer_than_the_configured_time_out(tmp_path: Path) -> None:
    node = AppNode(answers=lambda seen: Reply(200, gate=Event()))
    with (
        Cluster(tmp_path, [node], timeouts={"shutdown": 0.5}) as cluster,
        socket.create_connection(("127.0.0.1", cluster.port)) as client,
    ):
        client.sendall(GET)
        until(lambda: node.requests, "the node has it")
        with gevent.Timeout(5.0):
            cluster.service.stop()


# --- order


def test_every_node_sees_every_clients_updates_in_the_clients_own_order(tmp_path: Path, quick: None) -> None:
    nodes = [AppNode("a"), AppNode("slow"), AppNode("away")]
    nodes[1].answers = lambda seen: Reply(200, delay_s=0.002)
    with Cluster(tmp_path, nodes) as cluster:

        def client(name: int) -> None:
            for number in range(12):
                assert cluster.post(b"%d %d" % (name, number)).status == 200

        clients = [cluster.background(client, name) for name in range(8)]
        until(lambda: len(nodes[2].updates) > 10, "it is under way")
        nodes[2].go_away()
        until(lambda: len(nodes[0].updates) > 60, "some go without it")
        nodes[2].come()
        gevent.joinall(clients, timeout=30, raise_error=True)
        cluster.until_applied(96)
    for node in nodes:
        firsts = list(dict.fromkeys(seen.body for seen in node.updates))
        for name in range(8):
            own = [int(body.split()[1]) for body in firsts if int(body.split()[0]) == name]
            assert own == list(range(12)), node.name
