"""Checks of the numbers in a NIfTI header before they are used to read the voxels."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import IO

import nibabel as nib
import numpy as np

from transforms.errors import ImageError
from transforms.io.inflate import require_room

__all__ = ["check_excess", "check_numbers", "check_room"]

_PIECE = 1 << 20
_log = logging.getLogger(__name__)


def check_numbers(path: Path, header: nib.Nifti1Header) -> None:
    """Refuse invalid sizes, offsets or scales.

    Args:
        path: for the message.
        header: as it stands in the file.

    Raises:
        ImageError: naming the field.
    """
    axes = int(header["dim"][0])
    sizes = [int(size) for size in header["dim"][1 : max(0, axes) + 1]]
    if not 1 <= axes <= 7 or min(sizes) < 0:
        raise ImageError(
            f"{path}: damaged: dim is {header['dim'].tolist()}, which is not a valid image size; copy or convert it again."
        )
    offset, start = float(header["vox_offset"]), int(header["sizeof_hdr"])
    single = bytes(header["magic"])[:2] == b"n+"
    if not (math.isfinite(offset) and offset.is_integer() and offset >= (start if single else 0)):
        raise ImageError(
            f"{path}: damaged: vox_offset is {offset:g}, and the voxels cannot begin there (the header has {start} bytes);"
            " copy or convert it again."
        )
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    # NaN and 0 mean that values are not scaled (nibabel writes NaN); the intercept is then ignored, too.
    if math.isinf(slope) or (slope != 0 and not math.isnan(slope) and not math.isfinite(intercept)):
        raise ImageError(
            f"{path}: damaged: values are scaled by {slope:g} and shifted by {intercept:g} (scl_slope, scl_inter); convert"
            " it again from its source."
        )


def check_room(path: Path, header: nib.Nifti1Header, packed: bool) -> None:
    """Refuse sizes that the file with the voxels cannot hold.

    Args:
        path: the file with the voxels.
        header: see `check_numbers`.
        packed: it is compressed by gzip as a whole.

    Raises:
        ImageError: the file is too short for them.
    """
    size, offset = path.stat().st_size, int(header["vox_offset"])
    expected = math.prod(header.get_data_shape()) * header.get_data_dtype().itemsize
    require_room(path, expected, size if packed else size - offset, packed)


def check_excess(path: Path, header: nib.Nifti1Header, stream: IO[bytes]) -> None:
    """Read a file to its end, where gzip stores its checksum, and check that only padding follows the voxels.

    Raises:
        ImageError: bytes are left over, and the header is ambiguous about the offset or the type of the voxels.
            Left-over bytes with an unambiguous header are only logged.
    """
    excess, empty = 0, True
    while piece := stream.read(_PIECE):
        excess += len(piece)
        empty = empty and not piece.strip(b"\0\r\n ")
    offset, start = int(header["vox_offset"]), int(header["sizeof_hdr"])
    if excess and bytes(header["magic"])[:2] == b"n+" and offset < start + 4:
        raise ImageError(
            f"{path}: damaged: vox_offset is {offset}, within the header's {start + 4} bytes, and {excess} bytes follow the"
            " voxels; convert it again from its source."
        )
    if empty and excess <= _PIECE:
        return
    bits, dtype = int(header["bitpix"]), np.dtype(header.get_data_dtype())
    if bits not in (0, 8 * dtype.itemsize):
        raise ImageError(
            f"{path}: damaged: datatype is {dtype.name} and bitpix {bits}, and {excess} bytes follow the voxels; convert it"
            " again from its source."
        )
    _log.warning(
        "%s: %d more bytes follow the voxels; header and voxels may not belong together.", path, excess
    )
