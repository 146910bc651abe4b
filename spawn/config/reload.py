"""What a configuration read again changes: what takes effect at once, what only a restart brings, which nodes are new.

Pure: who applies it is the service's business. A key is *live* when it is listed here, so a new key needs a restart
until somebody has seen to it that it does not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import msgspec

from spawn.config.addresses import host_key
from spawn.config.schema import Config, NodeConfig, Section

# What a running service takes over, each as one piece: a key, or a section with all its keys.
LIVE = (
    "query-mode",
    "health-check",
    "rules",
    "consistency",
    "trusted-proxies",
    "on-divergence",
    "log.level",
    "log.access",
    "timeouts",
    "limits",
    "delivery",
)
# Nodes follow rules of their own, and the keys without effect have none after a change either.
_APART = ("nodes", "testMode", "auth")


@dataclass(frozen=True, slots=True)
class Reload:
    """The outcome of reading the configuration again."""

    live: tuple[str, ...] = ()  # members of LIVE that changed, in its order
    restart: tuple[str, ...] = ()  # changed keys that wait for a restart, dotted, in the schema's order
    new_nodes: tuple[NodeConfig, ...] = ()  # named by the file now and not when it was last read

    def __bool__(self) -> bool:
        return bool(self.live or self.restart or self.new_nodes)


def changes(old: Config, new: Config, seen: Collection[str] | None = None) -> Reload:
    """Compare two configurations.

    ``seen`` holds the authorities (``host:port``) the file named when it was last read, None: those of ``old``. A node
    among them is not new even if an operator has deleted it since. A node whose other fields changed is not new either.
    """
    changed = list(changed_keys(old, new))
    live = tuple(slice_ for slice_ in LIVE if any(_within(key, slice_) for key in changed))
    restart = tuple(key for key in changed if not is_live(key) and key not in _APART)
    known = {_authority_key(name) for name in (seen if seen is not None else [node.authority for node in old.nodes])}
    fresh = tuple(node for node in new.nodes if _authority_key(node.authority) not in known)
    return Reload(live, restart, fresh)


def is_live(key: str) -> bool:
    """Whether a change of the dotted key takes effect without a restart."""
    return any(_within(key, slice_) for slice_ in LIVE)


def changed_keys(old: Section, new: Section, prefix: str = "") -> Iterator[str]:
    """Dotted kebab-case paths of the values that differ; lists and maps count as one value."""
    for field in msgspec.structs.fields(old):
        before, after = getattr(old, field.name), getattr(new, field.name)
        path = f"{prefix}{field.encode_name}"
        if isinstance(before, Section) and isinstance(after, Section):
            yield from changed_keys(before, after, f"{path}.")
        elif before != after:
            yield path


def _within(key: str, slice_: str) -> bool:
    return key == slice_ or key.startswith(f"{slice_}.")


def _authority_key(name: str) -> tuple[str, str]:
    host, _, port = name.rpartition(":")
    return host_key(host), port
