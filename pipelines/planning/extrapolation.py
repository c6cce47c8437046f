"""What a step costs at sizes that were not measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pipelines.planning.records import StepCost

__all__ = ["Line", "StepLine"]


class Line(NamedTuple):
    """`start + slope * x`, neither of which is negative."""

    start: float
    slope: float

    def __call__(self, x: float) -> float:
        return self.start + self.slope * x

    @classmethod
    def through(cls, xs: Sequence[float], ys: Sequence[float]) -> Line:
        """The line of least relative squared deviations.

        Relative, because a cost that is wrong by a tenth misleads a plan as much where it is small as where it is large.

        Raises:
            ValueError: fewer than two places, or a cost that is not above 0.
        """
        if len(set(xs)) < 2:
            raise ValueError(f"a line needs costs at two places or more, not at {sorted(set(xs))}")
        if not min(ys) > 0:
            raise ValueError(f"costs are above 0, not {min(ys)}")
        x, y = np.asarray(xs, dtype=float), np.asarray(ys, dtype=float)
        start, slope = np.linalg.lstsq(np.stack([1 / y, x / y], axis=1), np.ones(len(y)), rcond=None)[0]
        # What is left of the two where one of them would be negative: x / y alone, or 1 / y alone.
        if start < 0:
            start, slope = 0.0, float((x / y).sum() / ((x / y) ** 2).sum())
        elif slope < 0:
            start, slope = float((1 / y).sum() / ((1 / y) ** 2).sum()), 0.0
        return cls(float(start), float(slope))


class StepLine:
    """Cost of a step by the number of its voxels, from a few that were measured.

    The maps of a network grow with the voxels of a patch and with the patches of a batch; what does not grow are
    weights, their gradients and the optimiser's moments, and the time of starting each operation. So everything is
    `a + b * voxels` for one network, as long as its strides stay the same. All lie on a line that passes between
    the measured costs, see `Line.through`.

    Args:
        shapes: patch size and batch size of each that was measured.
        costs: what was measured.

    Raises:
        ValueError: fewer than two different numbers of voxels.

    Examples:
        >>> line = StepLine([((32, 32), 1), ((64, 32), 1)], [StepCost(1.0, 300), StepCost(1.5, 500)])
        >>> cost = line.at((64, 64), 1)
        >>> round(cost.seconds, 6), cost.memory
        (2.5, 900)
    """

    def __init__(self, shapes: Sequence[tuple[Sequence[int], int]], costs: Sequence[StepCost]) -> None:
        voxels = [math.prod(patch) * batch for patch, batch in shapes]
        self._seconds = Line.through(voxels, [cost.seconds for cost in costs])
        self._memory = Line.through(voxels, [cost.memory for cost in costs])
        windows = [math.prod(patch) for patch, _ in shapes]
        timed = [cost.window_seconds for cost in costs]
        if not all(timed):
            self._window = Line(0.0, 0.0)
        elif len(set(windows)) > 1:
            self._window = Line.through(windows, timed)
        else:
            # Only the batch differed.
            self._window = Line(0.0, sum(timed) / len(timed) / windows[0])

    def at(self, patch: Sequence[int], batch: int) -> StepCost:
        """The cost of a step on a batch of patches."""
        voxels = math.prod(patch) * batch
        return StepCost(
            self._seconds(voxels), math.ceil(round(self._memory(voxels), 3)), self._window(math.prod(patch))
        )
