"""Nodes that break HTTP or TCP in every way: clients get the others' answers, and a node that recovers catches up."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import requests

from tests.support.api import AdminApi, session
from tests.support.badnodes import BadNode, BadNodes
from tests.support.cluster import LoggingNode, Spawn
from tests.support.history import check, without_repeats
from tests.support.load import Load, Update, make_update
from tests.support.processes import Processes
from tests.support.waiting import eventually

MIB = 1 << 20
MEMORY_BYTES = 160 * MIB  # Spawn needs about 60 MiB by itself; the endless answers come at some 100 MiB/s
HEALTH = {"seconds": 0.3, "timeout": 1, "fall": 2, "url": "/info", "regexp": "^version:1$"}
QUICK = {"deliver": 1, "connect": 0.6, "read": 0.4, "answer": 20}
PATIENT = {"attempts": 1000, "attempts-uncertain": 1000}

# What a node does to every update → how Spawn calls that.
UNANSWERED = {
    "silent": "gave no answer to update 1 .no progress for 1 s",
    "half-head": "gave no answer to update 1 .the head of the node's answer was not complete after 1 s",
    "half-head-close": "gave no answer to update 1 .the node closed the connection amid the answer's head",
    "half-head-reset": "gave no answer to update 1 .Connection reset by peer",
    "reset": "gave no answer to update 1 .Connection reset by peer",
    "close": "gave no answer to update 1 .the node closed the connection without answer",
    "trickle-head": "gave no answer to update 1 .the head of the node's answer was not complete after 1 s",
    "garbage": "something that is not HTTP: it does not begin with HTTP/",
    "endless-head": "something that is not HTTP: a head of more than 65536 bytes",
    "endless-100": "something that is not HTTP: 1xx without end",
    "endless-103": "something that is not HTTP: 1xx without end",
}
TURNED_DOWN = {
    "early": "answers 503 to update 1",
    "loop-307": "answers 307 to update 1, unlike the reference answer",
}
DEAF = {  # to health checks as well
    "deaf": "no answer to GET /info within 1 s|no progress for 1 s|timed out",
    "full": "no answer to GET /info within 1 s|no progress for 1 s|timed out",
}
MODES = UNANSWERED | TURNED_DOWN | DEAF


def misbehave(node: BadNode, **more: str) -> None:
    """As its name says."""
    node.behave(**({"listener": node.name} if node.name in DEAF else {"update": node.name}), **more)


def recover(spawn: Spawn, nodes: Sequence[BadNode]) -> None:
    """As an operator restarts them: their health checks fail for a moment, and Spawn sees them return."""
    for node in nodes:
        misbehave(node, health="close")
    for node in nodes:
        spawn.api.wait_state(node.port, "down")
    for node in nodes:
        node.behave()


def good_nodes(processes: Processes) -> list[LoggingNode]:
    return [LoggingNode(processes, name).start() for name in ("good1", "good2")]


def spawn_before(processes: Processes, nodes: Sequence[LoggingNode | BadNode], **settings: Any) -> Spawn:
    listed = [{"host": "127.0.0.1", "port": node.port, "priority": n} for n, node in enumerate(nodes, start=1)]
    made = Spawn(processes, [], {"health-check": HEALTH, "nodes": listed} | settings).start()
    made.api.wait_settled(20)
    return made


def counters(api: AdminApi) -> dict[str, int]:
    return {row["name"]: row["value"] for row in api.data("GET", "/counters")["results"]}


def not_sent_in(counted: dict[str, int]) -> dict[str, int] | None:
    return counted if "delivery.not-sent" in counted else None


def said_of(spawn: Spawn, node: BadNode, what: str) -> list[str]:
    return [
        line for line in spawn.process.output().splitlines() if f"node 127.0.0.1:{node.port} " in line and what in line
    ]


def test_good_nodes_answer_at_once_whatever_the_others_do(processes: Processes) -> None:
    # Given two good nodes, and one of each bad kind that passes its health checks meanwhile
    good = good_nodes(processes)
    bad = BadNodes(processes, list(MODES)).start().nodes
    spawn = spawn_before(processes, [*good, *bad], timeouts=QUICK, delivery=PATIENT)
    for node in bad:
        misbehave(node)

    # When clients send updates
    with Load(spawn.url, total=30, clients=3) as load:
        load.join()

    # Then the good nodes' answers reach them, and no other node holds up the good ones
    assert load.failures == []
    assert set(load.statuses) <= {200, 201}
    for row in (spawn.api.wait_queue(node.port, lambda row: row["backlog"] == 0, what="good") for node in good):
        assert row["state"] == "serving"
        assert not row["diverged"]
    assert [len(node.applied()) for node in good] == [30, 30]

    # … each bad one stays where it is, the API says why, and the log said it once
    for node in bad:
        row = spawn.api.wait_queue(
            node.port, lambda row, node=node: bool(re.search(MODES[node.name], row["last-error"])), what=node.name
        )
        assert (row["position"], row["backlog"]) == (0, 30), node.name
        if node.name not in DEAF:
            eventually(lambda node=node: len(node.seen()) >= 2, timeout_s=20, what=f"{node.name} is tried again")
            assert [list(node.keys()), len(node.keys()[1])] == [[1], 1], "the same update, under the same key"
            assert spawn.api.queue(node.port)["state"] == "serving"
            assert len(said_of(spawn, node, "its updates are kept from 1 on and tried again")) == 1
    counted = eventually(lambda: not_sent_in(counters(spawn.api)), timeout_s=15, what="nobody gets into the full one")
    assert counted["delivery.unknown"] >= 2 * len(UNANSWERED)
    assert counted["delivery.not-now"] >= 2
    assert counted["delivery.disagreed"] >= 2
    assert spawn.process.peak_rss_bytes() < MEMORY_BYTES

    # When they are well again
    recover(spawn, bad)

    # Then each catches up by itself, with nothing lost, repeated or out of order
    spawn.api.wait_settled(30)
    assert check({node.name: node.applied() for node in (*good, *bad)}, load.attempted, load.acknowledged) == []
    assert not any(row["diverged"] or row["refused"] or row["last-error"] for row in spawn.api.queues())
    assert all(len(said_of(spawn, node, "takes updates again")) == 1 for node in bad if node.name not in DEAF)


def test_when_all_nodes_are_bad_updates_are_accepted_and_applied_later(processes: Processes) -> None:
    # Given only bad nodes
    bad = BadNodes(processes, [name for name in MODES if name != "loop-307"]).start().nodes
    spawn = spawn_before(processes, bad, timeouts=QUICK | {"answer": 1}, delivery=PATIENT)
    for node in bad:
        misbehave(node)

    # When clients send updates, then they get a 202 when their time is over
    with Load(spawn.url, total=6, clients=3) as load:
        load.join()
    assert load.failures == []
    assert load.statuses == {202: 6}
    assert None not in load.acknowledged.values(), "each is told its sequence"
    fates = spawn.api.data("GET", "/updates/1")
    assert "'applied'" not in str(fates)

    # … and all nodes apply them in the end
    recover(spawn, bad)
    spawn.api.wait_settled(30)
    assert check({node.name: node.applied() for node in bad}, load.attempted, load.acknowledged) == []


def test_an_answer_with_a_bad_body_is_an_answer(processes: Processes) -> None:
    # Given nodes that apply what they are given, send a good head and then break off, dawdle or go on for ever; two
    # that apply it and send no head; and one that sends everybody on in circles
    silent = ("done-silent", "done-close")
    whole = ("half-body", "half-body-close", "half-body-reset", "trickle-body", "surplus", "endless-body", "loop-302")
    good = good_nodes(processes)
    nodes = BadNodes(processes, [*whole, *silent, "loop-307"]).start()
    spawn = spawn_before(
        processes,
        [*good, *nodes.nodes],
        timeouts=QUICK,
        delivery={"attempts": 2, "attempts-uncertain": 1000},
        limits={"answer": 300_000},
    )
    for node in nodes.nodes:
        misbehave(node)

    # When clients send updates
    updates = [make_update(n) for n in range(5)]
    told = {update.name: tell(spawn, update) for update in updates}

    # Then each is told its sequence, also where the body of the answer was of no use, …
    assert list(told.values()) == [1, 2, 3, 4, 5]
    # … the head has decided, so nothing is sent again, …
    for name in whole:
        spawn.api.wait_queue(nodes[name].port, lambda row: row["backlog"] == 0, what=f"{name} has everything")
    names = [update.name for update in updates]
    sound = {name: nodes[name].applied() for name in whole} | {node.name: node.applied() for node in good}
    assert check(sound, names, told) == []
    # … redirections are not followed, and a node that turns down everything is held, …
    row = spawn.api.wait_queue(nodes["loop-307"].port, lambda row: row["held"], what="loop-307 is held")
    assert (row["position"], row["refused"], row["diverged"]) == (2, 2, True)
    assert {seen.target for seen in nodes["loop-307"].seen()} == {update.target for update in updates[:3]}
    # … and what is endless is cut
    assert spawn.process.peak_rss_bytes() < MEMORY_BYTES

    # When they are well again, and the one that refused updates is told to begin anew
    recover(spawn, [nodes[name] for name in silent])
    nodes["loop-307"].behave()
    spawn.api.data("PUT", f"/queues/127.0.0.1/{nodes['loop-307'].port}", {"position": 0})

    # Then nothing is lost, and what was repeated had the same key
    spawn.api.wait_settled(30)
    logs = sound | {name: without_repeats(nodes[name].applied()) for name in (*silent, "loop-307")}
    assert check(logs, names, told) == []
    assert all(len(nodes[name].applied()) > len(updates) for name in silent)


def tell(spawn: Spawn, update: Update) -> int:
    """Send an update, try to read the answer; returns the sequence that its head names."""
    with session() as client:
        answer = client.request(
            update.method, spawn.url + update.target, data=update.body, timeout=20, stream=True, allow_redirects=False
        )
        assert answer.status_code in (200, 201, 302, 502), f"{answer.status_code} {answer.text}"
        try:
            size = sum(len(piece) for piece in answer.iter_content(65_536))
            assert size < 2 * MIB
        except requests.RequestException:
            assert answer.status_code == 200, "only a node's own answer may be cut"
    return int(answer.headers["Spawn-Sequence"])


def test_reads_fail_over_or_say_why_not(processes: Processes) -> None:
    # Given a bad node that is preferred, and a good one
    (bad,) = BadNodes(processes, ["bad"]).start().nodes
    good = LoggingNode(processes, "good").start()
    spawn = spawn_before(
        processes,
        [bad, good],
        timeouts=QUICK,
        **{"query-mode": {"round-robin": False, "by-priority": True}},
    )
    assert read(spawn) == (200, "well")

    # When it gives no answer that can be passed on, then the other one does
    for mode in ("half-head-close", "half-head-reset", "reset", "close", "garbage", "endless-head", "endless-100"):
        bad.behave(read=mode)
        assert read(spawn) == (200, "{}"), mode
    # When it takes its time, then the client is told, instead of adding up the times of all nodes
    for mode in ("silent", "half-head", "trickle-head"):
        bad.behave(read=mode)
        assert read(spawn)[0] == 504, mode
    # When its answer breaks off, then the client sees that
    for mode in ("half-body-close", "half-body-reset", "half-body"):
        bad.behave(read=mode)
        assert read(spawn) == (200, "cut"), mode
    bad.behave(read="surplus")
    assert read(spawn) == (200, "more"), "not a byte behind what was announced"
    # When it sends clients on, then that is their business
    for mode, status in (("loop-302", 302), ("loop-307", 307)):
        bad.behave(read=mode)
        assert read(spawn) == (status, "")
    # When it takes no connections, then the other one answers
    bad.behave(listener="full")
    eventually(lambda: read(spawn) == (200, "{}"), timeout_s=10, what="reads are answered by the good node")
    assert spawn.process.peak_rss_bytes() < MEMORY_BYTES
    counted = counters(spawn.api)
    assert counted["reads.failed-over"] >= 7, "one for each of the first modes"
    assert counted["reads.failed"] >= 3


def read(spawn: Spawn) -> tuple[int, str]:
    with session() as client:
        answer = client.get(f"{spawn.url}/items", timeout=20, stream=True, allow_redirects=False)
        try:
            return answer.status_code, answer.text
        except requests.RequestException:
            return answer.status_code, "cut"
