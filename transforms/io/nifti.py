"""Reader of NIfTI-1 and NIfTI-2 files: voxels and affine, or an error with the reason."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import IO

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from transforms.errors import ImageError
from transforms.io.dtypes import compact
from transforms.io.header import Header, fourth_axis, pair_header, pair_voxels
from transforms.io.nifti_forms import Forms, affine_of, forms_of
from transforms.io.nifti_numbers import check_excess, check_numbers, check_room

__all__ = ["nifti_forms", "nifti_header", "nifti_headers", "read_nifti"]

_FIRST = 1024
"""Bytes of a file that hold its header, compressed or not, unless it is compressed oddly."""


def nifti_header(path: Path, channels: int | None) -> Header:
    """The grid of a NIfTI file; parameters and errors as in `transforms.io.readers.read_header`."""
    header = _header(path)
    count, shape = _layout(path, header, channels)
    file = _voxel_file(path, header)
    with _opened(file) as stream:
        check_room(file, header, isinstance(stream, gzip.GzipFile))
    return Header(shape, count, affine_of(path, header, shape))


def nifti_headers(paths: Iterable[Path]) -> Iterator[tuple[Path, Header]]:
    """The grids of many NIfTI files of one value a voxel, several times faster where their headers are the very same.

    Raises:
        ImageError: as `nifti_header`, when the turn comes to the file.
    """
    known: dict[bytes, tuple[Header, nib.Nifti1Header]] = {}
    for path in paths:
        first, packed = _first_bytes(path)
        if first and first in known:
            grid, header = known[first]
            check_room(path, header, packed)
        else:
            grid = nifti_header(path, None)
            if first:
                known[first] = grid, _header(path)
        yield path, grid


def _first_bytes(path: Path) -> tuple[bytes, bool]:
    """The header of a file that is header and voxels at once, as it is stored; empty where that takes a closer look."""
    with path.open("rb") as stream:
        start = stream.read(_FIRST)
    packed = start.startswith(b"\x1f\x8b")
    if packed:
        try:
            start = zlib.decompressobj(31).decompress(start, _FIRST)
        except zlib.error:
            return b"", True
    size = {int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big")}
    length = 540 if 540 in size else 348
    magic = start[4:8] if length == 540 else start[344:348]
    return (start[:length] if len(start) >= length and magic[:2] == b"n+" else b""), packed


def nifti_forms(path: Path) -> Forms:
    """Sform and qform of a valid NIfTI file."""
    return forms_of(_header(path))


def read_nifti(path: Path, channels: int | None) -> tuple[np.ndarray, np.ndarray]:
    header = _header(path)
    count, shape = _layout(path, header, channels)
    affine = affine_of(path, header, shape)
    file = _voxel_file(path, header)
    with closing(_opened(file)) as stream:
        check_room(file, header, isinstance(stream, gzip.GzipFile))
        try:
            proxy = nib.arrayproxy.ArrayProxy(stream, header, mmap=False)
            array = np.asanyarray(proxy.get_unscaled())
            check_excess(file, header, stream)
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


def _header(path: Path) -> nib.Nifti1Header:
    path = pair_header(path) or path
    with _opened(path) as stream:
        return _parsed(path, stream)


def _voxel_file(path: Path, header: nib.Nifti1Header) -> Path:
    """The file that holds the voxels: the one with the header, or the other one of a pair."""
    if bytes(header["magic"])[:2] == b"n+":
        return pair_header(path) or path
    if pair_header(path) is None:
        raise ImageError(
            f"{path}: the header says that the voxels lie in a separate .img file; give the header of such a pair the"
            " ending .hdr, or convert it to one .nii.gz."
        )
    return _voxels(path)


def _voxels(path: Path) -> Path:
    """The file of a pair that holds its voxels."""
    header = pair_header(path)
    assert header is not None
    found = pair_voxels(header)
    if not found:
        raise ImageError(
            f"{path}: the .img file with the voxels is missing beside this header; copy it there."
        )
    if len(found) > 1:
        names = " and ".join(file.name for file in found)
        raise ImageError(f"{path}: {names} may both hold the voxels of this header; leave one of them there.")
    return found[0]


def _opened(path: Path) -> IO[bytes]:
    with path.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if packed else path.open("rb")  # type: ignore[return-value]


def _parsed(path: Path, stream: IO[bytes]) -> nib.Nifti1Header:
    """Parse without nibabel's header check, which takes longer than all other steps and only logs most findings."""
    try:
        first = stream.read(4)
        stream.seek(0)
        size = {int.from_bytes(first, "little"), int.from_bytes(first, "big")}
        kind = nib.Nifti2Header if 540 in size else nib.Nifti1Header
        # Extensions are not used here, and an error in their stated lengths would only prevent reading.
        header = kind(stream.read(kind.template_dtype.itemsize), check=False)
        known = bytes(header["magic"])[:3] in (b"n+1", b"n+2", b"ni1", b"ni2") and size & {348, 540}
        header.get_data_dtype()
    except (EOFError, zlib.error, OSError) as error:
        raise ImageError(
            f"{path}: the file is damaged or cut off ({error}); copy or convert it again."
        ) from error
    except (nib.wrapstruct.WrapStructError, HeaderDataError, ValueError, KeyError) as error:
        raise ImageError(f"{path}: not a NIfTI file ({error}).") from error
    if not known and pair_header(path) is not None and 348 in size:
        raise ImageError(
            f"{path}: an ANALYZE 7.5 image, which states no orientation, so left and right are unknown; convert its"
            " source to NIfTI again."
        )
    if not known:
        raise ImageError(f"{path}: not a NIfTI file (its header has no magic number).")
    check_numbers(path, header)
    if abs(header["pixdim"][0]) != 1:  # qfac of the standard; many programs write 0, which means 1
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
        raise ImageError(f"{path}: the image has {len(shape)} axes {shape}; {fourth_axis(channels)}")
    return count, shape[:3]
