"""SVG plots for an HTML page, coloured by its style sheet: rows of values over one horizontal axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any
from xml.etree import ElementTree

import numpy as np

WIDTH, LABELS, RIGHT, ROW, FOOT = 900, 190, 20, 24, 34
"""In pixels: width of the plot, of the labels and of the right margin; height of a row and of the ticks."""
_LONGEST_LABEL = 28


class Plot:
    """One plot; later elements are drawn over earlier ones. Names are escaped.

    Args:
        name: description of the plot for screen readers.
        low, high: values at the ends of the axis, `low` < `high`.
        rows: number of rows.
        height: height of a row in pixels.
    """

    def __init__(self, name: str, low: float, high: float, rows: int, height: float = ROW) -> None:
        self.low, self.high = low, high
        self.bottom = rows * height
        size = f"0 0 {WIDTH} {self.bottom + FOOT:.0f}"
        self._svg = ElementTree.Element("svg", {"viewBox": size, "role": "img", "aria-label": name})

    def x(self, value: float) -> float:
        """The horizontal position of a value in pixels."""
        return LABELS + (value - self.low) / (self.high - self.low) * (WIDTH - LABELS - RIGHT)

    def add(self, tag: str, kind: str, tip: str = "", within: Any = None, **attributes: Any) -> Any:
        """Add an element.

        Args:
            tag: SVG tag.
            kind: CSS class, which determines the colour; "" for none.
            tip: tooltip.
            within: parent element, by default the plot.
            attributes: SVG attributes; numbers are pixels.
        """
        given = {"class": kind} if kind else {}
        given |= {k: f"{v:.1f}" if isinstance(v, float) else str(v) for k, v in attributes.items()}
        element = ElementTree.SubElement(self._svg if within is None else within, tag, given)
        if tip:
            ElementTree.SubElement(element, "title").text = tip
        return element

    def axis(self, title: str, signed: bool = False) -> None:
        """Draw ticks with grid lines, and the title of the axis."""
        for tick in ticks(self.low, self.high):
            self.vertical("grid", tick)
            text = self.add("text", "tick", x=self.x(tick), y=self.bottom + 15)
            text.text = f"{tick:{'+' if signed and tick else ''}.6g}"
        self.add("text", "tick", x=(LABELS + WIDTH - RIGHT) / 2, y=self.bottom + 30).text = title

    def vertical(self, kind: str, value: float) -> None:
        """Draw a vertical line through all rows."""
        self.add("line", kind, x1=self.x(value), x2=self.x(value), y1=0, y2=self.bottom)

    def label(self, name: str, y: float, bold: bool = False) -> None:
        """Draw the name of the row with the centre `y`."""
        weight = {"font-weight": "bold"} if bold else {}
        label = self.add("text", "label", tip=name, x=LABELS - 10, y=y + 4.0, **weight)
        label.text = name if len(name) <= _LONGEST_LABEL else name[: _LONGEST_LABEL - 1] + "…"

    def points(self, values: np.ndarray, y: float, look: Callable[[int], tuple[str, str]]) -> None:
        """Draw a point per value, with a deterministic vertical offset so that equal values stay visible.

        Args:
            values: values; NaN has no point.
            y: centre of the row.
            look: index of a value to the CSS class and tooltip of its point.
        """
        for index, value in enumerate(values.tolist()):
            if math.isfinite(value):
                offset = (index * 0.618034 % 1 - 0.5) * ROW / 2
                kind, tip = look(index)
                self.add("circle", kind, tip, cx=self.x(value), cy=y + offset, r=3)

    def box(self, values: np.ndarray, y: float, kind: str, tip: str = "") -> tuple[Any, np.ndarray]:
        """Draw a box plot: quartiles, median, and whiskers to the last value within 1.5 interquartile ranges.

        J. W. Tukey, Exploratory Data Analysis, 1977.

        Returns:
            The group of its elements, and the values beyond the whiskers.
        """
        first, middle, third = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
        reach = 1.5 * (third - first)
        inside = (values >= first - reach) & (values <= third + reach)
        low, high = min(float(values[inside].min()), first), max(float(values[inside].max()), third)
        left, right = self.x(first), self.x(third)
        group = self.add("g", kind, tip)
        for start, stop in ((low, first), (third, high)):
            self.add("line", "", within=group, x1=self.x(start), x2=self.x(stop), y1=y, y2=y)
        self.add("rect", "", within=group, x=left, y=y - 4, width=max(right - left, 1.0), height=8)
        self.add("line", "median", within=group, x1=self.x(middle), x2=self.x(middle), y1=y - 5, y2=y + 5)
        return group, values[~inside]

    def boxes(self, columns: Mapping[str, np.ndarray], tip: Callable[[int, float], str]) -> None:
        """A row per column: its name, a box, and a point per case.

        Args:
            columns: name to a value per case, in the order of the rows; NaN has no point.
            tip: of the case with this index and value.
        """
        for row, (name, column) in enumerate(columns.items()):
            y = (row + 0.5) * ROW
            self.label(name, y)
            present = column[np.isfinite(column)]
            if len(present):
                self.box(present, y, "run0")

            def look(index: int, column: np.ndarray = column) -> tuple[str, str]:
                return "case", tip(index, float(column[index]))

            self.points(column, y, look)

    def __str__(self) -> str:
        return ElementTree.tostring(self._svg, encoding="unicode")


def ticks(low: float, high: float, most: int = 8) -> list[float]:
    """Round numbers between two values: steps of 1, 2 or 5 times a power of ten."""
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= most)
    return [round(i * step, 12) + 0.0 for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
