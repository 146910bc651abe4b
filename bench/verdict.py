"""What rounds say: medians, ratios with their spread, and whether a target is met. Pure.

A ratio is of two values of the *same* round, so that whatever else the machine did then falls on both, and what counts
is the median of the ratios. Where the rounds of one candidate disagree by more than 30 % (``DISAGREE``), there is no
verdict: such a machine was too busy with other things to say anything. Nor is there one on a ratio where strangers
(processes that are not the benchmark's) had more than ``STRANGERS`` of the CPU time: rounds can agree on a peer that
was starved in all of them.
"""

from __future__ import annotations

import enum
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

DISAGREE = 1.3  # the highest round of a candidate over its lowest
STRANGERS = 0.25  # of the time of both cores, in the median round


class Outcome(enum.Enum):
    MET = "met"
    MISSED = "missed"
    NOT_JUDGED = "not judged"


@dataclass(frozen=True)
class Spread:
    """Of one figure over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))

    @property
    def disagreement(self) -> float:
        """1 when all rounds are alike, 1.3 when the highest is 30 % above the lowest."""
        if self.high == self.low:
            return 1.0
        return self.high / self.low if self.low > 0 else float("inf")


@dataclass(frozen=True)
class Target:
    """``metric`` of one series, or its ratio to a metric of another, has a bound; exactly one of the two is given."""

    metric: str
    of: str
    beside: str | None = None  # None: the figure itself is bounded, not a ratio
    beside_metric: str | None = None  # where it is not the same
    at_least: float | None = None
    at_most: float | None = None

    @property
    def bound(self) -> str:
        return f"≥ {self.at_least:g}" if self.at_least is not None else f"≤ {self.at_most:.3g}"

    @property
    def subject(self) -> str:
        if self.beside is None:
            return f"{self.metric}, {self.of}"
        return f"{self.metric}, {self.of} / {self.beside}" + (f"'s {self.beside_metric}" if self.beside_metric else "")

    def allows(self, figure: float) -> bool:
        high_enough = self.at_least is None or figure >= self.at_least
        return high_enough and (self.at_most is None or figure <= self.at_most)


@dataclass(frozen=True)
class Judgement:
    target: Target
    figure: Spread  # the ratio, or the figure itself
    outcome: Outcome
    reason: str = ""  # why it is not judged


Series = Mapping[str, Mapping[str, Sequence[float]]]  # series → metric → one value per round


def judge(target: Target, series: Series, strangers: Mapping[str, Sequence[float]]) -> Judgement:
    """``strangers``: their share of the CPU time while it was each one's turn, 0 to 1."""
    ours = series[target.of][target.metric]
    compared = {target.of: ours}
    figures = ours
    if target.beside is not None:
        theirs = series[target.beside][target.beside_metric or target.metric]
        compared[target.beside] = theirs
        figures = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    spread = Spread.of(figures)
    met = sum(map(target.allows, figures))
    for name, values in compared.items():
        if (apart := Spread.of(values).disagreement) > DISAGREE:
            reason = f"rounds of {name} disagree by {apart - 1:.0%}; {met} of {len(figures)} meet it"
            return Judgement(target, spread, Outcome.NOT_JUDGED, reason)
        if target.beside and (share := statistics.median(strangers[name])) > STRANGERS:
            return Judgement(target, spread, Outcome.NOT_JUDGED, f"strangers took {share:.0%} during {name}'s turns")
    return Judgement(target, spread, Outcome.MET if target.allows(spread.median) else Outcome.MISSED)


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """0: all targets are met; 1: one is missed; 2: none is missed, but one could not be judged."""
    if Outcome.MISSED in outcomes:
        return 1
    return 2 if Outcome.NOT_JUDGED in outcomes else 0
