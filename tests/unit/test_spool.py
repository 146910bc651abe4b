"""Spools: where the bytes are, who may read them when, and that nothing stays behind."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spawn.errors import AnswerCut
from spawn.http11.spool import (
    FLUSH_BYTES,
    IN_HAND_BYTES,
    LEAST_PIECE_BYTES,
    PIECE_BYTES,
    WRITES_AT_ONCE,
    DiskFile,
    MemoryBudget,
    Spool,
    SpoolClosed,
    SpooledFile,
    SpoolFull,
    SpoolReader,
)
from spawn.http11.threads import in_thread

KIB = 1024
MIB = 1024 * KIB


@pytest.fixture(autouse=True)
def deadline() -> Iterator[None]:
    with gevent.Timeout(30):
        yield


@pytest.fixture(autouse=True)
def no_descriptor_stays_open() -> Iterator[None]:
    in_thread(os.getpid)  # so that the pool's own descriptors are not counted
    before = open_files()
    yield
    until(lambda: open_files() == before)


def open_files() -> list[str]:
    return sorted(file.path for file in psutil.Process().open_files() if "spool-" in file.path)


def until(condition: object, timeout_s: float = 10.0) -> None:
    assert callable(condition)
    with gevent.Timeout(timeout_s):
        while not condition():
            gevent.sleep(0.005)


def make(path: Path, *, memory: int = 100, limit: int = 10 * MIB, budget: MemoryBudget | None = None) -> Spool:
    return Spool(str(path), memory, limit, budget)


def drain(reader: SpoolReader, step: int = 65_536) -> bytes:
    result = bytearray()
    while data := reader.read(step):
        assert len(data) <= step
        result += data
    return bytes(result)


def pattern(count: int, seed: int = 0) -> bytes:
    return bytes((seed + i * 7 + i // 251) % 256 for i in range(4096)) * (count // 4096) + b"e" * (count % 4096)


class SlowDisk:
    """Stands in for the threads' work: every write to the disk waits until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import threading

        self.entered = 0
        self.go = threading.Event()
        real = DiskFile.write_at

        def write_at(file: DiskFile, offset: int, data: bytes) -> None:
            self.entered += 1
            self.go.wait(10)
            real(file, offset, data)

        monkeypatch.setattr(DiskFile, "write_at", write_at)


class TestInMemory:
    def test_a_small_body_touches_no_disk(self, tmp_path: Path) -> None:
        with make(tmp_path) as spool:
            spool.write(b"ab")
            spool.write(b"cd")
            spool.close_write()
            assert (spool.content, spool.path, spool.size, spool.complete) == (b"abcd", None, 4, True)
            assert drain(spool.reader(), 3) == b"abcd"
            assert spool.take() == b"abcd"
            assert os.listdir(tmp_path) == []

    def test_an_empty_body(self, tmp_path: Path) -> None:
        with make(tmp_path) as spool:
            spool.close_write()
            assert (spool.content, drain(spool.reader())) == (b"", b"")

    def test_exactly_the_memory_stays_in_memory(self, tmp_path: Path) -> None:
        with make(tmp_path, memory=4) as spool:
            spool.write(b"abcd")
            assert spool.path is None
            spool.write(b"e")
            assert spool.path is not None


