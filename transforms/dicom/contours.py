"""Polygons to masks of voxel centres, and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from skimage.measure import find_contours

__all__ = ["crossed", "fill_polygons", "outlines"]


def fill_polygons(polygons: Sequence[np.ndarray], shape: Sequence[int]) -> np.ndarray:
    """Return which voxel centres lie inside an odd number of closed polygons.

    Args:
        polygons: ``(N, 2)`` points in voxel indices (x, y); the last is joined to the first.
        shape: ``(X, Y)``.

    Returns:
        ``(X, Y)`` bool. A centre on an edge that two polygons share belongs to exactly one of them.
    """
    # Counting crossings per row of centres takes time proportional to the length of the polygon. Point-in-polygon tests
    # (scikit-image, matplotlib) take time proportional to vertices times voxels: minutes for a planning CT.
    width, height = int(shape[0]), int(shape[1])
    flips = np.zeros((height, width + 1), np.uint8)
    for polygon in polygons:
        begin, end = polygon, np.roll(polygon, -1, axis=0)
        upward = (begin[:, 1] <= end[:, 1])[:, None]
        # From low to high y, so that an edge traversed in both directions (a keyhole) gives bit-identical crossings,
        # which cancel.
        low, high = np.where(upward, begin, end), np.where(upward, end, begin)
        first = np.clip(np.ceil(low[:, 1]), 0, height).astype(int)
        stop = np.clip(np.ceil(high[:, 1]), 0, height).astype(int)
        counts = stop - first
        edges = np.repeat(np.arange(len(polygon)), counts)
        rows = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + first[edges]
        low, high = low[edges], high[edges]
        x = low[:, 0] + (rows - low[:, 1]) / (high[:, 1] - low[:, 1]) * (high[:, 0] - low[:, 0])
        columns = np.clip(np.ceil(x), 0, width).astype(int)
        np.bitwise_xor.at(flips, (rows, columns), 1)
    return np.bitwise_xor.accumulate(flips, axis=1)[:, :width].T.astype(bool)


def crossed(polygons: Sequence[np.ndarray], shape: Sequence[int]) -> int:
    """Return how many voxel centres lie in two polygons that overlap without one containing the other (no hole)."""
    boxes = np.array([[polygon.min(axis=0), polygon.max(axis=0)] for polygon in polygons])
    count = 0
    for number, box in enumerate(boxes[:-1]):
        near = (boxes[number + 1 :, 0] < box[1]).all(axis=1) & (boxes[number + 1 :, 1] > box[0]).all(axis=1)
        if not near.any():
            continue
        first = fill_polygons([polygons[number]], shape)
        for other in (np.flatnonzero(near) + number + 1).tolist():
            low = np.clip(np.floor(boxes[other, 0]), 0, shape).astype(int)
            high = np.clip(np.ceil(boxes[other, 1]) + 1, low, shape).astype(int)
            second = fill_polygons([polygons[other] - low], high - low)
            both = int(np.count_nonzero(first[low[0] : high[0], low[1] : high[1]] & second))
            if 0 < both < min(np.count_nonzero(first), np.count_nonzero(second)):
                count += both
    return count


def outlines(mask: np.ndarray) -> Iterator[np.ndarray]:
    """Yield closed polygons ``(N, 2)`` in voxel indices around the true voxels of ``(X, Y)``.

    They run through the middle between centres inside and outside; the last point, equal to the first, is left out,
    and so is every point on a straight line.
    """
    hit = np.argwhere(mask)
    if not len(hit):
        return
    low, high = hit.min(axis=0), hit.max(axis=0) + 1
    part = np.pad(mask[low[0] : high[0], low[1] : high[1]], 1).astype(np.float32)
    for line in find_contours(part, 0.5):
        points = line[:-1]
        before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
        corners = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
        yield points[corners] + low - 1
