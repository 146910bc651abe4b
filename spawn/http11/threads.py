"""Calls in other threads whose failures are expected, without a traceback on standard error.

gevent's ``ThreadPool`` prints every exception that leaves a task; here it travels back as a value and is raised again
in the greenlet that asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import gevent
from gevent.threadpool import ThreadPool

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Outcome(Generic[T]):
    failure: Exception | None
    value: T | None


def call_in(pool: ThreadPool, function: Callable[..., T], args: tuple[object, ...]) -> T:
    """Run on a thread of ``pool``; blocks the calling greenlet only. The call goes on if that greenlet is killed."""
    outcome: _Outcome[T] = pool.spawn(_caught, function, args).get()  # type: ignore[assignment]
    if outcome.failure is not None:
        raise outcome.failure
    return outcome.value  # type: ignore[return-value]


def in_thread(function: Callable[..., T], *args: object) -> T:
    """Run something that may wait for the disk on a thread of the hub's, blocking only this greenlet."""
    return call_in(gevent.get_hub().threadpool, function, args)


def _caught(function: Callable[..., T], args: tuple[object, ...]) -> _Outcome[T]:
    try:
        return _Outcome(None, function(*args))
    except Exception as error:  # noqa: BLE001 — handed to the caller, who raises it
        return _Outcome(error, None)
