"""The metrics: what each is called and how it is shown and compared.

A metric is a line of `METRICS` and the function that measures it (`pipelines.metrics.overlap`,
`pipelines.metrics.surfaces`): tables, pages, files and comparisons ask this table for everything else.
"""

from __future__ import annotations

from typing import NamedTuple


class Metric(NamedTuple):
    """How a metric of a case and class is shown and compared.

    Attributes:
        title: for people.
        unit: "mm" or "ml"; "" for a share from 0 to 1.
        higher_is_better: its direction.
        signed: it may err to both sides; compared by its size.
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
        """Decimals that are worth showing."""
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
}
"""By key, in the order of the columns of CSV files."""

ESTIMATES = ("confidence", "surface_entropy", "pass_agreement")
"""What a network says of its own result, see `pipelines.inference.confidence`; models are not compared by it."""
