"""What mypyc makes of Spawn must be what Python makes of it: the guards, and when it is built."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from textwrap import dedent

import pytest

from tests.support.processes import clean_environment

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "build_support"))

import compiled  # noqa: E402 (setup.py finds it so, too)

SOURCES = {name: ROOT / (name.replace(".", "/") + ".py") for name in compiled.MODULES}

TRUSTING = {
    "a check for None": (
        """
        def ask(self) -> str:
            if self.text is None:
                return ""
            self.change()
            return self.text
        """,
        "Incompatible return value type",
    ),
    "a check before a call in the way": (
        """
        def ask(self) -> int:
            if self.closed:
                return 0
            self.change()
            if self.closed:
                return 1
            return 2
        """,
        "",
    ),
    "a loop": (
        """
        def ask(self) -> str:
            while self.text is None:
                self.change()
            return self.text
        """,
        "",
    ),
    "a call that is part of what is returned": (
        """
        def ask(self) -> str:
            assert self.text is not None
            return str(self.change()) + self.text
        """,
        "Unsupported operand",
    ),
    "a call in a try": (
        """
        def ask(self) -> str:
            assert self.text is not None
            try:
                self.change()
            except OSError:
                pass
            return self.text
        """,
        "Incompatible return value type",
    ),
    "a check again": (
        """
        def ask(self) -> str:
            if self.text is None:
                return ""
            self.change()
            return self.text or ""
        """,
        "",
    ),
    "a local": (
        """
        def ask(self) -> str:
            text = self.text
            assert text is not None
            self.change()
            return text
        """,
        "",
    ),
}
BEGINNING = """
class Thing:
    text: str | None = None
    closed = False

    def change(self) -> None:
        self.text = None
        self.closed = True
"""


@pytest.mark.parametrize(("method", "complaint"), TRUSTING.values(), ids=TRUSTING)
def test_a_checked_attribute_is_not_trusted_after_a_call(tmp_path: Path, method: str, complaint: str) -> None:
    code = BEGINNING + "".join(f"    {line}\n" for line in dedent(method).splitlines())
    (tmp_path / "spawn").mkdir()
    (tmp_path / "spawn" / "counters.py").write_text(code)  # the name of one that is compiled
    settings = ROOT / "build_support" / "mypy.ini"
    command = [
        sys.executable,
        "-m",
        "mypy",
        f"--config-file={settings}",
        f"--cache-dir={tmp_path}",
        "spawn/counters.py",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode == 0) is (complaint == ""), done.stdout + done.stderr
    assert complaint in done.stdout


def test_except_clauses_of_a_function_have_names_of_their_own() -> None:
    """mypyc gives a name one type, that of the first clause, and raises TypeError in the others."""
    wrong = []
    for path in SOURCES.values():
        for function in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(function, ast.FunctionDef):
                caught = defaultdict(set)
                for clause in ast.walk(function):
                    if isinstance(clause, ast.ExceptHandler) and clause.name and clause.type:
                        caught[clause.name].add(ast.unparse(clause.type))
                wrong += [f"{path.name}: {function.name}: {name}" for name, types in caught.items() if len(types) > 1]
    assert not wrong


def test_no_class_loses_its_options() -> None:
    assert compiled.options_lost("class Row(Struct, frozen=True): ...\nclass Other(Row): ...") == ["Row"]
    for path in SOURCES.values():
        assert not compiled.options_lost(path.read_text("utf-8")), path


@pytest.mark.parametrize("command", ["editable_wheel", "develop", "build_ext --inplace"])
def test_nothing_compiled_is_put_among_the_source(tmp_path: Path, command: str) -> None:
    done = set_up(tmp_path, command, {"SPAWN_COMPILE": "1"})
    assert done.returncode != 0
    assert "SPAWN_COMPILE=1 is for wheels" in done.stderr


def test_without_a_compiler_it_says_so(tmp_path: Path) -> None:
    done = set_up(tmp_path, "bdist_wheel", {"SPAWN_COMPILE": "1", "CC": "no-such-compiler"})
    assert done.returncode != 0
    assert "no-such-compiler is not here" in done.stderr


def set_up(home: Path, command: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "setup.py", *command.split()],
        cwd=ROOT,
        env=clean_environment(home, environment),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
