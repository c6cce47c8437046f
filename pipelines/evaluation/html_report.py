"""The results of an evaluation as one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.metrics.summary import ABSENT, FALSE_POSITIVE, MISSED, outcome
from pipelines.utils.html import write_page
from pipelines.utils.svg import ROW, Plot

# In the order of the columns.
TITLES = {
    "dice": "Dice",
    "nsd": "surface Dice (NSD)",
    "hd95_mm": "HD95 (mm)",
    "msd_mm": "mean surface distance (mm)",
    "volume_error_ml": "volume error (ml)",
    "iou": "IoU",
    "sensitivity": "sensitivity",
    "precision": "precision",
}
PLOTTED = ("dice", "nsd", "hd95_mm", "volume_error_ml")
BAD = (MISSED, FALSE_POSITIVE)
PICTURES = 12
"""Pictures on the page, of the worst cases."""
ROWS = 5000
"""Lines of the table of cases; the page would be slow with more, and metrics.csv has them all."""


def write_report(
    path: Path,
    results: Mapping[str, Any],
    title: str,
    facts: Mapping[str, str] | None = None,
    pictures: Mapping[str, Path] | None = None,
) -> None:
    """Write the page: summary, box plots per class, the worst cases with pictures, and a table of all.

    Args:
        results: see `pipelines.metrics.result_files.results`.
        title: of the page.
        facts: what was evaluated and how, shown under the title.
        pictures: case to a PNG file; the page holds those of the `PICTURES` worst cases.
    """
    summary = results["summary"]
    metrics = [metric for metric in TITLES if metric in summary["mean"]]
    plots = {TITLES[metric]: _plot(results, metric) for metric in PLOTTED if metric in metrics}
    write_page(
        path,
        Path(__file__).with_suffix(".html"),
        title=title,
        facts=facts or {},
        summary=summary,
        dice=_number("dice", summary["mean_dice"]),
        dice_interval=_interval("dice", (summary.get("mean_ci95") or {}).get("dice")),
        counted=summary["missed"] is not None,
        titles=[TITLES[metric] for metric in metrics],
        classes=_classes(summary, metrics),
        plots={name: plot for name, plot in plots.items() if plot is not None},
        with_pictures=bool(pictures),
        worst=_worst(results, pictures or {}),
        lines=_lines(results, metrics),
        rows=ROWS,
    )


def worst_first(cases: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Cases by their mean Dice over the classes, those without any structure last."""
    return sorted(cases, key=badness)


def badness(case: Mapping[str, Any]) -> tuple[float, str]:
    """What `worst_first` sorts by: the mean Dice of a case (infinite without one), then its name."""
    values = [v for v in case["dice"].values() if v is not None and not math.isnan(v)]
    return (sum(values) / len(values) if values else math.inf), str(case["case"])


def _classes(summary: Mapping[str, Any], metrics: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of the summary: a class each, then the mean of them all."""
    counts = ("missed", "false_positives", "absent") if summary["missed"] is not None else ()
    rows = [
        {
            "name": name,
            "cases": row["dice"]["n"],
            "counts": [row[count] for count in counts],
            "cells": [_cell(metric, row[metric], row["dice"]["n"]) for metric in metrics],
        }
        for name, row in summary["classes"].items()
    ]
    means = [_cell(metric, {"mean": summary["mean"][metric], "n": 0}, 0) for metric in metrics]
    last = {
        "name": "mean of the classes",
        "cases": "",
        "counts": [summary[c] for c in counts],
        "cells": means,
    }
    return [*rows, last]


def _cell(metric: str, found: Mapping[str, Any], cases: int) -> dict[str, Any]:
    """A mean, its interval, the number of cases where it is of fewer than others, and more in a tip."""
    cell: dict[str, Any] = {"mean": _number(metric, found["mean"]), "tip": "", "interval": "", "fewer": 0}
    if found["n"]:
        median, low, high, std = (_number(metric, found[key]) for key in ("median", "min", "max", "std"))
        cell["tip"] = f"median {median}, {low} to {high}, std {std}, n {found['n']}"
        cell["interval"] = _interval(metric, found.get("ci95"))
        if cell["interval"]:
            cell["tip"] += f", 95% CI {cell['interval']}"
        if found["n"] != cases:
            cell["fewer"] = found["n"]
    return cell


def _plot(results: Mapping[str, Any], metric: str) -> Plot | None:
    """A box per class and a point per case; None where no case has a value."""
    columns = {
        name: np.array([(case.get(metric) or {}).get(name) for case in results["cases"]], np.float64)
        for name in results["classes"]
    }
    values = np.concatenate([np.zeros(1), *(column[np.isfinite(column)] for column in columns.values())])
    if len(values) == 1:
        return None
    low, high = (0.0, 1.0) if metric in ("dice", "nsd") else (float(values.min()), float(values.max()))
    plot = Plot(TITLES[metric], low, high if high > low else low + 1, len(columns))
    plot.axis(TITLES[metric])
    for index, (name, column) in enumerate(columns.items()):
        y = (index + 0.5) * ROW
        plot.label(name, y)
        if np.isfinite(column).any():
            plot.box(column[np.isfinite(column)], y, "run0")

        def look(number: int, column: np.ndarray = column) -> tuple[str, str]:
            return "case", f"{results['cases'][number]['case']}: {_number(metric, column[number])}"

        plot.points(column, y, look)
    return plot


def _worst(results: Mapping[str, Any], pictures: Mapping[str, Path]) -> list[dict[str, Any]]:
    cases = [case for case in worst_first(results["cases"]) if badness(case)[0] < math.inf]
    found = []
    for case in [case for case in cases if case["case"] in pictures][:PICTURES] or cases[:PICTURES]:
        names = [name for name in results["classes"] if case["dice"].get(name) is not None]
        names.sort(key=lambda name: case["dice"][name])
        outcomes = [_outcome(case, name) for name in names[:8]]
        picture = pictures.get(case["case"])
        found.append(
            {
                "name": case["case"],
                "dice": _number("dice", badness(case)[0]),
                "classes": [
                    (name, _number("dice", case["dice"][name]), what if what in BAD else "")
                    for name, what in zip(names, outcomes, strict=False)
                ],
                "more": len(names) - len(outcomes),
                "png": "" if picture is None else base64.b64encode(Path(picture).read_bytes()).decode(),
            }
        )
    return found


def _lines(results: Mapping[str, Any], metrics: Sequence[str]) -> list[dict[str, Any]]:
    """The table of all cases, worst first."""
    return [
        {
            "case": case["case"],
            "name": name,
            "numbers": [_number(metric, case.get(metric, {}).get(name)) for metric in metrics],
            "outcome": what,
            "is_bad": what in BAD,
        }
        for case in worst_first(results["cases"])
        for name in results["classes"]
        if (what := _outcome(case, name)) != ABSENT
    ]


def _outcome(case: Mapping[str, Any], name: str) -> str:
    return outcome(case, name) if "reference_voxels" in case else ""


def _number(metric: str, value: float | None) -> str:
    if value is None or math.isnan(value):
        return ""
    return f"{value:.2f}" if metric.endswith(("_mm", "_ml")) else f"{value:.4f}"


def _interval(metric: str, ends: Sequence[float | None] | None) -> str:
    low, high = ends or (None, None)
    return "" if low is None else f"{_number(metric, low)} to {_number(metric, high)}"
