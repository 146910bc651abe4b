"""How fast is Spawn beside nginx and HAProxy on the same core?

    make bench                      (or: python -m bench --rows get,post --rounds 5 --seconds 5 --json FILE)

Needs Debian's nginx-light, haproxy and wrk, and two cores; takes about 20 minutes. Each row of the table starts what
it needs, and its candidates take turns, so that whatever else the machine does falls on all of them. Tables go to
standard output, progress to standard error. Exit code: 0 all targets met, 1 one missed, 2 none missed but one could not
be judged.
Results of record are in RESULTS.md, how to read them and what to beware of in NOTES.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import report
from bench.machine import Cores, two_cores
from bench.programs import Broken, require
from bench.rows import ROWS
from bench.scene import Plan, Result, Scene, say
from bench.verdict import exit_code

ROOT = Path(__file__).parents[1]
MEMORY_ONLY = {"tmpfs", "ramfs"}


def run(name: str, directory: Path, cores: Cores, plan: Plan) -> Result:
    row, measure = ROWS[name]
    say(f"{row.name}: {row.title}")
    with Scene(directory / row.name, cores, plan) as scene:
        try:
            return measure(scene)
        except (Broken, OSError) as broken:  # the latter: a connection that a candidate has dropped
            say(f"  broken: {broken}")
            return Result(row, broken=str(broken))


def facts(directory: Path, plan: Plan) -> dict[str, object]:
    """Where and when this was measured."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return {
        "command": " ".join(["python -m bench", *sys.argv[1:]]),
        "commit": commit.stdout.strip(),
        "spawn": _which_spawn(plan.python),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Linux {platform.release()}",
        "python": platform.python_version(),
        "load before": f"{os.getloadavg()[0]:.2f} over one minute",
        "file system": _file_system(directory),
        "rounds": plan.rounds,
        "seconds": plan.seconds,
    }


def _which_spawn(python: str) -> str:
    code = "import spawn; print(spawn.__version__, 'compiled by mypyc' if spawn.COMPILED else 'as source')"
    found = subprocess.run([python, "-P", "-c", code], capture_output=True, text=True)
    return found.stdout.strip() or sys.exit(f"{python} has no Spawn: {found.stderr.strip()}")


def _file_system(directory: Path) -> str:
    found = subprocess.run(["stat", "--file-system", "--format=%T", directory], capture_output=True, text=True)
    kind = found.stdout.strip()
    if kind in MEMORY_ONLY:
        sys.exit(f"{directory} is on {kind}, which makes nothing durable: set TMPDIR to a directory on a disk")
    return kind


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(ROWS), help="which, with commas between (all: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5, help="of each turn")
    parser.add_argument(
        "--python", default=sys.executable, help="the interpreter that has the Spawn to be measured (%(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="every turn and every verdict, for programs")
    parser.add_argument("--quick", action="store_true", help="short and few: does it run at all?")
    found = parser.parse_args()
    found.rows = found.rows.split(",")
    if unknown := set(found.rows) - set(ROWS):
        parser.error(f"no such rows: {', '.join(sorted(unknown))}")
    return found


def _end(number: int, frame: object) -> None:
    """On the way out everything that was started is ended."""
    sys.exit(128 + number)


def main() -> int:
    chosen = options()
    require("nginx", "haproxy", "wrk")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    plan = Plan(chosen.rounds, chosen.seconds, 200_000, 10_000, chosen.python)
    if chosen.quick:
        plan = Plan(3, 1, 5_000, 500, chosen.python)
    results = []
    with tempfile.TemporaryDirectory(prefix="spawn-bench-") as name:
        known = facts(Path(name), plan)
        print("\n".join(report.heading(known)), flush=True)
        cores = two_cores()
        for row in chosen.rows:
            results.append(run(row, Path(name), cores, plan))
            print("\n".join(report.table(results[-1])), flush=True)
    if chosen.json:
        document = {**known, "rows": [report.as_json(result) for result in results]}
        chosen.json.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    return exit_code([outcome for result in results for outcome in report.outcomes(result)])


if __name__ == "__main__":
    sys.exit(main())
