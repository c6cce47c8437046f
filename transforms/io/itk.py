"""Reader of NRRD and MetaImage files, the formats of ITK: voxels and affine, or an error with the reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from transforms.errors import ImageError
from transforms.io.header import Header, check_affine, fourth_axis
from transforms.io.metaimage import metaimage_header
from transforms.io.nrrd import nrrd_header
from transforms.io.raw_volume import RawVolume, check_room, read_voxels
from transforms.utils.coordinates import LPS_RAS

__all__ = ["itk_header", "read_itk", "voxel_files"]


def itk_header(path: Path, channels: int | None) -> Header:
    """The grid of a file; parameters and errors as in `transforms.io.readers.read_header`."""
    volume = _stated(path)
    layout = _layout(volume, channels)
    check_room(volume)
    return layout


def read_itk(path: Path, channels: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Voxels ``(C, X, Y[, Z])`` and the affine; parameters and errors as in `transforms.io.readers.read_image`."""
    volume = _stated(path)
    layout = _layout(volume, channels)
    array = read_voxels(volume)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if volume.components is not None:
        array = np.moveaxis(array, volume.components, 0)
    elif len(volume.shape) == 4:
        array = np.moveaxis(array, -1, 0)
    else:
        array = array[None]
    return array, layout.affine


def voxel_files(path: Path) -> tuple[Path, ...]:
    """The files that hold the voxels of an image: the file itself, or those that its header names.

    Raises:
        ImageError: as `itk_header`, for a header that is damaged or names a file elsewhere.
    """
    return _stated(path).files


def _stated(path: Path) -> RawVolume:
    return (nrrd_header if path.suffix.lower() in (".nrrd", ".nhdr") else metaimage_header)(path)


def _layout(volume: RawVolume, channels: int | None) -> Header:
    path, size, count = volume.path, volume.shape, volume.channels
    if len(size) == 4:
        if count != 1 or (size[3] != 1 and size[3] != channels):
            raise ImageError(f"{path}: the image has 4 axes {size}; {fourth_axis(channels)}")
        count = size[3]
    if len(size) < 2:
        raise ImageError(f"{path}: not an image, its size is {size}.")
    spatial = min(len(size), 3)
    affine = np.eye(4)
    affine[:spatial, :spatial] = volume.affine[:spatial, :spatial]
    affine[:spatial, 3] = volume.affine[:spatial, len(size)]
    return Header(size[:spatial], count, check_affine(path, LPS_RAS @ affine))
