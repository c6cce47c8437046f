"""Resampling of a sheared grid (a CT with tilted gantry) to the right-angled grid of its geometry.

`transforms.spatial.restore` does the inverse for predictions: it interpolates them at the voxels of the sheared grid.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from transforms.spatial.geometry import Geometry, GeometryError

_PLANE_VOXELS = 2_000_000


def straighten(volume: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """(C, *oriented shape) to float32 (C, *straight shape), linear interpolation.

    Voxels outside the scanned volume take the smallest value of it (air).
    """
    return _sampled(volume.float(), geometry, "bilinear", float(volume.min()))


def straighten_labels(labels: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """Integer classes (*oriented shape) to (*straight shape), nearest voxel, 0 outside the scanned volume."""
    # float32 holds every class id up to 65535 exactly.
    return _sampled(labels[None].float(), geometry, "nearest", 0.0)[0].to(labels.dtype)


def _sampled(volume: torch.Tensor, geometry: Geometry, mode: str, fill: float) -> torch.Tensor:
    if geometry.shear is None:
        raise GeometryError("only a sheared grid can be straightened")
    forward = torch.tensor(geometry.shear, dtype=torch.float64, device=volume.device)
    inverse = torch.linalg.inv(forward[:, :3])
    shape, extent = geometry.straight_shape, torch.tensor(volume.shape[1:], device=volume.device)
    result = torch.empty((volume.shape[0], *shape), dtype=volume.dtype, device=volume.device)
    others = torch.meshgrid(*(torch.arange(n, device=volume.device) for n in shape[1:]), indexing="ij")
    rows = max(1, _PLANE_VOXELS // (shape[1] * shape[2]))
    for start in range(0, shape[0], rows):
        stop = min(start + rows, shape[0])
        first = torch.arange(start, stop, device=volume.device)[:, None, None]
        index = torch.stack(
            [first.expand(-1, *shape[1:]), *(other.expand(stop - start, -1, -1) for other in others)], -1
        )
        at = (index - forward[:, 3]) @ inverse.T
        # Rounding must not replace the outermost voxels by air.
        inside = ((at > -1e-3) & (at < extent - 1 + 1e-3)).all(-1)
        normalised = (2 * at / (extent - 1).clamp_min(1) - 1).float().flip(-1)
        values = F.grid_sample(
            volume[None], normalised[None], mode, padding_mode="border", align_corners=True
        )[0]
        result[:, start:stop] = torch.where(
            inside, values, torch.tensor(fill, dtype=values.dtype, device=values.device)
        )
    return result
