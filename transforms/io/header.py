"""What an image file says of itself: its kind by name, and its grid."""

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
"""Millimetres: no axis of a volume has finer voxels and is shorter at once. In metres a body has 0.0003 to 0.01, 2."""
_COARSEST = 100.0
"""Millimetres: no voxels are larger. In micrometres those of a CT measure 100 to 10,000."""

PAIR_HEADERS, PAIR_VOXELS = (".hdr.gz", ".hdr"), (".img.gz", ".img")
"""NIfTI in two files; such an image goes by the name of its header."""
NIFTI_SUFFIXES = (".nii.gz", ".nii", *PAIR_HEADERS, *PAIR_VOXELS)
ITK_SUFFIXES = (".seg.nrrd", ".nrrd", ".nhdr", ".mha", ".mhd")
PICTURE_SUFFIXES = (".png", ".tiff", ".tif", ".jpeg", ".jpg", ".bmp")
SUFFIXES = (".nii.gz", ".nii", *ITK_SUFFIXES, *PICTURE_SUFFIXES, *PAIR_HEADERS)
"""Endings of what is one image; the voxels of a pair are a part of one."""


@dataclass(frozen=True)
class Header:
    """What a file says about its grid.

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

    ``.img`` is a known ending where the header of the pair lies beside it; else it may be anything, also DICOM.
    """
    name = Path(path).name.lower()
    found = next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")
    if not found and name.endswith(PAIR_VOXELS) and pair_header(path) is not None:
        return next(suffix for suffix in PAIR_VOXELS if name.endswith(suffix))
    return found


def names_image(path: str | Path) -> bool:
    """Whether a file in a folder is an image by its name, and not only the voxels of a pair."""
    return image_suffix(path) not in ("", *PAIR_VOXELS)


def pair_header(path: str | Path) -> Path | None:
    """The header of a pair in two files, of which `path` is either."""
    path = Path(path)
    if path.name.lower().endswith(PAIR_HEADERS):
        return path
    found = _beside(path, PAIR_VOXELS, PAIR_HEADERS)
    return found[0] if found else None


def pair_voxels(path: str | Path) -> list[Path]:
    """The files beside the header of a pair that may hold its voxels; a whole pair has exactly one."""
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
            # Where upper and lower case are one, so are the two spellings.
            if other.is_file() and not any(other.samefile(file) for file in found):
                found.append(other)
    return found


def spacing_of(affine: np.ndarray, spatial_dims: int) -> list[float]:
    """Length in millimetres of each spatial column of a 4x4 affine."""
    return [float(np.linalg.norm(np.asarray(affine)[:3, axis])) for axis in range(spatial_dims)]


def check_spacing(path: Path, header: Header) -> Header:
    """Return the header of a volume whose voxels a scanner can have made.

    Axes of a single voxel say nothing, and 2D pictures are of anything.

    Raises:
        ImageError: they are metres or micrometres that pass for millimetres.
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
            f"{path}: voxels of {sizes} mm (the whole image {whole} mm) come from no scanner; the file probably counts"
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
