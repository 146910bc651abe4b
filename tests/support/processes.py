"""Real processes for tests: start, signal and kill our own, by pid; see their output; leave none behind.

Output goes to a file for each process, so that nothing blocks on a full pipe and a failed test can show it. Every
process is started with ``MARK`` in its environment: ``leftovers`` finds descendants by it, daemonised ones too.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from tests.support.waiting import eventually

MARK = "SPAWN_TEST_SESSION"
IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
_SESSION = os.environ[MARK] if IS_WORKER else uuid.uuid4().hex
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))  # they run at the same time, each with
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))  # ports of its own
_FIRST_PORT, _LAST_PORT = (
    12_000,
    32_000,
)  # below the kernel's ephemeral range: no outgoing connection takes one of these
_given_ports: set[int] = set()


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on and that this test session has not handed out before."""
    for _ in range(500):
        port = random.randrange(_FIRST_PORT + _WORKER, _LAST_PORT, _WORKERS)
        if port in _given_ports:
            continue
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
        _given_ports.add(port)
        return port
    raise AssertionError("no free port found")


def clean_environment(home: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """An environment without proxies and without anybody's settings of Python, pip or twine."""
    keep = {"PATH", "LANG", "LC_ALL", "TMPDIR", "TZ", "CI"}
    environment = {name: value for name, value in os.environ.items() if name in keep}
    environment |= {"HOME": str(home), "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", MARK: _SESSION}
    return environment | dict(extra or {})


def session_mark() -> str:
    """The value of ``MARK`` for whatever this test session starts."""
    return _SESSION


def leftovers() -> list[psutil.Process]:
    """Live processes that this test session started, whoever their parent is by now."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARK) == _SESSION:
                found.append(process)
        except psutil.Error:  # gone, a zombie, or not ours to look at
            continue
    return found


class ManagedProcess:
    """One process of a test; may be started again after its end, and appends to the same output file."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        directory: Path,
        *,
        environment: Mapping[str, str] | None = None,
        must_be_clean: bool = False,
    ) -> None:
        self.name = name
        self.command = list(command)
        self.directory = directory
        self.output_path = directory / f"{name}.out"
        self.must_be_clean = must_be_clean  # a traceback or a warning in its output fails the test
        self._environment = dict(environment or clean_environment(directory))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert not self.alive, f"{self.name} runs already"
        with self.output_path.open("ab") as output:
            self._process = subprocess.Popen(
                self.command,
                cwd=self.directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C at the terminal is for pytest alone
            )

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} was never started"
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        return None if self._process is None else self._process.poll()

    def send(self, number: signal.Signals) -> None:
        assert self.alive, f"{self.name} has ended already:\n{self.tail()}"
        os.kill(self.pid, number)

    def pause(self) -> None:
        self.send(signal.SIGSTOP)

    def resume(self) -> None:
        self.send(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, at once and without mercy; returns when the kernel has buried it."""
        if self.alive:
            os.kill(self.pid, signal.SIGKILL)
        if self._process is not None:
            self._process.wait(10)

    def wait(self, timeout_s: float) -> int:
        """The exit code, once it has ended by itself."""
        assert self._process is not None
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {timeout_s:g} s:\n{self.tail()}") from None

    def stop(self, timeout_s: float = 30.0, how: signal.Signals = signal.SIGTERM) -> int:
        self.send(how)
        return self.wait(timeout_s)

    def output(self) -> str:
        return self.output_path.read_text("utf-8", "replace") if self.output_path.exists() else ""

    def tail(self, lines: int = 60) -> str:
        return "\n".join(self.output().splitlines()[-lines:])

    def complaints(self) -> list[str]:
        """Lines of the output that no run may have."""
        return [line for line in self.output().splitlines() if "Traceback" in line or "Warning" in line]

    def peak_rss_bytes(self) -> int:
        """The most memory that the process ever had resident (VmHWM)."""
        for line in Path(f"/proc/{self.pid}/status").read_text("ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("the kernel shows no VmHWM")


class Processes:
    """All processes of one test. ``close`` kills what is left and reports what should not have been printed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._all: list[ManagedProcess] = []

    def add(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        must_be_clean: bool = False,
    ) -> ManagedProcess:
        """A process that is not started yet. Names are unique within a test (they name the output file)."""
        assert all(name != other.name for other in self._all), f"two processes are called {name}"
        process = ManagedProcess(name, command, self.directory, environment=environment, must_be_clean=must_be_clean)
        self._all.append(process)
        return process

    def __iter__(self) -> Iterator[ManagedProcess]:
        return iter(self._all)

    def close(self) -> list[str]:
        """Kill what runs; returns a complaint for each process whose output shows a traceback or a warning."""
        for process in reversed(self._all):
            if process.alive:
                os.kill(process.pid, signal.SIGCONT)  # a stopped process is killed as well, but reaped sooner so
                process.kill()
        return [
            f"{process.name} printed: {complaint}"
            for process in self._all
            if process.must_be_clean
            for complaint in process.complaints()
        ]


def wait_listening(port: int, *, timeout_s: float = 15.0, host: str = "127.0.0.1", process: ManagedProcess) -> None:
    """Until the port takes connections; fails early when the process that should listen has ended."""

    def connects() -> bool:
        assert process.alive, f"{process.name} ended with {process.exit_code}:\n{process.tail()}"
        with socket.create_connection((host, port), timeout=1):
            return True

    eventually(connects, timeout_s=timeout_s, what=f"{process.name} listens on {port}:\n{process.tail()}")
