"""What a service needs of the process it runs in."""

from __future__ import annotations

import logging
import resource
import sys

log = logging.getLogger("spawn.service")

SPARE_FILES = 500  # connections to nodes, the journal, bodies
SWITCH_INTERVAL_S = 0.0005  # while the hub is busy the journal's thread waits this long for the interpreter, not 5 ms


def prepare_process(connections: int) -> None:
    """Take as many files as the system allows, and let native threads have their turn soon."""
    raise_file_limit(connections)
    sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_INTERVAL_S))


def raise_file_limit(connections: int) -> None:
    """Every connection is a file: take as many as the system allows, and say when that is too few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError) as error:
            log.warning("the limit of open files stays at %d: %s", soft, error)
    if soft != resource.RLIM_INFINITY and connections + SPARE_FILES > soft:
        log.warning("limits.connections is %d, but only %d files may be open: raise LimitNOFILE", connections, soft)
