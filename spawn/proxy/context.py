"""What reads and updates share: the cluster they work on, and the settings a reload may replace."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from spawn.config.schema import Config, Limits, Timeouts
from spawn.counters import Counters
from spawn.delivery.answers import ReferenceBoard
from spawn.delivery.fleet import Fleet
from spawn.delivery.freshness import Freshness
from spawn.delivery.retention import Retention
from spawn.http11.client import Client
from spawn.http11.forwarding import TrustedProxies
from spawn.http11.spool import Spool
from spawn.journal.base import Journal
from spawn.nodes.balance import Balancer
from spawn.nodes.registry import Registry
from spawn.proxy.bodies import Room
from spawn.proxy.rules import Classifier


@dataclass(slots=True)
class ProxySettings:
    """Replaced as a whole; a request takes the object once, so that it never sees two versions."""

    classifier: Classifier
    consistency: Literal["fresh", "any", "strict"]
    isolate_diverged: bool
    trusted: TrustedProxies
    timeouts: Timeouts
    limits: Limits
    set_headers: Mapping[str, Mapping[str, str]]  # per node, replaced in what it is sent

    @classmethod
    def of(cls, config: Config) -> ProxySettings:
        return cls(
            classifier=Classifier(config.rules),
            consistency=config.consistency,
            isolate_diverged=config.on_divergence == "isolate",
            trusted=TrustedProxies(config.trusted_proxies),
            timeouts=config.timeouts,
            limits=config.limits,
            set_headers=config.delivery.set_headers,
        )


@dataclass(slots=True)
class Cluster:
    """The parts of the service that a request travels through."""

    journal: Journal
    registry: Registry
    fleet: Fleet
    board: ReferenceBoard
    freshness: Freshness
    balancer: Balancer
    client: Client
    retention: Retention
    counters: Counters
    via: bytes
    make_spool: Callable[[], Spool]
    room: Room