class TestOnDisk:
    def test_a_large_body_is_a_private_file_with_exactly_its_bytes(self, tmp_path: Path) -> None:
        body = pattern(300_001)
        with make(tmp_path) as spool:
            for start in range(0, len(body), 10_000):
                spool.write(body[start : start + 10_000])
            spool.close_write()
            assert spool.content is None
            assert spool.path is not None
            path = Path(spool.path)
            assert path.read_bytes() == body
            assert (path.parent, path.name[:6]) == (tmp_path, "spool-")
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert drain(spool.reader(), 7_000) == body
        assert os.listdir(tmp_path) == []

    def test_memory_is_bounded_by_a_step(self, tmp_path: Path) -> None:
        with make(tmp_path) as spool:
            for _ in range(100):
                spool.write(b"x" * 10_000)
                assert len(spool._tail) < FLUSH_BYTES

    def test_the_disk_is_written_in_steps_not_in_crumbs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        disk = SlowDisk(monkeypatch)
        disk.go.set()
        with make(tmp_path) as spool:
            for _ in range(4 * 64):
                spool.write(b"x" * KIB)
            spool.close_write()
            assert disk.entered == 4

    def test_a_released_file_has_a_new_owner(self, tmp_path: Path) -> None:
        spool = make(tmp_path)
        spool.write(b"x" * 200)
        spool.close_write()
        taken = spool.take()
        assert isinstance(taken, SpooledFile)
        spool.discard()
        assert Path(taken.path).read_bytes() == b"x" * 200
        assert taken.size == 200
        with pytest.raises(AnswerCut):
            spool.reader().read()

    def test_only_a_complete_file_can_be_released(self, tmp_path: Path) -> None:
        with make(tmp_path) as spool:
            spool.write(b"small")
            with pytest.raises(ValueError):
                spool.release_file()
            spool.write(b"x" * 200)
            with pytest.raises(ValueError):
                spool.release_file()

    def test_a_file_that_its_new_owner_moved_away_may_still_be_discarded(self, tmp_path: Path) -> None:
        spool = make(tmp_path)
        spool.write(b"x" * 200)
        spool.close_write()
        assert spool.path is not None
        os.rename(spool.path, tmp_path / "moved")
        spool.discard()
        assert os.listdir(tmp_path) == ["moved"]

    def test_a_file_cut_by_somebody_else_is_noticed(self, tmp_path: Path) -> None:
        with make(tmp_path) as spool:
            spool.write(b"x" * 200)
            spool.close_write()
            assert spool.path is not None
            os.truncate(spool.path, 50)
            with pytest.raises(AnswerCut, match="cut short"):
                drain(spool.reader())


