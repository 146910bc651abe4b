"""Reading the file and the flags: what is taken, and that every fault is told, once, on one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spawn.config import FLAGS, Config, default_state_dir, load
from spawn.config.shape import find, leaves
from spawn.errors import ConfigError

SEED = """
{
  "host": "spawn.myapp.com",
  "port": 7117,
  "api": {
    "host": "spawn.myapp.com",
    "port": 7118
  },
  "query-mode": {
    "round-robin": true,
    "by-priority": true
  },
  "health-check": {
    "seconds": 10,
    "url": "/info",
    "regexp": "^version:[0-9]+$"
  },
  "nodes": [
    {
      "host": "node1.myapp.com",
      "port": 7017,
      "priority": 1,
      "active": true,
      "maintenance": false
    },
    {
      "host": "node2.myapp.com",
      "port": 7017,
      "priority": 2,
      "active": true,
      "maintenance": false
    },
    {
      "host": "node3.myapp.com",
      "port": 7017,
      "priority": 3,
      "active": false,
      "maintenance": false
    }
  ]
}
"""


class Conf:
    """A configuration file in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "spawn.conf"

    def load(self, content: Any, **flags: object) -> Config:
        return load(self.write(content), flags).config

    def faults(self, content: Any, flags: dict[str, object] | None = None) -> list[str]:
        """The lines without the path of the file's directory."""
        with pytest.raises(ConfigError) as caught:
            load(self.write(content), flags or {})
        for line in caught.value.faults:
            assert line.isprintable()
        return [line.replace(f"{self.path.parent}/", "") for line in caught.value.faults]

    def fault(self, content: Any, flags: dict[str, object] | None = None) -> str:
        faults = self.faults(content, flags)
        assert len(faults) == 1, faults
        return faults[0]

    def warnings(self, content: Any) -> list[str]:
        return [line.replace(f"{self.path.parent}/", "") for line in load(self.write(content)).warnings]

    def write(self, content: Any) -> str:
        if isinstance(content, bytes):
            self.path.write_bytes(content)
        else:
            self.path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
        return str(self.path)


@pytest.fixture
def conf(tmp_path: Path) -> Conf:
    return Conf(tmp_path)


def node(host: str = "a", port: int = 80, **more: Any) -> dict[str, Any]:
    return {"host": host, "port": port, **more}


# What is taken


def test_the_seeds_example_loads_as_it_is_written(conf: Conf) -> None:
    loaded = load(conf.write(SEED))
    config = loaded.config
    assert (config.host, config.port, config.api.host, config.api.port) == (
        ("spawn.myapp.com", 7117, "spawn.myapp.com", 7118)
    )
    assert config.query_mode.round_robin
    assert config.query_mode.by_priority
    assert config.health_check.seconds == 10.0
    assert config.health_check.regexp == "^version:[0-9]+$"
    assert [(n.host, n.port, n.priority, n.active, n.maintenance) for n in config.nodes] == [
        ("node1.myapp.com", 7017, 1, True, False),
        ("node2.myapp.com", 7017, 2, True, False),
        ("node3.myapp.com", 7017, 3, False, False),
    ]
    assert loaded.warnings == ()
    assert loaded.path == str(conf.path)
    assert loaded.authorities == ("node1.myapp.com:7017", "node2.myapp.com:7017", "node3.myapp.com:7017")


def test_an_empty_object_gives_the_defaults(conf: Conf) -> None:
    assert conf.load({}) == Config()


def test_a_byte_order_mark_is_tolerated(conf: Conf) -> None:
    assert conf.load(b'\xef\xbb\xbf{"port": 8000}').port == 8000


def test_a_whole_number_will_do_for_seconds(conf: Conf) -> None:
    config = conf.load({"timeouts": {"head": 5}})
    assert config.timeouts.head == 5.0
    assert isinstance(config.timeouts.head, float)


