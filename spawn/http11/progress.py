"""How fast a node takes one request that is too large for the kernel's buffer: what is too slow, and what is said.

A node that takes a few bytes now and then makes progress, and would keep a large update going, and its queue waiting,
for hours. So there is a floor for the average. The first ``grace_s`` seconds do not count, which are also the longest
pause: so neither a small body nor a pause that ends in time ever brings a node below the floor that was above it.

What the other end has acknowledged is taken. Only time that Spawn waits for the node counts, not the reading of a body
from a slow disk, and a request that is all taken is not slow: its answer has deadlines of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable

# 1 MiB a minute, which a link of 256 kbit/s gives twice. At less than that 40 MB would keep all updates behind them
# waiting for more than 40 minutes: the node is broken or as good as cut off.
FLOOR_BYTES_PER_S = 16_384

_now = time.monotonic


class Progress:
    """Of one request, from when the send buffer was first full. ``on_slow`` is called at most once and may not wait."""

    __slots__ = ("_began_s", "_grace_s", "_on_slow", "_paused_s", "_taken_bytes", "_total_bytes", "too_slow", "written")

    def __init__(
        self, written: int, total_bytes: int, grace_s: float, on_slow: Callable[[str], None] | None = None
    ) -> None:
        self.written = written  # bytes that the kernel has been given so far
        self.too_slow = ""  # how slow, once the node is below the floor
        self._total_bytes = total_bytes
        self._grace_s = grace_s
        self._on_slow = on_slow
        self._taken_bytes = 0
        self._began_s = _now()
        self._paused_s = self._began_s

    def pause(self) -> None:
        """From now on the node waits for Spawn."""
        self._paused_s = _now()

    def resume(self) -> None:
        self._began_s += _now() - self._paused_s

    def look(self, unsent_bytes: int) -> bool:
        """Whether the node has taken something since the last look, and is not too slow altogether."""
        before, self._taken_bytes = self._taken_bytes, self.written - unsent_bytes
        late_s = _now() - self._began_s - self._grace_s
        if unsent_bytes and late_s > 0:
            if self._taken_bytes < FLOOR_BYTES_PER_S * late_s:
                self.too_slow = self._so_far(late_s + self._grace_s)
                return False
            self._say(late_s + self._grace_s)
        return self._taken_bytes > before

    def _say(self, after_s: float) -> None:
        if self._on_slow is not None:
            on_slow, self._on_slow = self._on_slow, None
            on_slow(self._so_far(after_s))

    def _so_far(self, after_s: float) -> str:
        taken_bytes = min(self._taken_bytes, self._total_bytes)  # there is a head as well
        return f"{taken_bytes / 1e6:.1f} of {self._total_bytes / 1e6:.1f} MB in {after_s:.0f} s"
