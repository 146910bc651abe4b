"""``make fuzz``: fuzzes the targets in turn for some minutes, keeps what it found, or replays one file.

Inputs that reached something new are kept in ``--keep`` and are where the next run goes on from. Ends with 1 at the
first target in which something was found, and says how to see it again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.fuzz.campaign import ROOT, TARGETS, NoFuzzer, fuzz, load, replay


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description="Fuzz the HTTP codec.")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all targets together")
    parser.add_argument("--target", choices=TARGETS, help="only this one")
    parser.add_argument(
        "--keep", type=Path, default=ROOT / ".fuzz", help="a folder for inputs that reach something new"
    )
    parser.add_argument("--replay", type=Path, help="check this input of --target, and do not fuzz")
    options = parser.parse_args()
    if options.replay is None:
        return run([options.target] if options.target else TARGETS, options.minutes, options.keep)
    if options.target is None:
        parser.error("--replay needs --target")
    return show(options.target, options.replay.read_bytes())


def run(targets: list[str] | tuple[str, ...], minutes: float, keep: Path) -> int:
    seconds = max(1, round(minutes * 60 / len(targets)))
    for target in targets:
        print(f"{target}: {seconds} s …", flush=True)
        try:
            report = fuzz(target, seconds, keep / target)
        except NoFuzzer as missing:
            print(missing, file=sys.stderr)
            return 2
        print(report, flush=True)
        if report.status:
            print(report.explain(), flush=True)
            return 1
    return 0


def show(target: str, data: bytes) -> int:
    print(load(target).explain(data))
    fault = replay(target, data)
    print(fault or "its invariant holds")
    return 1 if fault else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