def test_every_key_of_the_schema_is_taken_with_its_default(conf: Conf) -> None:
    document: dict[str, Any] = {}
    for path, field in leaves():
        if "[]" in path or path == "delivery.set-headers":
            continue
        *sections, key = path.split(".")
        target = document
        for section in sections:
            target = target.setdefault(section, {})
        target[key] = list(field.default) if isinstance(field.default, tuple) else field.default
    assert conf.load(document) == Config()


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("[2001:DB8::1]", "2001:db8::1"),
        ("2001:db8:0::1", "2001:db8::1"),
        ("10.0.0.1", "10.0.0.1"),
        ("Node1.Example.com", "Node1.Example.com"),
        ("app_1", "app_1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
    ],
)
def test_a_nodes_host_is_kept_in_its_normal_form(conf: Conf, written: str, kept: str) -> None:
    assert conf.load({"nodes": [node(written)]}).nodes[0].host == kept


def test_authorities_have_brackets_around_ipv6(conf: Conf) -> None:
    assert conf.load({"nodes": [node("::2")]}).nodes[0].authority == "[::2]:80"


def test_origins_are_kept_as_browsers_send_them(conf: Conf) -> None:
    origins = ["HTTPS://Admin.Example.com:443", "http://[::1]:8080", "http://x:80"]
    assert conf.load({"api": {"origins": origins}}).api.origins == (
        "https://admin.example.com",
        "http://[::1]:8080",
        "http://x",
    )


def test_set_headers_are_found_under_the_nodes_own_name(conf: Conf) -> None:
    headers = {"node1:80": {"Authorization": "Basic eA=="}, "[2001:DB8::1]:80": {"X": ""}}
    config = conf.load({"nodes": [node("Node1"), node("2001:db8::1")], "delivery": {"set-headers": headers}})
    assert list(config.delivery.set_headers) == [n.authority for n in config.nodes]


def test_relative_paths_in_the_file_are_relative_to_the_file(conf: Conf) -> None:
    config = conf.load({"state-dir": "state", "log": {"file": "../x.log"}})
    assert config.state_dir == str(conf.path.parent / "state")
    assert config.log.file == str(conf.path.parent.parent / "x.log")


# Which file


def test_the_default_files_may_be_absent(tmp_path: Path) -> None:
    loaded = load(None, search=(str(tmp_path / "a.conf"), str(tmp_path / "no" / "b.conf")))
    assert loaded.config == Config()
    assert loaded.path is None


def test_the_first_default_file_that_exists_is_read(tmp_path: Path) -> None:
    (tmp_path / "b.conf").write_text('{"port": 1}')
    (tmp_path / "c.conf").write_text('{"port": 2}')
    loaded = load(None, search=[str(tmp_path / name) for name in ("a.conf", "b.conf", "c.conf")])
    assert loaded.config.port == 1
    assert loaded.path == str(tmp_path / "b.conf")


def test_the_default_is_spawn_conf_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spawn.conf").write_text('{"port": 4}')
    loaded = load(None)
    assert loaded.config.port == 4
    assert loaded.path == str(tmp_path / "spawn.conf")


def one_fault(path: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert len(caught.value.faults) == 1
    return caught.value.faults[0]


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    path = str(tmp_path / "absent.conf")
    assert one_fault(path) == f"{path}: cannot be read: no such file or directory"


@pytest.mark.parametrize("path", ["", "a\0b", "a\nb", "x" * 5000])
def test_a_strange_path_is_one_clear_line(path: str) -> None:
    assert "cannot be read" in one_fault(path)


def test_a_directory_is_no_configuration(tmp_path: Path) -> None:
    assert one_fault(str(tmp_path)) == f"{tmp_path}: is a directory, not a file"


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert one_fault(str(tmp_path / "pipe")).endswith("is not a regular file")


def test_a_huge_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "huge").write_bytes(b" " * 5_000_000)
    assert one_fault(str(tmp_path / "huge")).endswith("is larger than 4 MiB, which no configuration is")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_a_file_that_may_not_be_read_is_one_clear_line_for_root(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir(mode=0o700)
    (secret / "spawn.conf").write_text("{}")
    os.seteuid(65534)
    try:
        assert one_fault(f"{secret}/spawn.conf").endswith("spawn.conf: cannot be read: permission denied")
        with pytest.raises(ConfigError, match="permission denied"):
            load(None, search=[f"{secret}/spawn.conf"])
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "spawn.conf").write_text("{}")
    (tmp_path / "spawn.conf").chmod(0)
    assert one_fault(f"{tmp_path}/spawn.conf").endswith("spawn.conf: cannot be read: permission denied")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b'{"a": 1,}', "spawn.conf:1:9: not JSON: expecting property name enclosed in double quotes"),
        (b'{\n  "host": "x"\n  "port": 1}', "spawn.conf:3:3: not JSON: expecting ',' delimiter"),
        (b'{"a": "x', "spawn.conf:1:7: not JSON: unterminated string starting here"),
        (b'{"a": "\x01"}', "spawn.conf:1:8: not JSON: invalid control character here"),
        (b'{"h\xc3\xa9": 1,\n"\xc3\xa9\xff": 1}', "spawn.conf:2:3: not UTF-8"),
        (b"", "spawn.conf: the file is empty; the least that will do is {}"),
        (b"\n \t", "spawn.conf: the file is empty; the least that will do is {}"),
        (b"{} {}", "spawn.conf:1:4: not JSON: extra data"),
        (b"[" * 100_000, "spawn.conf: nested more than 64 levels deep"),
        (b'{"auth": ' + b"[" * 100 + b"]" * 100 + b"}", "spawn.conf: auth: nested more than 64 levels deep"),
        (b"[1]", "spawn.conf: expected an object, got a list"),
        (b'"x"', 'spawn.conf: expected an object, got "x"'),
        (b"null", "spawn.conf: expected an object, got null"),
    ],
)
def test_what_is_no_configuration_is_one_line_with_its_place(conf: Conf, content: bytes, line: str) -> None:
    assert conf.fault(content) == line


