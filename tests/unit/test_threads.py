"""Calls in other threads: failures come back to whoever asked, and nobody else hears of them."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import gevent
import pytest

from spawn.http11.threads import in_thread
from spawn.journal.threads import NativeThreads

FAILS_IN_EVERY_WAY = """
import os, resource, sys, tempfile
from spawn.errors import NotSent
from spawn.http11.message import OutgoingRequest
from spawn.http11.outgoing import pieces
from spawn.http11.spool import DiskFile, Spool, SpooledFile, SpoolFull
from spawn.http11.threads import in_thread
from spawn.journal.threads import NativeThreads

failures = []
with tempfile.TemporaryDirectory() as directory:
    try:
        in_thread(DiskFile("/dev/full", os.O_RDWR).write_at, 0, b"x")
    except OSError as error:
        failures.append(error.strerror)
    try:
        list(pieces(OutgoingRequest(b"PUT", b"/", b"Host: a\\r\\n", SpooledFile(directory + "/gone", 9)), ("a", 80)))
    except NotSent as error:
        failures.append(str(error))
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    with Spool(directory, 0, 1 << 30) as spool:
        try:
            for _ in range(10):
                spool.write(b"x" * 65_536)
        except SpoolFull as error:
            failures.append(f"full {error.disk}")
print(failures)
"""


def test_the_failure_is_raised_in_the_greenlet_that_asked() -> None:
    assert in_thread(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        in_thread(divmod, 7, 0)


def test_failures_of_the_disk_print_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FAILS_IN_EVERY_WAY], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    for failure in ("No space left on device", "the body's file cannot be read", "full True"):
        assert failure in done.stdout


def test_the_journals_threads_do_not_interrupt_the_hub() -> None:
    threads = NativeThreads(1)
    try:
        assert threads.call(os.sched_getscheduler, 0) == os.SCHED_BATCH
        assert os.sched_getscheduler(0) == os.SCHED_OTHER
    finally:
        threads.stop(5.0)


def test_a_system_that_forbids_that_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(pid: int) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_getscheduler", forbidden)
    threads = NativeThreads(1)
    try:
        assert threads.call(len, "four") == 4
    finally:
        threads.stop(5.0)


def compute(seconds: float) -> None:
    """In one call that holds no lock of the interpreter's, as SQLite does."""
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        hashlib.sha256(bytes(1 << 20)).digest()


class TestAnswer:
    @pytest.fixture
    def threads(self) -> Iterator[NativeThreads]:
        made = NativeThreads(1)
        yield made
        made.stop(10)

    def test_who_has_nothing_to_do_answers(self, threads: NativeThreads) -> None:
        assert threads.answer(5, 60)
        threads.call(os.getpid)
        assert threads.answer(5, 60)
        threads.stop(5)
        assert threads.answer(5, 60)

    def test_who_waits_for_something_that_does_not_come_does_not(self, threads: NativeThreads) -> None:
        release = threading.Event()
        waiting = gevent.spawn(threads.call, release.wait, 30)
        gevent.sleep(0.05)
        assert not threads.answer(0.2, 60)
        assert not threads.answer(0.2, 60)
        release.set()
        waiting.get(timeout=10)
        assert threads.answer(5, 60)

    def test_who_works_does_so_for_as_long_as_that_makes_sense(self, threads: NativeThreads) -> None:
        working = gevent.spawn(threads.call, compute, 2.0)
        gevent.sleep(0.05)
        assert threads.answer(0.3, 0.7)
        assert threads.answer(0.3, 0.7)
        assert not threads.answer(0.3, 0.7)
        working.get(timeout=20)
        assert threads.answer(5, 0.7)
        again = gevent.spawn(threads.call, compute, 0.5)
        gevent.sleep(0.05)
        assert threads.answer(0.3, 0.7), "what was long before does not count"
        again.get(timeout=20)
