"""Detect interleaved scans or reconstructions that no header attribute distinguishes, by their pixel values.

In one volume a slice is at least as similar to its neighbour as to the slice after that; in pure noise, equally
similar. Where scans alternate, each slice is more similar to every second (or third, or fourth) one. This has to hold
for many slices in a row, by a large factor, and by a relevant number of Hounsfield units. The same test is applied to
two quantities that anatomy hardly changes: the change of brightness of the body from slice to slice, and the texture
(noise and sharpness), in which two kernels differ even if their means are equal.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from transforms.dicom.frame import Frame
from transforms.dicom.stack import ALTERNATING
from transforms.errors import ImageError

__all__ = ["require_one_scan"]

_PERIODS = (2, 3, 4)
_FEWEST = 6
_RUN = 8
"""Number of slices in a row that have to alternate. None of 2,755 volumes cut from 171 head-and-neck CTs and one chest
CT does so (along each axis, from 6 slices on, at up to 19 times their slice distance)."""
_RATIO, _RATIO_OF_FEW = 0.9, 0.75
"""Largest ratio of the difference of every second slice to that of neighbours; the second value applies if there are
fewer than _RUN slices or the period is longer."""
_RATIO_OF_NUMBERS = 0.5
"""The same ratio for brightness and texture of whole slices."""
_FLOOR_HU, _FLOOR_BRIGHTER_HU = 5.0, 20.0
_FLOOR_TEXTURE = float(np.log(1.2))
"""Smaller differences do not matter: mean difference, that of medians (one of those heads and necks alternates by 10 to
15 HU in 20 slices), and the logarithm of the mean difference of pixels side by side."""
_BODY_HU = -500
_HIGHEST_HU = 1500
"""Values above this are clipped, since metal and its streaks change from slice to slice."""
_SAMPLES = 64
"""Number of rows (and of columns, where their order does not matter) that are compared."""


def require_one_scan(frames: Sequence[Frame], volume: np.ndarray) -> None:
    """Raise where slices alternate between two scans or reconstructions.

    Args:
        frames: the slices in order of position, for messages.
        volume: ``(slices, rows, columns)`` in Hounsfield units.

    Raises:
        ImageError: naming slices, and mean differences in HU.
    """
    if len(volume) < _FEWEST:
        return
    down, across = (max(1, size // _SAMPLES) for size in volume.shape[1:])
    rows = np.clip(volume[:, ::down], -1024, _HIGHEST_HU)
    values = rows[:, :, ::across].astype(np.float32)
    texture = np.log([np.abs(np.diff(row.astype(np.float32), axis=1)).mean() + 1.0 for row in rows])
    apart = {step: _differences(values, step) for step in (1, *_PERIODS)}
    brighter = {step: _brighter(values, step) for step in (1, 2)}
    first = _alternating(brighter[1], brighter[2], 2, _FLOOR_BRIGHTER_HU)
    if first is None:
        first = _alternating(np.abs(np.diff(texture)), np.abs(texture[2:] - texture[:-2]), 2, _FLOOR_TEXTURE)
    period = 2
    for longer in _PERIODS if first is None else ():
        first = _more_alike(apart[1], apart[longer], longer)
        if first is not None:
            period = longer
            break
    if first is None:
        return
    near, far = (float(np.mean(apart[step][first : first + _RUN])) for step in (1, period))
    raise ImageError(
        f"{frames[first].place}: from here on slices alternate between {period} scans or reconstructions, which no header"
        f" attribute tells apart: neighbours such as {frames[first + 1].name} differ by {near:.3g} HU on average, slices"
        f" {period} further on such as {frames[first + period].name} by {far:.3g} HU. Keep the files of one of them; or, if"
        f" this is one scan, read it as it is: --allow {ALTERNATING}."
    )


def _differences(values: np.ndarray, step: int) -> np.ndarray:
    """Mean absolute difference between each slice and the one `step` slices further on."""
    return np.array([np.abs(one - other).mean() for one, other in zip(values, values[step:], strict=False)])


def _brighter(values: np.ndarray, step: int) -> np.ndarray:
    """Change in brightness of the body between each slice and the one `step` slices further on."""
    found = []
    for one, other in zip(values, values[step:], strict=False):
        body = (one > _BODY_HU) & (other > _BODY_HU) & (one < _HIGHEST_HU) & (other < _HIGHEST_HU)
        found.append(abs(float(np.median(other[body] - one[body]))) if body.any() else 0.0)
    return np.array(found)


def _alternating(neighbours: np.ndarray, others: np.ndarray, period: int, floor: float) -> int | None:
    """Return the first slice of a run in which every step between neighbours is much wider than one of a period."""
    steps = np.min([neighbours[start : len(others) + start] for start in range(period)], axis=0)
    return _run((others <= _RATIO_OF_NUMBERS * steps) & (steps >= floor), _RUN)


def _more_alike(neighbours: np.ndarray, others: np.ndarray, period: int) -> int | None:
    """Return the first slice of a run in which slices a period apart are more alike than some neighbours between them."""
    steps = np.max([neighbours[start : len(others) + start] for start in range(period)], axis=0)
    if period == 2:
        first = _run((others <= _RATIO * steps) & (steps >= _FLOOR_HU), _RUN)
        if first is not None:
            return first
    alike = (others <= _RATIO_OF_FEW * steps) & (steps >= _FLOOR_HU)
    return _run(alike, max(2 * period, min(_RUN, len(others))))


def _run(found: np.ndarray, length: int) -> int | None:
    run = 0
    for index, one in enumerate(found):
        run = run + 1 if one else 0
        if run == length:
            return index - run + 1
    return None