# Faults of values

P = "a port number (1–65535)"
S = "a number of seconds (more than 0, at most 86400)"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ({"port": "7117"}, f'port: expected {P}, got "7117"'),
        ({"port": True}, f"port: expected {P}, got true"),
        ({"port": 7117.0}, f"port: expected {P}, got 7117.0"),
        ({"port": None}, f"port: expected {P}, got null"),
        ({"port": 0}, f"port: expected {P}, got 0"),
        ({"port": 65536}, f"port: expected {P}, got 65536"),
        ({"nodes": [node(), node("b", -1)]}, f"nodes[1].port: expected {P}, got -1"),
        ({"nodes": [{"host": "a"}]}, f"nodes[0].port: missing, expected {P}"),
        ({"nodes": [{"port": 1}]}, "nodes[0].host: missing, expected a host name or an IP address"),
        ({"nodes": {}}, "nodes: expected a list, got an object"),
        ({"nodes": ["a:80"]}, 'nodes[0]: expected an object, got "a:80"'),
        ({"nodes": [node(active=1)]}, "nodes[0].active: expected true or false, got 1"),
        ({"nodes": [node(priority=1.5)]}, "nodes[0].priority: expected a whole number (-1000000–1000000), got 1.5"),
        ({"timeouts": {"head": 0}}, f"timeouts.head: expected {S}, got 0"),
        ({"timeouts": {"head": -1.5}}, f"timeouts.head: expected {S}, got -1.5"),
        ({"timeouts": {"head": True}}, f"timeouts.head: expected {S}, got true"),
        ({"timeouts": {"head": 1e9}}, f"timeouts.head: expected {S}, got 1000000000.0"),
        ({"timeouts": {"head": 10**60}}, f"timeouts.head: expected {S}, got 1{'0' * 46}…"),
        ('{"timeouts": {"head": NaN}}', "timeouts.head: expected a finite number, got NaN"),
        ('{"timeouts": {"head": -Infinity}}', "timeouts.head: expected a finite number, got -Infinity"),
        ('{"timeouts": {"head": 1e999}}', "timeouts.head: expected a finite number, got 1e999"),
        ('{"auth": [NaN]}', "auth[0]: expected a finite number, got NaN"),
        ('{"port": %s}' % ("9" * 5000), f"port: expected a number of at most 64 digits, got {'9' * 47}…"),
        ({"log": {"level": "loud"}}, None),
        ({"log": {"level": 3}}, None),
        ({"consistency": ["fresh"]}, None),
        ({"api": []}, "api: expected an object, got a list"),
        ({"state-dir": "a\0b"}, 'state-dir: expected a path (without NUL characters), got "a\\x00b"'),
        ('{"host": "\\ud800"}', 'host: expected valid Unicode, got "\\ud800"'),
        ('{"\\ud800": 1}', '["\\ud800"]: the key is not valid Unicode'),
        ({"limits": {"body": 0}}, None),
        ({"health-check": {"url": "info"}}, None),
        ({"health-check": {"url": "/a b"}}, None),
        ({"health-check": {"url": "/a\r\nX: y"}}, None),
        ({"health-check": {"url": "/é"}}, None),
        (
            {"health-check": {"regexp": "("}},
            'health-check.regexp: expected a regular expression of RE2, got "(": missing ): (',
        ),
        (
            {"health-check": {"regexp": "(?=a)"}},
            'health-check.regexp: expected a regular expression of RE2, got "(?=a)": invalid perl operator: (?=',
        ),
        ({"rules": [{"url": "", "as": "read"}]}, None),
        ({"rules": [{"url": "x", "as": "write"}]}, 'rules[0].as: expected one of "read", "update", got "write"'),
        ({"rules": [{"url": "x"}]}, 'rules[0].as: missing, expected one of "read", "update"'),
        ({"rules": [{"url": "x", "as": "read", "method": "A B"}]}, None),
        (
            {"trusted-proxies": ["10.0.0.1/8"]},
            'trusted-proxies[0]: expected an IP address or a network such as "10.0.0.0/8", got "10.0.0.1/8": '
            "did you mean 10.0.0.0/8?",
        ),
        ({"trusted-proxies": ["proxy.example.com"]}, None),
        ({"trusted-proxies": "10.0.0.1"}, 'trusted-proxies: expected a list, got "10.0.0.1"'),
        ({"api": {"hosts": ["a:80"]}}, None),
        ({"api": {"origins": ["*"]}}, None),
        ({"api": {"origins": ["https://a/"]}}, None),
        ({"api": {"origins": ["https://u@a"]}}, None),
        ({"api": {"origins": ["null"]}}, None),
        ({"api": {"origins": ["https://a:0"]}}, None),
        ({"api": {"origins": ["https://a:"]}}, None),
        ({"api": {"origins": ["https://::1"]}}, None),
        ({"host": "224.0.0.1"}, 'host: expected an address to listen on, got "224.0.0.1"'),
        ({"host": ""}, 'host: expected a host name or an IP address, got ""'),
    ],
)
def test_a_fault_names_file_key_and_what_is_wrong(conf: Conf, content: Any, line: str | None) -> None:
    fault = conf.fault(content)
    if line is None:
        assert fault.startswith("spawn.conf: ")
        assert ": expected " in fault
    else:
        assert fault == f"spawn.conf: {line}"


