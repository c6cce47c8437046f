"""Figures without pyplot, which looks for a window system and keeps figures in memory."""

from __future__ import annotations

from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def axes_of(width: float, height: float, columns: int = 1) -> tuple[Figure, Any]:
    """A figure of so many inches, and its axes: one, or an array of `columns`."""
    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns)
