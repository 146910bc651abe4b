"""What holds for the whole admin API: unknown paths and methods, Via, Host, Origin, CORS, ``/info``, ``/list``."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.support.adminbackend import SETTINGS, Api, MemoryBackend, seeded, serving

ORIGIN = "https://panel.myapp.com"
READS = ("/nodes", "/queues", "/health", "/info", "/counters", "/list", "/openapi.json", "/updates/4")


@pytest.fixture
def backend() -> MemoryBackend:
    return seeded()


@pytest.fixture
def api(backend: MemoryBackend) -> Iterator[Api]:
    settings = replace(SETTINGS, hosts=("Spawn.myapp.com", "::1"), origins=(ORIGIN,))
    with serving(backend, settings) as made:
        yield made


class TestRouting:
    @pytest.mark.parametrize("path", ["/x", "/", "/node", "/nodes/a/1/", "/nodes/a/1/2", "/list/queues", "/NODES"])
    @pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS", "BREW"])
    def test_an_unknown_path_is_told_in_the_originals_shape(self, api: Api, path: str, method: str) -> None:
        answer = api(method, path)
        assert answer.status == 404
        assert answer.body.decode() == (
            f'{{"Message":{{"Error":"Method not found for {path}",'
            '"Information":"Please see list of the methods by using /list"}}'
        )

    def test_a_long_one_is_shown_in_part(self, api: Api) -> None:
        answer = api("GET", "/" + "x" * 5000)
        assert answer.json["Message"]["Error"] == f"Method not found for /{'x' * 78}…"

    def test_it_is_pretty_on_demand(self, api: Api) -> None:
        assert api("GET", "/x?pretty=true").body.startswith(b'{\n  "Message": {\n    "Error": ')

    @pytest.mark.parametrize(
        ("path", "allowed"),
        [
            ("/nodes", {"GET", "HEAD", "PUT", "DELETE", "OPTIONS"}),
            ("/nodes/a", {"GET", "HEAD", "DELETE", "OPTIONS"}),
            ("/nodes/a/1", {"GET", "HEAD", "PUT", "DELETE", "OPTIONS"}),
            ("/queues", {"GET", "HEAD", "OPTIONS"}),
            ("/queues/a/1", {"GET", "HEAD", "PUT", "OPTIONS"}),
            ("/queues/a/1/2", {"DELETE", "OPTIONS"}),
            ("/info", {"GET", "HEAD", "OPTIONS"}),
            ("/list", {"GET", "HEAD", "OPTIONS"}),
        ],
    )
    @pytest.mark.parametrize("method", ["POST", "PATCH", "TRACE", "BREW", "WEBSOCKET", "PROPFIND"])
    def test_another_method_is_405_with_allow(self, api: Api, path: str, allowed: set[str], method: str) -> None:
        answer = api(method, path)
        answer.failed(405, "Method not allowed")
        assert set(answer.headers["allow"].upper().split(", ")) == allowed

    @pytest.mark.parametrize(
        ("path", "allowed"),
        [
            ("/nodes", "delete, get, head, put, options"),
            ("/nodes/a", "delete, get, head, options"),
            ("/nodes/a/1", "delete, get, head, put, options"),
            ("/list", "get, head, options"),
        ],
    )
    def test_options_is_200_and_says_what_is_allowed(self, api: Api, path: str, allowed: str) -> None:
        answer = api("OPTIONS", path)
        assert (answer.status, answer.body) == (200, b"")
        assert answer.headers["allow"] == allowed
        assert "content-type" not in answer.headers
        assert "access-control-allow-origin" not in answer.headers

    def test_answers_are_not_stored_or_guessed_at(self, api: Api) -> None:
        for path in (*READS, "/x"):
            headers = api("GET", path).headers
            assert (headers["cache-control"], headers["x-content-type-options"]) == ("no-store", "nosniff")


class TestVia:
    """The API behind the proxy is everybody's: a node leads back here, whatever its name."""

    @pytest.fixture
    def api(self, backend: MemoryBackend) -> Iterator[Api]:
        with serving(backend, replace(SETTINGS, via=b"spawn-0a1b2c3d")) as made:
            yield made

    @pytest.mark.parametrize("via", ["1.1 spawn-0a1b2c3d", "1.0 front, 1.1 SPAWN-0A1B2C3D (here), 1.1 other"])
    @pytest.mark.parametrize(
        ("method", "path"),
        [*(("GET", path) for path in READS), ("DELETE", "/nodes"), ("OPTIONS", "/nodes"), ("GET", "/x")],
    )
    def test_what_the_own_proxy_passed_on_is_refused(
        self, api: Api, backend: MemoryBackend, via: str, method: str, path: str
    ) -> None:
        api(method, path, Via=via, Host="evil.test").failed(508, "Could not accept the Via header")
        assert backend.peers == []

    def test_one_of_several_via_lines_is_enough(self, api: Api) -> None:
        lines = b"Via: 1.1 front\r\nVia: 1.1 spawn-0a1b2c3d\r\n"
        answer = api.raw(b"DELETE /nodes HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + lines + b"\r\n")
        answer.failed(508, "Could not accept the Via header")

    @pytest.mark.parametrize(
        "via", ["1.1 front", "1.1 spawn-ffffffff", "1.1 front (spawn-0a1b2c3d)", "", "spawn-0a1b2c3d"]
    )
    def test_other_proxies_pass(self, api: Api, via: str) -> None:
        assert api("DELETE", "/nodes", Via=via).status == 200

    def test_without_a_name_of_its_own_nothing_is_refused(self, backend: MemoryBackend) -> None:
        with serving(backend) as plain:
            assert plain("GET", "/nodes", Via="1.1").status == 200


class TestStarting:
    @pytest.mark.parametrize(
        ("method", "path", "body"),
        [
            ("PUT", "/nodes", []),
            ("PUT", "/nodes/a/1", {}),
            ("DELETE", "/nodes", None),
            ("DELETE", "/nodes/node1.myapp.com", None),
            ("DELETE", "/nodes/node1.myapp.com/7017", None),
            ("PUT", "/queues/node1.myapp.com/7017", {"position": "head"}),
        ],
    )
    def test_nothing_can_be_changed_yet(
        self, api: Api, backend: MemoryBackend, method: str, path: str, body: object
    ) -> None:
        backend.serving = (False, "starting")
        api(method, path, body).failed(503, "Spawn is starting", "GET /health")
        assert backend.peers == []

    def test_what_there_is_can_be_seen(self, api: Api, backend: MemoryBackend) -> None:
        backend.serving = (False, "starting")
        for path in READS:
            assert api("GET", path).status == (503 if path == "/health" else 200)


class TestHost:
    @pytest.mark.parametrize(
        "host",
        [
            "127.0.0.1",
            "127.0.0.1:7118",
            "10.1.2.3",
            "[::1]:7118",
            "[2001:db8::1]",
            "localhost",
            "LocalHost:1",
            "localhost.",
            "spawn.myapp.com",
            "SPAWN.myapp.com.:7118",
        ],
    )
    def test_addresses_localhost_and_configured_names_pass(self, api: Api, host: str) -> None:
        assert api("GET", "/nodes", Host=host).status == 200
        assert api("DELETE", "/nodes", Host=host).status == 200

    @pytest.mark.parametrize("host", ["evil.test", "localhost.evil.test", "127.0.0.1.evil.test", "127.1", "myapp.com"])
    @pytest.mark.parametrize(
        ("method", "path"), [*(("GET", path) for path in READS), ("DELETE", "/nodes"), ("GET", "/x")]
    )
    def test_other_names_may_not_even_read(
        self, api: Api, backend: MemoryBackend, host: str, method: str, path: str
    ) -> None:
        api(method, path, Host=host).failed(403, "Could not accept the Host header", host)
        assert backend.peers == []

    @pytest.mark.parametrize("host", ["a b", "::1", "[::1", "@"])
    def test_what_is_no_host_at_all_does_not_get_here(self, api: Api, backend: MemoryBackend, host: str) -> None:
        assert api("DELETE", "/nodes", Host=host).status == 400
        assert backend.peers == []

    def test_http_1_0_without_a_host_passes(self, api: Api) -> None:
        assert api.raw(b"GET /health HTTP/1.0\r\n\r\n").status == 200


class TestOrigin:
    @pytest.mark.parametrize("origin", ["https://evil.test", "null", "", "http://panel.myapp.com", ORIGIN + ":444"])
    @pytest.mark.parametrize(("method", "path"), [("PUT", "/nodes/a/1"), ("DELETE", "/nodes"), ("POST", "/nodes")])
    def test_a_foreign_page_may_not_change_anything(
        self, api: Api, backend: MemoryBackend, origin: str, method: str, path: str
    ) -> None:
        answer = api(method, path, {}, Origin=origin)
        answer.failed(403, "Could not accept the Origin header")
        assert "access-control-allow-origin" not in answer.headers
        assert backend.peers == []

    def test_it_may_ask_but_not_see(self, api: Api) -> None:
        answer = api("GET", "/nodes", Origin="https://evil.test")
        assert answer.status == 200
        assert answer.headers["vary"] == "origin"
        assert not [name for name in answer.headers if name.startswith("access-control")]

    def test_a_configured_page_may_change_and_see(self, api: Api) -> None:
        for method, path, status in (("PUT", "/nodes/a/1", 201), ("GET", "/nodes", 200), ("GET", "/nodes/b", 404)):
            answer = api(method, path, {} if method == "PUT" else None, Origin=ORIGIN)
            assert answer.status == status
            assert answer.headers["access-control-allow-origin"] == ORIGIN
            assert answer.headers["vary"] == "origin"

    def test_its_preflight_is_answered(self, api: Api) -> None:
        answer = api("OPTIONS", "/nodes/a/1", Origin=ORIGIN, Access_Control_Request_Method="PUT")
        assert answer.status == 200
        assert answer.headers["access-control-allow-methods"] == "delete, get, head, put"
        assert answer.headers["access-control-allow-headers"] == "content-type"
        refused = api("OPTIONS", "/nodes/a/1", Origin="https://evil.test", Access_Control_Request_Method="PUT")
        assert not [name for name in refused.headers if name.startswith("access-control")]

    def test_without_configured_origins_there_is_no_word_of_cors(self) -> None:
        with serving(seeded()) as plain:
            headers = plain("GET", "/nodes", Origin=ORIGIN).headers
        assert not [name for name in headers if name.startswith("access-control") or name == "vary"]


class TestInfo:
    def test_info_has_the_originals_keys_in_its_order(self, api: Api) -> None:
        answer = api("GET", "/info")
        assert answer.status == 200
        assert re.fullmatch(
            r'\{"Spawn Sync Service":\{"Host":"[^"]+","Release":\{"Date":"2026-11-23","Number":"1\.0\.0"\},'
            r'"Runtime":\{"CPU":[1-9][0-9]*,"Compiler":"[^"]+","Memory":"[0-9]+\.[0-9]{2}MB","Threads":[1-9][0-9]*\}\}\}',
            answer.body.decode(),
        )
        runtime = answer.json["Spawn Sync Service"]["Runtime"]
        assert runtime["Compiler"] == f"{platform.python_implementation()} {platform.python_version()}"
        assert 5 < float(runtime["Memory"].removesuffix("MB")) < 5000

    def test_it_says_whether_spawn_is_compiled(self) -> None:
        with serving(seeded(), replace(SETTINGS, compiled=True)) as compiled:
            assert compiled("GET", "/info").json["Spawn Sync Service"]["Runtime"]["Compiler"].endswith(", mypyc")


class TestList:
    @pytest.mark.parametrize(
        ("path", "words"),
        [
            ("/list", ["/nodes/:host/:port", "/queues", "/updates/:sequence", "/list/nodes"]),
            ("/list/nodes", ["/list/nodes/get", "/list/nodes/set", "/list/nodes/delete"]),
            ("/list/nodes/get", ["GET", "host", "port", "string", "integer", "pretty"]),
            ("/list/nodes/set", ["PUT", "priority", "active", "maintenance", "position", "boolean", "false"]),
            ("/list/nodes/delete", ["DELETE", "host", "port"]),
        ],
    )
    def test_the_pages_are_text_tables(self, api: Api, path: str, words: list[str]) -> None:
        answer = api("GET", path)
        assert answer.status == 200
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        text = answer.body.decode()
        assert all(word in text for word in words)
        assert max(map(len, text.splitlines())) <= 120

    def test_every_listed_route_exists(self, api: Api) -> None:
        for method, path in re.findall(r"^([A-Z]+) +(/\S+)", api("GET", "/list").body.decode(), re.M):
            concrete = path.replace(":host", "node1.myapp.com").replace(":port", "7017").replace(":sequence", "4")
            assert api(method, concrete, {} if method == "PUT" else None).status in (200, 201, 202, 400, 404, 409)
            assert method in api("BREW", concrete).headers["allow"].upper()
            if method == "DELETE":
                api("PUT", "/nodes", [{"host": "node1.myapp.com", "port": 7017}])
