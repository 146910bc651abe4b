"""The figures that the documents promise and that are no settings: the code has the same."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from spawn.delivery import attempt, changes, fleet, policy, worker
from spawn.http11 import progress

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(
    ("module", "name", "value", "document", "promise"),
    [
        (
            worker,
            "WINDOW",
            64,
            "guarantees.md",
            "may see the last updates that it had applied again, at most 64 of them",
        ),
        (worker, "HOLD_AFTER", 3, "guarantees.md", "**Held**: three updates in a row that this node alone refuses"),
        (worker, "HOLD_AFTER", 3, "guarantees.md", "after three in a row it is *held*"),
        (worker, "PROBE_S", 30, "guarantees.md", "one delivery is tried every 30 s"),
        (worker, "PROBE_S", 30, "api.md", "the update at hand is tried again every 30 s"),
        (
            attempt,
            "REUSE_IDLE_STRICT_S",
            1,
            "guarantees.md",
            "A connection that was idle for a second or more is not used",
        ),
        (fleet, "IN_FLIGHT_S", 10, "api.md", "waits for the one in flight (10 s at most)"),
        (fleet, "IN_FLIGHT_S", 10, "api.md", "that is under way is waited for, 10 s at most"),
        (changes, "RETRY_WAIT_S", 10, "api.md", "it takes more than 10 s and goes on"),
        (policy, "BACKOFF_FIRST_S", 0.25, "guarantees.md", "Back-off is exponential with full jitter, from 0.25 s"),
        (
            policy,
            "BACKOFF_LIMIT_S",
            30,
            "guarantees.md",
            "Back-off is exponential with full jitter, from 0.25 s to 30 s",
        ),
        (policy, "RETRY_AFTER_LIMIT_S", 60, "guarantees.md", "`Retry-After` (at most 60 s"),
        (progress, "FLOOR_BYTES_PER_S", 16 * 1024, "guarantees.md", "16 KiB/s on average"),
    ],
)
def test_a_promised_figure_is_the_codes(
    module: ModuleType, name: str, value: float, document: str, promise: str
) -> None:
    text = " ".join((DOCS / document).read_text("utf-8").split())
    assert promise in text
    assert getattr(module, name) == value
