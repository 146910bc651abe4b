"""Updates as their clients see them: one order for all nodes, and the reference answer."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.event import Event

from spawn.errors import JournalFull
from spawn.journal.base import NewUpdate
from spawn.nodes.node import NodeState
from spawn.proxy import turnedaway
from tests.support.inprocess import Cluster, until
from tests.support.node import AppNode, Cut, Reply


def three() -> list[AppNode]:
    return [AppNode("a"), AppNode("b"), AppNode("c")]


def test_an_update_reaches_every_node_in_one_order_with_the_same_marks(tmp_path: Path) -> None:
    nodes = three()
    with Cluster(tmp_path, nodes) as cluster:
        clients = [cluster.background(cluster.post, b"%d" % number) for number in range(40)]
        answers = [client.get(timeout=10) for client in clients]
        assert {got.status for got in answers} == {200}
        assert {got.sequence for got in answers} == set(range(1, 41))
        cluster.until_applied(40)

    def marks(node: AppNode) -> list[tuple[int, str, str, bytes]]:
        return [(seen.sequence, seen.key, seen.headers["spawn-time"], seen.body) for seen in node.updates]

    assert [mark[0] for mark in marks(nodes[0])] == list(range(1, 41))
    assert marks(nodes[0]) == marks(nodes[1]) == marks(nodes[2])
    assert len({mark[1] for mark in marks(nodes[0])}) == 40  # a key of its own for each
    times = [mark[2] for mark in marks(nodes[0])]
    assert times == sorted(times)


def test_a_clients_own_key_is_kept_and_its_spawn_headers_are_not(tmp_path: Path) -> None:
    node = AppNode()
    with Cluster(tmp_path, [node]) as cluster:
        cluster.post(headers={"Idempotency-Key": "mine", "Spawn-Sequence": "77", "Spawn-Behind": "1", "X-Other": "o"})
    [seen] = node.updates
    assert (seen.key, seen.headers["spawn-sequence"], seen.headers["x-other"]) == ("mine", "1", "o")
    assert "spawn-behind" not in seen.headers


@pytest.mark.parametrize("keys", [[""], ["", ""], ["", "mine"], ["mine", ""]])
def test_an_empty_key_counts_as_none(tmp_path: Path, keys: list[str]) -> None:
    node = AppNode()
    with Cluster(tmp_path, [node]) as cluster:
        sock = socket.create_connection(("127.0.0.1", cluster.port))
        lines = "".join(f"Idempotency-Key: {key} \r\n" for key in keys)
        sock.sendall(f"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n{lines}\r\n".encode())
        assert sock.recv(65_536).startswith(b"HTTP/1.1 200")
        sock.close()
        entry = cluster.service._journal.entry(1)
        assert entry is not None
        assert entry.head.lower().count(b"idempotency-key:") == keys.count("mine")
        assert node.updates[0].key == ("mine" if "mine" in keys else f"{cluster.service._journal.uuid}-1")


def test_a_large_body_is_the_same_everywhere(tmp_path: Path) -> None:
    nodes = three()
    body = bytes(range(256)) * 4_096  # 1 MiB: a file
    with Cluster(tmp_path, nodes) as cluster:
        assert cluster.post(body).status == 200
        cluster.until_applied(1)
        assert cluster.service._budget.used_bytes == 0
    assert [node.updates[0].body == body for node in nodes] == [True] * 3


@pytest.mark.parametrize("status", [200, 201, 204, 303])
def test_the_nodes_own_answer_comes_back(tmp_path: Path, status: int) -> None:
    node = AppNode(answers=lambda seen: Reply(status, b"" if status == 204 else b"body", (("X-App", "yes"),)))
    with Cluster(tmp_path, [node]) as cluster:
        got = cluster.post()
    assert (got.status, got.headers["x-app"], got.headers["spawn-sequence"]) == (status, "yes", "1")
    assert got.body == (b"" if status == 204 else b"body")
    assert "via" in got.headers


# --- the reference answer


def test_the_first_good_answer_wins_and_a_slow_node_delays_nobody(tmp_path: Path) -> None:
    gate = Event()
    nodes = three()
    nodes[0].answers = nodes[1].answers = lambda seen: Reply(200, b"slow", gate=gate)
    nodes[2].answers = lambda seen: Reply(200, b"quick")
    with Cluster(tmp_path, nodes, timeouts={"answer": 8.0}) as cluster:
        with gevent.Timeout(4.0):
            assert cluster.post().body == b"quick"
        gate.set()
        cluster.until_applied(1)
        assert cluster.status_on(1, nodes[0]) == "applied"


def test_one_nodes_lost_session_does_not_speak_for_all(tmp_path: Path) -> None:
    nodes = three()
    nodes[0].next_up.append(Reply(401, b"who are you"))
    for node in nodes[1:]:
        node.next_up.append(Reply(200, b"fine", delay_s=0.2))
    with Cluster(tmp_path, nodes, timeouts={"agree": 3.0}, delivery={"attempts": 2}) as cluster:
        got = cluster.post()
        assert (got.status, got.body) == (200, b"fine")
        cluster.until_applied(1)
        assert [seen.sequence for seen in nodes[0].updates] == [1, 1]  # tried again, and then it went well
        assert not cluster.live(nodes[0]).diverged


def test_a_4xx_of_all_comes_at_once_and_is_agreement(tmp_path: Path) -> None:
    nodes = three()
    for node in nodes:
        node.answers = lambda seen: Reply(409, b"no")
    with Cluster(tmp_path, nodes, timeouts={"agree": 8.0}) as cluster:
        with gevent.Timeout(4.0):
            assert cluster.post().status == 409
        cluster.until_applied(1)
        assert not any(cluster.live(node).diverged for node in nodes)
        assert cluster.fate(1)["reference"] == 409


def test_a_4xx_with_nothing_better_comes_after_agree(tmp_path: Path) -> None:
    gate = Event()
    nodes = three()
    nodes[0].next_up.append(Reply(409, b"no"))
    for node in nodes[1:]:
        node.next_up.append(Reply(404, b"not here", gate=gate))
    with Cluster(tmp_path, nodes, timeouts={"agree": 0.2, "answer": 8.0}) as cluster:
        with gevent.Timeout(4.0):
            assert cluster.post().status == 409
        gate.set()
        cluster.until_applied(1)


def test_a_5xx_first_and_then_a_good_answer(tmp_path: Path) -> None:
    nodes = three()
    nodes[0].next_up.append(Reply(500, b"oops"))
    for node in nodes[1:]:
        node.next_up.append(Reply(200, b"fine", delay_s=0.2))
    with Cluster(tmp_path, nodes) as cluster:
        assert cluster.post().body == b"fine"
        cluster.until_applied(1)
        assert [seen.sequence for seen in nodes[0].updates] == [1, 1]
        assert not cluster.live(nodes[0]).diverged


def test_what_all_serving_nodes_fail_is_rejected_and_others_never_get_it(tmp_path: Path) -> None:
    nodes = three()
    with Cluster(tmp_path, nodes) as cluster:
        nodes[2].go_away()
        cluster.until_state(nodes[2], NodeState.DOWN)
        for node in nodes[:2]:
            node.next_up.append(Reply(500, b"oops"))
        got = cluster.post()
        assert (got.status, got.body, got.sequence) == (500, b"oops", 1)
        assert cluster.post().status == 200
        nodes[2].come()
        cluster.until_applied(2)
        assert [seen.sequence for seen in nodes[2].updates] == [2]
        assert [len(node.updates) for node in nodes[:2]] == [2, 2]
        assert {cluster.status_on(1, node) for node in nodes} == {"rejected"}
        assert not any(cluster.live(node).diverged for node in nodes)


def test_a_rejection_holds_after_a_restart(tmp_path: Path) -> None:
    nodes = [AppNode("a"), AppNode("b")]
    with Cluster(tmp_path, nodes) as cluster:
        nodes[1].go_away()
        cluster.until_state(nodes[1], NodeState.DOWN)
        nodes[0].next_up.append(Reply(500))
        assert cluster.post().status == 500
        cluster.restart()
        nodes[1].come()
        cluster.until_serving(*nodes)
        cluster.until_applied(1)
        assert nodes[1].updates == []


def test_a_node_that_may_have_applied_what_was_rejected_is_marked(tmp_path: Path) -> None:
    nodes = [AppNode("a"), AppNode("b")]
    with Cluster(tmp_path, nodes) as cluster:
        nodes[0].next_up.append(Reply(500, b"oops", delay_s=0.3))
        nodes[1].answers = lambda seen: Cut() if seen.sequence else Reply()
        client = cluster.background(cluster.post)
        until(lambda: nodes[1].updates, "b has it")
        nodes[1].go_away()
        assert client.get(timeout=10).status == 500
        nodes[1].answers = None
        nodes[1].come()
        cluster.until_applied(1)
        assert cluster.live(nodes[1]).diverged
        assert cluster.status_on(1, nodes[1]) == "unknown"


def test_with_no_serving_node_it_is_accepted_at_once(tmp_path: Path) -> None:
    nodes = three()
    with Cluster(tmp_path, nodes, timeouts={"answer": 8.0}) as cluster:
        for node in nodes:
            node.go_away()
        for node in nodes:
            cluster.until_state(node, NodeState.DOWN)
        with gevent.Timeout(4.0):
            got = cluster.post()
        assert (got.status, got.sequence, got.json()["sequence"]) == (202, 1, 1)
        for node in nodes:
            node.come()
        cluster.until_applied(1)
        assert [node.applied for node in nodes] == [[1]] * 3
        assert cluster.fate(1)["reference"] == 200


def test_slow_nodes_mean_202_and_the_update_is_applied_all_the_same(tmp_path: Path) -> None:
    gate = Event()
    nodes = [AppNode(answers=lambda seen: Reply(200, gate=gate)) for _ in range(2)]
    with Cluster(tmp_path, nodes, timeouts={"answer": 0.2}) as cluster:
        assert cluster.post().status == 202
        gate.set()
        cluster.until_applied(1)
        assert [node.applied for node in nodes] == [[1], [1]]


def test_after_a_202_an_update_is_never_rejected(tmp_path: Path) -> None:
    node = AppNode()
    node.next_up.extend([Reply(500, delay_s=0.4), Reply(500), Reply(201)])
    with Cluster(tmp_path, [node], timeouts={"answer": 0.1}) as cluster:
        assert cluster.post().status == 202
        cluster.until_applied(1)
        assert node.applied == [1]
        assert cluster.fate(1)["reference"] == 201


def test_a_node_that_goes_down_while_its_client_waits_means_202(tmp_path: Path) -> None:
    node = AppNode()
    node.next_up.append(Reply(200, gate=Event()))
    with Cluster(tmp_path, [node], timeouts={"answer": 8.0}) as cluster:
        client = cluster.background(cluster.post)
        until(lambda: node.updates, "the node has it")
        node.go_away()
        assert client.get(timeout=6).status == 202
        node.come()
        cluster.until_applied(1)
        assert len({seen.key for seen in node.updates}) == 1


def test_a_client_whose_last_node_is_deleted_is_told_its_sequence(tmp_path: Path) -> None:
    node = AppNode()
    with Cluster(tmp_path, [node], timeouts={"answer": 8.0}) as cluster:
        node.answers = lambda seen: Reply(503)
        client = cluster.background(cluster.post)
        until(lambda: node.updates, "the node has it")
        assert cluster.api("DELETE", f"/nodes/127.0.0.1/{node.port}").status in (200, 204)
        got = client.get(timeout=6)
        assert (got.status, got.sequence) == (503, 1)


def test_a_client_that_goes_away_early_changes_nothing(tmp_path: Path) -> None:
    gate = Event()
    nodes = [AppNode(answers=lambda seen: Reply(200, gate=gate)) for _ in range(2)]
    with Cluster(tmp_path, nodes) as cluster:
        sock = socket.create_connection(("127.0.0.1", cluster.port))
        sock.sendall(b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc")
        until(lambda: all(node.updates for node in nodes), "both have it")
        sock.close()
        gate.set()
        cluster.until_applied(1)
        assert [node.updates[0].body for node in nodes] == [b"abc", b"abc"]


def test_half_a_request_never_reaches_the_journal(tmp_path: Path) -> None:
    node = AppNode()
    with Cluster(tmp_path, [node]) as cluster:
        for raw in (
            b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 30\r\n\r\nabc",
            b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
            b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcXX0\r\n\r\n",
            b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n",
        ):
            sock = socket.create_connection(("127.0.0.1", cluster.port))
            sock.sendall(raw)
            sock.shutdown(1)
            while sock.recv(65_536):
                pass
            sock.close()
        assert cluster.post().sequence == 1
        assert len(node.updates) == 1


# --- answers that break


@pytest.mark.parametrize("declared", [10, 300_000])
def test_an_answer_that_is_cut_counts_and_the_client_is_told(tmp_path: Path, declared: int) -> None:
    node = AppNode()
    node.next_up.append(Reply(200, b"half", length=declared, cut=True))
    with Cluster(tmp_path, [node]) as cluster:
        got = cluster.post()
        assert (got.status, got.sequence) == (502, 1)
        assert len(node.updates) == 1
        assert cluster.service._freshness.floor == 1  # the client knows that it was applied
        counters = cluster.service.counters
        assert [counters.value(f"updates.{name}") for name in ("answered", "answer-cut")] == [0, 1]
        assert cluster.status_on(1, node) == "applied"


def test_a_failure_that_is_cut_is_still_a_rejection(tmp_path: Path) -> None:
    """502 would say that it counts."""
    node = AppNode()
    node.next_up.append(Reply(500, b"half", length=10, cut=True))
    with Cluster(tmp_path, [node]) as cluster:
        got = cluster.post()
        assert (got.status, got.sequence) == (500, 1)
        assert cluster.fate(1)["reference"] == 500


def test_a_large_answer_passes_through(tmp_path: Path) -> None:
    body = bytes(range(256)) * 8_192
    node = AppNode(answers=lambda seen: Reply(200, body))
    with Cluster(tmp_path, [node]) as cluster:
        assert cluster.post().body == body
        until(lambda: not cluster.service._budget.used_bytes, "no memory is taken")
        until(lambda: not list(Path(cluster.service._journal.spool_path()).iterdir()), "the spool is empty")


def test_a_client_that_does_not_take_its_answer_delays_nobody(tmp_path: Path) -> None:
    node = AppNode(answers=lambda seen: Reply(200, bytes(20_000_000) if seen.body == b"big" else b"small"))
    with Cluster(tmp_path, [node]) as cluster:
        slow = socket.create_connection(("127.0.0.1", cluster.port))
        slow.sendall(b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nbig")
        assert slow.recv(12) == b"HTTP/1.1 200"
        with gevent.Timeout(5.0):
            assert [cluster.post().body for _ in range(3)] == [b"small"] * 3
        slow.close()
        until(lambda: not list(Path(cluster.service._journal.spool_path()).iterdir()), "the spool is empty")


def test_a_node_that_stalls_amid_an_answer_delays_nobody_else(tmp_path: Path) -> None:
    node = AppNode(answers=lambda seen: Reply(200, b"half", length=100) if seen.body == b"stall" else Reply(200, b"x"))
    with Cluster(tmp_path, [node], timeouts={"deliver": 2.0}) as cluster:

        def stalled() -> bool:
            try:
                return cluster.post(b"stall").status == 502
            except http.client.IncompleteRead:
                return True

        client = cluster.background(stalled)
        until(lambda: node.updates, "the node has it")
        with gevent.Timeout(1.9):
            assert cluster.post().body == b"x"
        assert client.get(timeout=6.0)
        assert node.applied == [1, 2]


def test_many_clients_that_leave_at_any_moment(tmp_path: Path) -> None:
    nodes = three()
    with Cluster(tmp_path, nodes) as cluster:
        raw = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"
        whole = 0
        for number in range(60):
            sock = socket.create_connection(("127.0.0.1", cluster.port))
            end = (number * 7) % (len(raw) + 1) or len(raw)
            sock.sendall(raw[:end])
            whole += end == len(raw)
            if number % 3 == 0:
                gevent.sleep(0.002)
            sock.close()
        until(lambda: cluster.service._journal.head == whole, "all whole requests are updates")
        cluster.until_applied(whole)
        assert cluster.post().sequence == whole + 1


# --- what is not taken


def test_without_an_active_node_nothing_is_taken(tmp_path: Path) -> None:
    node = AppNode()
    with Cluster(tmp_path, [node]) as cluster:
        cluster.change(node, active=False)
        got = cluster.post()
        assert got.status == 503
        assert "retry-after" in got.headers
        assert cluster.service._journal.head == 0


@pytest.mark.parametrize("journal", [{"durability": "none"}, {}])
def test_a_full_journal_takes_nothing_and_says_507(tmp_path: Path, journal: Mapping[str, Any]) -> None:
    node = AppNode()
    with Cluster(tmp_path, [node], journal={"max_bytes": 65_536, **journal}) as cluster:
        node.go_away()
        cluster.until_state(node, NodeState.DOWN)
        statuses = [cluster.post(bytes(10_000)).status for _ in range(10)]
        assert set(statuses) == {202, 507}
        assert statuses == sorted(statuses)  # once full, it stays full
        taken = statuses.count(202)
        node.come()
        cluster.until_applied(taken)
        cluster.until_serving(node)
        assert node.applied == list(range(1, taken + 1))
        assert cluster.post(bytes(10_000)).status == 200  # room was made for it


def said_by_the_proxy(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.name == "spawn.proxy"]


@pytest.mark.parametrize(("body", "padding"), [(10_000, 0), (0, 6_000)])  # seen while it comes; when it is appended
def test_clients_that_are_turned_away_are_said_once_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, body: int, padding: int
) -> None:
    monkeypatch.setattr(turnedaway, "QUIET_S", 0.0)
    node = AppNode()
    with Cluster(tmp_path, [node], journal={"max_bytes": 65_536}) as cluster:
        cluster.change(node, maintenance=True)
        headers = {"X-Padding": "x" * padding}
        statuses = [cluster.post(bytes(body), headers=headers).status for _ in range(15)]
        refused = statuses.count(507)
        assert 1 < refused < 15
        assert cluster.service.counters.value("updates.not-taken") == refused
        cluster.change(node, maintenance=False)
        cluster.until_applied(15 - refused)
        cluster.until_serving(node)
        for _ in range(2):
            assert cluster.post(bytes(body), headers=headers).status == 200
    said = said_by_the_proxy(caplog)
    assert len(said) == 2
    assert "updates are turned away with 507" in said[0]
    assert f"updates are taken again, after {refused} were turned away" in said[1]


def upload(cluster: Cluster, size: int, *, chunked: bool = False, expect: bool = False) -> socket.socket:
    """The head of an update with a body that is yet to come."""
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"
    sock = socket.create_connection(("127.0.0.1", cluster.port), timeout=10)
    more = "Expect: 100-continue\r\n" if expect else ""
    sock.sendall(f"POST /x HTTP/1.1\r\nHost: h\r\n{more}{framing}\r\n\r\n".encode())
    return sock


def status_of(sock: socket.socket) -> int:
    with sock:
        return int(sock.recv(65_536).split()[1])


def test_unfinished_uploads_count_against_the_journal(tmp_path: Path) -> None:
    node = AppNode()
    with Cluster(tmp_path, [node], journal={"max_bytes": 1_000_000}) as cluster:
        room = cluster.service._room
        first = upload(cluster, 700_000)
        first.sendall(bytes(600_000))
        until(lambda: room.used_bytes == 600_000, "most of it has come")
        small = upload(cluster, 1_000)
        small.sendall(bytes(999))  # in memory
        until(lambda: room.used_bytes == 600_999, "that counts as well")
        assert status_of(upload(cluster, 500_000, expect=True)) == 507  # instead of 100
        assert cluster.service._journal.head == 0
        first.close()
        small.close()
        until(lambda: room.used_bytes == 0, "what was given up is given back")
        assert status_of(upload(cluster, 500_000, expect=True)) == 100
        assert cluster.post(bytes(500_000)).status == 200
        assert room.used_bytes == 0


def test_an_upload_of_unknown_length_is_refused_once_it_does_not_fit(tmp_path: Path) -> None:
    node = AppNode()
    with Cluster(tmp_path, [node], journal={"max_bytes": 500_000}) as cluster:
        sock = upload(cluster, 0, chunked=True)
        chunk = b"10000\r\n" + bytes(65_536) + b"\r\n"
        for _ in range(7):
            sock.sendall(chunk)
        until(lambda: cluster.service._room.used_bytes == 7 * 65_536, "as much as fits")
        sock.sendall(chunk)
        assert status_of(sock) == 507
        until(lambda: cluster.service._room.used_bytes == 0, "it is given back")
        until(lambda: not list(Path(cluster.service._journal.spool_path()).iterdir()), "its file is gone")


def test_no_node_is_given_up_for_what_never_fits(tmp_path: Path) -> None:
    nodes = [AppNode("a"), AppNode("b")]
    with Cluster(tmp_path, nodes, journal={"max_bytes": 100_000}) as cluster:
        nodes[1].go_away()
        cluster.until_state(nodes[1], NodeState.DOWN)
        assert cluster.post(bytes(10_000)).status == 200
        assert status_of(upload(cluster, 200_000)) == 507
        assert not cluster.queue(nodes[1])["out-of-sync"]


def test_room_is_made_for_an_announced_body(tmp_path: Path) -> None:
    node = AppNode()
    with Cluster(tmp_path, [node], journal={"max_bytes": 500_000}) as cluster:
        for number in range(1, 5):
            assert cluster.post(bytes(300_000)).status == 200
            cluster.until_applied(number)


def test_a_disk_that_refuses_a_body_is_507_and_its_path_is_for_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    node = AppNode()
    with Cluster(tmp_path, [node]) as cluster:
        gone = str(tmp_path / "gone")
        monkeypatch.setattr(cluster.service._journal, "spool_path", lambda: gone)
        got = cluster.post(bytes(400_000))
        assert got.status == 507
        assert gone.encode() not in got.body
        assert cluster.post(bytes(400_000)).status == 507
        (line,) = said_by_the_proxy(caplog)
        assert gone in line
        assert cluster.service.counters.value("updates.not-taken") == 2
        assert cluster.post(b"small").sequence == 1


def test_an_update_in_memory_is_tried_again_when_others_took_its_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = AppNode()
    with Cluster(tmp_path, [node]) as cluster:
        journal = cluster.service._journal
        append = journal.append
        refused: list[NewUpdate] = []

        def full_once(update: NewUpdate, token: Any = None) -> int:
            if not refused:
                refused.append(update)
                raise JournalFull("others were quicker")
            return append(update, token)

        monkeypatch.setattr(journal, "append", full_once)
        assert cluster.post(b"abc").status == 200
        assert (len(refused), node.updates[0].body) == (1, b"abc")


def test_a_node_that_holds_a_full_journal_back_is_left_behind(tmp_path: Path) -> None:
    nodes = [AppNode("a"), AppNode("b")]
    with Cluster(tmp_path, nodes, journal={"max_bytes": 65_536}) as cluster:
        nodes[1].go_away()
        cluster.until_state(nodes[1], NodeState.DOWN)
        assert {cluster.post(bytes(10_000)).status for _ in range(12)} == {200}
        assert cluster.queue(nodes[1])["out-of-sync"]
        assert nodes[0].applied == list(range(1, 13))


def test_one_node_far_behind_turns_nobody_away(tmp_path: Path) -> None:
    """``limits.lag`` is about every serving node; one that is down does not count either."""
    gate = Event()
    nodes = [AppNode("a"), AppNode("b", answers=lambda seen: Reply(200, gate=gate if seen.sequence else None))]
    with Cluster(tmp_path, nodes, limits={"lag": 3}) as cluster:
        assert {cluster.post().status for _ in range(6)} == {200}
        assert cluster.live(nodes[1]).position == 0
        nodes[1].go_away()
        cluster.until_state(nodes[1], NodeState.DOWN)
        assert cluster.post().status == 200
        gate.set()


def test_how_far_a_node_is_that_does_not_serve_helps_nobody(tmp_path: Path) -> None:
    gate = Event()
    nodes = [AppNode("a"), AppNode("b", answers=lambda seen: Reply(200, gate=gate if seen.sequence else None))]
    with Cluster(tmp_path, nodes, limits={"lag": 3}) as cluster:
        assert {cluster.post().status for _ in range(6)} == {200}
        cluster.until_applied(6, nodes[0])
        nodes[0].go_away()
        cluster.until_state(nodes[0], NodeState.DOWN)
        assert cluster.post().status == 503
        gate.set()
        cluster.until_applied(6, nodes[1])


def test_too_far_behind_means_503(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(turnedaway, "QUIET_S", 0.0)
    gate = Event()
    node = AppNode(answers=lambda seen: Reply(200, gate=gate))
    with Cluster(tmp_path, [node], limits={"lag": 3}, timeouts={"answer": 0.05}) as cluster:
        statuses = [cluster.post().status for _ in range(6)]
        assert statuses == [202, 202, 202, 202, 503, 503]
        assert cluster.service.counters.value("updates.not-taken") == 2
        gate.set()
        cluster.until_applied(4)
        for _ in range(2):
            assert cluster.post().status == 200
    begun, over = said_by_the_proxy(caplog)
    assert begun.startswith("updates are turned away with 503: every serving node is more than 3 updates behind; GET")
    assert over == "updates are taken again, after 2 were turned away"
