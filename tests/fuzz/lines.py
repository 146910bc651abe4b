"""Changes that bytes alone hardly ever hit upon: whole lines put in, doubled, swapped or left out.

Two framings in one head, say, are two good lines in one place; the fuzzer's own changes mostly break a third one.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

EOL = b"\r\n"


def rearranged(data: bytes, tokens: Sequence[bytes], chance: Random) -> bytes:
    """One change at the border between two lines, or to a whole one; those of ``tokens`` that are lines are put in."""
    lines = data.split(EOL)
    at = chance.randrange(len(lines))
    kind = chance.randrange(4)
    if kind == 0:
        lines.insert(at, chance.choice([token for token in tokens if token.endswith(EOL)]).removesuffix(EOL))
    elif kind == 1:
        lines.insert(chance.randrange(len(lines)), lines[at])
    elif kind == 2:
        other = chance.randrange(len(lines))
        lines[at], lines[other] = lines[other], lines[at]
    else:
        del lines[at]
    return EOL.join(lines)
