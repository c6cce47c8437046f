"""Write label maps and probabilities to files; an incomplete file never appears."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor

from transforms.errors import ImageError
from transforms.io.grids import corners
from transforms.io.header import NIFTI_SUFFIXES, image_suffix
from transforms.io.nifti import nifti_forms
from transforms.io.nifti_forms import Forms
from transforms.io.pictures import write_picture
from transforms.label_values import stored_labels
from transforms.utils.files import replacing

__all__ = ["forms_like", "write_label"]

_QFORM_TOLERANCE = 0.01
"""Largest distance in voxels, at the corners, between the affine and the qform, which cannot hold a shear."""
_COMPRESSION = 3


def write_label(path: str | Path, label: MetaTensor | torch.Tensor, like: str | Path | None = None) -> Path:
    """Write a label map.

    NIfTI gets the sform and qform of `like` if that is NIfTI on this grid, so that every viewer aligns the two,
    whichever form it reads. Otherwise both are computed from the affine with code 1 (scanner); only the sform if the
    affine is sheared, which a quaternion cannot represent. The file is renamed into place once it is complete.

    Args:
        path: ``.nii.gz``, ``.nii``, or ``.png`` (2D). Missing folders are made; a file of that name is
            replaced.
        label: ``(1, X, Y, Z)`` or ``(1, X, Y)`` whole numbers from 0 to 65535, with a 4x4 affine from voxel
            index to millimetres in RAS+. Stored as uint8 if all values fit, else as uint16.
        like: the image that was segmented; by default the file that `label` was read from.

    Returns:
        The file written.

    Raises:
        ImageError: values, shape or affine cannot be stored exactly, or the file ending is not supported.

    Examples:
        >>> import torch
        >>> from monai.data import MetaTensor
        >>> label = MetaTensor(torch.ones(1, 5, 4, 3, dtype=torch.uint8), affine=torch.eye(4, dtype=torch.float64))
        >>> write_label("results/label.nii.gz", label).name
        'label.nii.gz'
    """
    path = Path(path)
    array = _whole_numbers(path, label)
    name = path.name.lower()
    if name.endswith(".png"):
        if array.ndim != 2:
            raise ImageError(
                f"{path}: a PNG holds a 2D label map, this one has size {array.shape}; write .nii.gz."
            )
    elif not name.endswith((".nii", ".nii.gz")):
        raise ImageError(
            f"{path}: label maps are written as .nii.gz, .nii or .png; choose one of these endings."
        )
    elif not isinstance(label, MetaTensor):
        raise ImageError(
            f"{path}: the label map has no affine (it is not a MetaTensor), so its position in space is unknown."
        )
    with replacing(path, synced=False) as part:
        if name.endswith(".png"):
            write_picture(part, array)
        else:
            affine = np.asarray(label.affine, dtype=np.float64)  # type: ignore[union-attr]
            forms = label.meta.get("nifti_forms") if like is None else forms_like(like)  # type: ignore[union-attr]
            _write_nifti(part, array, affine, forms, packed=name.endswith(".gz"))
    return path


def forms_like(path: str | Path) -> Forms | None:
    """Sform and qform of an image; None if it is not NIfTI."""
    return nifti_forms(Path(path)) if image_suffix(path) in NIFTI_SUFFIXES else None


def _whole_numbers(path: Path, label: torch.Tensor) -> np.ndarray:
    array = (label.as_tensor() if isinstance(label, MetaTensor) else label).detach().cpu().numpy()
    if array.ndim not in (3, 4) or array.shape[0] != 1 or array.size == 0:
        raise ImageError(
            f"{path}: a label map has the shape (1, X, Y) or (1, X, Y, Z), this one {array.shape}."
        )
    return stored_labels(path, array[0])


def _write_nifti(
    path: Path, array: np.ndarray, affine: np.ndarray, forms: Forms | None, packed: bool
) -> None:
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise ImageError(f"{path}: the affine {affine.tolist()} is not an invertible 4x4 matrix.")
    image = nib.Nifti1Image(array, affine, dtype=array.dtype)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    at = corners(array.shape)
    for qform in (image.get_qform(), _qform_of_the_c_library(image)):
        if np.abs(np.linalg.inv(affine) @ (qform - affine) @ at).max() > _QFORM_TOLERANCE:
            image.set_qform(None, code=0)
    if forms is not None and forms.fit(affine):
        forms.put(image.header)
    with path.open("wb") as stream:
        if packed:
            with gzip.GzipFile(
                "", "wb", _COMPRESSION, stream, mtime=0
            ) as zipped:  # the same labels give the same bytes
                image.to_stream(zipped)
        else:
            image.to_stream(stream)


def _qform_of_the_c_library(image: nib.Nifti1Image) -> np.ndarray:
    """The qform as readers based on nifti1_io.c compute it, which round rotations near 180 degrees to 180.

    A quaternion is stored without its real part, which readers compute as sqrt(1 - b^2 - c^2 - d^2). nibabel uses
    this value as it is; nifti_quatern_to_mat44 replaces 1 - b^2 - c^2 - d^2 < 1e-7 by zero.
    """
    header = image.header
    vector = np.array([header[f"quatern_{name}"] for name in "bcd"], dtype=np.float64)
    qform = image.get_qform()
    if 1 - vector @ vector < 1e-7:
        turn = nib.quaternions.quat2mat([0, *vector / np.linalg.norm(vector)])
        zooms = np.ones(3)
        zooms[: len(header.get_zooms())] = header.get_zooms()
        qform[:3, :3] = turn * zooms * [1, 1, header["pixdim"][0] or 1]
    return qform


def write_probabilities(
    path: str | Path, probabilities: torch.Tensor, affine: np.ndarray, forms: Forms | None = None
) -> Path:
    """Write probabilities (C, X, Y, Z) as 4D NIfTI (X, Y, Z, C) in float32, gzipped.

    The classes are written one after the other, so that only one is copied at a time. Both forms are those of the
    image, `forms`, if they fit the affine; otherwise the sform is the affine (voxel to millimetres, RAS+), code 1
    (scanner).
    """
    path = Path(path)
    count, *shape = probabilities.shape
    header = nib.Nifti1Header()
    header.set_data_dtype(np.float32)
    header.set_data_shape((*shape, *[1] * (3 - len(shape)), count))
    header.set_zooms((*nib.affines.voxel_sizes(affine), 1.0))
    header.set_xyzt_units("mm")
    header.set_sform(affine, code=1)
    if forms is not None and forms.fit(affine):
        forms.put(header)
    header["magic"] = b"n+1"
    header["vox_offset"] = 352
    with (
        replacing(path, synced=False) as part,
        part.open("wb") as stream,
        gzip.GzipFile("", "wb", 1, stream, mtime=0) as zipped,
    ):
        zipped.write(header.binaryblock + b"\0" * 4)
        for volume in probabilities:
            zipped.write(volume.detach().cpu().float().numpy().tobytes(order="F"))
    return path
