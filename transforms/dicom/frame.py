"""One plane of a DICOM image and what its header says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.uid import UID

from transforms.errors import ImageError

__all__ = ["EXPORT", "Frame"]

EXPORT = "Export the series again from its source."


@dataclass(frozen=True)
class Frame:
    """One image plane: a file of a classic series, or one frame of a multi-frame file.

    Attributes
    ----------
    path : Path
        The file.
    index, count : int
        Zero-based frame in it, and how many it has.
    values : dict
        Attribute keyword to a tuple of texts or numbers; what is missing or empty is not there.
    syntax : UID
        Transfer syntax.
    size : int or None
        Bytes of the file; None where it is compressed as a whole (gzip).
    offset : int
        Where the header ends.
    grouped : bool
        It is described by functional groups (PS3.3 C.7.6.16).
    """

    path: Path
    index: int
    count: int
    values: dict[str, tuple[Any, ...]]
    syntax: UID
    size: int | None
    offset: int
    grouped: bool = False

    @property
    def place(self) -> str:
        """File, and the frame counted from one where there are several."""
        return str(self.path) if self.count == 1 else f"{self.path} (frame {self.index + 1})"

    @property
    def name(self) -> str:
        """As `place`, without the folder."""
        return self.path.name if self.count == 1 else f"frame {self.index + 1} of {self.path.name}"

    def has(self, keyword: str) -> bool:
        """Whether an attribute is there and not empty."""
        return keyword in self.values

    def text(self, keyword: str) -> str:
        """The attribute as it is written, several values joined by backslashes; "" where missing."""
        return "\\".join(str(value) for value in self.values.get(keyword, ()))

    def numbers(self, keyword: str) -> np.ndarray:
        """The values as float64.

        Raises
        ------
        ImageError
            If they are no numbers.
        """
        values = self.values.get(keyword, ())
        try:
            return np.array([float(value) for value in values])
        except ValueError:
            raise ImageError(
                f"{self.place}: {keyword} is {self.text(keyword)}, which are no numbers. {EXPORT}"
            ) from None

    def integer(self, keyword: str, default: int | None = None) -> int:
        """The single value as a whole number.

        Raises
        ------
        ImageError
            If it is not, or is missing without a default.
        """
        values = self.values.get(keyword, () if default is None else (default,))
        try:
            (value,) = values
            return int(value)
        except ValueError:
            found = f"{self.text(keyword)}, not a whole number" if values else "missing"
            raise ImageError(f"{self.place}: {keyword} is {found}. {EXPORT}") from None
