"""Read one image file, one folder of DICOM slices, or several of either on one grid, as a volume in world space.

Every reader returns a `monai.data.MetaTensor` of shape ``(C, X, Y, Z)`` (``(C, X, Y)`` for 2D images) with a
4x4 float64 affine from voxel index to millimetres in RAS+, the convention of MONAI's ``LoadImage`` followed by
``EnsureChannelFirst``. Whatever cannot be read with certainty raises `ImageError`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from transforms.errors import ImageError
from transforms.io.dtypes import compact
from transforms.io.grids import grid_difference, turn_between
from transforms.io.header import (
    ITK_SUFFIXES,
    NIFTI_SUFFIXES,
    PICTURE_SUFFIXES,
    Header,
    check_spacing,
    image_suffix,
)
from transforms.io.itk import itk_header, read_itk
from transforms.io.masks import is_mask_folder, read_masks
from transforms.io.nifti import nifti_forms, nifti_header, read_nifti
from transforms.io.pictures import picture_header, read_picture
from transforms.utils.image_paths import check_path

if TYPE_CHECKING:
    from monai.data import MetaTensor

    from transforms.dicom.series import Series

__all__ = [
    "Header",
    "ImageError",
    "ImagePath",
    "Original",
    "files_of",
    "image_array",
    "image_suffix",
    "is_dicom_label",
    "label_array",
    "read_header",
    "read_image",
    "read_label",
    "read_original",
]

ImagePath = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""Where an image lies: a file or folder, or several that hold its channels one after another."""
READABLE = "NIfTI (.nii, .nii.gz, .hdr with .img), NRRD, MHA/MHD, DICOM CT (a folder or a file), or a 2D PNG, TIFF, JPEG, BMP, GIF, PPM or PGM"
_ROUNDING = 1.01e-4
"""Largest distance from a whole number that is rounded: files may scale class ids, such as SPM's uint16 with a slope
of 2/65535. It is 1% above 1e-4, which float32 cannot represent exactly."""


class Original(NamedTuple):
    """An image as it was read, for writing results on its grid later.

    Attributes:
        image: see `read_image`.
        series: the DICOM series, with the headers of its slices; None for any other image.
    """

    image: MetaTensor
    series: Series | None


def files_of(path: ImagePath) -> list[Path]:
    """The files or folders that hold an image: one, or its channels one after another.

    Raises:
        ImageError: a path is empty, which would mean the working directory.
    """
    if "" in ([path] if isinstance(path, (str, os.PathLike)) else path):
        raise ImageError("the path of an image is empty; name a file or a folder of DICOM slices.")
    return [Path(path)] if isinstance(path, (str, os.PathLike)) else [Path(each) for each in path]


def read_image(
    path: ImagePath,
    *,
    channels: int | None = None,
    series: str | int | None = None,
    allow: Collection[str] = (),
) -> MetaTensor:
    """Read an image.

    Args:
        path: NIfTI, NRRD, MHA/MHD, a folder of DICOM slices or one DICOM file, or a 2D picture (PNG, TIFF,
            JPEG, BMP, GIF, PPM, PGM). Several are one image whose channels they hold in this order; they must lie on one grid.
        channels: state that the fourth axis of a 4D file holds this many channels (MSD data sets with several
            modalities). Without it, a fourth axis longer than one is taken for time and refused.
        series, allow: DICOM only: which of several volumes to read, and which irregularities to accept; see
            `transforms.dicom.series.scan_series`. For any other image `series` is an error and `allow` is
            ignored.

    Returns:
        ``(C, X, Y, Z)`` or ``(C, X, Y)``. Integers stay integers (int16 if the values fit, else int32),
        everything else is float32. The memory order is that of the file. For DICOM the meta data hold
        ``series_uid``.

    Raises:
        ImageError: the file is missing, damaged, of an unknown kind, has no certain orientation, or holds NaN
            or infinity.

    Examples:
        >>> import nibabel as nib, numpy as np
        >>> nib.save(nib.Nifti1Image(np.zeros((5, 4, 3), np.int16), np.diag([1, 1, 2, 1])), "ct.nii.gz")
        >>> image = read_image("ct.nii.gz")
        >>> image.shape, image.dtype, image.affine.diag().tolist()
        (torch.Size([1, 5, 4, 3]), torch.int16, [1.0, 1.0, 2.0, 1.0])
    """
    return read_original(path, channels=channels, series=series, allow=allow).image


def read_original(
    path: ImagePath,
    *,
    channels: int | None = None,
    series: str | int | None = None,
    allow: Collection[str] = (),
) -> Original:
    """As `read_image`, and keep the headers of a DICOM series, which are needed to write DICOM results for it."""
    array, affine, found = _image(path, channels, series, allow)
    image = _meta_tensor(files_of(path)[0], array, affine)
    if found is not None:
        image.meta["series_uid"] = found.uid
    return Original(image, found)


