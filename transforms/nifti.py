"""NIfTI-1 and NIfTI-2 files to voxels and a place in space, or a reason why not."""

from __future__ import annotations

import gzip
import zlib
from contextlib import closing
from pathlib import Path
from typing import IO

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from transforms.errors import ImageError
from transforms.header import Header, check_affine
from transforms.nifti_numbers import check_excess, check_numbers, check_room
from transforms.number_types import compact

__all__ = ["nifti_header", "read_nifti"]


def nifti_header(path: Path, channels: int | None) -> Header:
    """The grid of a NIfTI file; parameters and errors as in :func:`transforms.readers.read_header`."""
    with _opened(path) as stream:
        header = _parsed(path, stream)
        packed = isinstance(stream, gzip.GzipFile)
    count, shape = _layout(path, header, channels)
    check_room(path, header, packed)
    return Header(shape, count, _affine(path, header))


def read_nifti(path: Path, channels: int | None) -> tuple[np.ndarray, np.ndarray]:
    with closing(_opened(path)) as stream:
        header = _parsed(path, stream)
        count, shape = _layout(path, header, channels)
        affine = _affine(path, header)
        if bytes(header["magic"])[:2] != b"n+":
            raise ImageError(
                f"{path}: the voxels lie in a separate .img file; convert the pair to one .nii.gz."
            )
        check_room(path, header, isinstance(stream, gzip.GzipFile))
        try:
            stream.seek(0)
            proxy = nib.arrayproxy.ArrayProxy(stream, header, mmap=False)
            array = np.asanyarray(proxy.get_unscaled())
            check_excess(path, header, stream)
        except ImageError:
            raise
        except (EOFError, zlib.error, OSError, ValueError, MemoryError, HeaderDataError) as error:
            raise ImageError(
                f"{path}: the file is damaged or cut off ({error}); copy or convert it again."
            ) from error
    array = array.reshape((*shape, count), order="F")
    array = np.moveaxis(array, -1, 0)
    if proxy.slope != 1.0 or proxy.inter != 0.0:
        array = compact(array, float(proxy.slope), float(proxy.inter))
    return array.astype(array.dtype.newbyteorder("="), copy=False), affine


def _opened(path: Path) -> IO[bytes]:
    with path.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if packed else path.open("rb")  # type: ignore[return-value]


def _parsed(path: Path, stream: IO[bytes]) -> nib.Nifti1Header:
    """Parse without nibabel's own check, which takes longer than all the rest and only logs most findings."""
    try:
        first = stream.read(4)
        stream.seek(0)
        size = {int.from_bytes(first, "little"), int.from_bytes(first, "big")}
        kind = nib.Nifti2Header if 540 in size else nib.Nifti1Header
        # Extensions are of no use here, and their stated lengths are one more thing that can be wrong.
        header = kind(stream.read(kind.template_dtype.itemsize), check=False)
        known = bytes(header["magic"])[:3] in (b"n+1", b"n+2", b"ni1", b"ni2") and size & {348, 540}
        header.get_data_dtype()
    except (EOFError, zlib.error, OSError) as error:
        raise ImageError(
            f"{path}: the file is damaged or cut off ({error}); copy or convert it again."
        ) from error
    except (nib.wrapstruct.WrapStructError, HeaderDataError, ValueError, KeyError) as error:
        raise ImageError(f"{path}: not a NIfTI file ({error}).") from error
    if not known:
        raise ImageError(f"{path}: not a NIfTI file (its header has no magic number).")
    check_numbers(path, header)
    if abs(header["pixdim"][0]) != 1:  # the standard's qfac; 0 is written by many and stands for 1
        header["pixdim"][0] = 1
    return header


def _layout(path: Path, header: nib.Nifti1Header, channels: int | None) -> tuple[int, tuple[int, ...]]:
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf":
        kind = "complex numbers" if dtype.kind == "c" else "RGB colours"
        raise ImageError(f"{path}: voxels are {kind}; convert the image to one number per voxel.")
    shape = tuple(int(n) for n in header.get_data_shape())
    if len(shape) < 2 or 0 in shape:
        raise ImageError(f"{path}: not an image, its size is {shape}.")
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) <= 3:
        return 1, shape
    count = int(np.prod(shape[3:]))
    vector = int(header["intent_code"]) == 1007 and len(shape) == 5 and shape[3] == 1  # NIFTI_INTENT_VECTOR
    if not vector and (len(shape) != 4 or count != channels):
        wanted = "" if channels in (None, 1) else f" and {channels} channels were expected"
        raise ImageError(
            f"{path}: the image has {len(shape)} axes {shape}{wanted}; if the fourth axis is time, export one time"
            ' point; if it holds channels, name as many of them under "modality" in dataset.json.'
        )
    return count, shape[:3]


def _affine(path: Path, header: nib.Nifti1Header) -> np.ndarray:
    sform_code, qform_code = int(header["sform_code"]), int(header["qform_code"])
    if sform_code == 0 and qform_code == 0:
        raise ImageError(
            f"{path}: the file states no orientation (sform_code and qform_code are 0), so left and right are"
            " unknown; convert it again from its source, or set the sform once you know the orientation."
        )
    try:
        unit = header.get_xyzt_units()[0]
        forms = [
            form
            for form in (header.get_sform(coded=True)[0], header.get_qform(coded=True)[0])
            if form is not None
        ]
    except (ValueError, KeyError, HeaderDataError) as error:
        raise ImageError(
            f"{path}: the orientation in the header is broken ({error}); convert it again."
        ) from error
    if unit in ("meter", "micron"):
        raise ImageError(f"{path}: the header counts in {unit}s; rewrite it in millimetres.")
    affines = [check_affine(path, form) for form in forms]
    if np.linalg.det(affines[0][:3, :3]) * np.linalg.det(affines[-1][:3, :3]) < 0:
        raise ImageError(
            f"{path}: sform and qform are mirror images of each other, so left and right are uncertain; find out"
            " which one is right and write it to both."
        )
    return affines[0]  # the sform where both are there, as nibabel, MONAI and nnU-Net do
