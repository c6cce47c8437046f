"""Insertion of planes and regions into a label map on a grid."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from transforms.errors import ImageError

__all__ = ["GRID_TOLERANCE", "LabelPainter", "place_frame"]

GRID_TOLERANCE = 0.05
"""Largest distance, in voxels of the CT, of the corners of a frame from the centres of voxels."""

_log = logging.getLogger(__name__)


class LabelPainter:
    """A label map that regions are painted into; where classes overlap, the highest class id is kept.

    So a lesion (2) inside its organ (1) is kept, as in common data sets.
    """

    def __init__(self, shape: tuple[int, ...], highest: int) -> None:
        # Each slice is contiguous in memory, since most frames are slices.
        self.array = np.zeros(shape, np.uint8 if highest <= 255 else np.uint16, order="F")
        self._shared: np.ndarray | None = None

    def paint(self, region: tuple[Any, ...], values: np.ndarray) -> None:
        """Paint class ids (0: nothing) of the shape of ``array[region]`` and of the type of `array`."""
        view = self.array[region]
        shared = (values != 0) & (view != 0) & (view != values)
        if shared.any():
            if self._shared is None:
                self._shared = np.zeros(self.array.shape, bool, order="F")
            self._shared[region] |= shared
        np.maximum(view, values, out=view)

    @property
    def overlap(self) -> int:
        """Number of voxels that belong to more than one class."""
        return 0 if self._shared is None else int(np.count_nonzero(self._shared))

    def report(self, path: Path, labels: Mapping[int, str]) -> None:
        """Log how many voxels belong to several classes."""
        if self._shared is not None:
            won = ", ".join(labels[int(index)] for index in np.unique(self.array[self._shared]))
            _log.warning(
                "%s: %d voxels belong to several classes and got the one with the higher class id (%s).",
                path,
                self.overlap,
                won,
            )


def place_frame(
    path: Path,
    number: int,
    frame: np.ndarray,
    matrix: np.ndarray,
    shape: tuple[int, ...],
    affine: np.ndarray,
) -> tuple[tuple[Any, ...], np.ndarray]:
    """Find the voxels of a frame.

    Args:
        path, number: for messages.
        frame: ``(rows, columns)``.
        matrix: 4x4; ``(column, row, 0, 1)`` to voxel index of the grid.
        shape, affine: the grid.

    Returns:
        region: index of the voxels in the grid: two slices and one whole number.
        values: the pixels of the frame that lie in the grid, in the order of that region.

    Raises:
        ImageError: pixels are not voxels of the grid, or a pixel that is not 0 lies outside of it.
    """
    rows, columns = frame.shape
    whole = np.rint(matrix[:3, [0, 1, 3]])
    corners = np.array([[c, r, 1] for c in (0, columns - 1) for r in (0, rows - 1)]).T
    apart = (matrix[:3, [0, 1, 3]] - whole) @ corners
    across, down = (np.flatnonzero(whole[:, axis]) for axis in (0, 1))
    aligned = len(across) == len(down) == 1 and across[0] != down[0] and (abs(whole[:, :2]).sum(0) == 1).all()
    if not aligned or np.abs(apart).max() > GRID_TOLERANCE:
        # Axes that match no voxel axis have no whole step to compare with; the nearest centres are used instead.
        exact = matrix[:3, [0, 1, 3]] @ corners
        distance = np.linalg.norm(affine[:3, :3] @ (exact - np.rint(exact) if not aligned else apart), axis=0)
        steps = np.linalg.norm(affine[:3, :3] @ matrix[:3, :2], axis=0)
        raise ImageError(
            f"{path}: frame {number + 1} does not lie on the voxels of the CT: its corners are up to"
            f" {distance.max():.3g} mm off (allowed: {GRID_TOLERANCE} voxels), its pixels"
            f" {steps[0]:.4g} x {steps[1]:.4g} mm; find the CT that it was drawn on, or resample it to this one."
        )
    a, b = int(across[0]), int(down[0])
    k = 3 - a - b
    start = whole[:, 2].astype(int)
    values = frame.T
    region: list[Any] = [int(start[k])] * 3
    window = []
    for position, (axis, count) in enumerate(((a, columns), (b, rows))):
        first = int(start[axis])
        if whole[axis, position] < 0:
            values = np.flip(values, position)
            first -= count - 1
        low, high = max(first, 0), min(first + count, shape[axis])
        region[axis] = slice(low, max(low, high))
        window.append(slice(low - first, max(low, high) - first))
    inside = 0 <= region[k] < shape[k]
    kept = values[tuple(window)] if inside else values[:0, :0]
    lost = int(np.count_nonzero(values)) - int(np.count_nonzero(kept))
    if lost:
        raise ImageError(
            f"{path}: {lost} pixels of frame {number + 1} lie outside of the CT, whose {shape[k]} planes along axis {k}"
            f" the frame meets at index {region[k]}; give the whole CT that it was drawn on."
        )
    if not inside:
        region[k], region[a], region[b] = 0, slice(0, 0), slice(0, 0)
    return tuple(region), kept.T if a > b else kept
