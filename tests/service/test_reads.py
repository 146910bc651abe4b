"""Reads: who gets them, how fresh they are, and when they move on to another node."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import gevent
import pytest
from gevent.event import Event

from spawn.config.schema import RuleConfig
from spawn.nodes.node import NodeState
from tests.support.inprocess import Cluster, fetch, until
from tests.support.node import AppNode, Cut, Reply, Seen

ROUND_ROBIN = {"round_robin": True}


def three() -> list[AppNode]:
    return [AppNode("a"), AppNode("b"), AppNode("c")]


def readers(cluster: Cluster, count: int) -> list[str]:
    return [cluster.get().body.decode() for _ in range(count)]


# --- the choice


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ({"round_robin": True, "by_priority": True}, "cabcab"),
        ({"round_robin": True, "by_priority": False}, "cabcab"),
        ({"round_robin": False, "by_priority": True}, "cccccc"),
        ({"round_robin": False, "by_priority": False}, "aaaaaa"),
    ],
)
def test_the_four_modes(tmp_path: Path, mode: dict[str, bool], expected: str) -> None:
    nodes = three()
    with Cluster(tmp_path, nodes, query_mode=mode) as cluster:
        cluster.change(nodes[2], priority=1)
        cluster.change(nodes[0], priority=2)
        cluster.change(nodes[1], priority=-1)
        assert "".join(readers(cluster, 6)) == expected


def test_a_read_reaches_one_node_as_it_came(tmp_path: Path) -> None:
    nodes = three()
    with Cluster(tmp_path, nodes) as cluster:
        got = cluster.get("/a%2fb/../x?q=%20", {"X-One": "1", "Spawn-Sequence": "9"})
        assert got.status == 200
        assert "spawn-behind" not in got.headers
    [seen] = [seen for node in nodes for seen in node.requests]
    assert (seen.method, seen.target, seen.headers["x-one"]) == ("GET", "/a%2fb/../x?q=%20", "1")
    assert not {"spawn-sequence", "idempotency-key"} & set(seen.headers)


# --- fresh


def test_a_slow_node_gets_no_reads_until_it_has_applied(tmp_path: Path) -> None:
    gate = Event()
    nodes = three()
    with Cluster(tmp_path, nodes, query_mode=ROUND_ROBIN) as cluster:
        assert set(readers(cluster, 6)) == {"a", "b", "c"}
        nodes[1].next_up.append(Reply(200, gate=gate))
        assert cluster.post().status == 200
        cluster.until_applied(1, nodes[0], nodes[2])
        assert set(readers(cluster, 10)) == {"a", "c"}
        gate.set()
        cluster.until_applied(1)
        assert Counter(readers(cluster, 9)) == {"a": 3, "b": 3, "c": 3}


def test_a_client_always_reads_what_it_wrote(tmp_path: Path) -> None:
    nodes = three()
    state: dict[str, int] = {}

    def answers(node: AppNode) -> None:
        def answer(seen: Seen) -> Reply:
            if seen.sequence:
                gevent.sleep(0.002 * (nodes.index(node) + 1))
                state[node.name] = int(seen.body)
            return Reply(200, b"%d" % state.get(node.name, 0))

        node.answers = answer

    for node in nodes:
        answers(node)
    with Cluster(tmp_path, nodes, query_mode=ROUND_ROBIN) as cluster:
        for number in range(1, 30):
            assert cluster.post(b"%d" % number).status == 200
            for _ in range(2):
                got = cluster.get()
                assert got.body == b"%d" % number
                assert "spawn-behind" not in got.headers


def test_any_consistency_reads_from_whoever_serves(tmp_path: Path) -> None:
    gate = Event()
    nodes = three()
    with Cluster(tmp_path, nodes, query_mode=ROUND_ROBIN, consistency="any") as cluster:
        nodes[1].next_up.append(Reply(200, gate=gate))
        assert cluster.post().status == 200
        assert set(readers(cluster, 6)) == {"a", "b", "c"}
        gate.set()


def stale_pair(cluster: Cluster, nodes: list[AppNode], gate: Event) -> None:
    """``a`` has applied an update and is gone; ``b`` has not."""
    nodes[1].next_up.append(Reply(200, gate=gate))
    assert cluster.post().status == 200
    cluster.until_applied(1, nodes[0])
    nodes[0].go_away()
    cluster.until_state(nodes[0], NodeState.DOWN)


def test_a_stale_node_says_how_far_it_is_behind(tmp_path: Path) -> None:
    gate = Event()
    nodes = [AppNode("a"), AppNode("b")]
    with Cluster(tmp_path, nodes, timeouts={"fresh": 0.1}) as cluster:
        stale_pair(cluster, nodes, gate)
        got = cluster.get()
        assert (got.status, got.body, got.headers["spawn-behind"]) == (200, b"b", "1")
        assert cluster.service.counters.value("reads.behind") == 1
        gate.set()
        cluster.until_applied(1, nodes[1])
        assert "spawn-behind" not in cluster.get().headers
        assert cluster.service.counters.value("reads.behind") == 1


def test_the_freshest_of_stale_nodes_is_asked(tmp_path: Path) -> None:
    gates = {2: Event(), 3: Event()}
    nodes = [AppNode("a"), AppNode("b"), AppNode("c")]
    with Cluster(tmp_path, nodes, timeouts={"fresh": 0.1}) as cluster:
        nodes[1].answers = lambda seen: Reply(200, b"b", gate=gates[2] if seen.sequence == 2 else None)
        nodes[2].answers = lambda seen: Reply(200, b"c", gate=gates[3] if seen.sequence == 3 else None)
        for _ in range(3):
            assert cluster.post().status == 200
        cluster.until_applied(1, nodes[1])
        cluster.until_applied(2, nodes[2])
        nodes[0].go_away()
        cluster.until_state(nodes[0], NodeState.DOWN)
        got = cluster.get()
        assert (got.body, got.headers["spawn-behind"]) == (b"c", "1")
        for gate in gates.values():
            gate.set()


def test_strict_says_503_instead(tmp_path: Path) -> None:
    gate = Event()
    nodes = [AppNode("a"), AppNode("b")]
    with Cluster(tmp_path, nodes, timeouts={"fresh": 0.1}, consistency="strict") as cluster:
        stale_pair(cluster, nodes, gate)
        got = cluster.get()
        assert got.status == 503
        assert int(got.headers["retry-after"]) >= 1
        gate.set()
        cluster.until_applied(1, nodes[1])
        assert cluster.get().body == b"b"


def test_a_read_waits_a_moment_for_a_fresh_node(tmp_path: Path) -> None:
    gate = Event()
    nodes = [AppNode("a"), AppNode("b")]
    with Cluster(tmp_path, nodes, timeouts={"fresh": 8.0}) as cluster:
        stale_pair(cluster, nodes, gate)
        read = cluster.background(cluster.get)
        gevent.sleep(0.05)
        assert not read.ready()
        gate.set()
        got = read.get(timeout=4)
        assert (got.body, "spawn-behind" in got.headers) == (b"b", False)


def test_after_a_restart_reads_are_fresh_as_well(tmp_path: Path) -> None:
    gate = Event()
    nodes = [AppNode("a"), AppNode("b")]
    with Cluster(tmp_path, nodes, query_mode=ROUND_ROBIN) as cluster:
        nodes[1].answers = lambda seen: Reply(200, b"b", gate=gate if seen.sequence else None)
        assert cluster.post().status == 200
        cluster.restart()
        cluster.until_serving(nodes[0])
        assert set(readers(cluster, 4)) == {"a"}
        gate.set()
        cluster.until_applied(1)


def test_updates_that_nobody_was_told_of_make_nobody_stale(tmp_path: Path) -> None:
    gate = Event()
    node = AppNode("a", answers=lambda seen: Reply(200, b"a", gate=gate if seen.sequence else None))
    with Cluster(tmp_path, [node], timeouts={"answer": 0.05}) as cluster:
        assert cluster.post().status == 202
        got = cluster.get()
        assert (got.body, "spawn-behind" in got.headers) == (b"a", False)
        gate.set()


# --- moving on


def test_a_refused_connection_moves_on(tmp_path: Path) -> None:
    nodes = [AppNode("a"), AppNode("b")]
    with Cluster(tmp_path, nodes, health_check={"seconds": 60.0}) as cluster:
        assert readers(cluster, 1) == ["a"]
        nodes[0].go_away()
        assert readers(cluster, 3) == ["b", "b", "b"]
        cluster.until_state(nodes[0], NodeState.DOWN)  # the failed read made the checker look


def test_a_dropped_kept_connection_is_no_failure(tmp_path: Path) -> None:
    nodes = [AppNode("a"), AppNode("b")]
    with Cluster(tmp_path, nodes, health_check={"seconds": 60.0}) as cluster:
        for _ in range(3):
            assert readers(cluster, 1) == ["a"]
            nodes[0].drop_connections()
        assert cluster.live(nodes[0]).state is NodeState.SERVING
        assert cluster.service.counters.value("reads.failed-over") == 0


@pytest.mark.parametrize(("names", "failed_over"), [("a", 0), ("ab", 1), ("abc", 2)])
def test_only_who_is_asked_after_another_one_is_a_fail_over(tmp_path: Path, names: str, failed_over: int) -> None:
    nodes = [AppNode(name, answers=lambda seen: Cut()) for name in names]
    with Cluster(tmp_path, nodes, health_check={"seconds": 60.0}) as cluster:
        assert cluster.get().status == 502
        counters = cluster.service.counters
        assert counters.value("reads.failed") == 1
        assert counters.value("reads.failed-over") == failed_over


def test_a_connection_dropped_without_answer_moves_on(tmp_path: Path) -> None:
    nodes = [AppNode("a", answers=lambda seen: Cut()), AppNode("b")]
    with Cluster(tmp_path, nodes) as cluster:
        assert readers(cluster, 2) == ["b", "b"]


def test_nothing_is_repeated_after_the_first_byte(tmp_path: Path) -> None:
    nodes = [AppNode("a", answers=lambda seen: Reply(200, b"half", length=100, cut=True)), AppNode("b")]
    with Cluster(tmp_path, nodes) as cluster:
        with pytest.raises(Exception, match="IncompleteRead"):
            cluster.get()
        assert nodes[1].requests == []
        nodes[0].answers = None
        assert cluster.get().body == b"a"


def test_an_error_of_the_application_is_an_answer(tmp_path: Path) -> None:
    nodes = [AppNode("a", answers=lambda seen: Reply(500, b"oops")), AppNode("b")]
    with Cluster(tmp_path, nodes) as cluster:
        got = cluster.get()
        assert (got.status, got.body) == (500, b"oops")
        assert nodes[1].requests == []


SEARCH = (RuleConfig(method="POST", url="^/search", as_="read"),)


def test_a_post_that_is_a_read_is_not_repeated_once_sent(tmp_path: Path) -> None:
    nodes = [AppNode("a", answers=lambda seen: Cut()), AppNode("b")]
    with Cluster(tmp_path, nodes, rules=SEARCH) as cluster:
        got = cluster.post(b"q", "/search")
        assert got.status == 502
        assert (len(nodes[0].requests), len(nodes[1].requests)) == (1, 0)
        assert cluster.service._journal.head == 0


def test_a_post_that_is_a_read_moves_on_when_it_was_not_sent(tmp_path: Path) -> None:
    nodes = [AppNode("a"), AppNode("b")]
    with Cluster(tmp_path, nodes, rules=SEARCH, health_check={"seconds": 60.0}) as cluster:
        assert cluster.post(b"q", "/search").body == b"a"
        nodes[0].go_away()
        assert cluster.post(b"q" * 400_000, "/search").body == b"b"
        assert nodes[1].requests[-1].body == b"q" * 400_000
        assert cluster.service._budget.used_bytes == 0


def test_a_get_that_is_an_update_is_one(tmp_path: Path) -> None:
    rules = (RuleConfig(url="^/delete", as_="update"),)
    nodes = [AppNode("a"), AppNode("b")]
    with Cluster(tmp_path, nodes, rules=rules) as cluster:
        assert cluster.get("/%64elete/1").sequence == 1
        cluster.until_applied(1)
        assert [node.requests[0].target for node in nodes] == ["/%64elete/1"] * 2


def test_all_nodes_gone_means_503(tmp_path: Path) -> None:
    nodes = [AppNode("a"), AppNode("b")]
    with Cluster(tmp_path, nodes, health_check={"seconds": 60.0}, timeouts={"fresh": 0.05}) as cluster:
        for node in nodes:
            node.go_away()
        got = cluster.get()
        assert got.status == 503
        assert "retry-after" in got.headers
        for node in nodes:
            cluster.until_state(node, NodeState.DOWN)
        assert cluster.get().status == 503


def test_a_silent_node_means_504(tmp_path: Path) -> None:
    node = AppNode("a", answers=lambda seen: Reply(gate=Event()))
    with Cluster(tmp_path, [node], timeouts={"read": 0.2}) as cluster:
        assert cluster.get().status == 504


@pytest.mark.parametrize(("choice", "expected"), [("alert", 200), ("isolate", 503)])
def test_a_diverged_node_is_the_last_choice_or_none(tmp_path: Path, choice: str, expected: int) -> None:
    nodes = [AppNode("a"), AppNode("b")]
    with Cluster(tmp_path, nodes, on_divergence=choice, timeouts={"fresh": 0.05}) as cluster:
        cluster.live(nodes[0]).diverged = True
        assert readers(cluster, 3) == ["b", "b", "b"]
        nodes[1].go_away()
        cluster.until_state(nodes[1], NodeState.DOWN)
        assert cluster.get().status == expected


def test_head_and_no_content(tmp_path: Path) -> None:
    node = AppNode("a", answers=lambda seen: Reply(204) if seen.target == "/204" else Reply(200, b"12345"))
    with Cluster(tmp_path, [node]) as cluster:
        got = fetch(cluster.port, "HEAD", "/")
        assert (got.status, got.headers["content-length"], got.body) == (200, "5", b"")
        assert cluster.get("/204").status == 204
        assert cluster.get().body == b"12345"


@pytest.mark.parametrize("answer", ["refused", "cut", "silent"])
def test_no_answer_of_spawn_names_a_node(tmp_path: Path, answer: str) -> None:
    node = AppNode("a", answers=lambda seen: Cut() if answer == "cut" else Reply(gate=Event()))
    with Cluster(tmp_path, [node], timeouts={"read": 0.2, "fresh": 0.05}, health_check={"seconds": 60.0}) as cluster:
        if answer == "refused":
            node.go_away()
        got = cluster.get()
        assert got.status == {"refused": 503, "cut": 502, "silent": 504}[answer]
        assert str(node.port).encode() not in got.body
        assert b"127.0.0.1" not in got.body
        assert "node" in got.json()["message"]


def test_a_nodes_own_headers_are_set_in_reads(tmp_path: Path) -> None:
    nodes = [AppNode("a"), AppNode("b")]
    own = {f"127.0.0.1:{nodes[0].port}": {"Authorization": "Basic a"}}
    with Cluster(tmp_path, nodes, query_mode=ROUND_ROBIN, delivery={"set_headers": own}) as cluster:
        for _ in range(2):
            cluster.get(headers={"authorization": "Basic client"})
        assert [node.reads[0].headers["authorization"] for node in nodes] == ["Basic a", "Basic client"]
        assert not cluster.service._proxy.settings.set_headers.keys() - own.keys()


def test_a_read_with_a_method_override_is_an_update(tmp_path: Path) -> None:
    nodes = [AppNode("a"), AppNode("b")]
    with Cluster(tmp_path, nodes, rules=SEARCH) as cluster:
        assert cluster.post(b"q", "/search", {"X-HTTP-Method-Override": "DELETE"}).sequence == 1
        assert cluster.post(b"q", "/items/..%2fsearch").sequence == 2
        assert cluster.post(b"q", "/search").sequence == 0


def test_the_body_of_a_read_counts_while_it_is_here_and_small_ones_always_pass(tmp_path: Path) -> None:
    gate = Event()
    node = AppNode("a", answers=lambda seen: Reply(200, gate=gate))
    with Cluster(tmp_path, [node], rules=SEARCH, journal={"max_bytes": 1_000_000}) as cluster:
        reads = [cluster.background(cluster.post, bytes(400_000), "/search") for _ in range(2)]
        until(lambda: len(node.requests) == 2, "the node has both")
        assert cluster.service._room.used_bytes == 800_000
        assert cluster.post(bytes(300_000), "/search").status == 507
        reads.append(cluster.background(cluster.post, bytes(250_000), "/search"))
        until(lambda: len(node.requests) == 3, "the small one passes")
        gate.set()
        assert [read.get(timeout=5).status for read in reads] == [200] * 3
        until(lambda: cluster.service._room.used_bytes == 0, "all is given back")
        assert cluster.post(bytes(300_000), "/search").status == 200


def access_lines(caplog: pytest.LogCaptureFixture, count: int) -> list[str]:
    lines = [record.getMessage() for record in caplog.records if record.getMessage().endswith(" ms")]
    return lines if len(lines) >= count else []


def test_the_access_log_tells_the_status(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    node = AppNode("a", answers=lambda seen: Reply(404 if seen.target.startswith("/none") else 200))
    with caplog.at_level("INFO", "spawn.service"), Cluster(tmp_path, [node], log={"access": True}) as cluster:
        cluster.get("/none?secret=1")
        cluster.post(target="/fine")
        cluster.get("/looped", {"Via": "1.1 " + cluster.service._proxy._reads._cluster.via.decode()})
        node.go_away()
        cluster.until_state(node, NodeState.DOWN)
        cluster.get("/nobody")
        lines = until(lambda: access_lines(caplog, 4), "all are logged")
    assert [line.split()[1:4] for line in lines] == [
        ["GET", "/none", "404"],
        ["POST", "/fine", "200"],
        ["GET", "/looped", "508"],
        ["GET", "/nobody", "503"],
    ]


def test_many_reads_at_once_while_nodes_come_and_go(tmp_path: Path) -> None:
    nodes = three()
    with Cluster(tmp_path, nodes, query_mode=ROUND_ROBIN) as cluster:
        over = Event()
        statuses: Counter[int] = Counter()

        def read() -> None:
            while not over.is_set():
                statuses[cluster.get().status] += 1

        clients = [cluster.background(read) for _ in range(10)]
        for node in (*nodes, *nodes):
            cluster.until_serving(*nodes)
            seen = sum(statuses.values())
            node.go_away()
            until(lambda seen=seen: sum(statuses.values()) > seen + 50, "reads go on")  # type: ignore[misc]
            node.come()
        over.set()
        gevent.joinall(clients, timeout=10, raise_error=True)
        assert set(statuses) == {200}
