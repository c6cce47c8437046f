"""The ROC and precision-recall curves of an evaluation as a figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from pipelines.evaluation.figures import axes_of
from pipelines.metrics.curves import Curve, precision_recall, roc
from pipelines.metrics.pixels import PooledScores
from transforms.utils.files import replacing

_POINTS = 500


def draw_curves(path: Path, histograms: torch.Tensor, pooled: Mapping[str, PooledScores]) -> None:
    """Write both curves of every structure as PNG, with a point where the label map lies.

    Args:
        histograms: (structures, 2, bins) of all cases, see `pipelines.metrics.pixels.pixel_histograms`.
        pooled: name to scores, in the order of the structures.
    """
    figure, (left, right) = axes_of(11.0, 5.2, columns=2)
    for index, ((name, scores), counts) in enumerate(zip(pooled.items(), histograms, strict=True)):
        colour = f"C{index % 10}"
        if bool(counts.sum(1).all()):
            curve = _thinned(roc(counts))
            left.plot(curve.x, curve.y, color=colour, label=f"{name}, AUC {scores['auc']:.4f}")
            left.plot(1 - scores["specificity"], scores["sensitivity"], "o", color=colour)
        if bool(counts[1].any()):
            curve = _thinned(precision_recall(counts))
            label = f"{name}, average precision {scores['average_precision']:.4f}"
            right.plot(curve.x, curve.y, color=colour, label=label)
            right.plot(scores["sensitivity"], scores["precision"], "o", color=colour)
    left.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for axes, x, y in (
        (left, "1 - specificity", "sensitivity"),
        (right, "recall (sensitivity)", "precision"),
    ):
        axes.set(xlabel=x, ylabel=y, xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0] and len(pooled) <= 20:
            axes.legend(fontsize=8, loc="lower left" if axes is right else "lower right")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def _thinned(curve: Curve) -> Curve:
    """A part of the points: as many as can be seen."""
    step = max(1, len(curve.x) // _POINTS)
    kept = sorted({*range(0, len(curve.x), step), len(curve.x) - 1})
    return Curve(curve.x[kept], curve.y[kept])
