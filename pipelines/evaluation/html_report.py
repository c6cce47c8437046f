"""The results of an evaluation as one self-contained HTML page."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.evaluation.confidence_plots import agreements
from pipelines.metrics.names import METRICS
from pipelines.metrics.pixels import POOLED
from pipelines.metrics.result_files import Results
from pipelines.metrics.summary import (
    ABSENT,
    FALSE_POSITIVE,
    MISSED,
    CaseMetrics,
    Statistics,
    Summary,
    outcome,
    statistics_of,
    value_of,
)
from pipelines.utils.html import write_page
from pipelines.utils.svg import Plot

# The first columns of the tables.
_FIRST = ("dice", "nsd", "hd95_mm", "msd_mm", "volume_error_ml")
_PLOTTED = ("dice", "nsd", "hd95_mm", "volume_error_ml")
_BAD = (MISSED, FALSE_POSITIVE)
PICTURES = 12
"""Maximum number of pictures on the page (those of the worst cases)."""
ROWS = 5000
"""Maximum number of lines in the table of cases; more would make the page slow, and metrics.csv has them all."""


def write_report(
    path: Path,
    results: Results,
    title: str,
    facts: Mapping[str, str] | None = None,
    pictures: Mapping[str, Path] | None = None,
    curves: Path | None = None,
) -> None:
    """Write the page: summary, box plots per class, the worst cases with pictures, and a table of all.

    Args:
        results: what the page shows.
        title: title of the page.
        facts: what was evaluated and how, shown under the title.
        pictures: case to a PNG file; the page holds those of the `PICTURES` worst cases.
        curves: PNG of the ROC and precision-recall curves.
    """
    summary = results["summary"]
    metrics = [m for m in dict.fromkeys((*_FIRST, *METRICS)) if m in summary["mean"]]
    plots = {METRICS[m].heading: _plot(results, m) for m in _PLOTTED if m in metrics}
    write_page(
        path,
        Path(__file__).with_suffix(".html"),
        title=title,
        facts=facts or {},
        summary=summary,
        dice=_number("dice", summary["mean_dice"]),
        dice_interval=_interval("dice", summary["mean_ci95"].get("dice") if "mean_ci95" in summary else None),
        counted=summary["missed"] is not None,
        titles=[METRICS[metric].heading for metric in metrics],
        classes=_classes(summary, metrics),
        plots={name: plot for name, plot in plots.items() if plot is not None},
        confidence=agreements(results),
        pooled_titles=list(POOLED.values()),
        pooled=[
            {"name": name, "numbers": [_number("dice", row[key]) for key in POOLED]}  # type: ignore[literal-required]
            for name, row in results.get("pooled", {}).items()
        ],
        curves="" if curves is None else base64.b64encode(curves.read_bytes()).decode(),
        with_pictures=bool(pictures),
        worst=_worst(results, pictures or {}),
        lines=_lines(results, metrics),
        rows=ROWS,
    )


def worst_first(cases: Sequence[CaseMetrics]) -> list[CaseMetrics]:
    """Cases sorted by their mean Dice over the classes, lowest first; those without any structure come last."""
    return sorted(cases, key=badness)


def badness(case: CaseMetrics) -> tuple[float, str]:
    """The sort key of `worst_first`: the mean Dice of a case (infinite if it has none), then its id."""
    values = [v for v in case["dice"].values() if v is not None and not math.isnan(v)]
    return (sum(values) / len(values) if values else math.inf), str(case["case"])


def _classes(summary: Summary, metrics: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of the summary: one per class, then their mean."""
    counted = summary["missed"] is not None
    rows = [
        {
            "name": name,
            "cases": statistics_of(row, "dice")["n"],
            "counts": [row["missed"], row["false_positives"], row["absent"]] if counted else [],
            "cells": [
                _cell(metric, statistics_of(row, metric), statistics_of(row, "dice")["n"])
                for metric in metrics
            ],
        }
        for name, row in summary["classes"].items()
    ]
    last = {
        "name": "mean of the classes",
        "cases": "",
        "counts": [summary["missed"], summary["false_positives"], summary["absent"]] if counted else [],
        "cells": [_mean(metric, summary["mean"][metric]) for metric in metrics],
    }
    return [*rows, last]


