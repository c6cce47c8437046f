"""Read a DICOM CT series as a volume in Hounsfield units and world space.

First the headers are read without pixels (`transforms.dicom.headers`), from a folder with its subfolders or from one
file, and grouped into volumes (`transforms.dicom.volumes`). One volume is chosen (`transforms.dicom.choice`), and its
slices are checked (`transforms.dicom.checks`) and sorted (`transforms.dicom.stack`). Then the pixels are decoded in
parallel into one array (`transforms.dicom.pixels`). Classic and enhanced multi-frame CT (DICOM PS3.3 A.3, A.38, A.70)
are treated alike: a frame is a slice. Anything uncertain raises `ImageError` with the finding and what to do;
docs/dicom.md lists all cases.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from transforms.dicom.alternation import require_one_scan
from transforms.dicom.checks import check_common_grid, check_slice, warn_of_mixture
from transforms.dicom.choice import choose_volume
from transforms.dicom.headers import Frame
from transforms.dicom.pixels import LOSSY, decode_frames, hounsfield_exact, hounsfield_float, is_ambiguous
from transforms.dicom.stack import ALTERNATING, MISSING, UNEVEN, checked_names, stack_slices
from transforms.dicom.units import require_air
from transforms.dicom.volumes import Volume, find_volumes

__all__ = ["Series", "Volume", "find_volumes", "read_series", "scan_series"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Series:
    """One CT volume, checked and in order, without its pixels.

    Attributes:
        folder: the folder or file that was scanned.
        shape: ``(X, Y, Z)``: columns, rows, slices.
        affine: 4x4 float64, voxel index ``(column, row, slice)`` to millimetres, RAS+; sheared where the
            gantry was tilted.
        frames: the slices as they are stored, in the order of their position along the slice normal (row
            cosines x column cosines).
        plan: for every slice of the array the two frames it lies between and the weight of the second.
        uid, description, study_uid, frame_of_reference_uid: SeriesInstanceUID (0020,000E), SeriesDescription
            (0008,103E), StudyInstanceUID (0020,000D), FrameOfReferenceUID (0020,0052); "" where missing.
        lossy: the transfer syntax of a slice is lossy, so its values are not exactly those of the scanner.
        allowed: irregularities that were accepted.
    """

    folder: Path
    shape: tuple[int, int, int]
    affine: np.ndarray
    frames: tuple[Frame, ...] = field(repr=False)
    plan: tuple[tuple[int, int, float], ...] = field(repr=False)
    uid: str = ""
    description: str = ""
    study_uid: str = ""
    frame_of_reference_uid: str = ""
    lossy: bool = False
    allowed: frozenset[str] = frozenset()

    @property
    def sources(self) -> tuple[tuple[Path, int] | None, ...]:
        """File and zero-based frame of each slice along axis 2 of the array; None where it was interpolated."""
        return tuple(
            (self.frames[lower].path, self.frames[lower].index) if weight == 0 else None
            for lower, _, weight in self.plan
        )

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that the volume is made of, each once, in the order of their first slice."""
        return tuple(dict.fromkeys(frame.path for frame in self.frames))


def scan_series(folder: str | Path, series: str | int | None = None, allow: Collection[str] = ()) -> Series:
    """Find, check and sort the slices of one CT volume by their headers.

    Pixels are read only to compare slices at the same position.

    Args:
        folder: a folder, including its subfolders, or one file. Files that are not DICOM, DICOMDIR and hidden
            files are skipped; so are objects that are not CT images, which the log lists.
        series: which volume, where there are several: its number in `find_volumes`, its
            SeriesInstanceUID, or its SeriesDescription (or a part of one that occurs in no other).
        allow: ``missing-slices``: gaps are filled by linear interpolation. ``uneven-spacing``: slices are
            resampled linearly to an even grid of the median distance. Both warn in the log.
            ``alternating-slices``: slices whose values alternate as those of two scans do are read as one
            volume.

    Raises:
        ImageError: for anything uncertain; the message names a file, the finding, and what to do. If there
            are several volumes and `series` is None, it lists them by number.

    Examples:
        >>> from pydicom.data import get_testdata_file
        >>> found = scan_series(get_testdata_file("CT_small.dcm"))
        >>> found.shape, len(found.frames)
        ((128, 128, 1), 1)
    """
    folder, allow = Path(folder), checked_names(allow)
    frames = choose_volume(folder, series, joined=bool(allow & {MISSING, UNEVEN})).frames
    for frame in frames:
        check_slice(frame)
    check_common_grid(frames)
    stack = stack_slices(frames, allow)
    warn_of_mixture(stack.frames)
    first = stack.frames[0]
    return Series(
        folder=folder,
        shape=(first.columns, first.rows, len(stack.plan)),
        affine=stack.affine,
        frames=stack.frames,
        plan=stack.plan,
        uid=first.text("SeriesInstanceUID"),
        description=first.text("SeriesDescription"),
        study_uid=first.text("StudyInstanceUID"),
        frame_of_reference_uid=first.text("FrameOfReferenceUID"),
        lossy=any(frame.syntax in LOSSY for frame in stack.frames),
        allowed=allow,
    )


