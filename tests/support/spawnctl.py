"""Running the command ``spawnctl`` as a user does, with everything that it leaves behind below the test's directory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support.processes import clean_environment

COMMAND = [sys.executable, "-P", "-m", "spawnctl"]


def environment(home: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Temporary files, state and pid files go below ``home``; warnings are shown."""
    places = {"TMPDIR": home / "tmp", "XDG_STATE_HOME": home / "state", "SPAWN_RUNTIME_DIRECTORY": home / "run"}
    places["TMPDIR"].mkdir(exist_ok=True)
    more = {name: str(path) for name, path in places.items()} | {"PYTHONWARNINGS": "default"}
    return clean_environment(home, more | dict(extra or {}))


def spawnctl(*args: str, cwd: Path, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a command that ends by itself."""
    return subprocess.run(
        [*COMMAND, *args],
        cwd=cwd,
        env=environment(cwd),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        stdin=subprocess.DEVNULL,
    )