@pytest.mark.parametrize(
    "host",
    [
        *["", " ", "a b", "a..b", "-a", "a-", ".a", "a/b", "a:80", "http://a", "u@a", "é", "127.1", "256.1.1.1", "1"],
        *["0x7f", "0x7f000001", "a.0x1", "01.2.3.4", "[a]", "[10.0.0.1]", "[::1", "::1]", "a\n", "a\0", "x" * 64],
        *["y." * 128, "0.0.0.0", "::", "::ffff:0.0.0.0", "224.0.0.1", "ff02::1", "255.255.255.255"],
    ],
)
def test_a_nodes_host_must_be_one_that_can_be_a_node(conf: Conf, host: str) -> None:
    assert conf.fault({"nodes": [node(host)]}).startswith("spawn.conf: nodes[0].host: expected ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Content-Length", "1"),
        ("transfer-encoding", "x"),
        ("Connection", "x"),
        ("Host", "x"),
        ("Spawn-Sequence", "1"),
        ("Idempotency-Key", "x"),
        ("Via", "x"),
        ("a b", "x"),
        ("a:", "x"),
        ("", "x"),
        ("X", "a\r\nY: z"),
        ("X", "a\0"),
        ("X", " a"),
        ("X", "é"),
    ],
)
def test_set_headers_cannot_break_a_message(conf: Conf, name: str, value: str) -> None:
    fault = conf.fault({"delivery": {"set-headers": {"a:80": {name: value}}}})
    assert fault.startswith('spawn.conf: delivery.set-headers["a:80"]')


