"""2D pictures (PNG, TIFF, JPEG, BMP, GIF, PPM, PGM) to arrays of shape ``(C, X, Y)``.

The axes are MONAI's for pictures: X counts columns from the left, Y rows from the top, and the affine is the identity
except for the pixel spacing. A picture has no anatomical orientation. The spacing is 1 mm unless a TIFF states a
physical one: pixels per centimetre, or ImageJ's unit. Pixels per inch describe the printed size (cameras and editors
write 72 or 300 by default) and are ignored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from transforms.errors import ImageError
from transforms.io.inflate import check_deflated

__all__ = ["picture_header", "read_picture", "write_picture"]

_ORIENTATION, _BITS, _SAMPLES, _DESCRIPTION = 274, 258, 277, 270
_X_RESOLUTION, _Y_RESOLUTION, _UNIT = 282, 283, 296
_COMPRESSION, _STRIPS, _STRIP_SIZES, _TILES, _TILE_SIZES = 259, 273, 279, 324, 325
_DEFLATED, _PACKBITS = (8, 32946), 32773
_ROWS_PER_STRIP, _PLANES, _TILE_WIDTH, _TILE_LENGTH = 278, 284, 322, 323
_CENTIMETRE = 3
_MILLIMETRES = {
    "nm": 1e-6,
    "um": 1e-3,
    "µm": 1e-3,
    "\\u00b5m": 1e-3,
    "micron": 1e-3,
    "mm": 1.0,
    "cm": 10.0,
    "m": 1e3,
}
_CHANNELS = {"1": 1, "L": 1, "LA": 1, "I;16": 1, "I": 1, "F": 1, "RGB": 3, "RGBA": 3, "P": 3}


def picture_header(path: Path) -> tuple[tuple[int, int], int, np.ndarray]:
    """Return size ``(X, Y)``, number of channels and 4x4 affine of a picture.

    Raises:
        ImageError: the file is not a picture, has several pages, is stored rotated, or has colours other than
            grey or RGB.
    """
    with _open(path) as image:
        bits, samples = _depth(path, image)
        channels = (3 if samples > 2 else 1) if bits > 8 else _CHANNELS[image.mode]
        return (image.width, image.height), channels, _affine(image)


def read_picture(path: Path, label: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels ``(C, X, Y)`` of a picture and its 4x4 affine.

    Args:
        path: the file.
        label: the picture is a label map: a palette picture gives its indices instead of colours.

    Raises:
        ImageError: as `picture_header`, and if the file is damaged or partly transparent.
    """
    with _open(path) as image:
        affine = _affine(image)
        _check_sums(path, image)
        if _depth(path, image)[0] > 8:
            return _opaque(path, _read_deep(path)), affine
        try:
            if image.mode == "P" and not label:
                image = image.convert("RGBA" if "transparency" in image.info else "RGB")
            array = np.asarray(image)
        except (OSError, SyntaxError, ValueError) as error:
            raise ImageError(f"{path}: the file is damaged or cut off ({error}); copy it again.") from error
    if array.dtype == bool:
        array = array.astype(np.uint8)
    return _opaque(path, array if array.ndim == 3 else array[..., None]), affine


def write_picture(path: Path, array: np.ndarray) -> None:
    """Write ``(X, Y)`` uint8 or uint16 as a grey PNG."""
    Image.fromarray(np.ascontiguousarray(array.T)).save(path, format="PNG")


def _open(path: Path) -> Image.Image:
    try:
        image = Image.open(path)
        frames = getattr(image, "n_frames", 1)
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception as error:  # a parser of damaged bytes raises whatever it likes
        raise ImageError(f"{path}: not a readable picture ({error}); copy or convert it again.") from error
    if frames > 1:
        raise ImageError(
            f"{path}: {frames} pages in one file; save each as a picture, or the stack as NIfTI."
        )
    if orientation != 1:
        raise ImageError(
            f"{path}: stored rotated or mirrored (EXIF orientation {orientation}), so that viewers disagree about its"
            " axes; save it upright."
        )
    if image.mode not in _CHANNELS and not image.mode.startswith("I;16"):
        raise ImageError(f"{path}: colours are {image.mode}; save the picture as grey or RGB.")
    return image


def _check_sums(path: Path, image: Image.Image) -> None:
    """Verify the checksums of PNG chunks and deflated TIFF strips, which decoders do not read.

    LZW, PackBits, JPEG, BMP, GIF and PPM have no checksums, so that only data that cannot be decoded are found. For PackBits data
    of a wrong length ITK's decoder only prints a warning, so their length is checked here.
    """
    if image.format == "PNG":
        try:
            with Image.open(path) as again:  # an image cannot be read after verify()
                again.verify()
        except Exception as error:  # a parser of damaged bytes raises whatever it likes
            raise ImageError(f"{path}: the file is damaged ({error}); copy it again.") from error
    if image.format == "TIFF":
        _check_strips(path, image)


