"""What the command says to its user. Whether that arrives must decide nothing: no action, and no exit code.

Invariants: descriptors 0 to 2 are open once ``prepare`` was called, so that no file, socket or pipe that is opened
later is taken for one of them. A stream that ``say`` found broken leads to /dev/null from then on, with what was still
buffered: neither the next line nor the interpreter's flush at the end complains about it again. The log of a service
does not go through here: a disk that was full takes it again when there is room.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import TextIO

_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))  # by descriptor


def prepare() -> None:
    """Make the standard streams exist and take every character; to be called before anything else."""
    for number, (name, mode) in enumerate(_STREAMS):
        _open(number)
        if getattr(sys, name) is None:  # Python found the descriptor closed
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(text: object = "", *, stream: TextIO | None = None, end: str = "\n") -> bool:
    """Print to standard output, or another stream, at once. False if it cannot be written; never raises for that."""
    stream = sys.stdout if stream is None else stream
    try:
        stream.write(f"{text}{end}")
        stream.flush()
    except (OSError, ValueError, AttributeError):  # full, without a reader; closed; no stream at all
        _silence(stream)
        return False
    return True


def finish() -> bool:
    """Write what others have printed; False if it cannot be written. To be called last."""
    written = [say(stream=stream, end="") for stream in (sys.stdout, sys.stderr)]
    return all(written)


def _open(number: int) -> None:
    try:
        os.fstat(number)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        if null == number:
            os.set_inheritable(null, True)  # as standard streams are
        else:
            os.dup2(null, number)
            os.close(null)


def _silence(stream: TextIO) -> None:
    """Of a file by itself that somebody gave us, the descriptor is not ours to turn."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        number = stream.fileno()
        if number not in (1, 2):
            return
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(null, number)
        finally:
            os.close(null)
        stream.flush()
