"""Reader of voxels whose size, type, encoding and files are stated by a text header (NRRD, MetaImage).

ITK's readers are not used: they crash the process on a wrong number in the header, and return uninitialised memory
for damaged data. Every number is checked here, and numpy reads the voxels.
"""

from __future__ import annotations

import logging
import math
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

import numpy as np

from transforms.errors import ImageError
from transforms.io.inflate import inflate, require_room

__all__ = [
    "RawVolume",
    "axis_count",
    "check_room",
    "data_file",
    "header_lines",
    "listed_files",
    "numbers",
    "pattern_files",
    "read_voxels",
    "require_files",
    "whole_numbers",
]

_LINE = 1 << 16
_LINES = 100_000
_MOST_FILES = 100_000
_PADDING = 1 << 16
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RawVolume:
    """The content of a text header.

    Attributes:
        path: of the header.
        sizes: length of every axis as stored, the fastest first; with the axis of components where there is
            one.
        components: which axis holds the components of a voxel.
        affine: (n + 1) x (n + 1): index along the other n axes to mm, in LPS+ where they are anatomical.
        dtype: with its byte order.
        encoding: ``raw``, ``text``, ``hex``, ``deflate`` or ``bzip2``.
        files: that hold the voxels one after the other, equal parts of them.
        offset: byte in each file where they begin; -1: they are the last bytes.
        skip_lines, skip_bytes: to be skipped at that offset; for compressed data, bytes of the unpacked data.
        length: compressed bytes, where stated.
    """

    path: Path
    sizes: tuple[int, ...]
    components: int | None
    affine: np.ndarray
    dtype: np.dtype
    encoding: str
    files: tuple[Path, ...]
    offset: int
    skip_lines: int = 0
    skip_bytes: int = 0
    length: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of the axes that are no components."""
        return tuple(n for axis, n in enumerate(self.sizes) if axis != self.components)

    @property
    def channels(self) -> int:
        """Values per voxel."""
        return 1 if self.components is None else self.sizes[self.components]


# --- text -----------------------------------------------------------------------------------------------------------


def header_lines(path: Path, stream: BinaryIO) -> Iterator[str]:
    """Yield the lines of a header; leaves the stream behind the last line that was yielded.

    Raises:
        ImageError: a line or the header has no end.
    """
    for _ in range(_LINES):
        raw = stream.readline(_LINE)
        if len(raw) == _LINE:
            break
        if not raw:
            return
        yield raw.decode("latin-1").strip()
    raise ImageError(f"{path}: the text header has no end; the file is damaged.")


def numbers(path: Path, key: str, text: str, count: int) -> np.ndarray:
    """Exactly `count` finite numbers of a header field.

    Raises:
        ImageError: it holds anything else.
    """
    try:
        found = np.array([float(word) for word in text.replace(",", " ").split()])
    except ValueError:
        found = np.full(0, np.nan)
    if len(found) != count or not np.isfinite(found).all():
        raise ImageError(f"{path}: {key} is '{text[:80]}', not {count} number(s); the header is damaged.")
    return found


def whole_numbers(path: Path, key: str, text: str, count: int, low: int, high: int) -> tuple[int, ...]:
    """Exactly `count` whole numbers from `low` to `high`.

    Raises:
        ImageError: the field holds anything else.
    """
    words = text.split()
    if len(words) == count and all(re.fullmatch(r"[+-]?\d{1,18}", word) for word in words):
        found = tuple(int(word) for word in words)
        if all(low <= value <= high for value in found):
            return found
    raise ImageError(
        f"{path}: {key} is '{text[:80]}', not {count} whole number(s) from {low} to {high}; the header is damaged."
    )


def axis_count(path: Path, key: str, text: str) -> int:
    """How many axes there are, 2 to 4.

    Raises:
        ImageError: the field holds anything else.
    """
    if text not in ("2", "3", "4"):
        raise ImageError(
            f"{path}: {key} is '{text[:40]}'; an image has 2 or 3 axes, and perhaps one of channels. The header is damaged,"
            " or export one volume."
        )
    return int(text)


# --- files ----------------------------------------------------------------------------------------------------------


def data_file(header: Path, name: str) -> Path:
    """The file of voxels that a header names: in its folder or below, also as a link to another folder.

    Raises:
        ImageError: the file is elsewhere (a header could otherwise expose any file of the machine), or does not
            exist.
    """
    kinds = (PurePosixPath(name), PureWindowsPath(name))
    if not name or any(kind.anchor or ".." in kind.parts for kind in kinds):
        raise ImageError(
            f"{header}: the header names the file of voxels '{name}', which does not lie beside it or below its folder;"
            " move the voxels beside the header and name them without a folder."
        )
    path = header.parent / name
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(
            f"{header}: the file of voxels {path} cannot be opened ({reason}); copy header and voxels together."
        ) from error
    if not stat.S_ISREG(mode):
        raise ImageError(f"{header}: {path}, which the header names as its voxels, is not a file.")
    return path


def pattern_files(header: Path, words: list[str]) -> tuple[Path, ...]:
    """The files of a printf-style pattern with its smallest and largest number and the step (default 1).

    Raises:
        ImageError: the pattern is invalid.
    """
    text = " ".join(words)
    if len(words) not in (3, 4) or not re.fullmatch(r"[^%]*%0?\d{0,2}[diu][^%]*", words[0]):
        raise ImageError(f"{header}: '{text[:80]}' is not a pattern of file names; the header is damaged.")
    low, high, step = whole_numbers(header, "the pattern", " ".join((*words[1:], "1")[:3]), 3, 0, 10**9)
    if step < 1 or high < low or (high - low) // step >= _MOST_FILES:
        raise ImageError(f"{header}: '{text[:80]}' names no files, or too many; the header is damaged.")
    return tuple(data_file(header, words[0] % number) for number in range(low, high + 1, step))


def listed_files(header: Path, stream: BinaryIO) -> tuple[Path, ...]:
    """The files of voxels that the rest of a header names, one a line.

    Raises:
        ImageError: see `data_file` and `header_lines`.
    """
    return tuple(data_file(header, line) for line in header_lines(header, stream) if line)


def require_files(header: Path, files: tuple[Path, ...], sizes: tuple[int, ...], axes: int) -> None:
    """Refuse a wrong number of files; each file must hold the first `axes` axes of the sizes.

    Raises:
        ImageError: naming the header.
    """
    pieces = math.prod(sizes[axes:])
    if len(files) != pieces:
        raise ImageError(
            f"{header}: the header names {len(files)} file(s) of voxels where its sizes need {pieces}."
        )


# --- voxels ---------------------------------------------------------------------------------------------------------


def check_room(volume: RawVolume) -> None:
    """Refuse sizes that the files cannot hold; nothing of the voxels is read.

    Raises:
        ImageError: naming the header.
    """
    parts = len(volume.files)
    count = math.prod(volume.sizes)
    if count % parts:
        raise ImageError(
            f"{volume.path}: {count} voxels cannot be divided equally among {parts} files; the header is damaged."
        )
    expected = count // parts * volume.dtype.itemsize
    for file in volume.files:
        size = file.stat().st_size
        skipped = volume.skip_bytes if volume.encoding in ("raw", "text", "hex") else 0
        room = size - max(0, volume.offset) - max(0, skipped)
        if volume.encoding == "text":
            expected = 2 * (count // parts) - 1  # a digit each, and what separates them
        elif volume.encoding == "hex":
            room //= 2
        if volume.encoding != "bzip2":
            require_room(volume.path, expected, room, volume.encoding == "deflate")


def read_voxels(volume: RawVolume) -> np.ndarray:
    """All voxels, an array of `volume.sizes` in the header's type, the first axis fastest in memory.

    Raises:
        ImageError: they are cut off or damaged.
    """
    check_room(volume)
    count = math.prod(volume.sizes) // len(volume.files)
    parts = [_read_part(volume, file, count) for file in volume.files]
    flat = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return flat.reshape(volume.sizes, order="F")


def _read_part(volume: RawVolume, file: Path, count: int) -> np.ndarray:
    path, size = volume.path, count * volume.dtype.itemsize
    with file.open("rb") as stream:
        stream.seek(max(0, volume.offset))
        for _ in range(volume.skip_lines):
            stream.readline()
        if volume.encoding in ("deflate", "bzip2"):
            total = volume.skip_bytes + size
            data = inflate(path, stream, total, volume.encoding, volume.length)
            return np.frombuffer(data, volume.dtype, count, offset=volume.skip_bytes)
        if volume.offset < 0 or volume.skip_bytes < 0:
            stream.seek(-size, os.SEEK_END)
        else:
            stream.seek(volume.skip_bytes, os.SEEK_CUR)
        if volume.encoding == "raw":
            array = np.fromfile(stream, volume.dtype, count)
            _notice_excess(path, stream)
        else:
            array = _from_text(volume, stream.read(), count)
    if len(array) < count:
        raise ImageError(
            f"{path}: cut off: {len(array)} of {count} voxels in {file.name}; copy or convert the file again."
        )
    return array


def _from_text(volume: RawVolume, text: bytes, count: int) -> np.ndarray:
    try:
        if volume.encoding == "hex":
            return np.frombuffer(bytes.fromhex(text.decode("ascii")), volume.dtype)[:count]
        kind = float if volume.dtype.kind == "f" else int
        return np.array([kind(word) for word in text.split()[:count]], dtype=volume.dtype)
    except (ValueError, OverflowError) as error:
        raise ImageError(
            f"{volume.path}: the voxels are not numbers of the stated type ({error}); the file is damaged."
        ) from error


def _notice_excess(path: Path, stream: BinaryIO) -> None:
    """Warn if more bytes than padding follow the voxels: the sizes in the header may be too small."""
    start = stream.tell()
    excess = os.fstat(stream.fileno()).st_size - start
    if excess > _PADDING or stream.read(_PADDING).strip(b"\0\r\n "):
        _log.warning(
            "%s: %d more bytes follow the voxels; header and voxels may not belong together.", path, excess
        )