class TestReaders:
    @pytest.mark.parametrize("memory", [0, 100, 10 * MIB])
    def test_readers_follow_the_writer_and_get_every_byte_once(self, tmp_path: Path, memory: int) -> None:
        body = pattern(400_000)
        with make(tmp_path, memory=memory) as spool:
            readers = [gevent.spawn(drain, spool.reader(), step) for step in (1_000, 65_536, 300_000)]
            for start in range(0, len(body), 9_999):
                spool.write(body[start : start + 9_999])
                gevent.sleep(0)
            spool.close_write()
            readers.append(gevent.spawn(drain, spool.reader()))
            assert [reader.get(timeout=10) == body for reader in readers] == [True] * 4

    def test_a_reader_sees_bytes_before_the_body_is_complete(self, tmp_path: Path) -> None:
        with make(tmp_path) as spool:
            reading = gevent.spawn(spool.reader().read)
            spool.write(b"first")
            assert reading.get(timeout=5) == b"first"

    def test_a_failed_body_is_read_to_where_it_broke(self, tmp_path: Path) -> None:
        with make(tmp_path) as spool:
            reader = spool.reader()
            spool.write(b"part")
            spool.fail("the node went away")
            spool.fail("a later reason")
            assert reader.read() == b"part"
            with pytest.raises(AnswerCut, match="the node went away"):
                reader.read()
            assert not spool.complete

    def test_a_waiting_reader_hears_of_the_failure(self, tmp_path: Path) -> None:
        with make(tmp_path) as spool:
            reading = gevent.spawn(spool.reader().read)
            gevent.sleep(0)
            spool.fail("gone")
            with pytest.raises(AnswerCut, match="gone"):
                reading.get(timeout=5)

    def test_a_writer_that_stalls_does_not_hold_its_reader_for_ever(self, tmp_path: Path) -> None:
        with make(tmp_path) as spool, pytest.raises(AnswerCut, match="stalled"):
            spool.reader(stall_timeout_s=0.02).read()
        assert not spool._waiters

    def test_bytes_that_wait_for_the_disk_are_readable(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        disk = SlowDisk(monkeypatch)
        with make(tmp_path) as spool:
            writing = gevent.spawn(spool.write, b"x" * 100_000)
            until(lambda: disk.entered)
            reader = spool.reader()
            assert reader.read(100_000) == b"x" * 100_000
            assert not writing.ready()  # the writer waits for the disk: that is what bounds memory
            disk.go.set()
            writing.get(timeout=5)


class TestWaitReady:
    def test_returns_when_enough_came_when_complete_and_when_failed(self, tmp_path: Path) -> None:
        acts: list[Callable[[Spool], None]] = [lambda s: s.write(b"12345"), Spool.close_write, lambda s: s.fail("x")]
        for act in acts:
            with make(tmp_path) as spool:
                waiting = gevent.spawn(spool.wait_ready, 5, 20)
                gevent.sleep(0)
                act(spool)
                waiting.get(timeout=5)

    def test_returns_when_time_is_up(self, tmp_path: Path) -> None:
        with make(tmp_path) as spool:
            spool.write(b"1")
            spool.wait_ready(5, 0.02)
            spool.wait_ready(5, 0)
            assert not spool.complete


class TestLimits:
    def test_a_body_over_the_limit_is_refused_and_its_readers_hear_of_it(self, tmp_path: Path) -> None:
        with make(tmp_path, limit=10) as spool:
            spool.write(b"x" * 10)
            with pytest.raises(SpoolFull) as caught:
                spool.write(b"x")
            assert not caught.value.disk
            assert spool.failed
            with pytest.raises(SpoolClosed):
                spool.write(b"y")

    def test_writing_after_the_end_is_refused(self, tmp_path: Path) -> None:
        with make(tmp_path) as spool:
            spool.close_write()
            spool.close_write()
            with pytest.raises(SpoolClosed):
                spool.write(b"x")

    def test_an_exhausted_budget_sends_bodies_to_the_disk_at_once(self, tmp_path: Path) -> None:
        budget = MemoryBudget(150)
        with make(tmp_path, budget=budget) as first, make(tmp_path, budget=budget) as second:
            first.write(b"x" * 100)
            second.write(b"y" * 60)
            assert (first.path, second.path is None, budget.used_bytes) == (None, False, 100)
            second.close_write()
            assert drain(second.reader()) == b"y" * 60
        assert budget.used_bytes == 0

    def test_the_budget_gets_back_what_moves_to_the_disk(self, tmp_path: Path) -> None:
        budget = MemoryBudget(1000)
        with make(tmp_path, budget=budget) as spool:
            spool.write(b"x" * 100)
            assert budget.used_bytes == 100
            spool.write(b"x" * FLUSH_BYTES)
            assert budget.used_bytes == 0
        assert budget.used_bytes == 0

    def test_what_waits_for_the_disk_counts_or_does_not_wait(self, tmp_path: Path) -> None:
        """The beginnings of many large bodies are as much as many small ones."""
        budget = MemoryBudget(1000)
        with make(tmp_path, budget=budget) as first, make(tmp_path, budget=budget) as second:
            first.write(b"x" * 60)
            first.write(b"x" * 600)
            assert (first.path is not None, budget.used_bytes) == (True, 660)
            second.write(b"y" * 300)
            assert (second.path is not None, budget.used_bytes) == (True, 960)
            second.write(b"y" * 100)
            assert budget.used_bytes == 660
            assert second.path is not None
            assert os.path.getsize(second.path) == 400
            second.close_write()
            assert drain(second.reader()) == b"y" * 400
        assert budget.used_bytes == 0

    def test_many_writers_bring_little_at_a_time(self, tmp_path: Path) -> None:
        """All of them may have a piece in hand at once."""
        budget = MemoryBudget(1000)
        spools = [make(tmp_path, budget=budget) for _ in range(2_000)]
        sizes = []
        for spool in spools:
            sizes.append(spool.piece_bytes)
            spool.write(b"")
            spool.close_write() if len(sizes) % 2 else spool.fail("gone")
            spool.discard()
        assert (sizes[0], sizes[-200], sizes[-10]) == (LEAST_PIECE_BYTES, IN_HAND_BYTES // 200, PIECE_BYTES)
        assert budget.writers == 0

    def test_few_bodies_at_a_time_are_copied_for_the_disk(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        budget = MemoryBudget(0)
        disk = SlowDisk(monkeypatch)
        spools = [make(tmp_path, budget=budget) for _ in range(3 * WRITES_AT_ONCE)]
        writers = [gevent.spawn(spool.write, b"x" * 1000) for spool in spools]
        until(lambda: budget.disk_turns.locked() and all(spool.size for spool in spools))
        assert disk.entered <= WRITES_AT_ONCE
        disk.go.set()
        gevent.joinall(writers, raise_error=True)
        for spool in spools:
            spool.discard()
        assert (disk.entered, budget.used_bytes, budget.writers) == (3 * WRITES_AT_ONCE, 0, 0)

    def test_a_full_disk_is_told_apart(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        budget = MemoryBudget(1000)
        with make(tmp_path, budget=budget) as spool:
            spool.write(b"x" * 50)
            monkeypatch.setattr(os, "pwrite", full)
            with pytest.raises(SpoolFull, match="No space left") as caught:
                spool.write(b"x" * FLUSH_BYTES)
            assert caught.value.disk
            assert "No space left" in spool.failed
        assert budget.used_bytes == 0
        assert os.listdir(tmp_path) == []

    def test_a_directory_that_is_gone_is_a_disk_that_refuses(self, tmp_path: Path) -> None:
        with make(tmp_path / "gone") as spool:
            spool.write(b"x" * 200)
            with pytest.raises(SpoolFull) as caught:
                spool.close_write()
            assert caught.value.disk
            assert not spool.complete

    def test_short_writes_are_continued(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        real = os.pwrite
        monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[:1000], offset))
        body = pattern(150_000)
        with make(tmp_path) as spool:
            spool.write(body)
            spool.close_write()
            assert drain(spool.reader()) == body


class TestDiscard:
    def test_twice_and_at_any_time(self, tmp_path: Path) -> None:
        for count in (0, 50, 200, FLUSH_BYTES * 2):
            spool = make(tmp_path)
            spool.write(b"x" * count)
            spool.discard()
            spool.discard()
            with pytest.raises(AnswerCut):
                spool.reader().read()
            with pytest.raises(SpoolClosed):
                spool.write(b"x")
        assert os.listdir(tmp_path) == []

    def test_while_a_write_waits_for_the_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        disk = SlowDisk(monkeypatch)
        budget = MemoryBudget(MIB)
        spool = make(tmp_path, budget=budget)
        writing = gevent.spawn(spool.write, b"x" * 100_000)
        until(lambda: disk.entered)
        discarding = gevent.spawn(spool.discard)
        gevent.sleep(0)
        disk.go.set()
        with pytest.raises(SpoolClosed):
            writing.get(timeout=5)
        discarding.get(timeout=5)
        assert os.listdir(tmp_path) == []
        assert budget.used_bytes == 0

    def test_after_the_writer_was_killed_in_a_write(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        disk = SlowDisk(monkeypatch)
        spool = make(tmp_path)
        writing = gevent.spawn(spool.write, b"x" * 100_000)
        until(lambda: disk.entered)
        writing.kill()
        spool.discard()  # the thread still waits with the write in its hands
        disk.go.set()
        until(lambda: os.listdir(tmp_path) == [] and not open_files())

    def test_a_killed_write_can_be_gone_on_with(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        disk = SlowDisk(monkeypatch)
        body = pattern(100_000)
        with make(tmp_path) as spool:
            writing = gevent.spawn(spool.write, body)
            until(lambda: disk.entered)
            writing.kill()
            disk.go.set()
            spool.close_write()
            assert drain(spool.reader()) == body

    def test_a_reader_at_work_gets_a_clean_error(self, tmp_path: Path) -> None:
        spool = make(tmp_path)
        spool.write(b"x" * 4 * FLUSH_BYTES)
        reader = spool.reader()
        assert reader.read(10) == b"x" * 10
        reading = gevent.spawn(drain, reader, 100)
        gevent.sleep(0)
        spool.discard()
        with pytest.raises(AnswerCut):
            reading.get(timeout=5)


STEPS = st.lists(st.integers(0, 90_000), max_size=8)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS, st.sampled_from([0, 1, 1000, 70_000, 10**6]), st.integers(5_000, 200_000))
def test_what_goes_in_comes_out(tmp_path: Path, steps: list[int], memory: int, read_step: int) -> None:
    budget = MemoryBudget(60_000)
    parts = [pattern(count, seed) for seed, count in enumerate(steps)]
    with make(tmp_path, memory=memory, budget=budget) as spool:
        early = spool.reader()
        for part in parts:
            spool.write(part)
        spool.close_write()
        whole = b"".join(parts)
        assert spool.size == len(whole)
        assert drain(early, read_step) == whole
        assert spool.content in (None, whole)
    assert budget.used_bytes == 0
    assert os.listdir(tmp_path) == []
