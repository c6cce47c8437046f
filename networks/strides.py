"""Strides that fit a patch: which axes a network halves at which level."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["strides_for"]

SMALLEST = 4


def strides_for(
    patch_size: Sequence[int], spacing: Sequence[float | None] | float | None, count: int
) -> list[list[int]]:
    """Strides of 1 and 2 per level and axis, from the voxels' shape and the size of the patch.

    A level halves every axis whose voxels are by then shorter than twice the shortest, so that voxels become
    cubes before all axes shrink together, and leaves an axis of fewer than 8 voxels alone, so that none falls
    below 4 (the rules by which nnU-Net plans its networks; Isensee et al., Nature Methods 18, 2021,
    supplementary note 2).

    Args:
        patch_size: voxels per axis, 2 or 3 numbers.
        spacing: size of a voxel, one number for all axes or at least one per axis of the patch; None for a
            single axis stands for the smallest of the others, None for all for cubes.
        count: number of levels, for `R2UNet` one less than ``features``, for `UPerNet` five.

    Returns:
        ``count`` lists with a stride per axis, the ``strides`` of `R2UNet` and `UPerNet`.

    Examples:
        Slices of 3 mm in pixels of 1 mm: the third axis is halved later than the others.

        >>> strides_for((96, 96, 32), spacing=(1.0, 1.0, 3.0), count=3)
        [[2, 2, 1], [2, 2, 2], [2, 2, 2]]
    """
    size = [int(n) for n in patch_size]
    given = [spacing] * len(size) if spacing is None or isinstance(spacing, int | float) else list(spacing)
    smallest = min((s for s in given if s is not None), default=1.0)
    voxel = [float(smallest if s is None else s) for s in given[: len(size)]]
    strides = []
    for _ in range(count):
        open_axes = [axis for axis, n in enumerate(size) if n >= 2 * SMALLEST]
        shortest = min((voxel[axis] for axis in open_axes), default=0.0)
        stride = [2 if axis in open_axes and voxel[axis] < 2 * shortest else 1 for axis in range(len(size))]
        size = [-(-n // s) for n, s in zip(size, stride, strict=True)]
        voxel = [v * s for v, s in zip(voxel, stride, strict=True)]
        strides.append(stride)
    return strides
