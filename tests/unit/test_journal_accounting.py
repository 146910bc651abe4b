"""What counts against ``journal.max-bytes``, and when an operator hears of it."""

from __future__ import annotations

import logging

import pytest

from spawn.errors import JournalFull
from spawn.journal.accounting import Budget, entry_bytes, path_of, record_bytes
from spawn.journal.base import FileBody
from tests.support.journals import update


def test_a_body_counts_wherever_it_lies() -> None:
    nothing = entry_bytes(update(1, None))
    assert entry_bytes(update(1, b"x" * 100)) == nothing + 100
    assert entry_bytes(update(1, FileBody("/spool/x", 10_000))) == nothing + 10_000
    assert record_bytes(update(1, None)) == record_bytes(update(1, b"x" * 100))


def test_a_path_is_shown_without_its_query() -> None:
    assert path_of(b"/a?b?c") == b"/a"
    assert path_of(b"/a") == b"/a"


def test_what_does_not_fit_takes_nothing() -> None:
    budget = Budget(100)
    budget.reserve(90)
    with pytest.raises(JournalFull, match=r"journal\.max-bytes 100"):
        budget.reserve(11)
    assert budget.used_bytes == 90
    budget.reserve(10)


def test_warnings_are_said_once_on_the_way_up(caplog: pytest.LogCaptureFixture) -> None:
    budget = Budget(100)
    with caplog.at_level(logging.WARNING, "spawn.journal"):
        for _ in range(100):
            budget.reserve(1)
    assert [record.getMessage()[:22] for record in caplog.records] == [
        "the journal is 50 % fu", "the journal is 80 % fu", "the journal is 95 % fu",
    ]  # fmt: skip
    assert all(
        "GET /queues" in message and "out of sync" in message and "507" in message for message in caplog.messages
    )
    caplog.clear()
    budget.release(7)
    budget.reserve(3)
    assert not caplog.records, "it hardly went down"
    budget.release(40)
    budget.reserve(35)
    assert len(caplog.records) == 1
