"""Where a fuzzer's bytes are cut: its input begins with a plan of two bytes, so that it can try out other cuts."""

from __future__ import annotations

from tests.support.splits import cut_at

PLAN_BYTES = 2
PLANS = (b"\x00\x00", b"\x01\x01", b"\x20\x00", b"\x07\x05")  # for seeds: whole, byte by byte, in two, in small pieces


def cut(data: bytes, plan: bytes) -> list[bytes]:
    """The pieces. The plan's first byte is the size of the first, its second that of all others; 0: all the rest."""
    first, step = (size or len(data) for size in plan.ljust(PLAN_BYTES, b"\0"))
    return cut_at(data, range(first, len(data), max(step, 1)))
