"""``/queues``, ``/updates``, ``/health``, ``/counters``: what an operator sees of deliveries."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from spawn.delivery.types import ActionTaken, NoSuchNode, NoSuchUpdate, NotPossibleNow, StillUnknown, VerbConflict
from spawn.errors import JournalError, NoBackup, Pruned
from tests.support.adminbackend import CREATED, Api, MemoryBackend, seeded, serving

REST = '"attempts":0,"last-error":"","refused":0,"held":false,"diverged":false,"out-of-sync":'
ROW1 = (
    '{"host":"node1.myapp.com","port":7017,"state":"serving","position":5,"backlog":0,"backlog-seconds":0.0,'
    + REST
    + "false}"
)
ROW2 = (
    '{"host":"node2.myapp.com","port":7017,"state":"serving","position":3,"backlog":2,"backlog-seconds":0.0,'
    + REST
    + "false}"
)
ROW3 = (
    '{"host":"node3.myapp.com","port":7017,"state":"inactive","position":0,"backlog":0,"backlog-seconds":0.0,'
    + REST
    + "true}"
)


@pytest.fixture
def backend() -> MemoryBackend:
    return seeded()


@pytest.fixture
def api(backend: MemoryBackend) -> Iterator[Api]:
    with serving(backend) as made:
        yield made


def results(*rows: str) -> str:
    return f'{{"head":5,"results":[{",".join(rows)}],"success":true,"total":{len(rows)}}}'


def test_queues_are_shown_with_the_head(api: Api) -> None:
    api("GET", "/queues").exactly(200, results(ROW1, ROW2, ROW3))
    api("GET", "/queues/node2.myapp.com").exactly(200, results(ROW2))
    api("GET", "/queues/node2.myapp.com/7017").exactly(200, results(ROW2))


def test_the_head_is_shown_without_nodes_too(api: Api, backend: MemoryBackend) -> None:
    backend.held.clear()
    api("GET", "/queues").exactly(200, results())


@pytest.mark.parametrize(
    ("method", "body", "info"),
    [("GET", None, "Please add a record(s) before using"), ("PUT", {"position": "head"}, "no node other:7017")],
)
def test_a_queue_that_is_not_there(api: Api, method: str, body: object, info: str) -> None:
    api(method, "/queues/other/7017", body).failed(404, "Record(s) not found", info)
    assert api("GET", "/queues/other").status == 404


@pytest.mark.parametrize(("position", "stands_at"), [("head", 5), (2, 2), (5, 5)])
def test_a_node_is_told_its_position(api: Api, position: object, stands_at: int) -> None:
    answer = api("PUT", "/queues/node3.myapp.com/7017", {"position": position})
    assert answer.status == 202
    assert answer.data["head"] == 5
    (row,) = answer.data["results"]
    assert (row["position"], row["out-of-sync"]) == (stands_at, False)


@pytest.mark.parametrize(
    ("position", "info"),
    [(6, "position 6 is beyond the head, 5"), (1, "update 2 is no longer retained; the first one is 3")],
)
def test_a_position_that_cannot_be_is_409_and_says_why(api: Api, position: int, info: str) -> None:
    answer = api("PUT", "/queues/node2.myapp.com/7017", {"position": position})
    answer.failed(409, "The position could not be set", info)
    api("GET", "/queues/node2.myapp.com/7017").exactly(200, results(ROW2))


@pytest.mark.parametrize("body", [{"position": "had"}, {"position": True}])
def test_a_position_that_is_none_is_told_what_one_is(api: Api, body: object) -> None:
    answer = api("PUT", "/queues/node2.myapp.com/7017", body)
    answer.failed(400, "Could not recognize parameters", 'a number or "head"')


@pytest.mark.parametrize(
    "body",
    [{}, {"position": None}, {"position": "5"}, {"position": 1.5}, {"position": -1}, {"position": 1, "x": 2}, [], 3],
)
def test_a_body_without_a_position_is_400(api: Api, body: object) -> None:
    api("PUT", "/queues/node2.myapp.com/7017", body).failed(400, "Could not recognize parameters")


def test_the_fate_of_an_update(api: Api) -> None:
    api("GET", "/updates/4").exactly(
        200,
        '{"results":[{"sequence":4,"time":"2026-11-23T12:00:00.123000Z","method":"POST","path":"/items/4",'
        '"reference":201,"nodes":['
        '{"host":"node3.myapp.com","port":7017,"status":"out-of-sync","actions":[]},'
        '{"host":"node1.myapp.com","port":7017,"status":"applied","actions":[]},'
        '{"host":"node2.myapp.com","port":7017,"status":"pending","actions":[]}'
        ']}],"success":true,"total":1}',
    )


NODE1, NODE2 = "/queues/node1.myapp.com/7017", "/queues/node2.myapp.com/7017"
VERBS = [
    ("POST", f"{NODE2}/resume"),
    ("POST", f"{NODE2}/clear-diverged"),
    ("DELETE", f"{NODE2}/4"),
    ("POST", f"{NODE2}/4/retry"),
    ("POST", "/journal/backup"),
]


def test_an_update_is_taken_out_of_a_queue_and_given_after_all(api: Api) -> None:
    answer = api("DELETE", f"{NODE2}/4")
    answer.exactly(202, results(ROW2.replace('"diverged":false', '"diverged":true')))
    (node,) = (each for each in api("GET", "/updates/4").data["results"][0]["nodes"] if "node2" in each["host"])
    assert node == {
        "host": "node2.myapp.com",
        "port": 7017,
        "status": "skipped",
        "actions": [{"time": "2026-11-23T12:00:00.123000Z", "verb": "skip", "by": "127.0.0.1"}],
    }
    assert api("POST", f"{NODE2}/4/retry").status == 202
    api("POST", f"{NODE2}/4/retry").failed(409, "It could not be done", "update 4 is applied")
    answer = api("POST", f"{NODE2}/clear-diverged")
    answer.exactly(202, results(ROW2))


@pytest.mark.parametrize("verb", ["resume", "clear-diverged"])
def test_what_has_no_effect_says_so(api: Api, verb: str) -> None:
    answer = api("POST", f"{NODE1}/{verb}")
    assert answer.status == 202
    assert answer.data["info"].endswith("nothing has changed")


def test_a_backup_says_where_it_is(api: Api, backend: MemoryBackend) -> None:
    api("POST", "/journal/backup").exactly(
        201, '{"results":[{"path":"/var/lib/spawn/backup/5","head":5,"size-bytes":4096}],"success":true,"total":1}'
    )
    assert backend.peers == ["127.0.0.1"]


@pytest.mark.parametrize(
    ("failure", "status", "message"),
    [
        (VerbConflict("a backup is being made"), 409, "It could not be done"),
        (NoBackup("there is nothing to copy"), 409, "It could not be done"),
        (JournalError("cannot write /backup: No space left"), 503, "Not possible at the moment"),
        (NotPossibleNow("16 retries wait"), 503, "Not possible at the moment"),
        (StillUnknown("no answer"), 504, "The node gave no answer"),
        (Pruned("update 4 is gone"), 410, "Update is no longer recorded"),
        (NoSuchUpdate("no update has the sequence 4"), 404, "Update not found"),
        (NoSuchNode("x"), 404, "Record(s) not found"),
    ],
)
@pytest.mark.parametrize(("method", "path"), VERBS)
def test_every_failure_of_a_verb_has_its_status(
    api: Api, backend: MemoryBackend, method: str, path: str, failure: Exception, status: int, message: str
) -> None:
    backend.failure = failure
    api(method, path).failed(status, message)


@pytest.mark.parametrize(("method", "path"), VERBS)
def test_a_verb_goes_through_the_same_gates_as_any_change(
    api: Api, backend: MemoryBackend, method: str, path: str
) -> None:
    assert api(method, path, Origin="https://evil.test").status == 403
    assert api(method, path, Host="evil.test").status == 403
    allowed = api("PUT", path, {}).headers["allow"]
    assert set(allowed.split(", ")) == {method.lower(), "options"}
    assert api("GET", path).status == 405
    assert api(method, path.replace("node2", "other")).status in (404, 201)
    backend.serving = (False, "starting")
    api(method, path).failed(503, "Spawn is starting")


@pytest.mark.parametrize(("method", "path"), [each for each in VERBS if each[0] == "POST"])
def test_a_verb_needs_no_body_and_takes_an_empty_object_only(
    api: Api, backend: MemoryBackend, method: str, path: str
) -> None:
    backend.held[2].skipped[4] = [ActionTaken(time=CREATED, verb="skip", by="x")]
    assert api(method, path, {}).status in (201, 202)
    backend.peers.clear()
    for body in ({"x": 1}, [], 3, None, b"{", b"null", b" "):
        if body is not None:
            assert api(method, path, body).status == 400
    assert api(method, path, b"{}", Content_Type="text/plain").status == 415
    assert api(method, path, b"x" * 1_048_577).status == 413
    assert backend.peers == []


@pytest.mark.parametrize(("method", "tail"), [("DELETE", ""), ("POST", "/retry")])
@pytest.mark.parametrize(
    ("sequence", "status"),
    [("0", 400), ("00", 400), ("-1", 400), ("x", 400), ("4x", 400), ("6", 404), ("9" * 20, 404), ("9" * 5000, 404)],
)
def test_a_verb_on_what_is_no_sequence(api: Api, method: str, tail: str, sequence: str, status: int) -> None:
    assert api(method, f"{NODE2}/{sequence}{tail}").status == status


@pytest.mark.parametrize(
    ("sequence", "status", "message"),
    [
        ("6", 404, "Update not found"),
        ("9" * 19, 404, "Update not found"),
        ("9" * 5000, 404, "Update not found"),
        ("1", 410, "Update is no longer recorded"),
        ("0", 400, "The parameter ':sequence' could not be zero value"),
        ("-1", 400, "Could not recognize :sequence parameter"),
        ("1.5", 400, "Could not recognize :sequence parameter"),
        ("head", 400, "Could not recognize :sequence parameter"),
        ("", 400, "Could not recognize :sequence parameter"),
        ("%D9%A1", 400, "Could not recognize :sequence parameter"),
    ],
)
def test_updates_without_a_fate(api: Api, sequence: str, status: int, message: str) -> None:
    api("GET", f"/updates/{sequence}").failed(status, message)


@pytest.mark.parametrize(
    ("sequence", "named"), [("9" * 23, "9" * 23), ("00" + "9" * 23, "9" * 23), ("9" * 5000, "9" * 79 + "…")]
)
def test_the_sequence_that_is_not_found_is_the_one_asked_for(api: Api, sequence: str, named: str) -> None:
    assert api("GET", f"/updates/{sequence}").data["info"] == f"No update has the sequence {named}"


def test_health_says_whether_and_why(api: Api, backend: MemoryBackend) -> None:
    api("GET", "/health").exactly(200, '{"info":"serving","success":true}')
    backend.serving = (False, "starting")
    api("GET", "/health").exactly(503, '{"error":503,"info":"starting","message":"Not serving","success":false}')
    assert api("HEAD", "/health").status == 503


def test_counters_come_by_name(api: Api) -> None:
    api("GET", "/counters").exactly(
        200,
        '{"results":[{"name":"reads.served","value":7},{"name":"updates.accepted","value":5}],"success":true,"total":2}',
    )