def _check_strips(path: Path, image: Image.Image) -> None:
    tags: Any = image.tag_v2  # type: ignore[attr-defined]
    packed = tags.get(_COMPRESSION) == _PACKBITS
    if not packed and tags.get(_COMPRESSION) not in _DEFLATED:
        return
    starts = tags.get(_STRIPS) or tags.get(_TILES) or ()
    lengths = tags.get(_STRIP_SIZES) or tags.get(_TILE_SIZES) or ()
    if not starts or len(starts) != len(lengths):
        raise ImageError(
            f"{path}: the file is damaged (it does not state where its pixels are); copy it again."
        )
    with path.open("rb") as stream:
        for number, (start, length) in enumerate(zip(starts, lengths, strict=True)):
            stream.seek(start)
            if not packed:
                check_deflated(path, stream, length)
            elif _unpacked_length(stream.read(length)) != _strip_length(path, tags, image, number):
                raise ImageError(
                    f"{path}: the file is damaged (its packed pixels have another length than the picture); copy it"
                    " again."
                )


def _unpacked_length(packed: bytes) -> int:
    """Unpacked length of PackBits data in bytes (TIFF 6.0, section 9); -1 if they are cut off."""
    place = total = 0
    while place < len(packed):
        code = packed[place]
        if code < 128:  # code + 1 literal bytes
            place += code + 2
            total += code + 1
        elif code > 128:  # one byte, repeated
            place += 2
            total += 257 - code
        else:  # no operation
            place += 1
    return total if place == len(packed) else -1


def _strip_length(path: Path, tags: Any, image: Image.Image, number: int) -> int:
    """Bytes of a strip or tile of a TIFF before it was packed (TIFF 6.0, sections 8 and 15)."""
    try:
        bits = int(tags.get(_BITS, (1,))[0])
        samples = int(tags.get(_SAMPLES, 1)) if tags.get(_PLANES, 1) == 1 else 1
        if _TILES in tags:
            width, rows = int(tags[_TILE_WIDTH]), int(tags[_TILE_LENGTH])
        else:
            every = min(int(tags.get(_ROWS_PER_STRIP, image.height)), image.height)
            strip = number % -(-image.height // every)
            width, rows = image.width, min(every, image.height - strip * every)
    except (TypeError, ValueError, KeyError, IndexError, ZeroDivisionError) as error:
        raise ImageError(f"{path}: the file is damaged (a tag is not a number); copy it again.") from error
    return rows * -(-width * samples * bits // 8)


def _depth(path: Path, image: Image.Image) -> tuple[int, int]:
    """Return bits per sample and samples per pixel; Pillow cuts 16-bit colours down to 8 bits."""
    if image.format == "TIFF":
        tags: Any = image.getexif()
        bits = tags.get(_BITS, 1)
        return int(max(bits) if isinstance(bits, tuple) else bits), int(tags.get(_SAMPLES, 1))
    if image.format == "PNG":
        with path.open("rb") as stream:
            start = stream.read(26)
        return start[24], {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[start[25]]  # PNG specification, section 11.2.1 IHDR
    return 8, len(image.getbands())


def _read_deep(path: Path) -> np.ndarray:
    import SimpleITK as sitk

    try:
        array = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ImageError(
            f"{path}: the file is damaged or of an unknown kind ({reason}); convert it again."
        ) from error
    if array.ndim == 3 and array.shape[0] == 1:
        array = array[0]
    return array if array.ndim == 3 else array[..., None]


def _opaque(path: Path, array: np.ndarray) -> np.ndarray:
    """Drop a fully opaque alpha channel, and turn ``(rows, columns, C)`` into ``(C, X, Y)``."""
    if array.shape[2] in (2, 4):
        full = np.iinfo(array.dtype).max if array.dtype.kind in "iu" else 1
        if (array[..., -1] != full).any():
            raise ImageError(f"{path}: partly transparent; save the picture without an alpha channel.")
        array = array[..., :-1]
    return array.transpose(2, 1, 0)


def _affine(image: Image.Image) -> np.ndarray:
    spacing = [1.0, 1.0]
    if image.format == "TIFF":
        tags: Any = image.getexif()
        resolution = [float(tags.get(tag, 0) or 0) for tag in (_X_RESOLUTION, _Y_RESOLUTION)]
        description = str(tags.get(_DESCRIPTION, ""))
        unit = 10.0 if tags.get(_UNIT) == _CENTIMETRE else None
        if description.startswith("ImageJ="):
            named = [line[5:].strip() for line in description.splitlines() if line.startswith("unit=")]
            unit = _MILLIMETRES.get(named[0].lower()) if named else None
        if unit is not None and min(resolution) > 0:
            spacing = [unit / value for value in resolution]
    return np.diag([*spacing, 1.0, 1.0])
