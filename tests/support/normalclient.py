"""A client that wants nothing special, and how long it waits for it: what overload is judged by.

It goes through its requests again and again, one at a time and each on a connection of its own, so that the wait for
being accepted counts too.
"""

from __future__ import annotations

import http.client
import statistics
import threading
import time
from dataclasses import dataclass
from typing import Self

TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Wish:
    port: int
    method: str
    target: str
    body: bytes | None = None

    def __str__(self) -> str:
        return f"{self.method} {self.target} on port {self.port}"


@dataclass(frozen=True, slots=True)
class Served:
    """One request and its answer; ``status`` is 0 when none came."""

    wish: Wish
    seconds: float
    status: int
    error: str = ""


class NormalClient:
    """A thread from ``with`` to its end."""

    def __init__(self, *wishes: Wish, pause_s: float = 0.02) -> None:
        self._wishes = wishes
        self._pause_s = pause_s
        self._ending = threading.Event()
        self._served: list[Served] = []
        self._thread = threading.Thread(target=self._run, name="normal client", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(TIMEOUT_S + 5)

    def take(self) -> list[Served]:
        """What it got since the last call."""
        served, self._served = self._served, []
        return served

    def wait(self, seconds: float) -> list[Served]:
        """What it got in the next ``seconds``."""
        self.take()
        self._ending.wait(seconds)
        return self.take()

    def _run(self) -> None:
        while not self._ending.is_set():
            for wish in self._wishes:
                served = _serve(wish)
                self._served.append(served)
                self._ending.wait(self._pause_s)


def _serve(wish: Wish) -> Served:
    began_s = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", wish.port, timeout=TIMEOUT_S)
    status, error = 0, ""
    try:
        connection.request(wish.method, wish.target, wish.body)
        answer = connection.getresponse()
        answer.read()
        status = answer.status
    except (OSError, http.client.HTTPException) as reason:
        error = repr(reason)
    finally:
        connection.close()
    return Served(wish, time.monotonic() - began_s, status, error)


def medians_s(served: list[Served]) -> dict[Wish, float]:
    """Of each wish that was served."""
    by_wish: dict[Wish, list[float]] = {}
    for each in served:
        by_wish.setdefault(each.wish, []).append(each.seconds)
    return {wish: statistics.median(seconds) for wish, seconds in by_wish.items()}


def failures(served: list[Served]) -> list[str]:
    """Everything that was not answered well."""
    return [f"{each.wish}: {each.status} {each.error}" for each in served if not 200 <= each.status < 300]
