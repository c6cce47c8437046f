"""The grid of a file and the grid of the network, and the one invertible way between them.

Orientation, foreground crop and resampling are one step with one record, `Geometry`, so that whatever was
done to an image can be undone exactly for a prediction. Resampling keeps voxel *edges* where they are (the
corner of the first voxel and the corner of the last one stay fixed), so the field of view is the same on
both grids and the way back needs no rounding. The spacing that results differs from the one asked for by at
most half a voxel over the whole extent; `Geometry.prepared_affine` says the true one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import nibabel as nib
import numpy as np
import torch

Box = tuple[tuple[int, int], ...]


class GeometryError(ValueError):
    """A grid that cannot be mapped with certainty."""


@dataclass(frozen=True)
class Geometry:
    """How the prepared grid of an image lies on the grid of its file.

    The steps are, in order: reorder the file's axes (`axes`) and reverse some (`flips`) so that they run
    along R, A, S; cut `crop`; resample to `grid` voxels.

    Attributes:
        shape: spatial shape of the file, (X, Y, Z) or (X, Y).
        affine: 4x4 affine of the file, voxel to RAS+ millimetres, as nested tuples.
        axes: for every oriented axis the file axis that feeds it.
        flips: whether that oriented axis runs against the file's.
        crop: (start, stop) per oriented axis.
        grid: spatial shape of the prepared image.
    """

    shape: tuple[int, ...]
    affine: tuple[tuple[float, ...], ...]
    axes: tuple[int, ...]
    flips: tuple[bool, ...]
    crop: Box
    grid: tuple[int, ...]

    @property
    def spatial_dims(self) -> int:
        return len(self.shape)

    @property
    def oriented_shape(self) -> tuple[int, ...]:
        return tuple(self.shape[axis] for axis in self.axes)

    @property
    def cropped_shape(self) -> tuple[int, ...]:
        return tuple(stop - start for start, stop in self.crop)

    @property
    def prepared_affine(self) -> np.ndarray:
        """4x4 affine of the prepared grid, voxel to RAS+ millimetres."""
        dims = self.spatial_dims
        to_file = np.eye(4)
        to_file[:dims, :dims] = 0
        for oriented, (axis, flip) in enumerate(zip(self.axes, self.flips, strict=True)):
            start, _ = self.crop[oriented]
            step = self.cropped_shape[oriented] / self.grid[oriented]
            first = start + 0.5 * step - 0.5
            if flip:
                to_file[axis, oriented] = -step
                to_file[axis, 3] = self.shape[axis] - 1 - first
            else:
                to_file[axis, oriented] = step
                to_file[axis, 3] = first
        return np.asarray(self.affine) @ to_file

    @property
    def prepared_spacing(self) -> tuple[float, ...]:
        """Millimetres between the centres of neighbouring voxels of the prepared grid."""
        return tuple(spacing_of(self.prepared_affine, self.spatial_dims))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Geometry:
        return cls(
            shape=tuple(record["shape"]),
            affine=tuple(tuple(row) for row in record["affine"]),
            axes=tuple(record["axes"]),
            flips=tuple(record["flips"]),
            crop=tuple((start, stop) for start, stop in record["crop"]),
            grid=tuple(record["grid"]),
        )


def spacing_of(affine: np.ndarray, spatial_dims: int) -> list[float]:
    """Length in millimetres of each spatial column of a 4x4 affine."""
    return [float(np.linalg.norm(np.asarray(affine)[:3, axis])) for axis in range(spatial_dims)]


def orient(shape: Sequence[int], affine: np.ndarray) -> Geometry:
    """The geometry that only reorders and reverses axes so that they run closest to R, A, S.

    A 2D image has no anatomical axes and keeps its own.

    Raises:
        GeometryError: the affine is singular or not finite.
    """
    affine = np.asarray(affine, dtype=np.float64)
    dims = len(shape)
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise GeometryError(f"the affine {affine.tolist()} is singular, so the image has no place in space")
    axes, flips = list(range(dims)), [False] * dims
    if dims == 3:
        for file_axis, (world_axis, direction) in enumerate(nib.orientations.io_orientation(affine)):
            axes[int(world_axis)] = file_axis
            flips[int(world_axis)] = bool(direction < 0)
    oriented = tuple(int(shape[axis]) for axis in axes)
    return Geometry(
        shape=tuple(int(n) for n in shape),
        affine=tuple(tuple(float(v) for v in row) for row in affine),
        axes=tuple(axes),
        flips=tuple(flips),
        crop=tuple((0, n) for n in oriented),
        grid=oriented,
    )


def cropped(geometry: Geometry, crop: Box) -> Geometry:
    """The same orientation, cut to `crop` (on the oriented grid), not resampled."""
    return Geometry(
        geometry.shape,
        geometry.affine,
        geometry.axes,
        geometry.flips,
        crop,
        tuple(stop - start for start, stop in crop),
    )


def resampled(geometry: Geometry, spacing: Sequence[float | None] | float | None) -> Geometry:
    """The same field of view at (about) `spacing` millimetres; None keeps an axis as it is.

    Raises:
        GeometryError: `spacing` is not positive or has another number of axes than the image.
    """
    dims = geometry.spatial_dims
    wanted = [spacing] * dims if spacing is None or isinstance(spacing, (int, float)) else list(spacing)
    if len(wanted) != dims:
        raise GeometryError(f"spacing {wanted} has {len(wanted)} numbers for an image of {dims} axes")
    if any(value is not None and not value > 0 for value in wanted):
        raise GeometryError(f"spacing {wanted} must be positive millimetres")
    oriented_spacing = [spacing_of(np.asarray(geometry.affine), dims)[axis] for axis in geometry.axes]
    grid = tuple(
        count if value is None else max(1, round(count * have / value))
        for count, have, value in zip(geometry.cropped_shape, oriented_spacing, wanted, strict=True)
    )
    return Geometry(geometry.shape, geometry.affine, geometry.axes, geometry.flips, geometry.crop, grid)


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


def axis_weights(count_in: int, count_out: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Resampling along one axis as a matrix of shape (count_out, count_in), rows summing to one.

    Linear interpolation with fixed edges; where the output is coarser, the triangle widens by the factor of
    coarsening, so that every input voxel counts and noise averages out (no aliasing).
    """
    scale = count_in / count_out
    centre = (torch.arange(count_out, dtype=torch.float64, device=device) + 0.5) * scale - 0.5
    offset = torch.arange(count_in, dtype=torch.float64, device=device)[None, :] - centre[:, None]
    weights = (1 - offset.abs() / max(1.0, scale)).clamp_min(0)
    return (weights / weights.sum(1, keepdim=True)).float()


