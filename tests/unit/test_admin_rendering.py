"""Durations in Go's notation, and the text tables."""

from __future__ import annotations

import pytest

from spawn.admin.listing import pages, table
from spawn.admin.rendering import go_duration


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0s"),
        (1, "1ns"),
        (999, "999ns"),
        (1_000, "1µs"),
        (4_033, "4.033µs"),
        (25_982, "25.982µs"),
        (100_100, "100.1µs"),
        (999_999, "999.999µs"),
        (1_000_000, "1ms"),
        (12_345_678, "12.345678ms"),
        (1_000_000_000, "1s"),
        (1_500_000_000, "1.5s"),
        (1_000_000_001, "1.000000001s"),
        (59_999_999_999, "59.999999999s"),
        (60_000_000_000, "1m0s"),
        (90_250_000_000, "1m30.25s"),
        (3_600_000_000_000, "1h0m0s"),
        (5_025_000_000_001, "1h23m45.000000001s"),
    ],
)
def test_durations_read_as_go_writes_them(ns: int, text: str) -> None:
    assert go_duration(ns) == text


def test_a_table_is_as_wide_as_its_cells_and_has_no_trailing_blanks() -> None:
    assert table(("A", "B"), [("long cell", ""), ("x", "y")]) == (
        "A          B\n---------  -\nlong cell\nx          y\n"
    )


def test_every_list_page_ends_with_a_line_end() -> None:
    assert list(pages()) == ["/list", "/list/nodes", "/list/nodes/get", "/list/nodes/set", "/list/nodes/delete"]
    assert all(text.endswith("\n") and "\n\n\n" not in text for text in pages().values())
