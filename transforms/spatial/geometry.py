"""The invertible mapping between the grid of a file and the grid of the network.

Orientation, straightening of a sheared grid (gantry tilt), foreground crop and resampling are one step with
one record, `Geometry`, so that whatever was done to an image can be undone exactly for a prediction. Resampling keeps voxel *edges* where they are (the
corner of the first voxel and the corner of the last one stay fixed), so the field of view is the same on
both grids and the inverse needs no rounding. The resulting spacing differs from the requested one by at
most half a voxel over the whole extent; `Geometry.prepared_affine` has the true one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, TypedDict, cast

import nibabel as nib
import numpy as np
import torch

from transforms.errors import UserError
from transforms.io.grids import turned_affine
from transforms.io.header import spacing_of

if TYPE_CHECKING:
    from typing import NotRequired

Box = tuple[tuple[int, int], ...]

SHEAR_TOLERANCE = 0.5
"""A grid whose voxels all lie this close (in voxels) to those of a right-angled grid counts as right-angled."""


LARGEST_GRID = 1 << 30
"""Number of voxels up to which resampling is always allowed; larger grids only if the file is nearly as large."""


class GeometryError(UserError, ValueError):
    """A grid that cannot be mapped with certainty."""


class GeometryRecord(TypedDict):
    """A `Geometry` in plain JSON types."""

    shape: Sequence[int]
    affine: Sequence[Sequence[float]]
    axes: Sequence[int]
    flips: Sequence[bool]
    crop: Sequence[Sequence[int]]
    grid: Sequence[int]
    shear: NotRequired[Sequence[Sequence[float]] | None]
    straight: NotRequired[Sequence[int] | None]


@dataclass(frozen=True)
class Geometry:
    """How the prepared grid of an image lies on the grid of its file.

    The steps are, in order: reorder the file's axes (`axes`) and reverse some (`flips`) so that they run
    along R, A, S; straighten a sheared grid; cut `crop`; resample to `grid` voxels.

    Attributes:
        shape: spatial shape of the file, (X, Y, Z) or (X, Y).
        affine: 4x4 affine of the file, voxel to RAS+ millimetres, as nested tuples.
        axes: for every oriented axis the corresponding file axis.
        flips: whether that oriented axis has the opposite direction of the file axis.
        crop: (start, stop) per oriented (and straightened) axis.
        grid: spatial shape of the prepared image.
        shear: 3x4 matrix from oriented to straightened voxel indices; None where the axes of the file are
            at right angles, as nearly all are.
        straight: spatial shape of the straightened image, None without `shear`.
    """

    shape: tuple[int, ...]
    affine: tuple[tuple[float, ...], ...]
    axes: tuple[int, ...]
    flips: tuple[bool, ...]
    crop: Box
    grid: tuple[int, ...]
    shear: tuple[tuple[float, ...], ...] | None = None
    straight: tuple[int, ...] | None = None

    @property
    def spatial_dims(self) -> int:
        return len(self.shape)

    @property
    def oriented_shape(self) -> tuple[int, ...]:
        return tuple(self.shape[axis] for axis in self.axes)

    @property
    def straight_shape(self) -> tuple[int, ...]:
        """Spatial shape on which `crop` cuts."""
        return self.straight or self.oriented_shape

    @property
    def cropped_shape(self) -> tuple[int, ...]:
        return tuple(stop - start for start, stop in self.crop)

    @property
    def straight_affine(self) -> np.ndarray:
        """4x4 affine of the oriented and straightened grid, voxel to RAS+ millimetres."""
        oriented = turned_affine(np.asarray(self.affine), self.shape, self.axes, self.flips)
        if self.shear is None:
            return oriented
        return oriented @ np.linalg.inv(np.vstack([self.shear, [0, 0, 0, 1]]))

    @property
    def straight_spacing(self) -> tuple[float, ...]:
        """Millimetres between the centres of neighbouring voxels of the oriented and straightened grid."""
        return tuple(spacing_of(self.straight_affine, self.spatial_dims))

    @property
    def prepared_affine(self) -> np.ndarray:
        """4x4 affine of the prepared grid, voxel to RAS+ millimetres."""
        to_straight = np.eye(4)
        for axis, (start, _) in enumerate(self.crop):
            step = self.cropped_shape[axis] / self.grid[axis]
            to_straight[axis, axis] = step
            to_straight[axis, 3] = start + 0.5 * step - 0.5
        return self.straight_affine @ to_straight

    @property
    def prepared_spacing(self) -> tuple[float, ...]:
        """Millimetres between the centres of neighbouring voxels of the prepared grid."""
        return tuple(spacing_of(self.prepared_affine, self.spatial_dims))

    def to_dict(self) -> GeometryRecord:
        return cast(GeometryRecord, asdict(self))

    @classmethod
    def from_dict(cls, record: GeometryRecord) -> Geometry:
        shear, straight = record.get("shear"), record.get("straight")
        return cls(
            shape=tuple(record["shape"]),
            affine=tuple(tuple(row) for row in record["affine"]),
            axes=tuple(record["axes"]),
            flips=tuple(record["flips"]),
            crop=tuple((start, stop) for start, stop in record["crop"]),
            grid=tuple(record["grid"]),
            shear=None if shear is None else tuple(tuple(row) for row in shear),
            straight=None if straight is None else tuple(straight),
        )


def _shear(
    affine: np.ndarray, shape: Sequence[int], axes: Sequence[int]
) -> tuple[np.ndarray, tuple[int, ...]] | None:
    """How a sheared oriented grid lies on a right-angled one that holds all of it; None if it is not sheared.

    Two axes keep their direction (in a tilted CT those of the slices), the third becomes perpendicular to
    both. Planes of the first two stay planes of voxels: they only move sideways.
    """
    columns = affine[:3, :3]
    spacing = np.linalg.norm(columns, axis=0)
    cosines = np.abs((columns / spacing).T @ (columns / spacing))
    # The sheared axis is the one outside the most nearly perpendicular pair; where a tilt leaves
    # two such pairs, the axis of the slices, the last one of a file.
    lean = min(range(3), key=lambda axis: (round(cosines[(axis + 1) % 3, (axis + 2) % 3], 5), -axes[axis]))
    order = [axis for axis in range(3) if axis != lean] + [lean]
    _, upper = np.linalg.qr(columns[:, order])
    upper = upper / np.diag(upper)[:, None]
    matrix = np.eye(3)
    matrix[np.ix_(order, order)] = upper
    extent = np.asarray(shape) - 1
    moved = (matrix - np.eye(3)) * extent
    if np.abs(moved).sum(axis=1).max() <= SHEAR_TOLERANCE:
        return None
    low, high = np.minimum(moved, 0).sum(axis=1), np.maximum(moved, 0).sum(axis=1) + extent
    # A whole number of voxels, so that planes that do not move keep their values.
    offset = -np.floor(low)
    return np.hstack([matrix, offset[:, None]]), tuple(int(n) for n in np.ceil(high) + offset + 1)


def orient(shape: Sequence[int], affine: np.ndarray) -> Geometry:
    """The geometry that reorders and reverses axes so that they run closest to R, A, S.

    Where the axes are not at right angles it also says how to straighten them. A 2D image has no anatomical axes and keeps its own.

    Raises:
        GeometryError: the affine is singular or not finite.
    """
    affine = np.asarray(affine, dtype=np.float64)
    dims = len(shape)
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise GeometryError(
            f"the affine {affine.tolist()} is singular, so the position of the image in space is unknown"
        )
    axes, flips = list(range(dims)), [False] * dims
    if dims == 3:
        for file_axis, (world_axis, direction) in enumerate(nib.orientations.io_orientation(affine)):
            axes[int(world_axis)] = file_axis
            flips[int(world_axis)] = bool(direction < 0)
    oriented = tuple(int(shape[axis]) for axis in axes)
    sheared = _shear(turned_affine(affine, shape, axes, flips), oriented, axes) if dims == 3 else None
    whole = sheared[1] if sheared else oriented
    return Geometry(
        shape=tuple(int(n) for n in shape),
        affine=tuple(tuple(float(v) for v in row) for row in affine),
        axes=tuple(axes),
        flips=tuple(flips),
        crop=tuple((0, n) for n in whole),
        grid=whole,
        shear=tuple(tuple(float(v) for v in row) for row in sheared[0]) if sheared else None,
        straight=whole if sheared else None,
    )


def cropped(geometry: Geometry, crop: Box) -> Geometry:
    """The same orientation, cut to `crop` (on the straightened grid), not resampled."""
    return replace(geometry, crop=crop, grid=tuple(stop - start for start, stop in crop))


def resampled(geometry: Geometry, spacing: Sequence[float | None] | float | None) -> Geometry:
    """The same field of view at (about) `spacing` millimetres; None keeps an axis as it is.

    Raises:
        GeometryError: `spacing` is not positive, has another number of axes than the image, or would make a grid of
            more than `LARGEST_GRID` voxels and 16 times those of the image.
    """
    dims = geometry.spatial_dims
    wanted = [spacing] * dims if spacing is None or isinstance(spacing, (int, float)) else list(spacing)
    if len(wanted) != dims:
        raise GeometryError(f"spacing {wanted} has {len(wanted)} numbers for an image of {dims} axes")
    if any(value is not None and not value > 0 for value in wanted):
        raise GeometryError(f"spacing {wanted} must be positive millimetres")
    shape = geometry.cropped_shape
    sizes = [
        float(count) if value is None else count * have / value
        for count, have, value in zip(shape, geometry.straight_spacing, wanted, strict=True)
    ]
    if not math.prod(sizes) <= max(LARGEST_GRID, 16 * math.prod(shape)):
        raise GeometryError(
            f"at a spacing of {wanted} mm an image of {' x '.join(map(str, shape))} voxels would become one of "
            f"{' x '.join(f'{size:.3g}' for size in sizes)}, which does not fit into memory; give a spacing near its own, "
            f"{' x '.join(f'{have:.3g}' for have in geometry.straight_spacing)} mm"
        )
    grid = tuple(max(1, round(size)) for size in sizes)
    return replace(geometry, grid=grid)


def to_oriented(volume: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """(C, *file shape) to (C, *oriented shape): exact, axes reordered and reversed."""
    dims = geometry.spatial_dims
    volume = volume.permute(0, *(axis + 1 for axis in geometry.axes))
    reverse = [axis + 1 for axis in range(dims) if geometry.flips[axis]]
    return torch.flip(volume, reverse) if reverse else volume


def from_oriented(volume: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """(C, *oriented shape) back to (C, *file shape): the exact inverse of `to_oriented`."""
    dims = geometry.spatial_dims
    reverse = [axis + 1 for axis in range(dims) if geometry.flips[axis]]
    volume = torch.flip(volume, reverse) if reverse else volume
    back = [0] * dims
    for oriented, axis in enumerate(geometry.axes):
        back[axis] = oriented + 1
    return volume.permute(0, *back)


def cut(volume: torch.Tensor, crop: Box) -> torch.Tensor:
    """The part `crop` of (C, *spatial), as a view."""
    return volume[(slice(None), *(slice(start, stop) for start, stop in crop))]


def voxel_ml(affine: Any, spatial_dims: int = 3) -> float | None:
    """Millilitres of one voxel by the affine's determinant, so that a tilted grid counts right; None in 2D."""
    if spatial_dims != 3:
        return None
    return float(abs(np.linalg.det(np.asarray(affine, dtype=np.float64)[:3, :3]))) / 1000
