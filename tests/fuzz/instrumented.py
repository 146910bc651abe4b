"""One target under the fuzzer: ``python -m tests.fuzz.instrumented TARGET [options of libFuzzer]``.

Not only the codec is instrumented, but the strict reader too: llhttp inside the codec is C, and shows the fuzzer none
of the ways that bytes can go through the grammar of a head.
"""

from __future__ import annotations

import importlib
import sys

import atheris

INSTRUMENTED = ["spawn.http11", "tests.support.strictreader"]


def main() -> None:
    with atheris.instrument_imports(include=INSTRUMENTED):
        target = importlib.import_module(f"tests.fuzz.{sys.argv[1]}")
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target.check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
