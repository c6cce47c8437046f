"""Plots of a comparison for its HTML report."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pipelines.comparison.comparison import ALL, Comparison
from pipelines.comparison.text_report import number
from pipelines.utils.svg import ROW, Plot

# Above this number, single points cannot be distinguished and make the page slow.
MOST_POINTS = 6000
# Maximum number of points drawn beyond the whiskers of a box.
_MOST_OUTLIERS = 200


def differences(comparison: Comparison, other: int) -> str:
    """SVG plot with, per class, the difference of each case (points), their mean and its confidence interval."""
    values = comparison.values[other] - comparison.values[0]
    means = comparison.means[[0, other]]
    columns = [*values.T, means[1] - means[0]]
    rows = comparison.rows_of(other)
    name = f"Difference of {comparison.metric} per class, run {other + 1} minus run 1"
    plot = Plot(name, *_range([*columns, np.array([0.0])]), len(rows))
    plot.axis(f"difference of {comparison.metric}", signed=True)
    plot.vertical("zero", 0.0)
    few = sum(int(np.isfinite(column).sum()) for column in columns) <= MOST_POINTS
    for index, (row, column) in enumerate(zip(rows, columns, strict=True)):
        y = (index + 0.5) * ROW
        plot.label(row.name, y, bold=row.name == ALL)

        def look(case: int, column: np.ndarray = column) -> tuple[str, str]:
            gain = column[case] if comparison.higher_is_better else -column[case]
            kind = "better" if gain > 0 else "worse" if gain < 0 else "same"
            return kind, f"{comparison.cases[case]} {number(column[case], comparison.metric, True)}"

        if few:
            plot.points(column, y, look)
        s = row.statistics
        if math.isfinite(s.low):
            plot.add("line", "interval", x1=plot.x(s.low), x2=plot.x(s.high), y1=y, y2=y)
        if math.isfinite(s.difference):
            x = plot.x(s.difference)
            plot.add("path", "mean", d=f"M{x - 5:.1f} {y}L{x:.1f} {y - 5}L{x + 5:.1f} {y}L{x:.1f} {y + 5}Z")
    return str(plot)


def boxes(comparison: Comparison) -> str:
    """SVG plot with a box per class and run (see `Plot.box`) and a point per value beyond its whiskers."""
    runs, _, classes = comparison.values.shape
    height = max(ROW, 12 * runs + 8)
    ends = _range(list(comparison.values.reshape(runs, -1)))
    plot = Plot(f"{comparison.metric} per class and run", *ends, classes, height)
    plot.axis(comparison.metric)
    for k, name in enumerate(comparison.classes):
        plot.label(name, (k + 0.5) * height)
        for run in range(runs):
            values = comparison.values[run, :, k]
            values = values[np.isfinite(values)]
            if len(values):
                y = k * height + 12.0 * run + 10
                median = number(float(np.median(values)), comparison.metric)
                tip = f"{run + 1} {comparison.runs[run].name}: median {median}, {len(values)} cases"
                group, beyond = plot.box(values, y, f"run{run % 6}", tip)
                for value in beyond.tolist()[:_MOST_OUTLIERS]:
                    plot.add("circle", "", within=group, cx=plot.x(value), cy=y, r=2)
    return str(plot)


def _range(columns: Sequence[np.ndarray]) -> tuple[float, float]:
    values = np.concatenate([column[np.isfinite(column)] for column in columns])
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    margin = (high - low) * 0.04 or max(abs(high), 1e-6) * 0.04
    return low - margin, high + margin