@pytest.mark.parametrize(
    ("headers", "at"),
    [
        ("5533771", ""),
        (5533771, ""),
        (["5533771"], ""),
        ({"a:80": "5533771"}, '["a:80"]'),
        ({"a:80": {"Authorization": "5533771\n"}}, '["a:80"].Authorization'),
        ({"a:80": {"Authorization": 5533771}}, '["a:80"].Authorization'),
        ({"a:80": {"Authorization": ["5533771"]}}, '["a:80"].Authorization'),
        ({"a:80": {"Authorization": "5533771\ud800"}}, '["a:80"].Authorization'),
        ({"a:80": {"Authorization": int("5533771" * 10)}}, '["a:80"].Authorization'),
        ({"a:80": {"Authorization: 5533771": ""}}, '["a:80"]["Authorization…"]'),
    ],
)
def test_a_credential_is_never_shown(conf: Conf, headers: Any, at: str) -> None:
    [fault] = conf.faults({"delivery": {"set-headers": headers}})
    assert "5533771" not in fault
    assert fault.startswith(f"spawn.conf: delivery.set-headers{at}: expected ")
    assert fault.endswith("got a value that is not shown")
    for override in ({"delivery.set-headers": headers}, {"delivery": {"set-headers": headers}}):
        with pytest.raises(ConfigError) as caught:
            load(None, override, search=())
        assert "5533771" not in str(caught.value)


@pytest.mark.parametrize("name", ["a", "a:", ":80", "a:0", "a:65536", "::1:80", "0.0.0.0:80", "a:8_0", "a:+80"])
def test_set_headers_are_for_something_that_can_be_a_node(conf: Conf, name: str) -> None:
    fault = conf.fault({"delivery": {"set-headers": {name: {}}}})
    shown = ".a" if name == "a" else f'["{name}"]'
    assert fault.startswith(f"spawn.conf: delivery.set-headers{shown}: expected ")


# Unknown and doubled keys


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ({"prot": 1}, 'prot: unknown key; did you mean "port"?'),
        ({"helth-check": {}}, 'helth-check: unknown key; did you mean "health-check"?'),
        ({"query_mode": {}}, 'query_mode: unknown key; did you mean "query-mode"?'),
        ({"query-mode": {"roundRobin": True}}, 'query-mode.roundRobin: unknown key; did you mean "round-robin"?'),
        ({"Host": "a"}, 'Host: unknown key; did you mean "host"?'),
        ({"testmode": True}, 'testmode: unknown key; did you mean "testMode"?'),
        ({"max-bytes": 1}, 'max-bytes: unknown key; "max-bytes" belongs in "journal"'),
        ({"roundRobin": True}, 'roundRobin: unknown key; "round-robin" belongs in "query-mode"'),
        ({"timeouts": {"lag": 1}}, 'timeouts.lag: unknown key; "lag" belongs in "limits"'),
        ({"api": {"consistency": "any"}}, 'api.consistency: unknown key; "consistency" belongs in the top level'),
        ({"journal": {"timeouts": {}}}, 'journal.timeouts: unknown key; "timeouts" belongs in the top level'),
        ({"api.port": 1}, '["api.port"]: unknown key; write it as "port" inside of "api"'),
        ({"query-mode": {"xyz": 1}}, "query-mode.xyz: unknown key; valid here: round-robin, by-priority"),
        ({"nodes": [node(weight=1)]}, None),
        ({"a\nb": 1}, None),
    ],
)
def test_an_unknown_key_comes_with_the_nearest_valid_one(conf: Conf, content: Any, line: str | None) -> None:
    fault = conf.fault(content)
    assert "unknown key; " in fault
    if line is not None:
        assert fault == f"spawn.conf: {line}"


@pytest.mark.parametrize(
    ("content", "path"),
    [
        ('{"port": 1, "host": "a", "port": 1}', "port"),
        ('{"api": {"port": 1, "port": 1, "port": 3}}', "api.port"),
        ('{"nodes": [{"host": "a", "port": 80, "host": "b"}]}', "nodes[0].host"),
        ('{"auth": {"a": {"b": 1, "b": 1}}}', "auth.a.b"),
        ('{"port": 1, "p\\u006frt": 1}', "port"),
    ],
)
def test_a_key_given_twice_is_a_fault_anywhere(conf: Conf, content: str, path: str) -> None:
    assert conf.fault(content) == f"spawn.conf: {path}: the key is given more than once"


