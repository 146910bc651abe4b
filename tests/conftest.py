"""What all suites share: the order of the suites, needed programs, processes that never outlive their test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

import pytest

from spawn.http11 import wire
from tests.support.cluster import Cluster, Settings
from tests.support.processes import IS_WORKER, MARK, Processes, leftovers, session_mark

SUITES = ("unit", "contract", "wire", "service", "e2e")  # quick ones first
SHOWN_LINES = 80


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--compiled", action="store_true", help="test Spawn as mypyc has compiled it, else fail")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--compiled") and not wire.__file__.endswith(".so"):
        raise pytest.UsageError(f"{wire.__file__} is not compiled")
    config.addinivalue_line(
        "markers",
        "patches_source: replaces what compiled code has bound (functions, methods, or objects by others of their "
        "shape), so --compiled leaves it out",
    )
    config.addinivalue_line("markers", "needs(*programs): system programs; skipped without them, failed under CI=true")
    os.environ[MARK] = session_mark()  # what any test starts can be found at the end


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    def suite(item: pytest.Item) -> int:
        return next((n for n, name in enumerate(SUITES) if name in item.path.parts), -1)

    items.sort(key=suite)
    if config.getoption("--compiled"):
        left_out = [item for item in items if item.get_closest_marker("patches_source")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        for program in marker.args:
            if shutil.which(program) is None:
                reason = f"the program {program} is missing ('make test-deps' installs it)"
                if os.environ.get("CI") == "true":
                    pytest.fail(reason, pytrace=False)
                pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the output of a failed test's processes in its report."""
    report = yield
    processes = getattr(item, "funcargs", {}).get("processes")
    if report.failed and isinstance(processes, Processes):
        for process in processes:
            report.sections.append((f"output of {process.name}", process.tail(SHOWN_LINES)))
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, None, None]:
    """A process that outlives the tests is a fault of the run, even if every test passed.

    Looked for when all is over: the workers of pytest-xdist have the mark too, and others are still at work when the
    first of them ends.
    """
    yield
    if IS_WORKER:
        return
    left = leftovers()
    for process in left:
        print(f"\nleft running: pid {process.pid}: {' '.join(process.cmdline())[:200]}")
        process.kill()
    if left and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """Starts real processes in the test's own directory; kills them afterwards and reads what they printed."""
    made = Processes(tmp_path)
    yield made
    complaints = made.close()
    assert not complaints, "\n".join(complaints)


@pytest.fixture
def cluster(processes: Processes) -> Callable[..., Cluster]:
    """``cluster(*options_of_each_node, settings={…})`` makes and starts nodes with a Spawn in front."""

    def make(*node_options: Sequence[str], settings: Settings | None = None) -> Cluster:
        return Cluster(processes, *node_options, settings=settings).start()

    return make
