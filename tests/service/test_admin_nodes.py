"""``/nodes``: every row of the original's table, byte for byte where the order matters."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from spawn.delivery.types import NodeConflict
from spawn.errors import JournalBroken
from tests.support.adminbackend import Api, MemoryBackend, seeded, serving

NODE1 = '{"host":"node1.myapp.com","port":7017,"priority":1,"active":true,"maintenance":false}'
NODE2 = '{"host":"node2.myapp.com","port":7017,"priority":2,"active":true,"maintenance":false}'
NODE3 = '{"host":"node3.myapp.com","port":7017,"priority":3,"active":false,"maintenance":false}'
NOTHING = '{"error":404,"info":"Please add a record(s) before using","message":"Record(s) not found","success":false}'


@pytest.fixture
def backend() -> MemoryBackend:
    return seeded()


@pytest.fixture
def api(backend: MemoryBackend) -> Iterator[Api]:
    with serving(backend) as made:
        yield made


def results(*rows: str) -> str:
    return f'{{"results":[{",".join(rows)}],"success":true,"total":{len(rows)}}}'


def row(host: str, port: int, priority: int = 0, active: str = "false", maintenance: str = "false") -> str:
    return f'{{"host":"{host}","port":{port},"priority":{priority},"active":{active},"maintenance":{maintenance}}}'


class TestGet:
    def test_all_nodes_come_sorted_by_priority(self, api: Api) -> None:
        answer = api("GET", "/nodes")
        answer.exactly(200, results(NODE1, NODE2, NODE3))
        assert answer.headers["content-type"] == "application/json"

    def test_without_by_priority_they_come_in_the_order_of_the_configuration(
        self, api: Api, backend: MemoryBackend
    ) -> None:
        backend.by_priority = False
        api("GET", "/nodes").exactly(200, results(NODE3, NODE1, NODE2))

    def test_those_of_a_host_and_one(self, api: Api) -> None:
        api("PUT", "/nodes/node2.myapp.com/7018", {})
        api("GET", "/nodes/node2.myapp.com").exactly(200, results(NODE2, row("node2.myapp.com", 7018)))
        api("GET", "/nodes/node2.myapp.com/7017").exactly(200, results(NODE2))

    @pytest.mark.parametrize("path", ["/nodes/other", "/nodes/node1.myapp.com/7018", "/nodes/other/7017"])
    def test_no_match_is_404(self, api: Api, path: str) -> None:
        api("GET", path).exactly(404, NOTHING)

    def test_no_node_at_all_is_404(self, api: Api, backend: MemoryBackend) -> None:
        backend.held.clear()
        api("GET", "/nodes").exactly(404, NOTHING)

    def test_pretty_is_indented_by_two(self, api: Api) -> None:
        lines = api("GET", "/nodes/node1.myapp.com/7017?pretty=true").body.decode().split("\n")
        assert lines[0] == "{"
        assert lines[1].startswith('  "duration": ')
        assert lines[2].startswith('  "took": "')
        assert lines[3:] == [
            '  "data": {',
            '    "results": [',
            "      {",
            '        "host": "node1.myapp.com",',
            '        "port": 7017,',
            '        "priority": 1,',
            '        "active": true,',
            '        "maintenance": false',
            "      }",
            "    ],",
            '    "success": true,',
            '    "total": 1',
            "  }",
            "}",
        ]

    @pytest.mark.parametrize("query", ["", "?pretty", "?pretty=", "?pretty=false", "?pretty=1", "?other=true"])
    def test_anything_but_pretty_true_is_compact(self, api: Api, query: str) -> None:
        api("GET", f"/nodes/node1.myapp.com{query}").exactly(200, results(NODE1))

    @pytest.mark.parametrize("path", ["/nodes", "/nodes/node1.myapp.com", "/nodes/node1.myapp.com/7017"])
    def test_head_is_get_without_the_body(self, api: Api, path: str) -> None:
        answer = api("HEAD", path)
        assert (answer.status, answer.body) == (200, b"")
        assert int(answer.headers["content-length"]) > 100
        assert api("HEAD", "/nodes/other").status == 404


class TestPutOne:
    def test_a_new_node_is_created_with_zero_and_false(self, api: Api, backend: MemoryBackend) -> None:
        backend.last = 0
        api("PUT", "/nodes/node4/7017", {}).exactly(201, results(row("node4", 7017)))

    def test_a_change_keeps_what_is_left_out(self, api: Api) -> None:
        changed = row("node1.myapp.com", 7017, 1, "true", "true")
        api("PUT", "/nodes/node1.myapp.com/7017", {"maintenance": True}).exactly(202, results(changed))
        changed = row("node1.myapp.com", 7017, -4, "true", "true")
        api("PUT", "/nodes/node1.myapp.com/7017", {"priority": -4}).exactly(202, results(changed))
        api("GET", "/nodes/node1.myapp.com/7017").exactly(200, results(changed))

    def test_another_host_or_port_in_the_body_moves_the_node(self, api: Api) -> None:
        moved = row("node9", 7019, 1, "true")
        api("PUT", "/nodes/node1.myapp.com/7017", {"host": "node9", "port": 7019}).exactly(202, results(moved))
        api("GET", "/nodes/node1.myapp.com/7017").exactly(404, NOTHING)
        api("GET", "/nodes/node9/7019").exactly(200, results(moved))

    def test_a_move_to_where_a_node_is_changes_nothing(self, api: Api) -> None:
        answer = api("PUT", "/nodes/node1.myapp.com/7017", {"host": "node2.myapp.com", "priority": 9})
        answer.failed(409, "The node could not be moved", "node2.myapp.com:7017 is a node already")
        api("GET", "/nodes").exactly(200, results(NODE1, NODE2, NODE3))

    def test_a_node_that_joins_late_is_said_to_be_out_of_sync(self, api: Api) -> None:
        data = api("PUT", "/nodes/node4/7017", {"active": True}).data
        assert "out of sync" in data["info"]
        assert list(data) == ["info", "results", "success", "total"]

    @pytest.mark.parametrize("position", ["head", 3, 5])
    def test_a_position_brings_it_in_at_once(self, api: Api, position: object) -> None:
        answer = api("PUT", "/nodes/node4/7017", {"active": True, "position": position})
        answer.exactly(201, results(row("node4", 7017, 0, "true")))

    @pytest.mark.parametrize(("position", "why"), [(6, "beyond the head"), (1, "no longer retained")])
    def test_a_position_that_is_not_retained_changes_nothing(self, api: Api, position: int, why: str) -> None:
        answer = api("PUT", "/nodes/node4/7017", {"active": True, "position": position})
        answer.failed(409, "The position could not be set", why)
        assert api("GET", "/nodes/node4/7017").status == 404

    @pytest.mark.parametrize("host", ["[2001:db8::1]", "2001:db8::1", "2001:0DB8:0::1", "%5B2001%3Adb8%3A%3A1%5D"])
    def test_ipv6_with_and_without_brackets_is_one_node(self, api: Api, backend: MemoryBackend, host: str) -> None:
        backend.last = 0
        api("PUT", f"/nodes/{host}/7017", {}).exactly(201, results(row("2001:db8::1", 7017)))
        api("GET", "/nodes/[2001:db8::1]/7017").exactly(200, results(row("2001:db8::1", 7017)))

    @pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8", None])
    def test_json_under_its_name_or_none_or_curls_default_is_read(self, api: Api, kind: str | None) -> None:
        headers = {} if kind is None else {"Content_Type": kind}
        assert api("PUT", "/nodes/node1.myapp.com/7017", {"priority": 4}, **headers).status == 202
        headers = {"Content_Type": "application/x-www-form-urlencoded"}
        assert api("PUT", "/nodes/node1.myapp.com/7017", {"priority": 5}, **headers).status == 202

    @pytest.mark.parametrize("kind", ["text/plain", "application/xml", "multipart/form-data; boundary=x"])
    def test_another_content_type_is_415(self, api: Api, backend: MemoryBackend, kind: str) -> None:
        api("PUT", "/nodes/node4/7017", {}, Content_Type=kind).failed(415, "Unsupported media type")
        assert backend.peers == []

    def test_an_integral_number_is_an_integer_however_it_is_written(self, api: Api) -> None:
        moved = row("node1.myapp.com", 7018, 20, "true")
        answer = api("PUT", "/nodes/node1.myapp.com/7017", b'{"port": 7018.0, "priority": 2E1, "position": 5.0}')
        answer.exactly(202, results(moved))

    def test_the_backend_is_told_who_it_was(self, api: Api, backend: MemoryBackend) -> None:
        api("PUT", "/nodes/node4/7017", {})
        assert backend.peers == ["127.0.0.1"]


class TestPutMany:
    def test_records_are_changed_and_created(self, api: Api, backend: MemoryBackend) -> None:
        backend.last = 0
        body = [
            {"host": "node1.myapp.com", "port": 7017, "maintenance": True},
            {"host": "node4", "port": 7018, "priority": 4, "active": True},
        ]
        one, four = row("node1.myapp.com", 7017, 1, "true", "true"), row("node4", 7018, 4, "true")
        api("PUT", "/nodes", body).exactly(202, results(one, four))
        api("GET", "/nodes").exactly(200, results(one, NODE2, NODE3, four))

    def test_those_out_of_sync_are_named(self, api: Api) -> None:
        data = api("PUT", "/nodes", [{"host": "node4", "port": 1}, {"host": "::1", "port": 2}]).data
        assert "node4:1: the node is out of sync" in data["info"]
        assert "[::1]:2: the node is out of sync" in data["info"]

    @pytest.mark.parametrize(
        ("last", "message"),
        [
            ({"host": "node4"}, "The parameter 'host/port' could not be empty"),
            ({"port": 7017}, "The parameter 'host/port' could not be empty"),
            ({"host": "", "port": 7017}, "The parameter 'host/port' could not be empty"),
            ({"host": "node4", "port": 0}, "The parameter 'host/port' could not be empty"),
            ({"host": "a b", "port": 7017}, "Could not recognize a b parameter"),
            ({"host": "224.0.0.1", "port": 7017}, "Could not recognize 224.0.0.1 parameter"),
            ({"host": "127.0.0.1", "port": 7117}, "The node could not be used"),
            ({"host": "Node4.", "port": 7017}, "Could not recognize parameters"),  # the same node again
            ({"host": "node4", "port": 70000}, "Could not recognize parameters"),
            ({"host": "node4", "port": 7018, "position": "head"}, "Could not recognize parameters"),
            ("node4", "Could not recognize parameters"),
        ],
    )
    def test_a_fault_in_the_last_record_changes_nothing(
        self, api: Api, backend: MemoryBackend, last: object, message: str
    ) -> None:
        api("PUT", "/nodes", [{"host": "node4", "port": 7017}, last]).failed(400, message)
        assert backend.peers == []

    def test_an_object_is_not_an_array_and_a_thousand_records_are_enough(self, api: Api) -> None:
        api("PUT", "/nodes", {"host": "a", "port": 1}).failed(400, "Could not recognize parameters", "Expected `array`")
        many = [{"host": "a", "port": port} for port in range(1, 1002)]
        api("PUT", "/nodes", many).failed(400, "Could not recognize parameters", "length <= 1000")

    def test_an_empty_array_changes_nothing(self, api: Api) -> None:
        api("PUT", "/nodes", []).exactly(202, results())


class TestDelete:
    def test_one(self, api: Api) -> None:
        api("DELETE", "/nodes/node1.myapp.com/7017").exactly(200, '{"success":true}')
        api("GET", "/nodes").exactly(200, results(NODE2, NODE3))
        api("DELETE", "/nodes/node1.myapp.com/7017").exactly(404, NOTHING)

    def test_those_of_a_host(self, api: Api) -> None:
        api("DELETE", "/nodes/node1.myapp.com").exactly(200, '{"success":true}')
        api("DELETE", "/nodes/node1.myapp.com").exactly(404, NOTHING)
        api("GET", "/nodes").exactly(200, results(NODE2, NODE3))

    def test_all_even_when_there_is_none(self, api: Api, backend: MemoryBackend) -> None:
        api("DELETE", "/nodes").exactly(200, '{"success":true}')
        assert backend.held == []
        api("DELETE", "/nodes").exactly(200, '{"success":true}')

    @pytest.mark.parametrize("path", ["/nodes/", "/nodes//", "/nodes//7017", "/nodes/node1.myapp.com/"])
    def test_an_empty_shell_variable_does_not_delete_more(self, api: Api, backend: MemoryBackend, path: str) -> None:
        api("DELETE", path).failed(400, "The parameter 'host/port' could not be empty")
        assert len(backend.held) == 3


class TestBadInput:
    @pytest.mark.parametrize(
        ("method", "resource"),
        [("GET", "nodes"), ("PUT", "nodes"), ("DELETE", "nodes"), ("GET", "queues"), ("PUT", "queues")],
    )
    @pytest.mark.parametrize(
        ("rest", "message"),
        [
            ("node1/abc", "Could not recognize :port parameter"),
            ("node1/-1", "Could not recognize :port parameter"),
            ("node1/65536", "Could not recognize :port parameter"),
            ("node1/7017x", "Could not recognize :port parameter"),
            ("node1/%D9%A1", "Could not recognize :port parameter"),  # a digit, but not ours
            ("node1/" + "9" * 5000, "Could not recognize :port parameter"),
            ("node1/0", "The parameter ':port' could not be zero value"),
            ("node1/00", "The parameter ':port' could not be zero value"),
            ("a%20b/7017", "Could not recognize a b parameter"),
            ("a%0d%0aX:%20y/7017", "Could not recognize a\r\nX: y parameter"),
            ("b%C3%BCcher/7017", "Could not recognize bücher parameter"),
            ("127.1/7017", "Could not recognize 127.1 parameter"),
            ("0.0.0.0/7017", "Could not recognize 0.0.0.0 parameter"),
            ("[::]/7017", "Could not recognize [::] parameter"),
            ("239.1.2.3/7017", "Could not recognize 239.1.2.3 parameter"),
            ("[ff02::1]/7017", "Could not recognize [ff02::1] parameter"),
            ("[node1]/7017", "Could not recognize [node1] parameter"),
            ("x" * 300 + "/7017", "Could not recognize " + "x" * 79 + "… parameter"),
        ],
    )
    def test_bad_parameters(self, api: Api, method: str, resource: str, rest: str, message: str) -> None:
        body = {"PUT": {"position": "head"}}.get(method)
        api(method, f"/{resource}/{rest}", body).failed(400, message)

    @pytest.mark.parametrize(
        ("body", "info"),
        [
            (b"", "The body is empty: expected a JSON object"),
            (b" \r\n", "The body is empty: expected a JSON object"),
            (b"{", "truncated"),
            (b"{} {}", "trailing characters"),
            (b"priority=3", "malformed"),
            (b"null", "Expected `object`, got `null`"),
            (b"[]", "Expected `object`, got `array`"),
            (b'{"active": 1}', "Expected `bool`, got `int` - at `$.active`"),
            (b'{"active": "true"}', "Expected `bool`, got `str` - at `$.active`"),
            (b'{"port": "7017"}', "Expected `int`, got `str` - at `$.port`"),
            (b'{"port": 1.5}', "Expected `int`, got `float` - at `$.port`"),
            (b'{"port": -1}', "Expected `int` >= 0 - at `$.port`"),
            (b'{"priority": NaN}', "malformed"),
            (b'{"priority": 1' + b"0" * 5000 + b"}", "out of range"),
            (b'{"priority": 2147483648}', "`$.priority`"),
            (b'{"host": null}', "Expected `str`, got `null` - at `$.host`"),
            (b'{"prioriti": 3}', "Object contains unknown field `prioriti`"),
            (b'{"priority": 3, "priority": 4}', "Object contains the key `priority` twice"),
            (b'{"position": "tail"}', 'Expected a number or "head" - at `$.position`'),
            (b'{"position": true}', 'Expected a number or "head", got `bool` - at `$.position`'),
            (b'{"position": -1}', "`$.position`"),
            (b'{"host": "\xff"}', "utf-8"),
            (b'{"host": "\\ud800 and more"}', "JSON is malformed"),
            (b'{"\\udc00": 1, "\\udc00": 2}', "JSON is malformed"),
            (b"[" * 100_000, "nested too deeply"),
            (b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        ],
    )
    def test_bad_json(self, api: Api, backend: MemoryBackend, body: bytes, info: str) -> None:
        answer = api("PUT", "/nodes/node1.myapp.com/7017", body)
        answer.failed(400, "Could not recognize parameters")
        assert info in answer.data["info"]
        assert backend.peers == []

    def test_an_array_is_expected_where_one_is(self, api: Api) -> None:
        api("PUT", "/nodes", b"").failed(400, "Could not recognize parameters", "expected a JSON array")

    @pytest.mark.parametrize(
        "body",
        [
            {"x" * 1_000_000: 1},
            {"position": "h" * 1_000_000},
            {"`" * 1_000_000: 1},
            b'{"%b": 1, "%b": 2}' % (b"x" * 400_000, b"x" * 400_000),
        ],
    )
    def test_what_was_sent_is_repeated_in_part_only(self, api: Api, body: object) -> None:
        answer = api("PUT", "/nodes/node1.myapp.com/7017", body)
        answer.failed(400, "Could not recognize parameters")
        assert len(answer.data["info"]) <= 113

    def test_the_place_of_a_long_key_is_told(self, api: Api) -> None:
        answer = api("PUT", "/nodes", [{"x" * 1_000_000: 1}])
        assert answer.data["info"] == f"Object contains unknown field `{'x' * 41}…{'x' * 27}` - at `$[0]`"

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ({"host": ""}, "The parameter 'host/port' could not be empty"),
            ({"port": 0}, "The parameter 'host/port' could not be empty"),
            ({"host": "a b"}, "Could not recognize a b parameter"),
            ({"host": "255.255.255.255"}, "Could not recognize 255.255.255.255 parameter"),
            ({"host": "localhost", "port": 7118}, "The node could not be used"),
        ],
    )
    def test_bad_places_to_move_to(self, api: Api, backend: MemoryBackend, body: object, message: str) -> None:
        api("PUT", "/nodes/node1.myapp.com/7017", body).failed(400, message)
        assert backend.peers == []

    def test_bodies_end_at_one_mebibyte(self, api: Api) -> None:
        fits = b"{}".ljust(1_048_576)
        assert api("PUT", "/nodes/node1.myapp.com/7017", fits).status == 202
        assert api("PUT", "/nodes/node1.myapp.com/7017", fits + b" ").status == 413

    def test_a_body_that_announces_too_much_is_refused_unread(self, api: Api) -> None:
        assert api("PUT", "/nodes/node1.myapp.com/7017", b"", Content_Length="99999999999").status == 413

    def test_chunked_bodies_are_read_and_bounded(self, api: Api) -> None:
        head = b"PUT /nodes/node1.myapp.com/7017 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        head += b"Transfer-Encoding: chunked\r\n\r\n"
        assert api.raw(head + b'5\r\n{"act\r\nA\r\nive":true}\r\n0\r\n\r\n').status == 202
        big = b"10000\r\n" + b" " * 65_536 + b"\r\n"
        assert api.raw(head + big * 17 + b"0\r\n\r\n").status == 413


class TestFailingService:
    def test_a_service_that_cannot_says_so(self, api: Api, backend: MemoryBackend) -> None:
        backend.failure = JournalBroken("the journal takes no more appends")
        answer = api("PUT", "/nodes/node4/7017", {})
        answer.failed(503, "Not possible at the moment", "the journal takes no more appends")

    def test_a_fault_is_logged_and_tells_the_client_nothing(
        self, api: Api, backend: MemoryBackend, caplog: pytest.LogCaptureFixture
    ) -> None:
        backend.failure = RuntimeError("secret")
        answer = api("PUT", "/nodes/node4/7017", {})
        answer.failed(500, "Internal error")
        assert b"secret" not in answer.body
        assert "secret" in caplog.text

    def test_a_conflict_that_only_the_backend_sees(self, api: Api, backend: MemoryBackend) -> None:
        backend.failure = NodeConflict("node4:7017 is being removed")
        api("PUT", "/nodes/node4/7017", {}).failed(409, "The node could not be moved", "being removed")
