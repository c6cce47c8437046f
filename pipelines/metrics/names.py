"""The metrics: their titles, and how they are shown and compared.

To add a metric, add a line to `METRICS` and a function that computes it (`pipelines.metrics.overlap`, `surfaces`, `centerlines` or
`pixels`). Tables, pages, files and comparisons take everything else from `METRICS`.
"""

from __future__ import annotations

from typing import NamedTuple


class Metric(NamedTuple):
    """How a metric of a case and class is shown and compared.

    Attributes:
        title: name in tables and plots.
        unit: "mm" or "ml"; "" for a ratio from 0 to 1.
        higher_is_better: whether higher values are better.
        signed: whether values may be negative; they are compared by their absolute values.
    """

    title: str
    unit: str = ""
    higher_is_better: bool = True
    signed: bool = False

    @property
    def heading(self) -> str:
        """The title with its unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    @property
    def digits(self) -> int:
        """Number of decimals to show."""
        return 2 if self.unit else 4


METRICS = {
    "dice": Metric("Dice"),
    "iou": Metric("IoU"),
    "sensitivity": Metric("sensitivity"),
    "precision": Metric("precision"),
    "volume_error_ml": Metric("volume error", "ml", higher_is_better=False, signed=True),
    "hd95_mm": Metric("HD95", "mm", higher_is_better=False),
    "msd_mm": Metric("mean surface distance", "mm", higher_is_better=False),
    "nsd": Metric("surface Dice (NSD)"),
    "cldice": Metric("clDice"),
    "specificity": Metric("specificity"),
    "accuracy": Metric("accuracy"),
    "auc": Metric("AUC"),
}
"""Key of the metric to its properties, in the order of the columns of CSV files."""

CENTERLINE_METRICS = ("cldice",)
"""Those that are measured of thin structures only, see `pipelines.metrics.centerlines`."""

PIXEL_METRICS = ("specificity", "accuracy", "auc")
"""Those that are measured of photographs only, see `pipelines.metrics.pixels`."""

OCCASIONAL_METRICS = (*CENTERLINE_METRICS, *PIXEL_METRICS)
"""Those that an evaluation may be without."""

ESTIMATES = ("confidence", "surface_entropy", "pass_agreement")
"""Estimates of the quality of a result by the network itself, see `pipelines.inference.confidence`; not used to compare
models."""
