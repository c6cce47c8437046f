"""One plane of a DICOM image and the attributes of its header."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.uid import UID

from transforms.errors import ImageError

__all__ = ["EXPORT", "FileState", "Frame", "file_state"]

EXPORT = "Export the series again from its source."
_LACK = {
    "ImageOrientationPatient": "has no known orientation",
    "ImagePositionPatient": "has no known place in the stack",
    "PixelSpacing": "has no known size in mm",
    "RescaleSlope": "has no Hounsfield units",
    "RescaleIntercept": "has no Hounsfield units",
}

FileState = tuple[int, int]
"""Modification time in nanoseconds and size in bytes, to detect that a file has changed."""


def file_state(found: os.stat_result) -> FileState:
    """The state of a file from a result of `os.stat` or `os.fstat`."""
    return found.st_mtime_ns, found.st_size


@dataclass(frozen=True)
class Frame:
    """One image plane: a file of a classic series, or one frame of a multi-frame file.

    Numbers that several modules need are properties, parsed and checked once. Each raises an ImageError that names
    the file and the attribute if the header does not state it properly.

    Attributes:
        path: the file.
        index, count: zero-based number of the frame in the file, and number of frames in the file.
        values: attribute keyword to a tuple of texts or numbers, without missing and empty attributes.
        syntax: transfer syntax.
        size: bytes of the file; None where it is compressed as a whole (gzip).
        offset: byte at which the header ends.
        grouped: the frame is described by functional groups (PS3.3 C.7.6.16).
        media_class: MediaStorageSOPClassUID, for a file that lost its SOPClassUID; "" where missing.
        state: state of the file when its header was read; None if not known.
        header: all elements of a CT's header except private ones and functional groups, to be copied; None for other
            images. It is shared by the frames of a file and must not be changed.
    """

    path: Path
    index: int
    count: int
    values: dict[str, tuple[Any, ...]]
    syntax: UID
    size: int | None
    offset: int
    grouped: bool = False
    media_class: str = ""
    state: FileState | None = None
    header: Dataset | None = field(default=None, repr=False, compare=False)

    @property
    def place(self) -> str:
        """Path of the file, with the one-based frame number if there are several."""
        return str(self.path) if self.count == 1 else f"{self.path} (frame {self.index + 1})"

    @property
    def name(self) -> str:
        """As `place`, without the folder."""
        return self.path.name if self.count == 1 else f"frame {self.index + 1} of {self.path.name}"

    def has(self, keyword: str) -> bool:
        """Whether an attribute is present and not empty."""
        return keyword in self.values

    def text(self, keyword: str) -> str:
        """The attribute as it is written, several values joined by backslashes; "" where missing."""
        return "\\".join(str(value) for value in self.values.get(keyword, ()))

    def numbers(self, keyword: str) -> np.ndarray:
        """The values as float64.

        Raises:
            ImageError: they are not numbers.
        """
        values = self.values.get(keyword, ())
        try:
            return np.array([float(value) for value in values])
        except ValueError:
            raise ImageError(
                f"{self.place}: {keyword} is {self.text(keyword)}, which are not numbers. {EXPORT}"
            ) from None

    def integer(self, keyword: str, default: int | None = None) -> int:
        """The single value as a whole number.

        Raises:
            ImageError: it is not a whole number, or it is missing and there is no default.
        """
        values = self.values.get(keyword, () if default is None else (default,))
        try:
            (value,) = values
            return int(value)
        except ValueError:
            found = f"{self.text(keyword)}, not a whole number" if values else "missing"
            raise ImageError(f"{self.place}: {keyword} is {found}. {EXPORT}") from None

    # --- position ---------------------------------------------------------------------------------------------------

    @cached_property
    def cosines(self) -> np.ndarray:
        """ImageOrientationPatient (0020,0037): directions of growing column and row index, six numbers, LPS+."""
        return self._finite("ImageOrientationPatient", 6)

    @cached_property
    def position(self) -> np.ndarray:
        """ImagePositionPatient (0020,0032): centre of the first pixel in mm, three numbers, LPS+."""
        return self._finite("ImagePositionPatient", 3)

    @cached_property
    def spacing(self) -> np.ndarray:
        """PixelSpacing (0028,0030): millimetres between rows and between columns."""
        return self._finite("PixelSpacing", 2)

    @property
    def known_cosines(self) -> np.ndarray | None:
        """As `cosines`; None if they are missing or invalid, which the checks report later."""
        try:
            return self.cosines
        except ImageError:
            return None

    @property
    def known_position(self) -> np.ndarray | None:
        """As `position`; None if it is missing or invalid, which the checks report later."""
        try:
            return self.position
        except ImageError:
            return None

    # --- meaning of values ------------------------------------------------------------------------------------------

    @cached_property
    def slope(self) -> float:
        """RescaleSlope (0028,1053): Hounsfield units per unit of the stored value."""
        return float(self._finite("RescaleSlope", 1)[0])

    @cached_property
    def intercept(self) -> float:
        """RescaleIntercept (0028,1052): Hounsfield units of the stored value 0."""
        return float(self._finite("RescaleIntercept", 1)[0])

    @cached_property
    def rows(self) -> int:
        """Rows (0028,0010)."""
        return self.integer("Rows")

    @cached_property
    def columns(self) -> int:
        """Columns (0028,0011)."""
        return self.integer("Columns")

    @cached_property
    def bits_allocated(self) -> int:
        """BitsAllocated (0028,0100): bits that a pixel takes in the file."""
        return self.integer("BitsAllocated")

    @cached_property
    def bits_stored(self) -> int:
        """BitsStored (0028,0101): bits of a pixel that are its value."""
        return self.integer("BitsStored")

    @cached_property
    def signed(self) -> bool:
        """PixelRepresentation (0028,0103): whether stored values are signed: any number except 0."""
        return self.integer("PixelRepresentation") != 0

    def _finite(self, keyword: str, length: int) -> np.ndarray:
        if not self.has(keyword):
            raise ImageError(
                f"{self.place}: {keyword} is missing; without it the slice {_LACK[keyword]}. {EXPORT}"
            )
        numbers = self.numbers(keyword)
        if len(numbers) != length or not np.isfinite(numbers).all():
            raise ImageError(
                f"{self.place}: {keyword} is {self.text(keyword)}, not {length} number(s). {EXPORT}"
            )
        numbers.flags.writeable = False  # it is shared
        return numbers

    # --- changes of the file ----------------------------------------------------------------------------------------

    def require_unchanged(self, found: os.stat_result | None = None) -> None:
        """Check that the file is the one whose header was read.

        Args:
            found: result of `os.fstat` for the opened file; by default `os.stat` is called on the path.

        Raises:
            ImageError: it has changed or no longer exists.
        """
        try:
            found = found or os.stat(self.path)
        except OSError as error:
            raise ImageError(
                f"{self.path}: missing now ({error.strerror}), though its header was read a while ago; run the same command"
                " again when the series is whole."
            ) from error
        if self.state not in (None, file_state(found)):
            raise ImageError(
                f"{self.path}: changed since its header was read; run the same command again when nothing writes to the"
                " series any more."
            )
