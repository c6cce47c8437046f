"""Resampling to another spacing: linear for intensities, by largest coverage for labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch


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
            # A class that lies between the centres of coarse voxels may cover none of them.
            outside.append(slice(int(touched[0]), int(touched[-1]) + 1) if len(touched) else slice(0, 0))
        cover = soft[tuple(inside)].float()
        for axis, matrix in enumerate(weights):
            cover = apply_along(cover, matrix[outside[axis], inside[axis]], axis)
        target = tuple(outside)
        wins = cover > best[target]
        best[target] = torch.where(wins, cover, best[target])
        result[target] = torch.where(wins, torch.tensor(value, dtype=labels.dtype), result[target])
    return result
