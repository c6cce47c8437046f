"""Small image files with known voxels."""

from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from tests import dicom_phantom as ph

SHAPE = (7, 6, 5)


def nifti(path: Path, array: np.ndarray, affine: np.ndarray | None = None, **header: object) -> Path:
    """Write with sform and qform of code 1, then change header fields."""
    image = nib.Nifti1Image(array, np.diag([2.0, 3.0, 4.0, 1.0]) if affine is None else affine)
    image.set_sform(image.affine, 1)
    image.set_qform(image.affine, 1)
    for key, value in header.items():
        image.header[key] = value
    nib.save(image, path)
    return path


def ramp(dtype: str = "int16") -> np.ndarray:
    return np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(dtype)


def itk(array: np.ndarray, affine: np.ndarray) -> sitk.Image:
    """SimpleITK image of an (X, Y, Z) array with a RAS+ affine without shear."""
    image = sitk.GetImageFromArray(array.T)
    lps = ph.LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image
