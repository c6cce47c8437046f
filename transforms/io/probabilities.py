"""Class probabilities to a file, whole or not at all."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from transforms.io.nifti_forms import Forms
from transforms.utils.placing import placing

__all__ = ["write_probabilities"]


def write_probabilities(
    path: str | Path, probabilities: torch.Tensor, affine: np.ndarray, forms: Forms | None = None
) -> Path:
    """Write probabilities (C, X, Y, Z) as 4D NIfTI (X, Y, Z, C) in float32, gzipped.

    The classes follow one another in the file, so only one is ever copied. The sform holds the affine (voxel to
    millimetres, RAS+), code 1 (scanner); or both forms are those of the image, `forms`, where they fit the affine.
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
        placing(path) as part,
        part.open("wb") as stream,
        gzip.GzipFile("", "wb", 1, stream, mtime=0) as zipped,
    ):
        zipped.write(header.binaryblock + b"\0" * 4)
        for volume in probabilities:
            zipped.write(volume.detach().cpu().float().numpy().tobytes(order="F"))
    return path
