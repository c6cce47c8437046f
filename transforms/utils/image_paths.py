"""Checks of a path before it is opened as an image: reading a pipe would never end, and `/` has too many files."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from transforms.errors import ImageError

__all__ = ["MOST_FILES", "bounded", "check_path"]

MOST_FILES = 100_000
"""Files below one image's folder; a series has some thousands of slices, a cohort or a whole disk has more."""


def check_path(path: Path) -> None:
    """Refuse a path that exists but is neither a file nor a folder, or that cannot be accessed.

    A missing path is accepted: the caller that opens it can give a more specific error.

    Raises:
        ImageError: naming the path.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:  # a link to itself, a name that is too long, no permission
        raise ImageError(f"{str(path)[:300]}: cannot be opened ({error.strerror}).") from error
    except ValueError as error:
        raise ImageError(f"{str(path)[:300]!r}: not a valid file name ({error}).") from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        kind = "a named pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
        raise ImageError(f"{path}: {kind}, not a file or folder; give the image itself.")


def bounded(files: Iterable[Path], folder: Path) -> Iterator[Path]:
    """Yield the files found below an image's folder, as long as they can be those of one image.

    Raises:
        ImageError: at the first file after `MOST_FILES`.
    """
    for number, file in enumerate(files):
        if number >= MOST_FILES:
            raise ImageError(
                f"{folder}: more than {MOST_FILES} files, too many for one image; give the folder of its series."
            )
        yield file
