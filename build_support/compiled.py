"""Spawn compiled by mypyc, from the same source: which modules, and how they become extension modules.

Only when asked for by ``SPAWN_COMPILE=1``, and only for a wheel: extension modules beside source that is edited would
win over it without a word.
"""

from __future__ import annotations

import ast
import os
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Any

REQUIREMENTS = ("mypy[mypyc]>=2.4,<3", "types-gevent>=25.9", "msgspec")  # the latter two for their types

# What every request and every delivery runs through, as one group: calls within it cost next to nothing, and what is
# not measured in a request's time is not worth a compiler. Not compiled are
#
# * what waits for the kernel, threads or disks and decides little (server, binding, resolver, threads, journal.sqlite),
#   what runs a few times a second (health, journal.pruning, admin, service) or once (config), what is for an operator
#   or when something goes wrong (delivery.changes, report, retries);
# * modules of pure data, where a class of Python does as well, and where a struct would lose its options (message,
#   field, nodes.node, journal.base, journal.page, delivery.types), and those that subclass C types of others.
MODULES = (
    "spawn.counters",
    "spawn.http11.bodies",
    "spawn.http11.channel",
    "spawn.http11.client",
    "spawn.http11.connection",
    "spawn.http11.deadlines",
    "spawn.http11.exchange",
    "spawn.http11.fairness",
    "spawn.http11.fields",
    "spawn.http11.forwarding",
    "spawn.http11.outgoing",
    "spawn.http11.progress",
    "spawn.http11.readiness",
    "spawn.http11.serving",
    "spawn.http11.spool",
    "spawn.http11.transaction",
    "spawn.http11.wire",
    "spawn.latch",
    "spawn.journal.accounting",
    "spawn.journal.checksums",
    "spawn.journal.committer",
    "spawn.journal.database",
    "spawn.journal.notes",
    "spawn.journal.stamps",
    "spawn.nodes.balance",
    "spawn.delivery.answers",
    "spawn.delivery.attempt",
    "spawn.delivery.declarations",
    "spawn.delivery.electorate",
    "spawn.delivery.feed",
    "spawn.delivery.fleet",
    "spawn.delivery.freshness",
    "spawn.delivery.outage",
    "spawn.delivery.outgoing",
    "spawn.delivery.pace",
    "spawn.delivery.policy",
    "spawn.delivery.skips",
    "spawn.delivery.worker",
    "spawn.proxy.bodies",
    "spawn.proxy.context",
    "spawn.proxy.handler",
    "spawn.proxy.reads",
    "spawn.proxy.rules",
    "spawn.proxy.turnedaway",
    "spawn.proxy.updates",
)

# Commands of setuptools that leave extension modules among the source.
IN_PLACE = {"editable_wheel", "develop", "--inplace", "-i"}
BUILDING = {"bdist_wheel", "build", "build_ext", "install"} | IN_PLACE


def options_lost(source: str) -> list[str]:
    """Classes with keywords, such as ``frozen=True`` of a msgspec struct: compiled, they would be without."""
    nodes = ast.walk(ast.parse(source))
    return [node.name for node in nodes if isinstance(node, ast.ClassDef) and node.keywords]


def asked_for() -> bool:
    return os.environ.get("SPAWN_COMPILE", "0") not in ("", "0")


def extensions() -> list[Any]:
    """The extension modules to build now. Exits where they were asked for and cannot be made."""
    commands = set(sys.argv[1:])
    if not asked_for() or not commands & BUILDING:
        return []
    if commands & IN_PLACE:
        sys.exit("SPAWN_COMPILE=1 is for wheels: compiled modules in an editable installation would hide what you edit")
    try:
        from mypyc.build import mypycify
    except ImportError as error:
        sys.exit(f"SPAWN_COMPILE=1 needs {', '.join(REQUIREMENTS)} to build ({error})")
    compiler = os.environ.get("CC", "cc").split()[0]
    if shutil.which(compiler) is None:
        sys.exit(f"SPAWN_COMPILE=1 needs a C compiler, and {compiler} is not here (Debian: apt install gcc)")
    headers = Path(sysconfig.get_paths()["include"])
    if not (headers / "Python.h").exists():
        sys.exit(f"SPAWN_COMPILE=1 needs Python's headers, and {headers} has none (Debian: apt install python3-dev)")
    paths = [name.replace(".", "/") + ".py" for name in MODULES]
    if lost := [found for path in paths for found in options_lost(Path(path).read_text("utf-8"))]:
        sys.exit(f"mypyc drops what a class statement says besides its bases; not to be compiled: {', '.join(lost)}")
    made: list[Any] = mypycify(["--config-file=build_support/mypy.ini", *paths], opt_level="2", group_name="spawn")
    return made
