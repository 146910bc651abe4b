"""The configuration as frozen values: every key, its type and its default, with the reason beside the default.

The structs hold no behaviour. ``spawn.config.load`` fills them from a file and flags and checks what types cannot say.
Durations are seconds, sizes are bytes.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """The base of all sections: immutable, kebab-case keys, unknown keys refused."""


class ApiConfig(Section):
    """The admin API's listener."""

    host: str = "127.0.0.1"  # it has no access control, so it is not offered to the network unasked
    port: int = 7118
    hosts: tuple[str, ...] = ()  # further names accepted in a Host header (DNS rebinding)
    origins: tuple[str, ...] = ()  # origins that get CORS headers and may change state from a browser


class QueryMode(Section):
    """How a node is chosen for a read; see docs/configuration.md for the four combinations."""

    round_robin: bool = False
    by_priority: bool = False


class HealthCheckConfig(Section):
    """When a node counts as alive."""

    seconds: float = 10.0
    url: str = "/"
    regexp: str = ""  # empty: any answer below 500 will do
    timeout: float = 3.0
    fall: int = 3  # failed checks in a row before a node is down (a refused connection is down at once)
    rise: int = 1  # good checks in a row before it is up again


class NodeConfig(Section):
    """One copy of the application."""

    host: str
    port: int
    priority: int = 0
    active: bool = True  # a node that somebody wrote into the file is meant to be used
    maintenance: bool = False


class RuleConfig(Section):
    """An exception from the classification by method; the first matching rule wins."""

    url: str
    as_: Literal["read", "update"] = msgspec.field(name="as")
    method: str = ""  # empty: any method


class LogConfig(Section):
    level: Literal["debug", "info", "warning", "error", "critical"] = "info"
    format: Literal["text", "json"] = "text"
    file: str = ""  # empty: standard error
    access: bool = False  # one line per request is dear, and the application usually has its own


class Timeouts(Section):
    """Deadlines in seconds. Each starts when the wait it bounds starts."""

    head: float = 10.0  # a client has this long to send a complete request head
    body: float = 30.0  # longest pause in a request body; after this long it must also average 500 B/s
    idle: float = 75.0  # a kept-alive client connection without a request
    send: float = 30.0  # a client that takes nothing of its answer for this long is closed
    connect: float = 3.0  # connecting to a node
    read: float = 60.0  # a node's answer to a read: pause before its head or between its bytes
    deliver: float = 60.0  # the same for a delivery of an update
    answer: float = 10.0  # a client of an update waits this long for a node's answer, then gets 202
    agree: float = 1.0  # how long a 4xx waits for something better from another node
    fresh: float = 1.0  # how long a read waits for a node that is fresh enough
    shutdown: float = 30.0  # a stop may take this long


class Limits(Section):
    head: int = 65_536  # bytes of a request head
    headers: int = 100
    body: int = 1_073_741_824  # bytes of a request body
    answer: int = 1_073_741_824  # bytes of a node's answer to an update that are kept for its client
    connections: int = 10_000  # client connections on the proxy port
    lag: int = 100_000  # updates; further behind than this on every serving node: 503


class JournalConfig(Section):
    durability: Literal["fsync", "none"] = "fsync"
    max_bytes: int = 10_737_418_240
    retain: float = 86_400.0  # seconds that the outcomes of an update stay readable


class DeliveryConfig(Section):
    ambiguous: Literal["resend", "hold", "skip"] = "resend"  # a non-idempotent update of unknown fate
    attempts: int = 5  # disagreeing answers before the node has refused the update
    attempts_uncertain: int = 20  # unknown or not-now outcomes of a healthy node before the same
    catch_up_rate: float = 0.0  # updates per second and node; 0: as fast as it goes
    set_headers: dict[str, dict[str, str]] = {}  # "host:port" of a node → headers replaced in what it is sent


class Config(Section):
    """The whole configuration. Field names are the file's keys in snake case."""

    host: str = "0.0.0.0"
    port: int = 7117
    api: ApiConfig = ApiConfig()
    query_mode: QueryMode = QueryMode()
    health_check: HealthCheckConfig = HealthCheckConfig()
    nodes: tuple[NodeConfig, ...] = ()
    state_dir: str = ""  # empty: /var/lib/spawn for root, else the XDG state directory
    rules: tuple[RuleConfig, ...] = ()
    consistency: Literal["fresh", "any", "strict"] = "fresh"
    trusted_proxies: tuple[str, ...] = ()  # addresses or networks whose X-Forwarded-* are believed
    on_divergence: Literal["alert", "isolate"] = "alert"
    log: LogConfig = LogConfig()
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()
    journal: JournalConfig = JournalConfig()
    delivery: DeliveryConfig = DeliveryConfig()
    # Keys of the original's later releases: accepted with a warning, without effect.
    test_mode: Any = msgspec.field(name="testMode", default=None)
    auth: Any = None
