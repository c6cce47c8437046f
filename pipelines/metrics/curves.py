"""ROC and precision-recall curves of a structure, from the probabilities of all pixels.

The probabilities are counted in narrow bins of their logits, so that the pixels of any number of images take the memory
of one histogram; the areas differ from those of the exact probabilities by less than 1e-4, which a test holds.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

BINS = 1 << 16
_LOWEST, _HIGHEST = -104.0, 17.0
"""Logits: those of the smallest float32 number, and of the one next to 1, lie inside."""


class Curve(NamedTuple):
    """The points of a curve, float64, in the order of falling thresholds."""

    x: np.ndarray
    y: np.ndarray


def histogram(
    probabilities: torch.Tensor, reference: torch.Tensor, counted: torch.Tensor | None = None
) -> torch.Tensor:
    """The numbers of pixels by the probability of a structure, without and with it in the reference.

    Args:
        probabilities: float, of one structure.
        reference: bool, of the same shape.
        counted: bool, the pixels that count; None for all.

    Returns:
        int64 (2, BINS), from the lowest to the highest probability; histograms may be added.
    """
    logits = torch.logit(probabilities.double().clamp(0, 1)).clamp(_LOWEST, _HIGHEST)
    index = ((logits - _LOWEST) * (BINS / (_HIGHEST - _LOWEST))).long().clamp(max=BINS - 1)
    index += BINS * reference.long()
    if counted is not None:
        index = index[counted]
    return torch.bincount(index.reshape(-1), minlength=2 * BINS).reshape(2, BINS)


def roc(counts: torch.Tensor) -> Curve:
    """False positive rate (1 - specificity) and true positive rate (sensitivity)."""
    from sklearn.metrics import roc_curve

    false, true, _ = roc_curve(**_weighted(counts))
    return Curve(false, true)


def precision_recall(counts: torch.Tensor) -> Curve:
    """Recall (sensitivity) and precision."""
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(**_weighted(counts))
    return Curve(recall[::-1], precision[::-1])


def area_under_roc(counts: torch.Tensor) -> float:
    """The area under the ROC curve (AUC); NaN where all pixels have the structure, or none.

    Examples:
        >>> surely, maybe = torch.tensor([0.9, 0.8, 0.1, 0.2]), torch.tensor([True, True, False, False])
        >>> area_under_roc(histogram(surely, maybe))
        1.0
    """
    if not bool(counts.sum(1).all()):
        return float("nan")
    # Here and below within the functions: it takes a second to import, and whoever predicts does without.
    from sklearn.metrics import auc

    curve = roc(counts)
    return float(auc(curve.x, curve.y))


def average_precision(counts: torch.Tensor) -> float:
    """The mean of the precisions, weighted by the growth of the recall; NaN where no pixel has the structure."""
    if not bool(counts[1].any()):
        return float("nan")
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(**_weighted(counts)))


def _weighted(counts: torch.Tensor) -> dict[str, np.ndarray]:
    """Both rows as a sample for each bin that has pixels, with their number as its weight."""
    bins = counts.cpu().numpy()
    reference, score = np.nonzero(bins)
    return {"y_true": reference, "y_score": score, "sample_weight": bins[reference, score].astype(float)}