# Values that do not fit each other


@pytest.mark.parametrize(
    ("host", "api_host", "collide"),
    [
        ("0.0.0.0", "127.0.0.1", True),
        ("::", "127.0.0.1", True),
        ("0.0.0.0", "::1", False),
        ("127.0.0.1", "localhost", True),
        ("LOCALHOST", "localhost.", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("127.0.0.1", "127.0.0.2", False),
        ("10.0.0.1", "::ffff:10.0.0.1", True),
    ],
)
def test_proxy_and_api_need_a_port_each_on_the_same_host(conf: Conf, host: str, api_host: str, collide: bool) -> None:
    content = {"host": host, "port": 9000, "api": {"host": api_host, "port": 9000}}
    if collide:
        assert conf.fault(content) == "spawn.conf: api.port: the proxy and the API cannot both listen on port 9000"
    else:
        conf.load(content)


@pytest.mark.parametrize(
    ("one", "other"),
    [("a", "A"), ("a", "a."), ("::1", "[0::1]"), ("10.0.0.1", "::ffff:10.0.0.1")],
)
def test_two_equal_nodes_are_a_fault(conf: Conf, one: str, other: str) -> None:
    fault = conf.fault({"nodes": [node(one), node("x"), node(other)]})
    assert fault.startswith("spawn.conf: nodes[2]: the same node as nodes[0] (")


def test_one_host_may_run_two_nodes(conf: Conf) -> None:
    assert len(conf.load({"nodes": [node("a", 1), node("a", 2)]}).nodes) == 2


@pytest.mark.parametrize(
    ("host", "port", "own"),
    [
        ("127.0.0.1", 7117, "proxy"),
        ("localhost", 7117, "proxy"),
        ("127.0.0.9", 7117, "proxy"),
        ("::1", 7117, "proxy"),
        ("::ffff:127.0.0.1", 7117, "proxy"),
        ("127.0.0.1", 7118, "API"),
        ("localhost", 7118, "API"),
        ("127.0.0.2", 7118, None),
        ("10.0.0.1", 7117, None),
        ("127.0.0.1", 7119, None),
    ],
)
def test_spawn_is_not_its_own_node(conf: Conf, host: str, port: int, own: str | None) -> None:
    content = {"nodes": [node(host, port)]}
    if own:
        assert conf.fault(content).endswith(f":{port} is Spawn's own {own} port")
    else:
        conf.load(content)


def test_a_node_on_the_listeners_own_name_is_spawn_itself(conf: Conf) -> None:
    content = {"host": "spawn.example.com", "nodes": [node("Spawn.Example.com", 7117)]}
    assert conf.fault(content) == "spawn.conf: nodes[0]: Spawn.Example.com:7117 is Spawn's own proxy port"


# All at once


def test_every_fault_is_told_in_one_go_with_those_of_the_flags(conf: Conf) -> None:
    content = """{"port": "x", "prot": 1, "log": {"level": "loud"}, "log": {"level": "loud"},
        "nodes": [{"host": "a", "port": 80}, {"host": "A", "port": 80}, {"host": "b"}], "api": 5}"""
    faults = conf.faults(content, {"api.port": "abc", "query-mode.round-robin": True, "health-check.seconds": "-1"})
    assert [line.split(": ")[:2] for line in faults] == [
        ["spawn.conf", "log"],
        ["spawn.conf", "port"],
        ["spawn.conf", "prot"],
        ["spawn.conf", "log.level"],
        ["spawn.conf", "nodes[2].port"],
        ["spawn.conf", "api"],
        ["--api-port", "'abc' is not a port number (1–65535)"],
        ["--check-sec", "'-1' is not a number of seconds (0.01–86400)"],
        ["spawn.conf", "nodes[1]"],
    ]


def test_a_bad_value_takes_part_in_no_further_fault(conf: Conf) -> None:
    assert len(conf.faults({"port": 0, "nodes": [node("127.0.0.1", 7117)]})) == 1
    assert len(conf.faults({"nodes": [node("a", 0), node("a", 0)]})) == 2


# Flags


def test_flags_override_the_file(conf: Conf) -> None:
    overrides: dict[str, object] = {
        "host": "::1",
        "port": "8001",
        "api.host": "localhost",
        "api.port": "8002",
        "query-mode.round-robin": True,
        "query-mode.by-priority": "yes",
        "health-check.seconds": "2.5",
        "health-check.url": "/up",
        "health-check.regexp": "^ok$",
        "state-dir": "/var/tmp/x",
    }
    config = load(conf.write(SEED), overrides).config
    assert (config.host, config.port, config.api.host, config.api.port) == ("::1", 8001, "localhost", 8002)
    assert config.query_mode.round_robin
    assert config.query_mode.by_priority
    assert (config.health_check.seconds, config.health_check.url, config.health_check.regexp) == (2.5, "/up", "^ok$")
    assert config.state_dir == "/var/tmp/x"
    assert config.health_check.timeout == 3.0
    assert len(config.nodes) == 3


def test_a_flag_that_was_not_given_overrides_nothing(conf: Conf) -> None:
    assert load(conf.write({"port": 5}), {"port": None}).config.port == 5


def test_false_is_a_value(conf: Conf) -> None:
    content = {"query-mode": {"round-robin": True, "by-priority": True}}
    config = load(conf.write(content), {"query-mode.round-robin": False}).config
    assert not config.query_mode.round_robin
    assert config.query_mode.by_priority


def test_typed_overrides_are_checked_as_well(conf: Conf) -> None:
    config = load(conf.write({}), {"port": 5, "nodes": [node()], "trusted-proxies": ("::1",)}).config
    assert (config.port, config.nodes[0].host, config.trusted_proxies) == (5, "a", ("::1/128",))
    for overrides in ({"port": 0}, {"port": 10**5000}, {"port": object()}, {"nodes": [node("")]}):
        with pytest.raises(ConfigError):
            load(conf.write({}), overrides)


def test_every_flag_names_a_key_of_the_schema() -> None:
    assert all(find(key.split(".")) for key in FLAGS.values())


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("port", "abc", "--port: 'abc' is not a port number (1–65535)"),
        ("port", "0x50", "--port: '0x50' is not a port number (1–65535)"),
        ("port", "", "--port: '' is not a port number (1–65535)"),
        ("port", "70000", "--port: '70000' is not a port number (1–65535)"),
        ("port", "９", "--port: '９' is not a port number (1–65535)"),
        ("port", "9" * 5000, f"--port: '{'9' * 47}…' is not a port number (1–65535)"),
        ("host", "a b", "--host: 'a b' is not a host name or an IP address"),
        ("host", "\udcff", "--host: '\\udcff' is not valid Unicode"),
        ("health-check.seconds", "nan", "--check-sec: 'nan' is not a number of seconds (0.01–86400)"),
        ("health-check.regexp", "a\n(", "--check-regexp: 'a\\n(' is not a regular expression of RE2: missing ): a\\n("),
        ("query-mode.round-robin", "maybe", "--round-robin: 'maybe' is not true or false"),
        ("log.level", "x", None),
        ("api", "x", "--api: 'x' is not an object"),
        ("nope.nope", "x", "--nope-nope: there is no setting nope.nope"),
        ("api.port", "7117", "--api-port: the proxy and the API cannot both listen on port 7117"),
        ("port", "7118", "--port: the proxy and the API cannot both listen on port 7118"),
    ],
)
def test_a_fault_of_a_flag_names_the_flag(conf: Conf, key: str, value: str, line: str | None) -> None:
    fault = conf.fault({}, {key: value})
    if line is not None:
        assert fault == line


