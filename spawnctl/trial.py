"""What ``install`` lets the service's user do before it writes the service: ``python -m spawnctl.trial OPTIONS``.

That it runs at all shows that this user can run the interpreter and import Spawn. It prints every fault of the
configuration as this user sees it, and every place that it may not write; any of them makes it end with 2.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import spawn.service  # noqa: F401 (all that a service needs can be imported; this process never forks)
from spawn.config import load
from spawn.errors import ConfigError
from spawnctl import places, usage
from spawnctl.usage import UsageError


def main(options: Sequence[str]) -> int:
    try:
        line = usage.parse(options, "")
        found = places.look(load(line.config, line.overrides).config)
        faults = [*found.faults, *found.warnings]
    except UsageError as error:
        faults = [str(error)]
    except ConfigError as error:
        faults = list(error.faults)
    for fault in faults:
        print(fault, file=sys.stderr)
    return 2 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
