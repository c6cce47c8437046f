"""What an image file says of itself: its kind by name, and its grid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from transforms.errors import ImageError

__all__ = ["Header", "check_affine", "image_suffix", "spacing_of"]

NIFTI_SUFFIXES = (".nii.gz", ".nii")
ITK_SUFFIXES = (".seg.nrrd", ".nrrd", ".nhdr", ".mha", ".mhd")
PICTURE_SUFFIXES = (".png", ".tiff", ".tif", ".jpeg", ".jpg", ".bmp")
SUFFIXES = NIFTI_SUFFIXES + ITK_SUFFIXES + PICTURE_SUFFIXES


@dataclass(frozen=True)
class Header:
    """What a file says about its grid.

    Attributes
    ----------
    shape : tuple of int
        Spatial size, ``(X, Y)`` or ``(X, Y, Z)`` in voxels.
    channels : int
        Number of values per voxel.
    affine : numpy.ndarray
        4x4 float64, voxel index to millimetres, RAS+.
    """

    shape: tuple[int, ...]
    channels: int
    affine: np.ndarray


def image_suffix(path: str | Path) -> str:
    """Return the known file ending of ``path`` in lower case (``.nii.gz``, ``.png`` ...), or ``""``."""
    name = Path(path).name.lower()
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")


def spacing_of(affine: np.ndarray, spatial_dims: int) -> list[float]:
    """Length in millimetres of each spatial column of a 4x4 affine."""
    return [float(np.linalg.norm(np.asarray(affine)[:3, axis])) for axis in range(spatial_dims)]


def check_affine(path: Path, affine: np.ndarray) -> np.ndarray:
    affine = np.asarray(affine, dtype=np.float64)
    lengths = np.linalg.norm(affine[:3, :3], axis=0) if np.isfinite(affine).all() else np.zeros(3)
    if (lengths == 0).any() or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-4:
        raise ImageError(
            f"{path}: the affine has no inverse ({np.array2string(affine[:3, :3], precision=4)}); convert the image"
            " again from its source."
        )
    return affine
