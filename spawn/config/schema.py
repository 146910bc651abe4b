"""The configuration as frozen values: every key, its type, its range and its default, with the reason beside it.

The structs hold no behaviour. ``spawn.config.load`` fills them from a file and flags; it derives keys, types and
ranges from here, so that there is one list of them. ``Meta.extra`` carries what msgspec has no word for: ``noun`` is
how a fault calls the value, ``kind`` names the check in ``spawn.config.kinds`` that a string has to pass.
Durations are seconds, sizes are bytes. Building a struct in Python checks nothing (tests use port 0 that way).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from spawn.config.addresses import authority

Port = Annotated[int, Meta(ge=1, le=65_535, extra={"noun": "a port number"})]
Count = Annotated[int, Meta(ge=1, le=1_000_000, extra={"noun": "a whole number"})]
Amount = Annotated[int, Meta(ge=1, le=1_000_000_000, extra={"noun": "a whole number"})]
HeadBytes = Annotated[int, Meta(ge=256, le=16_777_216, extra={"noun": "a number of bytes"})]
Bytes = Annotated[int, Meta(ge=1, le=1_125_899_906_842_624, extra={"noun": "a number of bytes"})]
JournalBytes = Annotated[int, Meta(ge=65_536, le=1_125_899_906_842_624, extra={"noun": "a number of bytes"})]
Priority = Annotated[int, Meta(ge=-1_000_000, le=1_000_000, extra={"noun": "a whole number"})]
Seconds = Annotated[float, Meta(gt=0, le=86_400, extra={"noun": "a number of seconds"})]
SecondsOrNone = Annotated[float, Meta(ge=0, le=86_400, extra={"noun": "a number of seconds"})]  # 0: do not wait
Interval = Annotated[float, Meta(ge=0.01, le=86_400, extra={"noun": "a number of seconds"})]
Age = Annotated[float, Meta(ge=0, le=3_153_600_000, extra={"noun": "a number of seconds"})]
Rate = Annotated[float, Meta(ge=0, le=1_000_000, extra={"noun": "a number of updates per second"})]

ListenerHost = Annotated[str, Meta(extra={"kind": "listener-host"})]
NodeHost = Annotated[str, Meta(extra={"kind": "node-host"})]
AcceptedHost = Annotated[str, Meta(extra={"kind": "accepted-host"})]
Origin = Annotated[str, Meta(extra={"kind": "origin"})]
Network = Annotated[str, Meta(extra={"kind": "network"})]
CheckUrl = Annotated[str, Meta(extra={"kind": "check-url"})]
Pattern = Annotated[str, Meta(extra={"kind": "pattern"})]
PatternOrNone = Annotated[str, Meta(extra={"kind": "pattern-or-none"})]
Method = Annotated[str, Meta(extra={"kind": "method"})]
FilePath = Annotated[str, Meta(extra={"kind": "path"})]
NodeAuthority = Annotated[str, Meta(extra={"kind": "authority"})]
HeaderName = Annotated[str, Meta(extra={"kind": "header-name"})]
HeaderValue = Annotated[str, Meta(extra={"kind": "header-value"})]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """The base of all sections: immutable, kebab-case keys, unknown keys refused."""


class ApiConfig(Section, frozen=True, kw_only=True):
    """The admin API's listener."""

    host: ListenerHost = "127.0.0.1"  # it has no access control, so it is not offered to the network unasked
    port: Port = 7118
    hosts: tuple[AcceptedHost, ...] = ()  # further names accepted in a Host header (DNS rebinding)
    origins: tuple[Origin, ...] = ()  # origins that get CORS headers and may change state from a browser


class QueryMode(Section, frozen=True, kw_only=True):
    """How a node is chosen for a read; see docs/configuration.md for the four combinations."""

    round_robin: bool = False
    by_priority: bool = False


class HealthCheckConfig(Section, frozen=True, kw_only=True):
    """When a node counts as alive."""

    seconds: Interval = 10.0
    url: CheckUrl = "/"
    regexp: PatternOrNone = ""  # empty: any answer below 500 will do
    timeout: Seconds = 3.0
    fall: Count = 3  # failed checks in a row before a node is down (a refused connection is down at once)
    rise: Count = 1  # good checks in a row before it is up again


class NodeConfig(Section, frozen=True, kw_only=True):
    """One copy of the application."""

    host: NodeHost
    port: Port
    priority: Priority = 0
    active: bool = True  # a node that somebody wrote into the file is meant to be used
    maintenance: bool = False

    @property
    def authority(self) -> str:
        """``host:port``, an IPv6 address in brackets."""
        return authority(self.host, self.port)


