"""Finding and opening of the DICOM files below a folder."""

from __future__ import annotations

import gzip
import logging
import zlib
from pathlib import Path
from typing import BinaryIO

from transforms.dicom.frame import Frame
from transforms.errors import ImageError
from transforms.utils.image_paths import bounded
from transforms.utils.walk import files_below, leads_nowhere

_log = logging.getLogger(__name__)

DICOM_ENDINGS = (".dcm", ".dicom", ".ima", ".dcm.gz")


def warn_of_blank(files: list[Path], found: list[list[Frame]]) -> None:
    """Warn of files without content that are named like the slices beside them, as an interrupted copy leaves them."""
    slices = {(file.parent, _ending(file)) for file, frames in zip(files, found, strict=True) if frames}
    blank = [
        file
        for file, frames in zip(files, found, strict=True)
        if not frames and (file.parent, _ending(file)) in slices and _is_blank(file)
    ]
    if blank:
        _log.warning(
            "%s: empty, only zeros, a broken link or impossible to unpack, though named like the slices beside it (%d such file(s));"
            " passed over. If it was a slice, copy the series again.",
            blank[0],
            len(blank),
        )


def _ending(path: Path) -> str:
    suffix = path.suffix.lower()
    return "" if suffix[1:].isdigit() else suffix  # many archives name files by UID


def _is_blank(path: Path) -> bool:
    if leads_nowhere(path):
        return True
    with open_file(path) as stream:
        try:
            return not any(stream.read(4096))
        except (OSError, EOFError, zlib.error):  # gzip data that are damaged
            return True


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its prefix (PS3.10 7.1) or its name; the scan then reports what is missing in it."""
    return path.name.lower().endswith(DICOM_ENDINGS) or has_prefix(path)


def has_prefix(path: Path) -> bool:
    """Whether a file has the prefix of DICOM (PS3.10 7.1)."""
    with open_file(path) as stream:
        try:
            return stream.read(132)[128:] == b"DICM"
        except (OSError, EOFError, zlib.error):  # gzip data that are damaged
            return False


def open_file(path: Path) -> BinaryIO:
    """Open a DICOM file for reading, unpacked where it is gzipped.

    Raises:
        ImageError: it cannot be opened.
    """
    try:
        stream = path.open("rb")
    except OSError as error:
        raise ImageError(f"{path}: cannot be opened ({error.strerror}).") from error
    if stream.read(2) == b"\x1f\x8b":
        stream.close()
        return gzip.open(path, "rb")  # type: ignore[return-value]
    stream.seek(0)
    return stream


def dicom_files_below(folder: Path) -> list[Path]:
    try:
        files = sorted(bounded(files_below(folder), folder))
    except OSError as error:
        raise ImageError(f"{error.filename}: cannot be listed ({error.strerror}).") from error
    return [file for file in files if file.name.upper() != "DICOMDIR"]


def starts_bare(start: bytes) -> bool:
    """Whether the first element has group 0002 or 0008 in little endian: DICOM without the preamble."""
    return start[:1] in (b"\x02", b"\x08") and start[1:2] == b"\0" and start[3:4] == b"\0" and len(start) > 8
