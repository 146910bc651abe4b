"""A service manager for tests: the socket of sd_notify(3), and what has arrived there."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.waiting import eventually

Message = dict[str, str]


@dataclass(frozen=True)
class Heard:
    time_s: float  # monotonic, when it was read
    message: Message


class Manager:
    """Listens from its making on; whatever is asked of it first reads what has come."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)
        self._heard: list[Heard] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._socket.close()

    def heard(self, name: str = "") -> list[Heard]:
        """All messages so far, or those that have such an assignment, in their order."""
        while True:
            try:
                data = self._socket.recv(8192)
            except BlockingIOError:
                break
            pairs = (line.split("=", 1) for line in data.decode().split("\n"))  # one without a = fails the test
            self._heard.append(Heard(time.monotonic(), dict(pairs)))
        return [each for each in self._heard if not name or name in each.message]

    def names(self, *of_interest: str) -> list[str]:
        """In which order these were said."""
        return [name for each in self.heard() for name in each.message if name in of_interest]

    @property
    def status(self) -> str:
        found = self.heard("STATUS")
        return found[-1].message["STATUS"] if found else ""

    def until(self, holds: Callable[[], object], what: str, timeout_s: float = 20.0) -> None:
        eventually(lambda: bool(holds()), timeout_s=timeout_s, what=f"{what}; status: {self.status!r}")

    def until_status(self, *parts: str, timeout_s: float = 20.0) -> None:
        self.until(lambda: all(part in self.status for part in parts), f"the status has {parts}", timeout_s)

    def counts(self, name: str, during_s: float) -> int:
        """How often something is said from now on. What was on its way before is not counted."""
        before = len(self.heard(name))
        end_s = time.monotonic() + during_s
        while time.monotonic() < end_s:
            time.sleep(0.02)
            self.heard()
        return len(self.heard(name)) - before


def fill(manager: Manager) -> None:
    """Leave no room for another message, as long as nothing is read."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                other.sendto(b"OTHER=1", str(manager.path))
