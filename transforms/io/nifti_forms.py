"""The two positions in space that a NIfTI header states, sform and qform, and the voxel sizes of the qform.

NIfTI-1, "3D image (volume) orientation and location in space": method 2 is the qform (a quaternion, an offset and
the voxel sizes of ``pixdim``), method 3 the sform (any affine). A file may state both, and they may disagree.
Libraries then place the image differently: nibabel, MONAI and FSL's viewers take the sform; ITK and 3D Slicer always take
the voxel sizes from ``pixdim``, and position and direction from the sform or the qform by their codes.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from transforms.errors import ImageError
from transforms.io.grids import GRID_TOLERANCE, corners
from transforms.io.header import check_affine

__all__ = ["Forms", "affine_of", "forms_of"]

logger = logging.getLogger(__name__)

_SIZE_TOLERANCE = 0.01
"""Relative difference of voxel sizes that is regarded as rounding."""
_HALF_TURN = 1e-6
"""Square of a quaternion's real part below which rounding turns the axes by up to `_HALF_TURN_ANGLE`, since the real
part is not stored: it is what float32 leaves of 1 - b^2 - c^2 - d^2."""
_HALF_TURN_ANGLE = 1e-3


@dataclass(frozen=True)
class Forms:
    """Both forms as stored in a header, including the codes of forms that are not stated.

    Attributes:
        sform_code, qform_code: 0 where that form is not stated, else what it refers to (1 scanner, 2 aligned,
            3 Talairach, 4 MNI).
        srow: 3x4, the rows of the sform, millimetres.
        quaternion, offset: b, c, d and x, y, z (millimetres) of the qform.
        pixdim: the sign of the qform's third axis and three voxel sizes (millimetres).
        affine: 4x4, the form that is read, voxel index to millimetres in RAS+.
    """

    sform_code: int
    qform_code: int
    srow: tuple[tuple[float, ...], ...]
    quaternion: tuple[float, ...]
    offset: tuple[float, ...]
    pixdim: tuple[float, ...]
    affine: tuple[tuple[float, ...], ...]

    def fit(self, affine: np.ndarray) -> bool:
        """Whether a grid with this affine is the one that these forms place."""
        return np.allclose(affine, self.affine, rtol=1e-5, atol=1e-4)

    def put(self, header: nib.Nifti1Header) -> None:
        """Write both forms into a header."""
        for row, name in zip(self.srow, ("srow_x", "srow_y", "srow_z"), strict=True):
            header[name] = row
        for value, axis in zip(self.quaternion, "bcd", strict=True):
            header[f"quatern_{axis}"] = value
        for value, axis in zip(self.offset, "xyz", strict=True):
            header[f"qoffset_{axis}"] = value
        header["pixdim"][:4] = self.pixdim
        header["sform_code"], header["qform_code"] = self.sform_code, self.qform_code


def forms_of(header: nib.Nifti1Header) -> Forms:
    """Both forms of a header that `affine_of` has accepted."""
    affine = header.get_sform() if int(header["sform_code"]) else header.get_qform()
    return Forms(
        int(header["sform_code"]),
        int(header["qform_code"]),
        tuple(tuple(float(v) for v in header[f"srow_{axis}"]) for axis in "xyz"),
        tuple(float(header[f"quatern_{axis}"]) for axis in "bcd"),
        tuple(float(header[f"qoffset_{axis}"]) for axis in "xyz"),
        tuple(float(v) for v in header["pixdim"][:4]),
        tuple(tuple(float(v) for v in row) for row in affine),
    )


def affine_of(path: Path, header: nib.Nifti1Header, shape: tuple[int, ...]) -> np.ndarray:
    """The affine of an image: its sform, else its qform.

    If the two place the voxels differently, a warning names both.

    Args:
        path: for messages.
        header: its ``pixdim[0]`` is 1 or -1.
        shape: ``(X, Y)`` or ``(X, Y, Z)``.

    Returns:
        4x4 float64, voxel index to millimetres in RAS+.

    Raises:
        ImageError: there is no form, one is broken, they are mirror images of each other, or state other
            voxel sizes.
    """
    sform_code, qform_code = int(header["sform_code"]), int(header["qform_code"])
    if sform_code == 0 and qform_code == 0:
        raise ImageError(
            f"{path}: the file states no orientation (sform_code and qform_code are 0), so left and right are"
            " unknown; convert it again from its source, or set the sform once you know the orientation."
        )
    try:
        unit = header.get_xyzt_units()[0]
        sform, qform = header.get_sform(coded=True)[0], header.get_qform(coded=True)[0]
    except (ValueError, KeyError, nib.spatialimages.HeaderDataError) as error:
        raise ImageError(
            f"{path}: the orientation in the header is broken ({error}); convert it again."
        ) from error
    if unit in ("meter", "micron"):
        raise ImageError(f"{path}: the header gives lengths in {unit}s; rewrite it in millimetres.")
    sform, qform = (form if form is None else check_affine(path, form) for form in (sform, qform))
    if sform is None:
        assert qform is not None
        return qform
    if qform is not None and np.linalg.det(sform[:3, :3]) * np.linalg.det(qform[:3, :3]) < 0:
        raise ImageError(
            f"{path}: sform and qform are mirror images of each other, so left and right are uncertain; find out"
            " which one is right and write it to both."
        )
    _compare_sizes(path, header, sform, len(shape), qform is not None)
    if qform is not None:
        _compare_places(path, header, sform, qform, shape)
    return sform  # where both are there, as nibabel, MONAI and nnU-Net do


def _compare_sizes(
    path: Path, header: nib.Nifti1Header, sform: np.ndarray, dims: int, has_qform: bool
) -> None:
    matrix = sform[:3, :3]
    lengths = np.linalg.norm(matrix, axis=0)[:dims]
    # For a tilted stack, some programs write the step from slice to slice, others the perpendicular distance.
    distances = (1 / np.linalg.norm(np.linalg.inv(matrix), axis=1))[:dims]
    stated = np.abs(np.asarray(header["pixdim"][1 : dims + 1], dtype=np.float64))
    known = np.isfinite(stated) & (stated > 0)
    apart = np.minimum(np.abs(stated / lengths - 1), np.abs(stated / distances - 1))
    wrong = known & (apart > _SIZE_TOLERANCE)
    if known.all() and not wrong.any():
        return
    text = f"the sform gives voxels of {_sizes(lengths)} mm and pixdim {'(with the qform) ' if has_qform else ''}"
    text = f"{path}: {text}{_sizes(stated)} mm"
    if not has_qform and (stated[wrong] == 1).all():  # as an empty header has them
        logger.warning("%s, which was never set; the sform is used. ITK and 3D Slicer read pixdim.", text)
        return
    raise ImageError(
        f"{text}; nibabel and MONAI use the sform, ITK and 3D Slicer pixdim, so volumes in ml are uncertain. Find"
        " out which one is right and write it to both (in nibabel: image.set_sform(affine, 1),"
        " image.set_qform(affine, 1))."
    )


def _compare_places(
    path: Path, header: nib.Nifti1Header, sform: np.ndarray, qform: np.ndarray, shape: tuple[int, ...]
) -> None:
    at = corners(shape)
    apart = np.abs((np.linalg.inv(sform) @ qform - np.eye(4)) @ at).max()
    vector = np.array([header[f"quatern_{axis}"] for axis in "bcd"], dtype=np.float64)
    sizes = np.linalg.norm(sform[:3, : len(shape)], axis=0)
    turned = _HALF_TURN_ANGLE * (shape * sizes).max() / sizes.min()
    rounding = turned if 1 - vector @ vector < _HALF_TURN else 0.0
    if apart <= GRID_TOLERANCE + rounding:
        return
    distance = np.linalg.norm(((qform - sform) @ at)[:3], axis=0).max()
    logger.warning(
        "%s: sform (code %d) and qform (code %d) place the voxels up to %.4g mm (%.3g voxels) apart; the sform is used,"
        " as in nibabel and MONAI; ITK and 3D Slicer may use the qform. Results contain both.",
        path,
        header["sform_code"],
        header["qform_code"],
        distance,
        apart,
    )


def _sizes(values: np.ndarray) -> str:
    return " x ".join(f"{value:.4g}" for value in values)
