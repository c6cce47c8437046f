"""Plots of a comparison as SVG that follows the page's light or dark colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np

from pipelines.comparison.comparison import ALL, Comparison
from pipelines.comparison.text_report import number

WIDTH, LABELS, RIGHT, ROW, FOOT = 900, 190, 20, 24, 34
# More points than this are a smear, and make the page heavy.
MOST_POINTS = 6000


def differences(comparison: Comparison, other: int) -> str:
    """Per class: the difference of every case as a point, their mean and its interval as a bar."""
    values = comparison.values[other] - comparison.values[0]
    means = comparison.means[[0, other]]
    columns = [*values.T, means[1] - means[0]]
    rows = comparison.rows_of(other)
    low, high = _range([*columns, np.array([0.0])])
    axis = _Axis(low, high, len(rows))
    points = sum(int(np.isfinite(column).sum()) for column in columns) <= MOST_POINTS
    parts = [axis.grid(comparison.metric, signed=True), axis.line(0.0, "zero")]
    for index, (row, column) in enumerate(zip(rows, columns, strict=True)):
        y = index * ROW + ROW / 2
        parts.append(_label(row.name, y, bold=row.name == ALL))
        for i, value in enumerate(column.tolist() if points else []):
            if math.isfinite(value):
                # Equal values side by side, not one over the other: the same offsets at each drawing.
                offset = ((i * 0.618034) % 1 - 0.5) * ROW * 0.5
                gain = value if comparison.higher_is_better else -value
                kind = "better" if gain > 0 else "worse" if gain < 0 else "same"
                told = f"{comparison.cases[i]} {number(value, comparison.metric, True)}"
                parts.append(
                    f'<circle class="{kind}" cx="{axis.x(value):.1f}" cy="{y + offset:.1f}" r="3">'
                    f"<title>{escape(told)}</title></circle>"
                )
        s = row.statistics
        if math.isfinite(s.low):
            parts.append(
                f'<line class="interval" x1="{axis.x(s.low):.1f}" x2="{axis.x(s.high):.1f}" y1="{y}" y2="{y}"/>'
            )
        if math.isfinite(s.difference):
            parts.append(f'<path class="mean" d="{_diamond(axis.x(s.difference), y, 5)}"/>')
    name = f"Difference of {comparison.metric} per class, run {other + 1} minus run 1"
    return axis.svg(parts, name)


def boxes(comparison: Comparison) -> str:
    """Per class and run: median, quartiles, whiskers to the last value within 1.5 times their distance, the rest.

    J. W. Tukey, Exploratory Data Analysis, 1977.
    """
    runs, _, classes = comparison.values.shape
    height = max(ROW, 12 * runs + 8)
    axis = _Axis(*_range(list(comparison.values.reshape(runs, -1))), classes, height)
    parts = [axis.grid(comparison.metric)]
    for k, name in enumerate(comparison.classes):
        parts.append(_label(name, k * height + height / 2))
        for run in range(runs):
            values = comparison.values[run, :, k]
            values = values[np.isfinite(values)]
            if len(values):
                y = k * height + 4 + 12 * run + 6
                parts.append(_box(axis, values, y, run, comparison))
    return axis.svg(parts, f"{comparison.metric} per class and run")


def _box(axis: _Axis, values: np.ndarray, y: float, run: int, comparison: Comparison) -> str:
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    reach = 1.5 * (high - low)
    inside = values[(values >= low - reach) & (values <= high + reach)]
    x = [axis.x(value) for value in (inside.min(), low, middle, high, inside.max())]
    told = f"{run + 1} {comparison.runs[run].name}: median {number(middle, comparison.metric)}, {len(values)} cases"
    outside = values[(values < low - reach) | (values > high + reach)]
    dots = "".join(f'<circle cx="{axis.x(v):.1f}" cy="{y}" r="2"/>' for v in outside.tolist()[:200])
    return (
        f'<g class="run{run % 6}"><title>{escape(told)}</title>'
        f'<line x1="{x[0]:.1f}" x2="{x[4]:.1f}" y1="{y}" y2="{y}"/>'
        f'<rect x="{x[1]:.1f}" y="{y - 4}" width="{max(x[3] - x[1], 1):.1f}" height="8"/>'
        f'<line class="median" x1="{x[2]:.1f}" x2="{x[2]:.1f}" y1="{y - 5}" y2="{y + 5}"/>{dots}</g>'
    )


class _Axis:
    """A horizontal axis under rows of equal height."""

    def __init__(self, low: float, high: float, rows: int, height: float = ROW) -> None:
        self.low, self.high = low, high
        self.bottom = rows * height

    def x(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return LABELS + share * (WIDTH - LABELS - RIGHT)

    def line(self, value: float, kind: str) -> str:
        x = self.x(value)
        return f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{self.bottom:.0f}"/>'

    def grid(self, metric: str, signed: bool = False) -> str:
        parts = []
        for tick in ticks(self.low, self.high):
            text = f"{tick:{'+' if signed and tick else ''}.6g}"
            parts.append(self.line(tick, "grid"))
            parts.append(
                f'<text class="tick" x="{self.x(tick):.1f}" y="{self.bottom + 15:.0f}">{text}</text>'
            )
        middle = (LABELS + WIDTH - RIGHT) / 2
        title = f"difference of {metric}" if signed else metric
        parts.append(f'<text class="tick" x="{middle}" y="{self.bottom + 30:.0f}">{escape(title)}</text>')
        return "".join(parts)

    def svg(self, parts: Sequence[str], name: str) -> str:
        return (
            f'<svg viewBox="0 0 {WIDTH} {self.bottom + FOOT:.0f}" role="img" aria-label="{escape(name)}">'
            f"{''.join(parts)}</svg>"
        )


def ticks(low: float, high: float, most: int = 8) -> list[float]:
    """Round numbers between two values: steps of 1, 2 or 5 times a power of ten."""
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= most)
    return [round(i * step, 12) + 0.0 for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _range(columns: Sequence[np.ndarray]) -> tuple[float, float]:
    values = np.concatenate([column[np.isfinite(column)] for column in columns])
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    margin = (high - low) * 0.04 or max(abs(high), 1e-6) * 0.04
    return low - margin, high + margin


def _label(name: str, y: float, bold: bool = False) -> str:
    short = name if len(name) <= 28 else name[:27] + "…"
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text class="label" x="{LABELS - 10}" y="{y + 4:.1f}"{weight}>{escape(short)}'
        f"<title>{escape(name)}</title></text>"
    )


def _diamond(x: float, y: float, size: float) -> str:
    return f"M{x - size:.1f} {y}L{x:.1f} {y - size}L{x + size:.1f} {y}L{x:.1f} {y + size}Z"
