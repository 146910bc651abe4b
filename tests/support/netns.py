"""A node in a network of its own, behind a link that does what a test says. See ``wire`` for how it works."""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from tests.support.cluster import LoggingNode
from tests.support.processes import Processes, clean_environment, wait_listening
from tests.support.waiting import eventually
from tests.support.wire import NOT_ALLOWED


@dataclass(frozen=True, slots=True)
class Way:
    """How packets fare in one direction."""

    loss: float = 0.0  # 1.0: a black hole
    delay_s: float = 0.0


GOOD = Way()
CUT = Way(loss=1.0)

_FIRST = random.randrange(32_768)
_numbers = itertools.count()


class Link:
    """The link to one namespace. Start it first; the namespace lives as long as the link or a process in it."""

    def __init__(self, processes: Processes, name: str = "link", seed: int | None = None) -> None:
        seed = random.randrange(1 << 32) if seed is None else seed
        print(f"seed of {name}: {seed}")
        number = next(_numbers)
        # Addresses of RFC 2544 (benchmarks): nobody routes them. The first link of a run has a /30 at random, so that
        # two runs rarely meet, and each further link has the next one.
        base = (_FIRST + number) % 32_768 * 4
        self.here, self.host = (f"198.{18 + base // 65_536}.{base // 256 % 256}.{base % 256 + n}" for n in (1, 2))
        self.device = f"spawn{os.getpid() % 100_000}x{number % 10_000}"
        self._control = processes.directory / f"{name}.control"
        self._version = 0
        command = [sys.executable, "-m", "tests.support.wire"]
        arguments = [self.device, self.here, self.host, str(self._control), str(seed)]
        environment = clean_environment(processes.directory, {"PYTHONPATH": str(Path(__file__).parents[2])})
        self.process = processes.add(name, command + arguments, environment=environment, must_be_clean=True)

    def start(self) -> Link:
        """Skips the test where this is not allowed, which under CI=true is a failure."""
        if os.geteuid() != 0:
            _cannot("network namespaces need root")
        self.process.start()
        self.heal()
        return self

    def command(self, *command: str) -> list[str]:
        """A command in the namespace; it has the process id that the whole gets."""
        return ["nsenter", f"--net=/proc/{self.process.pid}/ns/net", *command]

    def be(self, there: Way, back: Way) -> None:
        """In force on return. ``there`` is the way to the node."""
        self._version += 1
        temporary = self._control.with_suffix(".new")
        text = json.dumps({"version": self._version, "there": asdict(there), "back": asdict(back)})
        temporary.write_text(text, "utf-8")
        os.replace(temporary, self._control)
        done = self._control.with_name(self._control.name + ".done")

        def in_force() -> bool:
            if self.process.exit_code == NOT_ALLOWED:
                _cannot(f"this machine allows no network namespaces: {self.process.tail(1)}")
            assert self.process.alive, self.process.tail()
            return done.exists() and done.read_text("ascii") == str(self._version)

        eventually(in_force, timeout_s=20, what="the link does as it is told")

    def heal(self) -> None:
        self.be(GOOD, GOOD)

    @contextmanager
    def refused(self) -> Iterator[None]:
        """Meanwhile our own kernel says that the node cannot be reached, instead of trying."""
        route = ["unreachable", f"{self.host}/32"]
        subprocess.run(["ip", "route", "add", *route], check=True)
        try:
            yield
        finally:
            subprocess.run(["ip", "route", "del", *route], check=True)

    def cut(self) -> None:
        """Nothing comes through, and nobody is told."""
        self.be(CUT, CUT)


class DistantNode(LoggingNode):
    """A logging node behind a link."""

    def __init__(self, processes: Processes, link: Link, name: str, *options: str) -> None:
        """The link has been started."""
        super().__init__(processes, name, "--host", link.host, *options)
        self.host = link.host
        self.url = f"http://{link.host}:{self.port}"
        self.process.command = link.command(*self.process.command)

    def start(self) -> DistantNode:
        self.process.start()
        wait_listening(self.port, process=self.process, host=self.host)
        return self


def _cannot(why: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(why, pytrace=False)
    pytest.skip(why)
