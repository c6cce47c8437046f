"""Mean, deviation and quantiles of voxels: of one case, and of several together.

Values that are whole numbers, as in a CT, are counted instead of sorted: a pass over the volume, whatever the
processor, and exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from pipelines.planning.records import QUANTILES, Intensities
from transforms.label_values import value_counts

__all__ = ["inside_and_outside", "pooled_quantiles", "whole_numbers"]

_SHARES = np.array(QUANTILES) / 100
_OFFSET = 1 << 15
_PART = 1 << 22


def whole_numbers(channel: np.ndarray) -> bool:
    """Whether every value is a whole number."""
    if channel.dtype.kind in "iu":
        return True
    return all(bool((np.rint(part) == part).all()) for part in channel)


def inside_and_outside(channel: np.ndarray, inside: np.ndarray) -> tuple[Intensities, Intensities]:
    """Intensities of the voxels in a mask and of all others.

    Args:
        channel: (*spatial) int16, int32 or float32, finite.
        inside: (*spatial) bool.
    """
    # In the order of memory, which is several times faster.
    order = np.argsort(np.negative(np.abs(channel.strides)), kind="stable")
    channel, inside = channel.transpose(order), inside.transpose(order)
    if channel.dtype != np.int16 and whole_numbers(channel):
        low, high = channel.min(), channel.max()
        if low >= -_OFFSET and high < _OFFSET:
            channel = channel.astype(np.int16)
    if channel.dtype == np.int16:
        everywhere, within = _counts(channel), _counts(channel[inside])
        return _of_counts(within), _of_counts(everywhere - within)
    return _of_values(channel[inside]), _of_values(channel[~inside])


def _counts(values: np.ndarray) -> np.ndarray:
    """How many of the int16 `values` are -32768, -32767, ... 32767."""
    return np.roll(value_counts(values.view(np.uint16), 2 * _OFFSET), _OFFSET)


def _of_counts(counts: np.ndarray) -> Intensities:
    total = int(counts.sum())
    if not total:
        return _nothing()
    below = np.cumsum(counts)
    first, second, part = _ranks(total)
    lower, upper = (np.searchsorted(below, rank, side="right") - _OFFSET for rank in (first, second))
    at = np.flatnonzero(counts)
    mean = float(counts[at] @ (at - _OFFSET) / total)
    variance = float(counts[at] @ np.square(at - _OFFSET - mean) / total)
    return _record(total, mean, variance, _between(lower, upper, part))


def _of_values(values: np.ndarray) -> Intensities:
    total = values.size
    if not total:
        return _nothing()
    values.sort()
    mean = float(values.mean(dtype=np.float64))
    # In parts, because float64 of a whole volume would be twice its size.
    squares = sum(
        float(np.square(values[start : start + _PART].astype(np.float64) - mean).sum())
        for start in range(0, total, _PART)
    )
    first, second, part = _ranks(total)
    lower, upper = values[first].astype(np.float64), values[second].astype(np.float64)
    return _record(total, mean, squares / total, _between(lower, upper, part))


def _ranks(total: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Between which two of so many sorted values each quantile lies, and where between them."""
    at = _SHARES * (total - 1)
    first = np.floor(at).astype(np.int64)
    return first, np.minimum(first + 1, total - 1), at - first


def _between(lower: np.ndarray, upper: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Linear interpolation that never rounds to a value outside."""
    return np.clip(lower + part * (upper - lower), lower, upper)


def _record(voxels: int, mean: float, variance: float, quantiles: np.ndarray) -> Intensities:
    return {
        "voxels": voxels,
        "mean": mean,
        "deviation": float(np.sqrt(variance)),
        "quantiles": [float(value) for value in quantiles],
    }


def _nothing() -> Intensities:
    return {"voxels": 0, "mean": 0.0, "deviation": 0.0, "quantiles": []}


def pooled_quantiles(cases: Sequence[Intensities], percents: Sequence[float]) -> list[float]:
    """Quantiles of the voxels of several cases together, from the quantiles of each.

    Between two of its quantiles the voxels of a case are taken to be spread evenly, so that the share of voxels below
    a result is right to 1% of a case, and to 0.5% at the ends.

    Args:
        cases: those without voxels are passed over.
        percents: 0 to 100.

    Returns:
        The smallest values that so many percent of all voxels do not exceed; empty without any voxel.
    """
    present = [case for case in cases if case["voxels"]]
    if not present:
        return []
    rows = [np.asarray(case["quantiles"], np.float64) for case in present]
    weights = np.array([case["voxels"] for case in present], np.float64)
    weights /= weights.sum()
    knots = np.unique(np.concatenate(rows))
    wanted = np.asarray(percents, np.float64) / 100

    def share(at: np.ndarray, side: Literal["left", "right"]) -> np.ndarray:
        """Of all voxels that are below each value ("left"), or not above it ("right")."""
        shares = [_share(row, at, side) for row in rows]
        return weights @ np.stack(shares)

    # The first knot at which the share is reached; before it the share grows evenly.
    low, high = np.zeros(len(wanted), np.int64), np.full(len(wanted), len(knots) - 1)
    while (low < high).any():
        middle = (low + high) // 2
        reached = share(knots[middle], "right") >= wanted - 1e-12
        low, high = np.where(reached, low, middle + 1), np.where(reached, middle, high)
    right = knots[low]
    left = knots[np.maximum(low - 1, 0)]
    start, end = share(left, "right"), share(right, "left")
    grown = np.divide(wanted - start, end - start, out=np.ones(len(wanted)), where=end > start)
    return [float(value) for value in _between(left, right, np.clip(grown, 0, 1))]


def _share(quantiles: np.ndarray, at: np.ndarray, side: Literal["left", "right"]) -> np.ndarray:
    """Of the voxels of one case that are below each value ("left"), or not above it ("right")."""
    after = np.searchsorted(quantiles, at, side)
    upper = np.clip(after, 1, len(quantiles) - 1)
    width = quantiles[upper] - quantiles[upper - 1]
    part = np.divide(at - quantiles[upper - 1], width, out=np.zeros(len(at)), where=width > 0)
    inner = _SHARES[upper - 1] + part * (_SHARES[upper] - _SHARES[upper - 1])
    return np.where(after == 0, 0.0, np.where(after == len(quantiles), 1.0, inner))