def test_a_relative_state_directory_of_a_flag_is_relative_to_the_working_directory(
    conf: Conf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    assert load(conf.write({}), {"state-dir": "x"}).config.state_dir == "/x"


# Warnings


def test_what_has_no_effect_or_is_hardly_meant_is_warned_of(conf: Conf) -> None:
    content = {
        "testMode": True,
        "auth": {"user": "x"},
        "trusted-proxies": ["0.0.0.0/0", "::1"],
        "delivery": {"set-headers": {"gone:80": {"X": "y"}, "a:80": {"X": "y"}}},
        "nodes": [node()],
        "rules": [{"url": "x", "as": "read", "method": "post"}],
    }
    assert conf.warnings(content) == [
        "spawn.conf: testMode: accepted because the original knew it; it has no effect yet",
        "spawn.conf: auth: accepted because the original knew it; it has no effect yet",
        'spawn.conf: delivery.set-headers["gone:80"]: names no node of this file; used once such a node is added',
        "spawn.conf: trusted-proxies[0]: every client is believed about its X-Forwarded-* headers",
        'spawn.conf: rules[0].method: methods are case-sensitive; "POST" is probably meant',
    ]


# The state directory


def test_the_state_directory_follows_the_user(tmp_path: Path) -> None:
    home = {"HOME": "/home/u"}
    assert default_state_dir(Config(state_dir="/x"), 0, {}) == "/x"
    assert default_state_dir(Config(), 0, home) == "/var/lib/spawn"
    assert default_state_dir(Config(), 1000, home) == "/home/u/.local/state/spawn"
    assert default_state_dir(Config(), 1000, {"XDG_STATE_HOME": "/s", **home}) == "/s/spawn"
    assert default_state_dir(Config(), 1000, {"XDG_STATE_HOME": "s", **home}) == "/home/u/.local/state/spawn"


# Anything at all

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(0, 70_000)
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["", "a", "::1", "127.0.0.1", "/", "(", "POST", "read", "\ud800", "\x00", "10.0.0.0/8", "a:80"])
)
KEYS = st.sampled_from(sorted({part.removesuffix("[]") for path, _ in leaves() for part in path.split(".")})) | st.text(
    max_size=8
)
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6), max_leaves=30
)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """Objects whose keys are mostly right and whose values are mostly not."""
    document: dict[str, Any] = {}
    for path, _ in draw(st.lists(st.sampled_from(list(leaves())), max_size=8)):
        target: Any = document
        *sections, key = path.split(".")
        for section in sections:
            if section.endswith("[]"):
                target = target.setdefault(section[:-2], [{}])[0]
            else:
                target = target.setdefault(section, {})
        target[key] = draw(ANYTHING)
    return document


