"""``python -m spawnctl``: what the service files call, because they know the interpreter and not the script."""

from __future__ import annotations

import sys

from spawnctl.cli import main

if __name__ == "__main__":
    sys.exit(main())