def _mean(metric: str, value: float) -> dict[str, Any]:
    """A table cell: mean, interval, tooltip, and the number of cases if it is smaller than that of Dice (else 0)."""
    return {"mean": _number(metric, value), "tip": "", "interval": "", "fewer": 0}


def _cell(metric: str, found: Statistics, cases: int) -> dict[str, Any]:
    """The mean of a class, see `_mean`."""
    cell = _mean(metric, found["mean"])
    if found["n"]:
        values = (found["median"], found["min"], found["max"], found["std"])
        median, low, high, std = (_number(metric, value) for value in values)
        cell["tip"] = f"median {median}, {low} to {high}, std {std}, n {found['n']}"
        cell["interval"] = _interval(metric, found.get("ci95"))
        if cell["interval"]:
            cell["tip"] += f", 95% CI {cell['interval']}"
        if found["n"] != cases:
            cell["fewer"] = found["n"]
    return cell


def _plot(results: Results, metric: str) -> Plot | None:
    """A box per class and a point per case; None if no case has a value."""
    columns = {
        name: np.array([value_of(case, metric, name) for case in results["cases"]])
        for name in results["classes"]
    }
    values = np.concatenate([np.zeros(1), *(column[np.isfinite(column)] for column in columns.values())])
    if len(values) == 1:
        return None
    low, high = (0.0, 1.0) if not METRICS[metric].unit else (float(values.min()), float(values.max()))
    plot = Plot(METRICS[metric].heading, low, high if high > low else low + 1, len(columns))
    plot.axis(METRICS[metric].heading)
    plot.boxes(columns, lambda index, value: f"{results['cases'][index]['case']}: {_number(metric, value)}")
    return plot


def _worst(results: Results, pictures: Mapping[str, Path]) -> list[dict[str, Any]]:
    cases = [case for case in worst_first(results["cases"]) if badness(case)[0] < math.inf]
    found = []
    for case in [case for case in cases if case["case"] in pictures][:PICTURES] or cases[:PICTURES]:
        dice = {name: value_of(case, "dice", name) for name in results["classes"]}
        names = sorted((name for name in dice if not math.isnan(dice[name])), key=dice.__getitem__)
        outcomes = [_outcome(case, name) for name in names[:8]]
        picture = pictures.get(case["case"])
        found.append(
            {
                "name": case["case"],
                "dice": _number("dice", badness(case)[0]),
                "classes": [
                    (name, _number("dice", dice[name]), what if what in _BAD else "")
                    for name, what in zip(names, outcomes, strict=False)
                ],
                "more": len(names) - len(outcomes),
                "png": "" if picture is None else base64.b64encode(Path(picture).read_bytes()).decode(),
            }
        )
    return found


def _lines(results: Results, metrics: Sequence[str]) -> list[dict[str, Any]]:
    """The table of all cases, worst first."""
    return [
        {
            "case": case["case"],
            "name": name,
            "numbers": [_number(metric, value_of(case, metric, name)) for metric in metrics],
            "outcome": what,
            "is_bad": what in _BAD,
        }
        for case in worst_first(results["cases"])
        for name in results["classes"]
        if (what := _outcome(case, name)) != ABSENT
    ]


def _outcome(case: CaseMetrics, name: str) -> str:
    return outcome(case, name) if "reference_voxels" in case else ""


def _number(metric: str, value: float | None) -> str:
    if value is None or math.isnan(value):
        return ""
    return f"{value:.{METRICS[metric].digits}f}"


def _interval(metric: str, ends: Sequence[float | None] | None) -> str:
    low, high = ends or (None, None)
    return "" if low is None else f"{_number(metric, low)} to {_number(metric, high)}"
