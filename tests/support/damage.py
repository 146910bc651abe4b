"""Damages files as rotten disks do: one bit, a piece of zeros, a file cut short. Every case is made from its seed."""

from __future__ import annotations

import os
import random
from pathlib import Path

SECTOR = 512


def flip(path: Path, chance: random.Random) -> str:
    """One bit anywhere in the file. Says what was done."""
    place, bit = chance.randrange(path.stat().st_size), chance.randrange(8)
    with path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 1 << bit]))
    return f"bit {bit} of byte {place} of {path.name} is flipped"


def blank(path: Path, chance: random.Random) -> str:
    """A sector reads as zeros, as after a write that never reached the disk."""
    place = chance.randrange(path.stat().st_size) // SECTOR * SECTOR
    with path.open("r+b") as file:
        file.seek(place)
        old = file.read(SECTOR)
        file.seek(place)
        file.write(bytes(len(old)))
    return f"the sector at {place} of {path.name} is blank"


def cut(path: Path, chance: random.Random) -> str:
    """The end is missing."""
    size = chance.randrange(path.stat().st_size)
    os.truncate(path, size)
    return f"{path.name} is cut to {size} bytes"


def lose(path: Path, chance: random.Random) -> str:
    """The file is not there."""
    path.unlink()
    return f"{path.name} is gone"
