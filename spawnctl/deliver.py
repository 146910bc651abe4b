"""What the script for SysV init lets do that ``spawnctl`` has no command for: ``python -m spawnctl.deliver HUP``.

A signal for the daemon, and for no other process: a script cannot tell whether the pid in a file is still the daemon's.
Exit codes are the LSB's: 0 it was sent, 1 it could not be, 7 no daemon runs.
"""

from __future__ import annotations

import signal
import sys

from spawn.errors import StartError
from spawnctl import control, daemon
from spawnctl.machine import ControlError, Machine

NOT_RUNNING = 7


def main(name: str) -> int:
    try:
        pid = daemon.send(control.find_pid_file(Machine()), signal.Signals[f"SIG{name}"])
    except (ControlError, StartError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0 if pid is not None else NOT_RUNNING


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
