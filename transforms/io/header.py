"""Format of an image file, from its name, and its grid, from its header."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from transforms.errors import ImageError

__all__ = [
    "Header",
    "check_affine",
    "check_spacing",
    "fourth_axis",
    "image_suffix",
    "names_image",
    "pair_header",
    "pair_voxels",
    "spacing_of",
]

_FINEST, _SMALLEST = 0.01, 3.0
"""Smallest voxel size and extent (mm) of a plausible axis; an axis below both is refused. A body in metres has voxels
of 0.0003 to 0.01 and an extent of up to 2."""
_COARSEST = 100.0
"""Largest plausible voxel size (mm). The voxels of a CT in micrometres measure 100 to 10,000."""

PAIR_HEADERS, PAIR_VOXELS = (".hdr.gz", ".hdr"), (".img.gz", ".img")
"""NIfTI in two files; the path of the header stands for the image."""
NIFTI_SUFFIXES = (".nii.gz", ".nii", *PAIR_HEADERS, *PAIR_VOXELS)
ITK_SUFFIXES = (".seg.nrrd", ".nrrd", ".nhdr", ".mha", ".mhd")
PICTURE_SUFFIXES = (".png", ".tiff", ".tif", ".jpeg", ".jpg", ".bmp", ".gif", ".ppm", ".pgm")
SUFFIXES = (".nii.gz", ".nii", *ITK_SUFFIXES, *PICTURE_SUFFIXES, *PAIR_HEADERS)
"""Endings of files that are one image each; the voxel file of a pair is only a part of one."""


@dataclass(frozen=True)
class Header:
    """The grid that a file states.

    Attributes:
        shape: spatial size, ``(X, Y)`` or ``(X, Y, Z)`` in voxels.
        channels: number of values per voxel.
        affine: 4x4 float64, voxel index to millimetres, RAS+.
    """

    shape: tuple[int, ...]
    channels: int
    affine: np.ndarray


def image_suffix(path: str | Path) -> str:
    """Return the known file ending of ``path`` in lower case (``.nii.gz``, ``.png`` ...), or ``""``.

    ``.img`` is a known ending only if the header of the pair is in the same folder; otherwise the file may have any
    format, including DICOM.
    """
    name = Path(path).name.lower()
    found = next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")
    if not found and name.endswith(PAIR_VOXELS) and pair_header(path) is not None:
        return next(suffix for suffix in PAIR_VOXELS if name.endswith(suffix))
    return found


def names_image(path: str | Path) -> bool:
    """Whether a file is an image by its name, and not only the voxel file of a pair."""
    return image_suffix(path) not in ("", *PAIR_VOXELS)


def pair_header(path: str | Path) -> Path | None:
    """The header of a NIfTI pair, of which `path` is either file."""
    path = Path(path)
    if path.name.lower().endswith(PAIR_HEADERS):
        return path
    found = _beside(path, PAIR_VOXELS, PAIR_HEADERS)
    return found[0] if found else None


def pair_voxels(path: str | Path) -> list[Path]:
    """The files in the folder of a pair's header that may hold its voxels; a complete pair has exactly one."""
    return _beside(Path(path), PAIR_HEADERS, PAIR_VOXELS)


def _beside(path: Path, own: tuple[str, ...], others: tuple[str, ...]) -> list[Path]:
    ending = next((suffix for suffix in own if path.name.lower().endswith(suffix)), None)
    if ending is None:
        return []
    stem = path.name[: len(path.name) - len(ending)]
    found: list[Path] = []
    for suffix in reversed(others):
        for spelling in (suffix, suffix.upper()):
            other = path.with_name(stem + spelling)
            # A file system that ignores case finds the same file under both spellings.
            if other.is_file() and not any(other.samefile(file) for file in found):
                found.append(other)
    return found


def spacing_of(affine: np.ndarray, spatial_dims: int) -> list[float]:
    """Length in millimetres of each spatial column of a 4x4 affine."""
    return [float(np.linalg.norm(np.asarray(affine)[:3, axis])) for axis in range(spatial_dims)]


def check_spacing(path: Path, header: Header) -> Header:
    """Return the header unchanged if its voxel sizes are plausible for a scanner.

    Axes of a single voxel and 2D pictures are not checked, as they may have any size.

    Raises:
        ImageError: the voxel sizes are probably metres or micrometres instead of millimetres.
    """
    if len(header.shape) < 3:
        return header
    spacing = spacing_of(header.affine, 3)
    known = [(count, mm) for count, mm in zip(header.shape, spacing, strict=True) if count > 1]
    tiny = any(mm < _FINEST and count * mm < _SMALLEST for count, mm in known)
    if tiny or any(mm > _COARSEST for _, mm in known):
        sizes, whole = (
            " x ".join(f"{value:.4g}" for value in values)
            for values in (spacing, [n * mm for n, mm in zip(header.shape, spacing, strict=True)])
        )
        raise ImageError(
            f"{path}: voxels of {sizes} mm (the whole image {whole} mm) cannot come from a scanner; the sizes are probably"
            f" in {'metres' if tiny else 'micrometres'}. Rewrite its header in millimetres."
        )
    return header


def fourth_axis(channels: int | None) -> str:
    """What to do about a fourth axis that does not hold the channels expected, or nobody said that it holds any."""
    time = "if the fourth axis is time, export one time point"
    if channels is None:
        return f'{time}; if it holds channels, name as many of them under "channel_names" in dataset.json.'
    return f"{time}; if it holds channels, {channels} are expected: give an image of as many, or name all in dataset.json."


def check_affine(path: Path, affine: np.ndarray) -> np.ndarray:
    affine = np.asarray(affine, dtype=np.float64)
    lengths = np.linalg.norm(affine[:3, :3], axis=0) if np.isfinite(affine).all() else np.zeros(3)
    if (lengths == 0).any() or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-4:
        raise ImageError(
            f"{path}: the affine has no inverse ({np.array2string(affine[:3, :3], precision=4)}); convert the image"
            " again from its source."
        )
    return affine
