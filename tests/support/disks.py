"""Disks for tests: a tmpfs of a few MiB that can be filled, emptied and made read-only; one that can hang. For root."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

STEP_BYTES = 65_536


@contextmanager
def small_disk(path: Path, mib: int) -> Iterator[Path]:
    """A file system of its own at ``path``; a skip where it cannot be mounted, a failure under ``CI=true``."""
    path.mkdir()
    _mount("-t", "tmpfs", "-o", f"size={mib}m,mode=0700", "tmpfs", str(path))
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)  # a failed test may leave files open


@contextmanager
def hanging_disk(path: Path, mib: int = 64) -> Iterator[Path]:
    """A disk for ``freeze``; a skip or a failure as above. It goes on when the context ends."""
    path.mkdir()
    image = path.with_suffix(".image")
    with image.open("wb") as file:
        file.truncate(mib << 20)
    try:
        subprocess.run(["mkfs.ext4", "-q", image], check=True, capture_output=True)
    except FileNotFoundError:
        _cannot("mkfs.ext4 is missing")
    _mount("-o", "loop", str(image), str(path))
    try:
        yield path
    finally:
        thaw(path)
        subprocess.run(["umount", "--lazy", path], check=True)


def freeze(path: Path) -> None:
    """From now on nothing that is written gets any further: not an error, a wait in the kernel."""
    subprocess.run(["fsfreeze", "--freeze", path], check=True)


def thaw(path: Path) -> None:
    """Let all of it go on; no failure when it does."""
    subprocess.run(["fsfreeze", "--unfreeze", path], check=False, capture_output=True)


def _mount(*words: str) -> None:
    mounting = subprocess.run(["mount", *words], capture_output=True, text=True)
    if mounting.returncode:
        _cannot(mounting.stderr.strip())


def _cannot(why: str) -> NoReturn:
    why = f"a disk of its own cannot be mounted: {why}"
    if os.environ.get("CI") == "true":
        pytest.fail(why, pytrace=False)
    pytest.skip(why)


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
