"""Decoding of the stored values of DICOM slices, and conversion to Hounsfield units.

Values follow the modality LUT, PS3.3 C.11.1: ``stored value * RescaleSlope + RescaleIntercept``, slice by slice.

Padding (PixelPaddingValue and PixelPaddingRangeLimit, PS3.3 C.7.5.1.1.2) fills what lies outside the reconstructed
circle and is not a measurement: interpolation would mix its -3024 or 62512 into neighbouring voxels. It is replaced by
`PADDING_HU`, the lowest value of the 12-bit Hounsfield scale, which every CT window shows as air; padding that already
has the value of air (-1024 to -1000) is kept. If tissue or metal can have the padding value, too (above -1000 to 3071
HU), only regions that reach a corner of the image are taken for padding.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import pydicom
from pydicom.pixels import iter_pixels
from pydicom.uid import RLELossless
from scipy import ndimage

from transforms.dicom.files import open_file
from transforms.dicom.headers import Frame
from transforms.errors import ImageError
from transforms.utils.threads import parallel

__all__ = ["LOSSY", "PADDING_HU", "decode_frames", "hounsfield_exact", "hounsfield_float", "is_ambiguous"]

PADDING_HU = -1024
AIR_HU = -1000
TISSUE_HU = 3071
"""Padding values between AIR_HU and this can also occur in a body."""

LOSSY = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 53, 55, 81, 91, 203))
# pydicom refuses the retired processes with 12 bits and has no installed plugin for HTJ2K; GDCM's reader decodes them
_GDCM = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (51, 53, 55, 201, 202, 203))
_R = TypeVar("_R")


def decode_frames(
    frames: Sequence[Frame], use: Callable[[int, np.ndarray, np.ndarray | None], _R]
) -> list[_R]:
    """Decode frames in threads and pass each to `use`: its index, stored values (rows, columns), padding or None.

    A file that has to be decoded as a whole is opened once for all its frames.

    Raises:
        ImageError: pixel data are missing, cut off, of a wrong length, or cannot be decoded; the message
            names the file.
    """
    batches: dict[object, list[int]] = {}
    for index, frame in enumerate(frames):
        batches.setdefault(frame.path if _is_whole(frame) else index, []).append(index)

    def run(batch: list[int]) -> list[tuple[int, _R]]:
        batch = sorted(batch, key=lambda index: frames[index].index)
        members = [frames[index] for index in batch]
        return [
            (index, use(index, values, _padding(frame, values, raw)))
            for index, frame, (values, raw) in zip(batch, members, _stored_values(members), strict=True)
        ]

    results = [pair for pairs in parallel(run, batches.values()) for pair in pairs]
    return [result for _, result in sorted(results, key=lambda pair: pair[0])]


def hounsfield_exact(
    stored: np.ndarray, padding: np.ndarray | None, slope: int, intercept: int, out: np.ndarray
) -> bool:
    """Write whole Hounsfield units to `out` (int16); return False, with nothing written, where they do not fit."""
    low, high = int(stored.min()), int(stored.max())
    if padding is not None and padding.any():
        values = stored[~padding]
        low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
        stored = np.where(padding, np.asarray(low, dtype=stored.dtype), stored)
    ends = (low * slope + intercept, high * slope + intercept)
    if min(ends) < -32768 or max(ends) > 32767:
        return False
    if slope == 1 and stored.dtype == np.int16 and -32768 <= intercept <= 32767:
        np.add(stored, np.int16(intercept), out=out)
    elif slope == 1 and stored.dtype == np.uint16:
        # Computed modulo 65536, which is exact as the results fit: two bytes per voxel instead of eight.
        np.add(stored, np.uint16(intercept % 65536), out=out.view(np.uint16))
    else:
        out[...] = stored.astype(np.int64) * slope + intercept
    if padding is not None:
        out[padding] = PADDING_HU
    return True


def hounsfield_float(
    stored: np.ndarray, padding: np.ndarray | None, slope: float, intercept: float, out: np.ndarray
) -> None:
    """Write Hounsfield units to `out` (float32), rounded once from float64."""
    out[...] = stored.astype(np.float64) * slope + intercept
    if padding is not None:
        out[padding] = PADDING_HU


# --- padding --------------------------------------------------------------------------------------------------------


def _padding_range(frame: Frame) -> tuple[int, int] | None:
    """Lowest and highest stored value of padding; None without padding, or if the value does not fit the bits.

    The 16 bits are interpreted by PixelRepresentation, regardless of the VR: 63536 (US) in a signed image is -2000.
    """
    if not frame.has("PixelPaddingValue"):
        return None
    ends = [_stored_value(frame, keyword) for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    known = [value for value in ends if value is not None]
    return None if ends[0] is None else (min(known), max(known))


def _stored_value(frame: Frame, keyword: str) -> int | None:
    if not frame.has(keyword):
        return None
    bits, stored = int(frame.values[keyword][0]) & 0xFFFF, frame.bits_stored
    if not frame.signed:
        return bits if bits < 2**stored else None
    if bits >= 2**stored or stored >= 16:  # sign extended to 16 bits
        bits -= 65536 if bits >= 32768 else 0
    elif bits >= 2 ** (stored - 1):
        bits -= 2**stored
    return bits if -(2 ** (stored - 1)) <= bits < 2 ** (stored - 1) else None


def _padding_hounsfield(frame: Frame) -> tuple[float, float] | None:
    ends = _padding_range(frame)
    if ends is None:
        return None
    low, high = sorted(value * frame.slope + frame.intercept for value in ends)
    return low, high


def is_ambiguous(frame: Frame) -> bool:
    """Whether tissue or metal can have the padding value of this frame."""
    units = _padding_hounsfield(frame)
    return units is not None and units[1] > AIR_HU and units[0] <= TISSUE_HU


def _padding(frame: Frame, stored: np.ndarray, raw: np.ndarray | None) -> np.ndarray | None:
    if not frame.has("PixelPaddingValue"):
        return None
    ends, units = _padding_range(frame), _padding_hounsfield(frame)
    if ends is None or units is None:
        # 63536 in a 12-bit image: only padding has bits above the stored ones, if these bits were written.
        return None if raw is None else raw == int(frame.values["PixelPaddingValue"][0]) & 0xFFFF
    low, high = ends
    if units[0] >= PADDING_HU and units[1] <= AIR_HU:
        return None
    mask = stored == low if low == high else (stored >= low) & (stored <= high)
    if is_ambiguous(frame):
        mask = _at_corners(mask)
    elif (
        frame.syntax in LOSSY and units[1] < PADDING_HU
    ):  # lossy compression changes padding values and blends them with the image
        values = stored * frame.slope + frame.intercept
        if values.min() < (units[1] + PADDING_HU) / 2:  # there is padding
            mask = values < PADDING_HU
    return mask


def _at_corners(mask: np.ndarray) -> np.ndarray:
    if not mask[[0, 0, -1, -1], [0, -1, 0, -1]].any():
        return np.zeros_like(mask)
    parts, _ = ndimage.label(mask)
    corners = np.unique(parts[[0, 0, -1, -1], [0, -1, 0, -1]])
    return np.isin(parts, corners[corners > 0])


# --- decoding -------------------------------------------------------------------------------------------------------


def _is_packed(frame: Frame) -> bool:
    """Whether the whole file is gzipped."""
    return frame.size is None


def _is_whole(frame: Frame) -> bool:
    return (
        frame.syntax.is_encapsulated
        or frame.syntax.is_deflated
        or _is_packed(frame)
        or frame.bits_allocated == 8
    )


def _stored_values(frames: list[Frame]) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Yield the stored values of frames of one file, and the raw ones if the bits above the stored ones are known."""
    first = frames[0]
    try:
        arrays = _decoded(frames) if _is_whole(first) else (_native(frame) for frame in frames)
        for frame, array in zip(frames, arrays, strict=True):
            shape = (frame.rows, frame.columns)
            if array.shape != shape or array.dtype.kind not in "iu":
                raise ImageError(
                    f"{frame.place}: decoded to {array.shape} {array.dtype} instead of {shape} whole numbers; the file is"
                    " damaged. Copy the series again."
                )
            yield _within_bits(frame, array)
    except ImageError:
        raise
    except Exception as error:  # decoders can raise any exception; the message has to name the file
        raise _undecodable(first, str(error).strip() or type(error).__name__) from error


