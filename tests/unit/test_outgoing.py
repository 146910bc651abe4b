"""An update as a node gets it."""

from __future__ import annotations

from spawn.delivery.outgoing import effective_method, outgoing, spawn_time
from spawn.journal.base import Entry, FileBody

HEAD = b"Host: app.test\r\nContent-Type: text/plain\r\nauthorization: Basic old\r\nX-Two: 1\r\nX-Two: 2\r\n"


def entry(head: bytes = HEAD, key: bytes | None = None, **more: object) -> Entry:
    fields: dict[str, object] = {
        "sequence": 42,
        "time_s": 1_795_000_000.25,
        "method": b"POST",
        "target": b"/a%2fb/../x?q=%20",
        "head": head,
        "body": b"body",
        "key": key,
        "reference": None,
    }
    return Entry(**(fields | more))  # type: ignore[arg-type]


def lines(head: bytes) -> list[bytes]:
    assert head.endswith(b"\r\n")
    return head.split(b"\r\n")[:-1]


def test_the_clients_request_leaves_as_it_came() -> None:
    sent = outgoing(entry(), "uuid", "h:1", {})
    assert (sent.method, sent.target, sent.body) == (b"POST", b"/a%2fb/../x?q=%20", b"body")
    assert sent.headers.startswith(HEAD)


def test_every_delivery_carries_the_same_marks() -> None:
    first, second = (lines(outgoing(entry(), "uuid", name, {}).headers) for name in ("h:1", "other:2"))
    assert first == second
    assert first[5:] == [
        b"Idempotency-Key: uuid-42",
        b"Spawn-Sequence: 42",
        b"Spawn-Time: " + spawn_time(1_795_000_000.25).encode(),
    ]


def test_the_clients_own_key_is_kept() -> None:
    sent = outgoing(entry(HEAD + b"Idempotency-Key: mine\r\n", key=b"mine"), "uuid", "h:1", {})
    assert sent.headers.lower().count(b"idempotency-key:") == 1
    assert b"Idempotency-Key: mine\r\n" in sent.headers


def test_a_request_without_host_gets_the_nodes() -> None:
    sent = outgoing(entry(b"Accept: */*\r\nX-Host: no\r\n"), "uuid", "[::1]:80", {})
    assert lines(sent.headers).count(b"Host: [::1]:80") == 1


def test_headers_are_replaced_for_one_node() -> None:
    sent = outgoing(entry(), "uuid", "h:1", {"Authorization": "Basic new", "X-Two": "3"})
    found = lines(sent.headers)
    assert b"Authorization: Basic new" in found
    assert b"X-Two: 3" in found
    assert not [line for line in found if line.lower() in (b"authorization: basic old", b"x-two: 1", b"x-two: 2")]
    assert found[:2] == [b"Host: app.test", b"Content-Type: text/plain"]


def test_a_body_in_a_file_is_passed_on_as_one() -> None:
    body = FileBody("/spool/x", 7)
    assert outgoing(entry(body=body), "uuid", "h:1", {}).body is body
    assert outgoing(entry(body=None), "uuid", "h:1", {}).body is None


def test_the_time_is_utc_with_microseconds() -> None:
    assert spawn_time(0.000001) == "1970-01-01T00:00:00.000001Z"
    assert spawn_time(1_795_000_000.25) == "2026-11-18T11:06:40.250000Z"


def test_an_overridden_method_is_not_taken_for_an_idempotent_one() -> None:
    assert effective_method(entry(method=b"PUT")) == b"PUT"
    for name in (b"X-HTTP-Method-Override", b"x-http-method", b"X-Method-Override"):
        assert effective_method(entry(HEAD + name + b": PUT\r\n", method=b"GET")) == b"POST"
    assert effective_method(entry(HEAD + b"X-Note: x-http-method: PUT\r\n", method=b"GET")) == b"GET"
