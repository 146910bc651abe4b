"""Runs targets under libFuzzer in processes of their own, and tells what came of it.

The process writes what it found into a file; a finding is replayed without any fuzzer, so that it is shown as a plain
traceback, and comes back as text that can be pasted into a shell.
"""

from __future__ import annotations

import base64
import importlib
import importlib.util
import re
import subprocess
import sys
import tempfile
import textwrap
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

TARGETS = ("request", "answer", "chunks")
ROOT = Path(__file__).parents[2]

MAX_INPUT_BYTES = 1_536  # beyond the small limits that the targets set
INPUT_TIMEOUT_S = 10  # an input of that size that takes as long is a finding
MEMORY_MB = 1_024  # so is one that makes the process grow beyond this
START_AND_END_S = 120.0  # beyond the time to fuzz: imports, seeds, and the last input


class NoFuzzer(Exception):
    """Atheris is not installed here."""


@dataclass(frozen=True)
class Report:
    """How one target fared."""

    target: str
    executions: int
    coverage: int  # edges of the instrumented code that were reached
    inputs: int  # that were kept because each reached something new
    status: int  # of the process, 0: nothing was found
    found: bytes | None
    output: str

    def __str__(self) -> str:
        reached = f"{self.executions:,} executions, {self.coverage} edges, {self.inputs} inputs"
        return f"{self.target}: {reached}{'' if self.status == 0 else ', FAILED'}"

    def explain(self) -> str:
        """What was found and how to see it again."""
        said = f"the fuzzer ended with {self.status} and said:\n…{self.output[-2_000:]}"
        if self.found is None:
            return said
        encoded = "\n".join(textwrap.wrap(base64.b64encode(self.found).decode(), 100))
        return (
            f"{replay(self.target, self.found) or f'The input does no harm when it is replayed; {said}'}\n"
            f"{load(self.target).explain(self.found)}\n"
            f"To replay it:\n  base64 -d > found.bin <<END\n{encoded}\nEND\n"
            f"  make fuzz TARGET={self.target} REPLAY=found.bin\n"
        )


def load(target: str) -> ModuleType:
    return importlib.import_module(f"tests.fuzz.{target}")


def replay(target: str, data: bytes) -> str:
    """Check one input; the traceback, or nothing if its invariant holds."""
    try:
        load(target).check(data)
    except Exception:  # noqa: BLE001 (whatever it is, it is what was looked for)
        return traceback.format_exc()
    return ""


def fuzz(target: str, seconds: int, kept: Path, *, seed: int = 0) -> Report:
    """Fuzz for so long, from the target's seeds and what is in ``kept``, which gets what is new. Raises ``NoFuzzer``.

    ``seed`` 0: another one each time.
    """
    if importlib.util.find_spec("atheris") is None:
        raise NoFuzzer("atheris is not installed (pip install '.[test]' does where there are wheels for it)")
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="spawn-fuzz-") as name:
        directory = Path(name)
        options = _prepare(load(target), directory)
        options += [f"-max_total_time={seconds}", f"-seed={seed}", str(kept), str(directory / "seeds")]
        done = subprocess.run(
            [sys.executable, "-m", "tests.fuzz.instrumented", target, *options],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=seconds + START_AND_END_S,
            check=False,
        )
        return _report(target, done, directory / "found")


def _prepare(target: ModuleType, directory: Path) -> list[str]:
    """Write seeds and dictionary; libFuzzer's options for them."""
    for part in ("seeds", "found"):
        (directory / part).mkdir()
    for number, seed in enumerate(target.SEEDS):
        (directory / "seeds" / str(number)).write_bytes(seed)
    words = "".join(f'"{_escaped(token)}"\n' for token in target.TOKENS)
    (directory / "words").write_text(words, "ascii")
    return [
        f"-dict={directory / 'words'}",
        f"-artifact_prefix={directory / 'found'}/",
        f"-max_len={MAX_INPUT_BYTES}",
        f"-timeout={INPUT_TIMEOUT_S}",
        f"-rss_limit_mb={MEMORY_MB}",
        "-print_final_stats=1",
    ]


def _escaped(token: Iterable[int]) -> str:
    return "".join(f"\\x{byte:02x}" for byte in token)


def _report(target: str, done: subprocess.CompletedProcess[str], findings: Path) -> Report:
    found = sorted(findings.iterdir())
    return Report(
        target,
        executions=_last_number(r"stat::number_of_executed_units:\s+(\d+)", done.stdout),
        coverage=_last_number(r"\bcov: (\d+)", done.stdout),
        inputs=_last_number(r"\bcorp: (\d+)", done.stdout),
        status=done.returncode,
        found=found[0].read_bytes() if found else None,
        output=done.stdout,
    )


def _last_number(pattern: str, text: str) -> int:
    numbers = re.findall(pattern, text)
    return int(numbers[-1]) if numbers else 0
