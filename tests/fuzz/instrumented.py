"""One target under the fuzzer: ``python -m tests.fuzz.instrumented TARGET [options of libFuzzer]``.

Not only the codec is instrumented, but the strict reader too: a regular expression inside the codec is C, and shows the
fuzzer none of the ways that bytes can go through the grammar of a head.
"""

from __future__ import annotations

import importlib
import sys
from random import Random

import atheris

from tests.fuzz.lines import rearranged

INSTRUMENTED = ["spawn.http11", "tests.support.strictreader"]
LINES = 0.3  # of all changes are to lines


def main() -> None:
    with atheris.instrument_imports(include=INSTRUMENTED):
        target = importlib.import_module(f"tests.fuzz.{sys.argv[1]}")

    def mutate(data: bytes, max_bytes: int, seed: int) -> bytes:
        chance = Random(seed)
        if chance.random() < LINES:
            return rearranged(data, target.TOKENS, chance)[:max_bytes]
        return bytes(atheris.Mutate(data, max_bytes))

    atheris.Setup([sys.argv[0], *sys.argv[2:]], target.check, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
