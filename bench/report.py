"""Results as tables (Markdown, readable as they are) and as JSON."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

from bench.scene import Result, Turn, figure
from bench.verdict import Judgement, Outcome, Spread, judge

NONE = "–"


def judgements(result: Result) -> list[Judgement]:
    series = {name: _series(turns) for name, turns in result.turns.items()}
    strangers = {name: [turn.use.foreign for turn in turns] for name, turns in result.turns.items()}
    return [judge(target, series, strangers) for target in result.row.targets] if series else []


def outcomes(result: Result) -> list[Outcome]:
    return [Outcome.NOT_JUDGED] if result.broken else [judgement.outcome for judgement in judgements(result)]


def heading(facts: Mapping[str, object]) -> Iterator[str]:
    yield from (f"* {what}: {fact}" for what, fact in facts.items())
    yield ""


def table(result: Result) -> Iterator[str]:
    yield f"### {result.row.name}: {result.row.title}"
    yield ""
    if result.broken:
        yield f"**not judged**: {result.broken}"
    else:
        yield from _aligned(_figures(result))
        yield ""
        for judgement in judgements(result):
            yield f"* {_verdict(judgement)}"
    for note in result.notes:
        yield f"* {note}"
    yield ""


def _figures(result: Result) -> Iterator[list[str]]:
    """A row for each contestant: medians, and of the metric that matters the spread too."""
    metric = result.row.metric
    others = list(dict.fromkeys(name for turns in result.turns.values() for name in turns[0].figures if name != metric))
    yield ["", metric, "lowest – highest", *others, "own core", "other core", "limited by", "strangers"]
    for name, turns in result.turns.items():
        spreads = {each: Spread.of(values) for each, values in _series(turns).items()}
        uses = [turn.use for turn in turns]
        main = spreads.get(metric)
        yield [
            name,
            figure(main.median) if main else NONE,
            f"{figure(main.low)} – {figure(main.high)}" if main else NONE,
            *(figure(spreads[other].median) if other in spreads else NONE for other in others),
            f"{statistics.median(use.candidate_s / use.seconds for use in uses):.0%}",
            f"{statistics.median(use.other_core for use in uses):.0%}",
            Counter(use.limit for use in uses).most_common(1)[0][0],
            f"{statistics.median(use.foreign for use in uses):.0%}",
        ]


def _verdict(judgement: Judgement) -> str:
    spread, target = judgement.figure, judgement.target
    text = f"{target.subject}: {spread.median:.3f} ({spread.low:.3f} – {spread.high:.3f}), target {target.bound}"
    return f"{text}: **{judgement.outcome.value}**" + (f", {judgement.reason}" if judgement.reason else "")


def _aligned(rows: Iterator[list[str]]) -> Iterator[str]:
    cells = list(rows)
    cells.insert(1, ["---"] + ["---:"] * (len(cells[0]) - 1))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        yield "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"


def as_json(result: Result) -> dict[str, object]:
    """Every turn, and what was made of them."""
    return {
        "name": result.row.name,
        "title": result.row.title,
        "broken": result.broken,
        "notes": list(result.notes),
        "turns": {
            name: [{**turn.figures, "use": {**asdict(turn.use), "limit": turn.use.limit}} for turn in turns]
            for name, turns in result.turns.items()
        },
        "judgements": [
            {"target": asdict(j.target), "figure": asdict(j.figure), "outcome": j.outcome.value, "reason": j.reason}
            for j in judgements(result)
        ],
    }


def _series(turns: Sequence[Turn]) -> dict[str, list[float]]:
    return {metric: [turn.figures[metric] for turn in turns] for metric in turns[0].figures}
