"""Small disks for tests: a tmpfs of a few MiB that can be filled, emptied and made read-only. For root."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

STEP_BYTES = 65_536


@contextmanager
def small_disk(path: Path, mib: int) -> Iterator[Path]:
    """A file system of its own at ``path``; a skip where it cannot be mounted, a failure under ``CI=true``."""
    path.mkdir()
    options = f"size={mib}m,mode=0700"
    mounting = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], capture_output=True, text=True)
    if mounting.returncode:
        why = f"a small disk cannot be mounted: {mounting.stderr.strip()}"
        if os.environ.get("CI") == "true":
            pytest.fail(why, pytrace=False)
        pytest.skip(why)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)  # a failed test may leave files open


def set_read_only(path: Path, on: bool) -> None:
    """Remount it; open files do not keep the kernel from it when it is forced, but a plain remount says EBUSY."""
    subprocess.run(["mount", "-o", f"remount,{'ro' if on else 'rw'}", path], check=True)


def resize(path: Path, mib: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={mib}m", path], check=True)


def free_bytes(disk: Path) -> int:
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize


def fill(disk: Path, leave_bytes: int = 0) -> Path:
    """Take what is left of a disk (but for ``leave_bytes``) with a file of somebody else's; returns it."""
    other = disk / "somebody-elses"
    room = free_bytes(disk) - leave_bytes
    with other.open("ab", buffering=0) as file:
        try:
            while room > 0:
                room -= file.write(bytes(min(STEP_BYTES, room)))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
    return other
