"""Spawn: a fail-over cluster out of N copies of an HTTP application that cannot be clustered.

The package is lazy on purpose: importing ``spawn`` (or ``spawn.config``) must not touch gevent, because the command
forks into the background after it has read its configuration, and a gevent hub does not survive a fork.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spawn.config import Config
    from spawn.service import Service

    COMPILED: bool  # whether what requests run through is compiled by mypyc (README.md)

__all__ = ["COMPILED", "Config", "Service", "__version__"]
__version__ = "1.0.0"
__date__ = "2026-11-23"  # of the release


def __getattr__(name: str) -> Any:
    """Import the public names when they are first used (PEP 562)."""
    if name == "COMPILED":
        from spawn import counters

        return not counters.__file__.endswith(".py")
    if name == "Config":
        from spawn.config import Config

        return Config
    if name == "Service":
        from spawn.service import Service

        return Service
    raise AttributeError(f"module 'spawn' has no attribute {name!r}")