def read_series(
    folder: str | Path | Series, series: str | int | None = None, allow: Collection[str] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Read a CT volume.

    Args:
        folder: a folder or a file, or what `scan_series` returned for it.
        series, allow: as `scan_series`; ignored for a Series.

    Returns:
        array: ``(X, Y, Z)`` in Hounsfield units; int16 if that is exact for every stored slice (interpolated
            ones are rounded), else float32.
        affine: 4x4 float64, voxel index to millimetres, RAS+.

    Raises:
        ImageError: as `scan_series`, and for pixel data that are cut off, cannot be decoded, or
            alternate as those of two scans do.

    Examples:
        >>> from pydicom.data import get_testdata_file
        >>> array, affine = read_series(get_testdata_file("CT_small.dcm"))
        >>> array.shape, str(array.dtype), affine.shape
        ((128, 128, 1), 'int16', (4, 4))
    """
    found = folder if isinstance(folder, Series) else scan_series(folder, series, allow)
    _warn_of_values(found)
    stored = _decoded(found)
    require_air(found.frames, stored)
    if ALTERNATING not in found.allowed:
        require_one_scan(found.frames, stored)
    volume = _interpolated(stored, found.plan)
    return volume.transpose(2, 1, 0), found.affine


def _warn_of_values(series: Series) -> None:
    if series.lossy:
        _log.warning(
            "%s: compressed with loss; values are near those of the scanner, not equal.", series.folder
        )
    if any(is_ambiguous(frame) for frame in series.frames):
        _log.warning(
            "%s: PixelPaddingValue %s reads like tissue or metal; it counts as padding only where it reaches a corner of"
            " the image.",
            series.folder,
            series.frames[0].text("PixelPaddingValue"),
        )


def _decoded(series: Series) -> np.ndarray:
    """The stored slices in Hounsfield units, ``(slices, rows, columns)``."""
    frames = series.frames
    shape = (len(frames), series.shape[1], series.shape[0])
    scale = [(frame.slope, frame.intercept) for frame in frames]
    if all(slope.is_integer() and intercept.is_integer() for slope, intercept in scale):
        volume = np.empty(shape, dtype=np.int16)

        def exact(index: int, stored: np.ndarray, padding: np.ndarray | None) -> bool:
            slope, intercept = (int(value) for value in scale[index])
            return hounsfield_exact(stored, padding, slope, intercept, volume[index])

        if all(decode_frames(frames, exact)):
            return volume
    wide = np.empty(shape, dtype=np.float32)

    def rounded(index: int, stored: np.ndarray, padding: np.ndarray | None) -> None:
        hounsfield_float(stored, padding, *scale[index], wide[index])

    decode_frames(frames, rounded)
    return wide


def _interpolated(stored: np.ndarray, plan: Sequence[tuple[int, int, float]]) -> np.ndarray:
    if len(plan) == len(stored) and all(weight == 0 for _, _, weight in plan):
        return stored
    volume = np.empty((len(plan), *stored.shape[1:]), dtype=stored.dtype)
    for index, (lower, upper, weight) in enumerate(plan):
        if weight == 0:
            volume[index] = stored[lower]
            continue
        between = stored[lower].astype(np.float64) * (1 - weight) + stored[upper].astype(np.float64) * weight
        volume[index] = np.rint(between) if volume.dtype.kind == "i" else between
    return volume