class RuleConfig(Section, frozen=True, kw_only=True):
    """An exception from the classification by method; the first matching rule wins."""

    url: Pattern
    as_: Literal["read", "update"] = msgspec.field(name="as")
    method: Method = ""  # empty: any method


class LogConfig(Section, frozen=True, kw_only=True):
    """Where the service's own log lines go and what they look like."""

    level: Literal["debug", "info", "warning", "error", "critical"] = "info"
    format: Literal["text", "json"] = "text"
    file: FilePath = ""  # empty: standard error
    access: bool = False  # one line per request is dear, and the application usually has its own


class Timeouts(Section, frozen=True, kw_only=True):
    """Deadlines in seconds. Each starts when the wait it bounds starts."""

    head: Seconds = 10.0  # a client has this long to send a complete request head
    body: Seconds = 30.0  # longest pause in a request body; after this long it must also average 500 B/s
    idle: Seconds = 75.0  # a kept-alive client connection without a request
    send: Seconds = 30.0  # a client that takes nothing of its answer for this long is closed
    connect: Seconds = 3.0  # connecting to a node
    read: Seconds = 60.0  # a node's answer to a read: pause before its head or between its bytes
    deliver: Seconds = 60.0  # the same for a delivery of an update
    answer: Seconds = 10.0  # a client of an update waits this long for a node's answer, then gets 202
    agree: SecondsOrNone = 1.0  # how long a 4xx waits for something better from another node
    fresh: SecondsOrNone = 1.0  # how long a read waits for a node that is fresh enough
    shutdown: Seconds = 30.0  # a stop may take this long


class Limits(Section, frozen=True, kw_only=True):
    """What is refused with a clear status instead of taken."""

    head: HeadBytes = 65_536  # bytes of a request head
    headers: Count = 100
    body: Bytes = 1_073_741_824  # bytes of a request body
    answer: Bytes = 1_073_741_824  # bytes of a node's answer to an update that are kept for its client
    connections: Count = 10_000  # client connections on the proxy port
    lag: Amount = 100_000  # updates; further behind than this on every serving node: 503


class JournalConfig(Section, frozen=True, kw_only=True):
    """The log of updates."""

    durability: Literal["fsync", "none"] = "fsync"
    max_bytes: JournalBytes = 10_737_418_240
    retain: Age = 86_400.0  # seconds that the outcomes of an update stay readable


class DeliveryConfig(Section, frozen=True, kw_only=True):
    """How updates are brought to the nodes."""

    ambiguous: Literal["resend", "hold", "skip"] = "resend"  # a non-idempotent update of unknown fate
    attempts: Count = 5  # disagreeing answers before the node has refused the update
    attempts_uncertain: Count = 20  # unknown or not-now outcomes of a healthy node before the same
    outage: SecondsOrNone = 3600.0  # so long nothing is given up while no node answers anything else either
    catch_up_rate: Rate = 0.0  # updates per second and node; 0: as fast as it goes
    # "host:port" of a node → headers replaced in what it is sent; credentials, so no fault shows what is written here
    set_headers: dict[NodeAuthority, dict[HeaderName, HeaderValue]] = {}


class Config(Section, frozen=True, kw_only=True):
    """The whole configuration. Field names are the file's keys in snake case."""

    host: ListenerHost = "0.0.0.0"
    port: Port = 7117
    api: ApiConfig = ApiConfig()
    query_mode: QueryMode = QueryMode()
    health_check: HealthCheckConfig = HealthCheckConfig()
    nodes: tuple[NodeConfig, ...] = ()
    state_dir: FilePath = ""  # empty: /var/lib/spawn for root, else the XDG state directory
    rules: tuple[RuleConfig, ...] = ()
    consistency: Literal["fresh", "any", "strict"] = "fresh"
    trusted_proxies: tuple[Network, ...] = ()  # addresses or networks whose X-Forwarded-* are believed
    on_divergence: Literal["alert", "isolate"] = "alert"
    log: LogConfig = LogConfig()
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()
    journal: JournalConfig = JournalConfig()
    delivery: DeliveryConfig = DeliveryConfig()
    # Keys of the original's later releases: accepted with a warning, without effect (as is every key of type Any).
    test_mode: Any = msgspec.field(name="testMode", default=None)
    auth: Any = None
