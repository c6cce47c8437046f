"""Comparison of two grids in space: whether they have the same voxels, perhaps in another order of the axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from transforms.errors import ImageError
from transforms.io.header import Header

__all__ = [
    "GRID_TOLERANCE",
    "Turn",
    "corners",
    "grid_difference",
    "require_grid",
    "turn_between",
    "turned_affine",
]

GRID_TOLERANCE = 0.05
"""Largest distance, in voxels, between corners of an image's and its label's grid that still counts as equal."""


def corners(shape: tuple[int, ...]) -> np.ndarray:
    """The voxel indices of the corners of a grid (X, Y) or (X, Y, Z), homogeneous, as columns (4, 8)."""
    size = tuple(shape) + (1,) * (3 - len(shape))
    return np.array(
        [[x, y, z, 1] for x in (0, size[0] - 1) for y in (0, size[1] - 1) for z in (0, size[2] - 1)]
    ).T


def grid_difference(first: Header, second: Header) -> str:
    """Describe how two grids differ; "" if they are equal within `GRID_TOLERANCE` voxels."""
    if first.shape != second.shape:
        return f"size {first.shape} against {second.shape}"
    if np.array_equal(first.affine, second.affine):
        return ""
    at = corners(first.shape)
    apart = (np.linalg.inv(first.affine) @ second.affine - np.eye(4)) @ at
    if np.abs(apart).max() <= GRID_TOLERANCE:
        return ""
    distance = float(np.linalg.norm((second.affine - first.affine) @ at, axis=0).max())
    return f"corners lie up to {distance:.4g} mm apart ({np.abs(apart).max():.3g} voxels)"


def require_grid(name: str, labels: Header, image: Header) -> None:
    """Raise ImageError unless a label map lies on the grid of its image.

    Args:
        name: of the label map, for the message.
    """
    if labels.channels != 1:
        raise ImageError(f"{name} has {labels.channels} channels; a label map has one integer per voxel")
    difference = grid_difference(image, labels)
    if difference:
        raise ImageError(
            f"{name} does not lie on the grid of its image ({difference}); resample it onto that grid"
        )


class Turn(NamedTuple):
    """How to reorder and reverse the axes of one grid to get another one with the same voxels.

    Attributes:
        axes: for every axis of the wanted grid, the parallel axis of the given grid.
        flips: whether that axis has the opposite direction.
    """

    axes: tuple[int, ...]
    flips: tuple[bool, ...]

    @property
    def keeps(self) -> bool:
        """Whether order and directions are already the same."""
        return self.axes == tuple(range(len(self.axes))) and not any(self.flips)

    def apply(self, array: np.ndarray) -> np.ndarray:
        """Return an array ``(..., *given)`` as a view ``(..., *wanted)``, without interpolation."""
        before = array.ndim - len(self.axes)
        array = array.transpose(*range(before), *(before + axis for axis in self.axes))
        return array[(..., *(slice(None, None, -1) if flip else slice(None) for flip in self.flips))]


def turn_between(given: Header, wanted: Header) -> Turn | None:
    """How to put the axes of one grid into the order and directions of another; None if the voxels differ.

    Programs store the same grid with different axis orders (RAS, LPS). The tolerance is that of `grid_difference`.
    """
    dims = len(wanted.shape)
    if not grid_difference(wanted, given):
        return Turn(tuple(range(dims)), (False,) * dims)
    if len(given.shape) != dims:
        return None
    along = (np.linalg.inv(wanted.affine) @ given.affine)[:dims, :dims]
    steps = np.rint(along)
    one = np.abs(steps)
    if not (np.isin(one, (0, 1)).all() and (one.sum(0) == 1).all() and (one.sum(1) == 1).all()):
        return None
    axes = tuple(int(axis) for axis in one.argmax(1))
    flips = tuple(bool(steps[row, axis] < 0) for row, axis in enumerate(axes))
    shape = tuple(given.shape[axis] for axis in axes)
    turned = Header(shape, wanted.channels, turned_affine(given.affine, given.shape, axes, flips))
    return None if grid_difference(wanted, turned) else Turn(axes, flips)


def turned_affine(
    affine: np.ndarray, shape: Sequence[int], axes: Sequence[int], flips: Sequence[bool]
) -> np.ndarray:
    """The affine of a grid of `shape` after its axes were put into the order `axes` and some of them reversed."""
    to_file = np.eye(4)
    to_file[: len(shape), : len(shape)] = 0
    for turned, (axis, flip) in enumerate(zip(axes, flips, strict=True)):
        to_file[axis, turned] = -1 if flip else 1
        to_file[axis, 3] = shape[axis] - 1 if flip else 0
    return affine @ to_file
