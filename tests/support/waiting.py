"""Waiting in tests: poll a condition until it holds or its deadline has passed, never sleep and hope."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(probe: Callable[[], T], *, timeout_s: float, what: str, every_s: float = 0.03) -> T:
    """Call ``probe`` until it returns something true, and return that. Raises AssertionError with ``what`` after it.

    An ``OSError`` of the probe (nobody listens yet) counts as "not yet" and is shown if the time runs out.
    """
    deadline = time.monotonic() + timeout_s
    last: object = None
    while True:
        try:
            value = probe()
            if value:
                return value
            last = value
        except OSError as error:  # requests' errors are OSErrors too
            last = error
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what} (last seen: {last!r})")
        time.sleep(every_s)
