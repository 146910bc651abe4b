"""Options of a service in a file, one a line: of one that is installed for SysV init, and of one that was removed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def text(options: Sequence[str]) -> str:
    """``install`` has seen to it that no option holds a line break."""
    return "".join(f"{option}\n" for option in options)


def read(path: Path) -> list[str]:
    """The options in a file; none where there is no file. A line is an option, whatever else is in it."""
    try:
        content = path.read_bytes().decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    return content.removesuffix("\n").split("\n") if content else []