def assert_config_or_lines(path: Path, flags: dict[str, Any]) -> None:
    lines = None
    try:
        assert isinstance(load(str(path), flags).config, Config)
    except ConfigError as error:
        lines = error.faults
    assert lines is None or (lines and all(line.isprintable() and len(line) < 2_000 for line in lines))


@settings(deadline=None, max_examples=300)
@given(content=ANYTHING | documents(), flags=st.dictionaries(st.sampled_from(list(FLAGS.values())), SCALARS))
def test_no_json_gives_anything_but_a_config_or_its_faults(
    tmp_path_factory: pytest.TempPathFactory, content: Any, flags: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("any") / "spawn.conf"
    path.write_text(json.dumps(content))
    assert_config_or_lines(path, flags)


@settings(deadline=None, max_examples=200)
@given(data=st.binary(max_size=40) | st.text(alphabet='{}[]",:0e-.\\u\n tnN', max_size=30).map(str.encode))
def test_no_bytes_give_anything_but_a_config_or_its_faults(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("bytes") / "spawn.conf"
    path.write_bytes(data)
    assert_config_or_lines(path, {})


def test_a_bad_pattern_prints_nothing_and_gevent_stays_out(conf: Conf) -> None:
    program = (
        "import sys; from spawn.config import load; from spawn.errors import ConfigError\n"
        "try: load(sys.argv[1])\n"
        "except ConfigError: pass\n"
        "assert not any(name.partition('.')[0] == 'gevent' for name in sys.modules)"
    )
    path = conf.write({"health-check": {"regexp": "("}})
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.skipif(os.geteuid() != 0, reason="it is root who would be taken in")
@pytest.mark.parametrize(("owner", "mode"), [(54_321, 0o644), (0, 0o646)])
def test_root_does_not_take_what_others_left_in_a_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: int, mode: int
) -> None:
    """It could name any file as its log."""
    planted = tmp_path / "spawn.conf"
    planted.write_text('{"port": 7}')
    planted.chmod(mode)
    os.chown(planted, owner, 0)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load(None)
    [line] = caught.value.faults
    assert "name it, with --config=spawn.conf, if meant" in line
    assert load("spawn.conf").config.port == 7
    os.chown(planted, 0, 0)
    planted.chmod(0o644)
    assert load(None).config.port == 7