def _undecodable(frame: Frame, reason: str) -> ImageError:
    return ImageError(
        f"{frame.path}: the pixel data cannot be decoded ({reason}); the file is damaged, or compressed in an unsupported"
        " way. Copy the series again or decompress it (gdcmconv --raw)."
    )


def _within_bits(frame: Frame, array: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Remove the bits above HighBit, such as overlays, and extend the sign of signed values (PS3.5 8.1.1)."""
    spare = 8 * array.dtype.itemsize - frame.bits_stored
    if spare <= 0:
        return array, None
    if array.dtype.kind == "u" and int(array.max()) < 2**frame.bits_stored:
        return array, None
    plain = not frame.syntax.is_encapsulated or frame.syntax == RLELossless
    if not plain:  # a codec has its own number of bits and may return signed values as unsigned ones
        fits = array.dtype.kind == "i" and array.min() >= 0 and int(array.max()) < 2**frame.bits_stored
        if not fits:
            return array, None
    raw = array.view(f"u{array.dtype.itemsize}")
    return np.right_shift(np.left_shift(array, spare), spare), raw if plain else None


def _native(frame: Frame) -> np.ndarray:
    """Read native pixel data (PS3.5 8.1.1) where the header scan stopped, without parsing the header again."""
    order = "<" if frame.syntax.is_little_endian else ">"
    rows, columns = frame.rows, frame.columns
    size = frame.bits_allocated // 8
    expected = rows * columns * size
    with open_file(frame.path) as stream:
        frame.require_unchanged(os.fstat(stream.fileno()))
        stream.seek(frame.offset)
        head = stream.read(8 if frame.syntax.is_implicit_VR else 12)
        if head[:4] != struct.pack(f"{order}HH", 0x7FE0, 0x0010):
            raise _no_pixels(frame)
        length = struct.unpack(f"{order}I", head[-4:])[0] if len(head) >= 8 else 0
        _check_length(frame, length, longest=True)
        stream.seek(frame.index * expected, 1)
        data = stream.read(expected)
    if len(data) < expected:
        _check_length(frame, frame.index * expected + len(data))
    kind = f"{order}{'i' if frame.signed else 'u'}{size}"
    array = np.frombuffer(data, dtype=kind, count=rows * columns).reshape(rows, columns)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _no_pixels(frame: Frame) -> ImageError:
    return ImageError(
        f"{frame.path}: no pixel data; the file is cut off or was stripped. Copy the series again."
    )


def _check_length(frame: Frame, length: int, longest: bool = False) -> None:
    rows, columns = frame.rows, frame.columns
    expected = frame.count * rows * columns * frame.bits_allocated // 8
    frames = f"{frame.count} x " if frame.count > 1 else ""
    needs = f"{frames}{columns} x {rows} pixels need {expected}"
    if length < expected:
        raise ImageError(
            f"{frame.path}: cut off: {length} bytes of pixel data where {needs}. Copy the series again."
        )
    if longest and length > expected + 1:
        raise ImageError(
            f"{frame.path}: {length} bytes of pixel data where {needs}; header and pixels do not belong together. Copy"
            " the series again."
        )


def _decoded(frames: list[Frame]) -> Iterator[np.ndarray]:
    first = frames[0]
    with open_file(first.path) as stream:
        first.require_unchanged(os.fstat(stream.fileno()))
        image = pydicom.dcmread(stream, force=True)
    if "PixelData" not in image:
        raise _no_pixels(first)
    if not getattr(image.file_meta, "TransferSyntaxUID", None):
        image.file_meta.TransferSyntaxUID = first.syntax
    if first.syntax.is_encapsulated:
        _check_complete(first, image)
    else:
        _check_length(first, len(image.PixelData), longest=True)
    if first.syntax in _GDCM:
        whole = _decode_gdcm(first)
        return (whole[frame.index] for frame in frames)
    # The values of the frames come from functional groups, but pydicom expects them at the top level.
    return iter_pixels(image, indices=[frame.index for frame in frames], raw=True)


def _check_complete(frame: Frame, image: pydicom.Dataset) -> None:
    """Refuse compressed data that are cut off: some decoders silently fill in the rest."""
    if frame.syntax == RLELossless:  # its segments state their lengths
        return
    if b"\xff\xd9" not in image.PixelData.rstrip(b"\0")[-16:]:  # end marker of JPEG, JPEG-LS and JPEG 2000
        raise ImageError(
            f"{frame.path}: cut off: the compressed pixel data have no end marker. Copy the series again."
        )


def _decode_gdcm(frame: Frame) -> np.ndarray:
    """All frames of a file, ``(frames, rows, columns)``."""
    import gdcm

    if _is_packed(frame):
        raise _undecodable(frame, "GDCM reads no gzipped files; unpack it (gunzip)")
    reader = gdcm.ImageReader()
    reader.SetFileName(str(frame.path))
    if not reader.Read():
        raise _undecodable(frame, "GDCM cannot decode this JPEG process")
    buffer = reader.GetImage().GetBuffer()
    if isinstance(buffer, str):  # GDCM's Python binding returns bytes as text
        buffer = buffer.encode("utf-8", "surrogateescape")
    kind = f"{'i' if frame.signed else 'u'}{frame.integer('BitsAllocated') // 8}"
    return np.frombuffer(buffer, dtype=kind).reshape(frame.count, frame.rows, frame.columns)
