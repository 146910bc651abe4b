"""What is said of clients that are turned away, and how often."""

from __future__ import annotations

import pytest

from spawn.proxy.turnedaway import QUIET_S, TurnedAway


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def test_each_reason_is_said_once_until_all_is_over(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    away = TurnedAway("updates", clock)

    def said() -> list[str]:
        lines = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return lines

    away.served()
    assert said() == []
    for _ in range(3):  # they take turns, and now and then one passes
        away.one(507, "full")
        away.one(503, "far behind", "lag")
        away.one(503, "nobody there", "sync")
        away.served()
    assert said() == [
        "updates are turned away with 507: full",
        "updates are turned away with 503: far behind",
        "updates are turned away with 503: nobody there",
    ]
    clock.now_s += QUIET_S - 0.1
    away.served()
    assert said() == []
    clock.now_s += 0.1
    away.served()
    away.served()
    assert said() == ["updates are taken again, after 9 were turned away"]
    away.one(507, "full")
    assert said() == ["updates are turned away with 507: full"]
    clock.now_s += QUIET_S
    away.served()
    assert said() == ["updates are taken again, after 1 were turned away"]