def apply_along(volume: torch.Tensor, weights: torch.Tensor, axis: int) -> torch.Tensor:
    """Matrix `weights` (out, in) applied along `axis` of `volume`."""
    return torch.tensordot(volume, weights, dims=([axis], [1])).movedim(-1, axis)


def resample(volume: torch.Tensor, grid: Sequence[int]) -> torch.Tensor:
    """(C, *spatial) of a floating type to (C, *grid) with edges fixed; axes that shrink most go first."""
    sizes = [(axis + 1, int(volume.shape[axis + 1]), int(count)) for axis, count in enumerate(grid)]
    for axis, have, want in sorted(sizes, key=lambda item: item[2] / item[1]):
        if have != want:
            volume = apply_along(volume, axis_weights(have, want, volume.device), axis)
    return volume.contiguous()


def resample_labels(labels: torch.Tensor, grid: Sequence[int]) -> torch.Tensor:
    """Integer classes (*spatial) to (*grid): each voxel takes the class that covers most of it.

    Only classes of the input can come out. Equal coverage goes to the lower class id. Each class is
    resampled inside its own bounding box, so that many small organs cost little.
    """
    grid = tuple(int(count) for count in grid)
    if tuple(labels.shape) == grid:
        return labels.clone()
    weights = [axis_weights(have, want) for have, want in zip(labels.shape, grid, strict=True)]
    best = torch.zeros(grid)
    result = torch.zeros(grid, dtype=labels.dtype)
    for value in torch.unique(labels).tolist():
        soft = labels == value
        outside: list[slice] = []
        inside: list[slice] = []
        for axis, matrix in enumerate(weights):
            others = [other for other in range(soft.ndim) if other != axis]
            hit = torch.nonzero(soft.amax(dim=others) if others else soft).flatten()
            box = slice(int(hit[0]), int(hit[-1]) + 1)
            touched = torch.nonzero(matrix[:, box].sum(1)).flatten()
            inside.append(box)
            # A class between two coarse voxels may touch none of them.
            outside.append(slice(int(touched[0]), int(touched[-1]) + 1) if len(touched) else slice(0, 0))
        cover = soft[tuple(inside)].float()
        for axis, matrix in enumerate(weights):
            cover = apply_along(cover, matrix[outside[axis], inside[axis]], axis)
        target = tuple(outside)
        wins = cover > best[target]
        best[target] = torch.where(wins, cover, best[target])
        result[target] = torch.where(wins, torch.tensor(value, dtype=labels.dtype), result[target])
    return result


def labels_from_probabilities(
    probabilities: torch.Tensor, geometry: Geometry, slab_voxels: int = 4_000_000
) -> torch.Tensor:
    """Probabilities on the prepared grid to classes on the file's grid.

    The same as interpolating every probability map to the file's grid and taking the largest, done a slab
    at a time, so that the probabilities of the whole volume never exist at full size. Voxels outside the
    crop are class 0.

    Args:
        probabilities: (C, *geometry.grid), any floating type.
        geometry: the record made when the image was prepared.
        slab_voxels: bound on C times the voxels of one slab of interpolated probabilities.

    Returns:
        (1, *geometry.shape), uint8 (uint16 above 256 classes), on the CPU.

    Raises:
        GeometryError: the probabilities do not lie on the geometry's grid.
    """
    if tuple(probabilities.shape[1:]) != geometry.grid:
        raise GeometryError(
            f"the prediction has shape {tuple(probabilities.shape[1:])} but the prepared image has {geometry.grid}"
        )
    classes = probabilities.shape[0]
    dtype = torch.uint8 if classes <= 256 else torch.uint16
    target = geometry.cropped_shape
    source = probabilities.float()
    weights = [
        axis_weights(have, want, source.device) if have != want else None
        for have, want in zip(geometry.grid, target, strict=True)
    ]
    block = torch.zeros(target, dtype=dtype)
    rows = max(1, slab_voxels // max(1, classes * math.prod(target[1:])))
    for start in range(0, target[0], rows):
        stop = min(start + rows, target[0])
        slab = source[:, start:stop]
        first = weights[0]
        if first is not None:
            needed = torch.nonzero(first[start:stop].sum(0)).flatten()
            low, high = int(needed[0]), int(needed[-1]) + 1
            slab = apply_along(source[:, low:high], first[start:stop, low:high], 1)
        for axis in range(1, len(target)):
            matrix = weights[axis]
            if matrix is not None:
                slab = apply_along(slab, matrix, axis + 1)
        # max() is several times faster than argmax() over the first axis on a CPU.
        block[start:stop] = slab.max(0).indices.to(dtype).cpu()
    oriented = torch.zeros(geometry.oriented_shape, dtype=dtype)
    oriented[tuple(slice(a, b) for a, b in geometry.crop)] = block
    return from_oriented(oriented[None], geometry).contiguous()
