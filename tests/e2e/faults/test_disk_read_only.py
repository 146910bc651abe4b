"""A state directory that cannot be written: said in one line at start, in words that help."""

from __future__ import annotations

from pathlib import Path

from tests.support.cluster import Spawn
from tests.support.disks import set_read_only, small_disk
from tests.support.processes import Processes


def test_a_read_only_state_directory_is_said_at_start(processes: Processes, tmp_path: Path) -> None:
    # Given a state that a service has used, on a disk that was mounted read-only since
    with small_disk(tmp_path / "disk", 44) as disk:
        spawn = Spawn(processes, [], {"state-dir": str(disk / "state")}).start()
        assert spawn.stop() == 0
        set_read_only(disk, on=True)
        before = {path: path.stat().st_mtime_ns for path in disk.rglob("*")}
        printed = len(spawn.process.output())

        # When Spawn starts
        spawn.start(wait=False)

        # Then it says what is wrong and what to do, and has changed nothing
        assert spawn.process.wait(20) == 1
        (line,) = spawn.process.output()[printed:].splitlines()
        assert str(disk / "state") in line
        assert "read-only file system" in line
        assert "--state-dir" in line
        assert {path: path.stat().st_mtime_ns for path in disk.rglob("*")} == before

        # And it starts once the disk can be written again
        set_read_only(disk, on=False)
        spawn.start()
        assert spawn.stop() == 0
