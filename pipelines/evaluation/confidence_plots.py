"""What a page shows of the confidence: a plot of Dice against it for each class, and how well they agree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pipelines.metrics.confidence import Agreement
from pipelines.metrics.result_files import Results
from pipelines.metrics.summary import CaseMetrics, value_of
from pipelines.utils.svg import ROW, Plot, ticks

__all__ = ["PLOTS", "agreements"]

PLOTS = 16
"""Classes with a plot: those whose confidence is furthest from their Dice. A page of 100 would be slow."""
_ROWS = 9
"""Height of a plot, in rows of `pipelines.utils.svg`."""


def agreements(results: Results) -> list[dict[str, Any]]:
    """A row for each class that has both, and their mean; nothing where no confidence is known."""
    summary = results["summary"]
    if "confidence" not in summary:
        return []
    known = {name: row for name, row in summary["confidence"]["classes"].items() if row["n"]}
    furthest = sorted(known, key=lambda name: -known[name]["mean_absolute_error"])[:PLOTS]
    rows = [
        _row(name, found, str(_plot(name, results["cases"])) if name in furthest else "")
        for name, found in known.items()
    ]
    return [*rows, _row("mean of the classes", summary["confidence"]["mean"], "")] if rows else []


def _row(name: str, found: Agreement, plot: str) -> dict[str, Any]:
    return {
        "name": name,
        "n": found["n"],
        "spearman": _number(found["spearman"]),
        "error": _number(found["mean_absolute_error"]),
        "plot": plot,
    }


def _number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.3f}"


def _plot(name: str, cases: Sequence[CaseMetrics]) -> Plot:
    """A point per case over the range of both values, and the line on which they are equal."""
    points = []
    for case in cases:
        sure, dice = value_of(case, "confidence", name), value_of(case, "dice", name)
        if math.isfinite(sure) and math.isfinite(dice):
            points.append((sure, dice, case["case"]))
    values = [value for sure, dice, _ in points for value in (sure, dice)]
    low = min(math.floor(min(values) * 10) / 10, 0.9)
    plot = Plot(f"Dice of {name} against its confidence", low, 1.0, _ROWS)
    height = _ROWS * ROW

    def y(dice: float) -> float:
        return (1 - (dice - low) / (1 - low)) * (height - 10) + 5

    plot.axis("confidence")
    for tick in ticks(low, 1.0, 5):
        plot.add("line", "grid", x1=plot.x(low), x2=plot.x(1.0), y1=y(tick), y2=y(tick))
        plot.label(f"Dice {tick:g}", y(tick))
    plot.add("line", "zero", x1=plot.x(low), x2=plot.x(1.0), y1=y(low), y2=y(1.0))
    for sure, dice, of in points:
        tip = f"{of}: confidence {sure:.3f}, Dice {dice:.3f}"
        plot.add("circle", "case", tip, cx=plot.x(sure), cy=y(dice), r=3)
    return plot
