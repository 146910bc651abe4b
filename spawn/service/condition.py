"""How the service is, in the words of ``/health``, of the log and of ``systemctl status``.

Read-only but for ``Condition``, whose fields ``compose`` sets as it starts and stops. Every text here is one line and
may be made at any time, also before anything is built and after all of it has stopped.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import spawn
from spawn.config.schema import Config
from spawn.nodes.node import Node, NodeState

log = logging.getLogger("spawn.service")

Address = tuple[str, int]
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(slots=True)
class Condition:
    """Where a service is between its start and its end."""

    phase: str = "starting"  # starting → serving → stopping → stopped
    step: str = ""  # of a start or a stop, for people
    broken: str = ""  # why nothing can be promised any more

    def health(self) -> tuple[bool, str]:
        """Whether requests are served, and in a few words why (not)."""
        if self.broken:
            return False, self.broken
        return self.phase == "serving", self.phase

    def status(self) -> str:
        """What can be said of it while it does not serve."""
        if self.broken:
            return f"{self.phase}: the journal has failed: {self.broken}"
        return f"{self.phase}: {self.step}" if self.step and self.phase != "stopped" else self.phase


def serving_status(proxy: Address, api: Address, nodes: Sequence[Node], head: int) -> str:
    """How a service is that serves."""
    said = [f"{_serving(nodes)} nodes serving", f"journal at update {head}"]
    out_of_sync = sum(node.record.active and node.out_of_sync for node in nodes)
    if out_of_sync:
        said.append(f"{out_of_sync} out of sync")
    behind = [(head - node.position, node.name) for node in nodes if node.record.active and not node.out_of_sync]
    backlog, name = max(behind, default=(0, ""))
    if backlog:
        said.append(f"largest backlog {backlog} ({name})")
    return f"serving on {authority(proxy)}, API on {authority(api)}; {', '.join(said)}"


def announce(config: Config, proxy: Address, api: Address, nodes: Sequence[Node], head: int) -> None:
    """Log that the service is ready, and what an operator should know of that."""
    log.info(
        "Spawn %s%s serves on %s, its API on %s; %s nodes are serving, the journal is at update %d",
        spawn.__version__,
        " (compiled)" if spawn.COMPILED else "",
        authority(proxy),
        authority(api),
        _serving(nodes),
        head,
    )
    if config.api.host not in LOOPBACK:
        log.warning(
            "the API listens on %s and has no access control: whoever reaches it can change the nodes; "
            "set api.host to 127.0.0.1 or keep others away with a firewall",
            config.api.host,
        )
    if not nodes:
        log.warning("no nodes are configured: add some with PUT /nodes/HOST/PORT or in the configuration file")


def _serving(nodes: Sequence[Node]) -> str:
    return f"{sum(node.state is NodeState.SERVING for node in nodes)} of {len(nodes)}"


def authority(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
