"""Estimates the quality of a prediction per class from the network's own probabilities, block by block.

Two values per predicted class, on the prepared grid:

- the confidence, an estimate of the Dice: the soft Dice of the probabilities with the label map that was made of them,
  2 I / (S + N), where I is the sum of the probabilities of the class over the voxels that got it, S that over all
  voxels, and N the number of voxels that got it. Were the probabilities right and the voxels independent, I, S and N
  would be the expected overlap, size of the reference and size of the prediction. Networks are too sure: by how much,
  the Dice of labelled cases tells, see `pipelines.metrics.confidence.factors`;
- the entropy of the probabilities at the surface of the class, in bits. A. Mehrtash et al., Confidence Calibration and
  Predictive Uncertainty Estimation for Deep Medical Image Segmentation, IEEE TMI 39(12), 2020: the mean entropy within
  a predicted structure tells how good it is. Inside, nearly all is 0; what varies lies at the surface.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from pipelines.metrics.confidence import Estimates

__all__ = ["CaseConfidence", "Confidence"]


class CaseConfidence(NamedTuple):
    """Of one case, by the name of the class; None of a class that is not predicted anywhere.

    Attributes:
        confidence: the Dice to be expected, 0 to 1.
        surface_entropy: bits, 0 to log2 of the number of classes.
        pass_agreement: 0 to 1, see `pipelines.inference.pass_agreement`; None where there was one pass only.
    """

    confidence: dict[str, float | None]
    surface_entropy: dict[str, float | None]
    pass_agreement: dict[str, float | None] | None = None

    def estimates(self) -> Estimates:
        """The same beside the metrics of a case, where NaN is what has no value."""
        found: Estimates = {
            "confidence": _with_nan(self.confidence),
            "surface_entropy": _with_nan(self.surface_entropy),
        }
        if self.pass_agreement is not None:
            found["pass_agreement"] = _with_nan(self.pass_agreement)
        return found


def _with_nan(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in values.items()}


class _Plane(NamedTuple):
    """The last plane that came by, whose next neighbours are still to come.

    Attributes:
        best: classes.
        surface: of which voxels it is known already that they are at a surface.
        entropy: of the other voxels that have a class; 0 elsewhere.
    """

    best: torch.Tensor
    surface: torch.Tensor
    entropy: torch.Tensor


class Confidence:
    """Sums over the voxels of one case, to which pieces of it are added in order.

    It holds a plane of the volume and a few numbers per class.

    Args:
        classes: number of classes, background included.
        axis: along which pieces follow one another.

    Examples:
        >>> found = Confidence(classes=2, axis=0)
        >>> foreground = torch.tensor([[0.0, 0.2], [0.8, 1.0]])
        >>> found.add(torch.stack([1 - foreground, foreground]), (foreground > 0.5).byte())
        >>> round(found.result(["lung"]).confidence["lung"], 3)
        0.9
    """

    def __init__(self, classes: int, axis: int) -> None:
        self.classes, self.axis = classes, axis
        self._sums = torch.zeros(classes, dtype=torch.float64)
        self._inside = torch.zeros_like(self._sums)
        self._voxels = torch.zeros_like(self._sums)
        self._entropy = torch.zeros_like(self._sums)
        self._surface = torch.zeros_like(self._sums)
        self._last: _Plane | None = None

    def add(self, probabilities: torch.Tensor, best: torch.Tensor) -> None:
        """The next piece; nothing has changed where this raises an error.

        Args:
            probabilities: (classes, *spatial), float.
            best: the classes with the largest of them, (*spatial), integer.
        """
        sums = probabilities.sum(tuple(range(1, probabilities.ndim))).double()
        # Along the axis of the pieces, with the classes first.
        rows = probabilities.movedim(self.axis + 1, 1)
        best = best.movedim(self.axis, 0)
        place = best.nonzero().unbind(1)
        found = best[place].long()
        inside = self._per_class(found, rows[(found, *place)])
        voxels = self._per_class(found, torch.ones(len(found), device=found.device))

        surface = _differs(best)
        last = self._last
        earlier = torch.zeros(0, dtype=torch.long, device=best.device)
        bits = torch.zeros(0, device=best.device)
        if last is not None:
            known, before = last.best.to(best.device), last.surface.to(best.device)
            differs = known != best[0]
            surface[0] |= differs
            behind = differs & ~before & (known != 0)
            earlier, bits = known[behind].long(), last.entropy.to(best.device)[behind]
        surface &= best != 0
        at = surface.nonzero().unbind(1)
        classes = best[at].long()
        columns: tuple[Any, ...] = (slice(None), *at)
        values = _entropy(rows[columns])
        entropy = self._per_class(classes, values) + self._per_class(earlier, bits)
        ones = torch.ones(len(classes) + len(earlier), device=best.device)
        on_surface = self._per_class(torch.cat([classes, earlier]), ones)

        open_ = (best[-1] != 0) & ~surface[-1]
        plane = torch.zeros(open_.shape, device=best.device)
        plane[open_] = _entropy(rows[:, -1][:, open_])
        kept = _Plane(best[-1].clone(), surface[-1].clone(), plane)

        self._sums += sums.cpu()
        self._inside += inside
        self._voxels += voxels
        self._entropy += entropy
        self._surface += on_surface
        self._last = kept

    def _per_class(self, classes: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(self.classes, dtype=torch.float64, device=values.device)
        return total.index_add_(0, classes, values.double()).cpu()

    def result(self, names: Sequence[str], factors: Mapping[str, float] | None = None) -> CaseConfidence:
        """The figures of the foreground classes 1, 2, ... with these names.

        Args:
            names: of all of them.
            factors: what the confidence of each is multiplied by, see `pipelines.metrics.confidence.factors`.
        """
        scale = torch.tensor([1.0, *((factors or {}).get(name, 1.0) for name in names)], dtype=torch.float64)
        dice = (scale * 2 * self._inside / (self._sums + self._voxels)).clamp_max(1)
        entropy = self._entropy / self._surface
        numbers = range(1, len(names) + 1)
        return CaseConfidence(
            {name: _known(dice[i], self._voxels[i]) for i, name in zip(numbers, names, strict=True)},
            {name: _known(entropy[i], self._surface[i]) for i, name in zip(numbers, names, strict=True)},
        )


def _known(value: torch.Tensor, count: torch.Tensor) -> float | None:
    return float(value) if count > 0 else None


def _differs(best: torch.Tensor) -> torch.Tensor:
    """Which voxels have a neighbour of another class, across one of their faces."""
    found = torch.zeros(best.shape, dtype=torch.bool, device=best.device)
    for axis in range(best.ndim):
        count = best.shape[axis] - 1
        step = best.narrow(axis, 0, count) != best.narrow(axis, 1, count)
        found.narrow(axis, 0, count).logical_or_(step)
        found.narrow(axis, 1, count).logical_or_(step)
    return found


def _entropy(probabilities: torch.Tensor) -> torch.Tensor:
    """Bits of each column of (classes, voxels)."""
    return torch.special.entr(probabilities.float()).sum(0) / math.log(2)
