"""The script for SysV init is POSIX's shell language, and keeps to what Debian's policy and the LSB ask of its head."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from spawnctl.sysv import render_script


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "spawn"
    path.write_text(render_script("/opt/spawn/bin/python3"))
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("checker", [["checkbashisms", "--posix"], ["shellcheck", "--shell=sh"], ["dash", "-n"]])
def test_it_has_no_bashisms(script: Path, checker: list[str]) -> None:
    if shutil.which(checker[0]) is None:
        why = f"{checker[0]} is not installed"
        pytest.fail(why, pytrace=False) if os.environ.get("CI") == "true" else pytest.skip(why)
    done = subprocess.run([*checker, script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_its_head_says_what_init_has_to_know(script: Path) -> None:
    head = script.read_text().partition("### BEGIN INIT INFO\n")[2].partition("### END INIT INFO\n")[0]
    keys = dict(line.removeprefix("# ").split(":", 1) for line in head.splitlines())
    assert {"Provides", "Required-Start", "Required-Stop", "Default-Start", "Default-Stop", "Short-Description"} <= set(
        keys
    )
    assert keys["Provides"].strip() == "spawn"
    assert re.fullmatch(r"\s*2 3 4 5", keys["Default-Start"])


def test_without_its_interpreter_it_is_not_installed(script: Path) -> None:
    """The LSB: 5 for an action, 4 (unknown) for the status."""
    script.write_text(render_script("/nowhere/python3"))
    codes = [subprocess.run(["sh", script, action], capture_output=True, check=False).returncode
             for action in ("start", "stop", "status")]  # fmt: skip
    assert codes == [5, 5, 4]
