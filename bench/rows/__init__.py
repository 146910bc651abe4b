"""The rows of the table, in the order in which they are measured."""

from __future__ import annotations

from collections.abc import Callable

from bench.rows import drain, growth, idle, large, small
from bench.scene import Result, Row, Scene

ROWS: dict[str, tuple[Row, Callable[[Scene], Result]]] = {
    row.name: (row, measure)
    for row, measure in (
        (small.GETS, small.gets),
        (small.LATENCY, small.latency),
        (small.POSTS, small.posts),
        (drain.DRAIN, drain.drain),
        (large.DOWNLOADS, large.downloads),
        (large.UPLOADS, large.uploads),
        (idle.IDLE, idle.idle),
        (growth.GETS, growth.gets),
        (growth.POSTS, growth.posts),
    )
}
