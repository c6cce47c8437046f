"""Metrics of pixels, as they are usual for vessels in photographs: specificity, accuracy and the areas under curves.

They count what is rightly called background. In a CT that is nearly everything, so that they say little there.

Source: Alom et al., arXiv 1802.06955, section IV.B (accuracy, sensitivity, specificity, F1 and AUC, within the field of
view).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, cast

import torch

from pipelines.metrics.curves import BINS, area_under_roc, average_precision, histogram
from pipelines.metrics.mlflow_names import metric_names
from pipelines.metrics.overlap import overlap_metrics, structure_counts
from transforms.label_values import structures_of


class PixelScores(TypedDict, total=False):
    """The result of `pixel_scores` for a case, by the names of the structures.

    An undefined value is NaN; if read from JSON, which has no NaN, it is None.
    """

    specificity: Mapping[str, float | None]
    accuracy: Mapping[str, float | None]
    auc: Mapping[str, float | None]


class PooledScores(TypedDict):
    """The metrics of a structure over the pixels of all cases together; an undefined value is NaN, in JSON None."""

    dice: float
    sensitivity: float
    specificity: float
    accuracy: float
    precision: float
    auc: float
    average_precision: float


POOLED = {
    "dice": "F1 (Dice)",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "accuracy": "accuracy",
    "precision": "precision",
    "auc": "AUC",
    "average_precision": "average precision",
}
"""Key of `PooledScores` to its title."""


def pixel_histograms(
    probabilities: torch.Tensor,
    reference: torch.Tensor,
    class_names: Sequence[str],
    regions: Mapping[str, Sequence[int]] | None = None,
    ignore: int | None = None,
) -> torch.Tensor:
    """The pixels of a case by the probability of each structure, see `pipelines.metrics.curves.histogram`.

    Args:
        probabilities: float (classes, *spatial), background first.
        reference: classes, integer (*spatial).
        class_names, regions: as of `pipelines.metrics.overlap.overlap_metrics`.
        ignore: value of the reference's pixels that are not counted.

    Returns:
        int64 (structures, 2, BINS).
    """
    structures = structures_of(dict(enumerate(class_names, start=1)), regions)
    counted = None if ignore is None else reference != ignore
    found = torch.zeros(len(structures), 2, BINS, dtype=torch.int64)
    for row, values in zip(found, structures.values(), strict=True):
        members = torch.tensor(values)
        row += histogram(probabilities[members].sum(0), torch.isin(reference, members), counted)
    return found


def pixel_scores(
    confusion: torch.Tensor,
    histograms: torch.Tensor,
    class_names: Sequence[str],
    regions: Mapping[str, Sequence[int]] | None = None,
) -> PixelScores:
    """Specificity TN / (TN + FP), accuracy (TP + TN) / all, and the area under the ROC curve, of every structure.

    Args:
        confusion: (classes, classes), see `pipelines.metrics.overlap.confusion_matrix`.
        histograms: (structures, 2, bins), see `pixel_histograms`.
        class_names, regions: as of `pipelines.metrics.overlap.overlap_metrics`.
    """
    names, hit, reference, predicted, total = structure_counts(confusion, class_names, regions)
    rest = total - reference - predicted + hit
    return {
        "specificity": dict(zip(names, (rest / (total - reference)).tolist(), strict=True)),
        "accuracy": dict(zip(names, ((hit + rest) / total).tolist(), strict=True)),
        "auc": {name: area_under_roc(row) for name, row in zip(names, histograms, strict=True)},
    }


def pooled_scores(
    confusion: torch.Tensor,
    histograms: torch.Tensor,
    class_names: Sequence[str],
    regions: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, PooledScores]:
    """The metrics of every structure over the pixels of all cases together; arguments as of `pixel_scores`, summed."""
    found: dict[str, Any] = {
        **overlap_metrics(confusion, class_names, None, regions),
        **pixel_scores(confusion, histograms, class_names, regions),
    }
    names = structures_of(dict(enumerate(class_names, start=1)), regions)
    found["average_precision"] = dict(zip(names, map(average_precision, histograms), strict=True))
    return {name: cast(PooledScores, {key: found[key][name] for key in POOLED}) for name in names}


def pooled_figures(pooled: Mapping[str, PooledScores]) -> dict[str, float]:
    """As MLflow metrics: pooled_<metric>_<structure>, without NaN values; names as in `pipelines.metrics.mlflow_names`."""
    keys = metric_names(list(pooled))
    values = {
        f"pooled_{metric}_{keys[name]}": row[metric]  # type: ignore[literal-required]
        for name, row in pooled.items()
        for metric in POOLED
    }
    return {key: value for key, value in values.items() if not math.isnan(value)}


def pooled_table(pooled: Mapping[str, PooledScores]) -> str:
    """The pooled metrics as a plain-text table, one line per structure.

    Examples:
        >>> print(pooled_table({"vessel": {key: 0.5 for key in POOLED}}))
        class   F1 (Dice)  sensitivity  specificity  accuracy  precision     AUC  average precision
        vessel     0.5000       0.5000       0.5000    0.5000     0.5000  0.5000             0.5000
    """
    width = max([5, *(len(name) for name in pooled)])
    lines = [f"{'class':<{width}}  " + "  ".join(f"{title:>6}" for title in POOLED.values())]
    for name, row in pooled.items():
        numbers = (f"{row[key]:{max(6, len(title))}.4f}" for key, title in POOLED.items())  # type: ignore[literal-required]
        lines.append(f"{name:<{width}}  " + "  ".join(numbers))
    return "\n".join(lines)