def image_array(
    path: ImagePath,
    *,
    channels: int | None = None,
    series: str | int | None = None,
    allow: Collection[str] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """As `read_image`, without importing torch and MONAI, which takes seconds.

    Returns:
        array: ``(C, X, Y, Z)`` or ``(C, X, Y)``; int16, int32 or float32.
        affine: 4x4, voxel index to millimetres, RAS+.

    Raises:
        ImageError: as `read_image`.
    """
    return _image(path, channels, series, allow)[:2]


def _image(
    path: ImagePath, channels: int | None, series: str | int | None, allow: Collection[str]
) -> tuple[np.ndarray, np.ndarray, Series | None]:
    """Array, affine, and DICOM series (None for any other image); of several files that of the first."""
    files = files_of(path)
    if len(files) > 1:
        read_header(files, series=series, allow=allow)  # refuses other grids before voxels are read
        parts = [_image(file, None, series if _is_dicom(file) else None, allow) for file in files]
        array = compact(np.concatenate([part[0] for part in parts]))
        return array, parts[0][1], parts[0][2]
    path = files[0]
    if _is_dicom(path):
        from transforms.dicom.series import read_series, scan_series

        found = scan_series(path, series, allow)
        check_spacing(path, Header(found.shape, 1, found.affine))
        array, affine = read_series(found)
        return array[None], affine, found
    _require_no_series(path, series)
    array, affine = _read(path, channels)
    array = compact(array)
    if array.dtype.kind == "f":
        bad = array.size - int(np.count_nonzero(np.isfinite(array)))
        if bad:
            raise ImageError(
                f"{path}: {bad} of {array.size} voxels are NaN or infinite; repair the file (for instance set them"
                " to the value of air) or leave the case out."
            )
    return array, affine, None


def is_dicom_label(path: str | Path) -> bool:
    """Whether a label is to be read as DICOM SEG or RTSTRUCT: a file without a known image ending, or a folder but for one
    of masks."""
    path = Path(path)
    if path.is_dir():
        return not is_mask_folder(path)
    return path.exists() and image_suffix(path) == ""


def read_label(
    path: str | Path,
    grid: Header | None = None,
    labels: Mapping[int, str] | None = None,
    *,
    image: str | Path | None = None,
) -> MetaTensor:
    """Read a label map of integer class ids.

    Args:
        path: NIfTI, NRRD, MHA/MHD or a 2D picture; or a DICOM SEG or RTSTRUCT (file, or folder with exactly
            one); or a folder of binary NIfTI masks, see `transforms.io.masks.read_masks`.
        grid: grid of the image, as `read_header` gives it. A DICOM label is read onto it. Other files have
            their own grid; their axes are put into the order of this grid if the voxels are the same.
        labels: class id to name, by which the segments of a DICOM label, and masks, get their class ids.
        image: the image itself, whose frame of reference a DICOM label must have.

    Returns:
        ``(1, X, Y, Z)`` or ``(1, X, Y)``; uint8 if the values fit, else uint16, else int32. A colour picture
        whose channels are equal counts as grey; a palette picture gives its indices.

    Raises:
        ImageError: as `read_image`, and for values further than 1e-4 from a whole number or more than
            one channel.
    """
    return _meta_tensor(Path(path), *label_array(path, grid, labels, image=image))


def label_array(
    path: str | Path,
    grid: Header | None = None,
    labels: Mapping[int, str] | None = None,
    *,
    image: str | Path | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """As `read_label`, without importing torch and MONAI, which takes seconds.

    Returns:
        array: ``(1, X, Y, Z)`` or ``(1, X, Y)``; uint8, uint16 or int32.
        affine: 4x4, voxel index to millimetres, RAS+.

    Raises:
        ImageError: as `read_label`.
    """
    path = Path(path)
    if is_dicom_label(path):
        from transforms.dicom.labels import find_dicom_label, read_dicom_label

        path = find_dicom_label(path)
        if grid is None or labels is None:
            raise ImageError(
                f"{path}: a DICOM label map needs the grid of its image and the names of the classes; give both."
            )
        placed = read_dicom_label(path, grid, labels, image=image)
        return placed[None], np.asarray(grid.affine)
    if path.is_dir():
        mask, affine = read_masks(path, labels)
        array = mask[None]
    else:
        array, affine = _read(path, None, label=True)
    if array.shape[0] > 1 and image_suffix(path) in PICTURE_SUFFIXES and (array == array[:1]).all():
        array = array[:1]
    if array.shape[0] != 1:
        raise ImageError(
            f"{path}: a label map has one channel, this file has {array.shape[0]}; store one class id per voxel."
        )
    if array.dtype.kind == "f":
        rounded = np.rint(array)
        with np.errstate(invalid="ignore"):  # infinity minus infinity
            whole = np.abs(rounded - array) <= _ROUNDING
        fractional = array.size - int(np.count_nonzero(whole))
        if fractional:
            raise ImageError(
                f"{path}: {fractional} voxels of this label map are not whole numbers; it was probably resampled"
                " with interpolation or is a probability map. Use the original class ids."
            )
        array = rounded
    if grid is not None:
        turn = turn_between(Header(array.shape[1:], 1, affine), grid)
        if turn is not None and not turn.keeps:
            array, affine = turn.apply(array), np.asarray(grid.affine)
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    for dtype in (np.uint8, np.uint16, np.int32):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return array.astype(dtype), affine
    raise ImageError(f"{path}: label values {low} to {high} do not fit 32 bits; these are not class ids.")


def read_header(
    path: ImagePath,
    *,
    channels: int | None = None,
    series: str | int | None = None,
    allow: Collection[str] = (),
) -> Header:
    """Read the grid of an image without its pixel data (DICOM: the headers of all slices, checked).

    The parameters are those of `read_image`.

    Raises:
        ImageError: as `read_image`, for everything that the header shows.
    """
    files = files_of(path)
    if len(files) > 1:
        return _shared_header(files, series, allow)
    path = files[0]
    if _is_dicom(path):
        from transforms.dicom.series import scan_series

        found = scan_series(path, series, allow)
        return check_spacing(path, Header(found.shape, 1, found.affine))
    _require_no_series(path, series)
    suffix = _known_suffix(path)
    if suffix in NIFTI_SUFFIXES:
        return check_spacing(path, nifti_header(path, channels))
    if suffix in ITK_SUFFIXES:
        return check_spacing(path, itk_header(path, channels))
    size, count, affine = picture_header(path)
    return Header(size, count, affine)


def _shared_header(files: Sequence[Path], series: str | int | None, allow: Collection[str]) -> Header:
    dicom = [_is_dicom(file) for file in files]
    if not any(dicom):
        _require_no_series(files[0], series)
    headers = [
        read_header(file, series=series if is_dicom else None, allow=allow)
        for file, is_dicom in zip(files, dicom, strict=True)
    ]
    first = headers[0]
    for file, header in zip(files[1:], headers[1:], strict=True):
        difference = grid_difference(first, header)
        if difference:
            raise ImageError(
                f"{file}: not on the grid of {files[0]}, of whose image it is a further channel ({difference});"
                " resample it to that grid."
            )
    return Header(first.shape, sum(header.channels for header in headers), first.affine)


def _read(path: Path, channels: int | None, label: bool = False) -> tuple[np.ndarray, np.ndarray]:
    if _is_dicom(path):
        raise ImageError(f"{path}: DICOM slices are an image, not a label map; give a NIfTI or NRRD label.")
    suffix = _known_suffix(path)
    if suffix in PICTURE_SUFFIXES:
        return read_picture(path, label)
    array, affine = (read_nifti if suffix in NIFTI_SUFFIXES else read_itk)(path, channels)
    check_spacing(path, Header(array.shape[1:], array.shape[0], affine))
    return array, affine


def _is_dicom(path: Path) -> bool:
    """Whether the DICOM reader reads `path`: a folder, or a DICOM file without another image ending."""
    check_path(path)
    if path.is_dir():
        return True
    if image_suffix(path) or not path.is_file():
        return False
    from transforms.dicom.files import is_dicom

    return is_dicom(path)


def _require_no_series(path: Path, series: str | int | None) -> None:
    if series is not None and path.exists():
        raise ImageError(
            f"{path}: --series '{series}' chooses one of several DICOM series, but this is not DICOM; leave the option out."
        )


def _known_suffix(path: Path) -> str:
    if not path.exists():
        raise ImageError(f"{path}: no such file or folder.")
    suffix = image_suffix(path)
    if suffix:
        return suffix
    raise ImageError(f"{path}: not a known image format; readable formats are {READABLE}.")


def _meta_tensor(path: Path, array: np.ndarray, affine: np.ndarray) -> MetaTensor:
    import torch
    from monai.data import MetaTensor

    if array.dtype == np.uint16 and not hasattr(torch, "uint16"):
        array = array.astype(np.int32)
    affine = np.ascontiguousarray(affine, dtype=np.float64)
    meta: dict[str, Any] = {
        "filename_or_obj": str(path),
        "original_affine": affine.copy(),
        "spatial_shape": np.asarray(array.shape[1:]),
        "original_channel_dim": 0,
        "space": "RAS",
    }
    if image_suffix(path) in NIFTI_SUFFIXES:
        meta["nifti_forms"] = nifti_forms(path)
    if any(stride < 0 for stride in array.strides) or not array.flags.writeable:
        array = array.copy(order="K")
    return MetaTensor(torch.from_numpy(array), affine=torch.from_numpy(affine), meta=meta)
