"""Sorting of slices along the slice normal, removal of copies, check of distances, and the affine.

Geometry follows PS3.3 C.7.6.2.1.1 (equation C.7.6.2.1-1): the centre of the voxel in column i and row j of a slice lies
at ``ImagePositionPatient + i * spacing_column * row_cosines + j * spacing_row * column_cosines`` in LPS+. Only positions determine the order of slices and
the distance between them; file names, InstanceNumber, SliceLocation, SliceThickness and GantryDetectorTilt are not used.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from transforms.dicom.headers import Frame
from transforms.dicom.order import is_close
from transforms.dicom.pixels import decode_frames
from transforms.errors import ImageError
from transforms.utils.coordinates import LPS_RAS

__all__ = ["ALLOWED", "ALTERNATING", "MISSING", "UNEVEN", "Stack", "checked_names", "stack_slices"]

MISSING, UNEVEN, ALTERNATING = "missing-slices", "uneven-spacing", "alternating-slices"
ALLOWED = (MISSING, UNEVEN, ALTERNATING)
"""Irregularities that can be accepted by name."""

SPACING_TOLERANCE_MM = 0.01
SPACING_TOLERANCE = 0.01
"""Largest distance of a slice from its even position (mm, or times the slice distance, whichever is larger)."""
ROUNDED_MM = 0.1
"""Positions rounded to this many mm may be off by half of it (and a little for the fitted line)."""
GAP = 1.9
"""A distance of at least this many usual distances means that a slice is missing."""
TILT_DEGREES = 0.05
"""Angle between slice normal and stacking direction from which a series counts as tilted."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stack:
    """Sorted slices with their affine.

    Attributes:
        frames: sorted along the slice normal (row cosines x column cosines), one per position.
        affine: 4x4 float64, voxel index (column, row, slice) to mm, RAS+; sheared where the gantry was
            tilted.
        plan: for every slice of the volume the two frames it lies between and the weight of the second; 0 for
            a frame taken as it is.
    """

    frames: tuple[Frame, ...]
    affine: np.ndarray
    plan: tuple[tuple[int, int, float], ...]


@dataclass(frozen=True)
class _Line:
    """Sorted slices and their positions: LPS+ mm ``(n, 3)``, mm along the normal ``(n,)``."""

    frames: list[Frame]
    positions: np.ndarray
    along: np.ndarray
    normal: np.ndarray


def checked_names(allow: Collection[str] | str) -> frozenset[str]:
    """Return the names in `allow` (a text holds them separated by commas).

    Raises:
        ImageError: for a name that is not in ALLOWED.
    """
    names = frozenset(allow.replace(",", " ").split() if isinstance(allow, str) else allow)
    unknown = sorted(str(name) for name in names if name not in ALLOWED)
    if unknown:
        raise ImageError(f"--allow {unknown[0]}: not known; what can be allowed is {', '.join(ALLOWED)}.")
    return names


def stack_slices(frames: Collection[Frame], allow: Collection[str] = ()) -> Stack:
    """Sort checked slices of one volume and find the one affine that holds for all of them.

    Raises:
        ImageError: for different slices at one place, sideways shifts off a line, and gaps or uneven
            distances that `allow` does not name; the message says which files, how many mm and what to do.
    """
    allow = checked_names(allow)
    cosines = np.mean([frame.cosines for frame in frames], axis=0).reshape(2, 3)
    cosines /= np.linalg.norm(cosines, axis=1, keepdims=True)
    normal = np.cross(cosines[0], cosines[1])
    normal /= np.linalg.norm(normal)
    line = _without_copies(_sorted(list(frames), normal))
    row_spacing, column_spacing = np.median([frame.spacing for frame in line.frames], axis=0)
    count = len(line.frames)
    origin, plan = line.positions[0], tuple((index, index, 0.0) for index in range(count))
    if count == 1:
        step = normal * _thickness(line.frames[0])
    else:
        fit = _fitted(line)
        if fit is None:
            step, plan = _resampled(line, allow)
        else:
            origin, step, places = fit
            plan = _filled(line, places, allow)
        _note_tilt(line, step, len(plan))
    lps = np.eye(4)
    lps[:3, 0] = cosines[0] * column_spacing
    lps[:3, 1] = cosines[1] * row_spacing
    lps[:3, 2] = step
    lps[:3, 3] = origin
    return Stack(tuple(line.frames), LPS_RAS @ lps, plan)


def _sorted(frames: list[Frame], normal: np.ndarray) -> _Line:
    positions = np.stack([frame.position for frame in frames])
    along = positions @ normal
    order = sorted(range(len(frames)), key=lambda i: (along[i], frames[i].path, frames[i].index))
    return _Line([frames[i] for i in order], positions[order], along[order], normal)


def _thickness(frame: Frame) -> float:
    thickness = frame.numbers("SliceThickness") if frame.has("SliceThickness") else np.zeros(1)
    if not thickness[0] > 0:
        raise ImageError(
            f"{frame.place}: the only slice here, without a SliceThickness, so it has no known extent; give the whole series."
        )
    return float(thickness[0])


# --- copies ---------------------------------------------------------------------------------------------------------


def _without_copies(line: _Line) -> _Line:
    """Drop slices that equal another one at the same position; raise if they differ."""
    gaps = np.diff(line.along)
    apart = gaps[gaps > SPACING_TOLERANCE_MM]
    usual = float(np.median(apart)) if len(apart) else 0.0
    keep, pairs = [0], []
    for index in range(1, len(line.frames)):
        if is_close(line.along[index] - line.along[keep[-1]], usual):
            pairs.append((keep[-1], index))
        else:
            keep.append(index)
    if not pairs:
        return line
    first, second = (line.frames[index] for index in pairs[0])
    where = f"{line.along[pairs[0][0]]:.4g} mm along the normal, {len(pairs)} such pair(s)"
    for one, other in pairs:
        sideways = float(np.linalg.norm(line.positions[other] - line.positions[one]))
        if not is_close(sideways, usual):
            raise ImageError(
                f"{line.frames[other].place}: beside {line.frames[one].name}, {sideways:.4g} mm away in one plane; export"
                " a series with one field of view."
            )
    different = _first_difference(line, pairs)
    if different is not None:
        first, second = (line.frames[index] for index in different)
        raise ImageError(
            f"{second.place}: at the same position as {first.name} ({where}) with other values: several phases or"
            " reconstructions in one series that no header attribute tells apart; keep one of them."
        )
    _log.warning("%s: the same image as %s (%s); dropped.", second.place, first.name, where)
    return _Line([line.frames[i] for i in keep], line.positions[keep], line.along[keep], line.normal)


def _first_difference(line: _Line, pairs: list[tuple[int, int]]) -> tuple[int, int] | None:
    for one, other in pairs:
        frames = [line.frames[one], line.frames[other]]
        scales = [(frame.slope, frame.intercept) for frame in frames]
        values = decode_frames(frames, lambda index, stored, padding: stored)
        if scales[0] != scales[1] or not np.array_equal(values[0], values[1]):
            return one, other
    return None


# --- distances ------------------------------------------------------------------------------------------------------


def _tolerance(distance: float) -> float:
    return max(SPACING_TOLERANCE_MM, SPACING_TOLERANCE * distance)


_Fit = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Origin and step in mm (LPS), and the whole number of steps of each slice."""


def _fitted(line: _Line) -> _Fit | None:
    """Return the even grid of the slices, exact or up to the rounding of their positions; None if there is none.

    Raises:
        ImageError: for slices at even distances that are shifted sideways off the line through them.
    """
    fit = _even(line)
    shifted = _shifted(line, fit) if fit is not None else ""
    if fit is not None and not shifted:
        return fit
    every = np.arange(len(line.along), dtype=np.float64)
    usual = _places(line, float(np.median(np.diff(line.along))))
    for places in (every, usual) if fit is None else (fit[2],):
        rounded = _rounded(line, places)
        if rounded is not None:
            return rounded
    if shifted:
        raise ImageError(shifted)
    return None


def _places(line: _Line, step: float) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(np.maximum(1, np.rint(np.diff(line.along) / step)))])


def _even(line: _Line) -> _Fit | None:
    gaps = np.sort(np.diff(line.along))
    # Median, lower median, smallest distance: if many slices are missing, the median is not the true distance
    middle = float(np.median(gaps))
    for base in dict.fromkeys((middle, float(gaps[(len(gaps) - 1) // 2]), float(gaps[0]))):
        places = _places(line, base)
        step = (line.positions[-1] - line.positions[0]) / places[-1]
        distance = float(step @ line.normal)
        off = np.abs(line.along - line.along[0] - distance * places).max()
        if off <= _tolerance(distance) and (base == middle or places[-1] < 2 * len(places)):
            return line.positions[0], step, places
    return None


def _rounded(line: _Line, places: np.ndarray) -> _Fit | None:
    units = line.positions / ROUNDED_MM
    if np.abs(units - np.rint(units)).max() > 1e-6:
        return None
    columns = np.stack([np.ones_like(places), places], axis=1)
    (origin, step), *_ = np.linalg.lstsq(columns, line.positions, rcond=None)
    off = np.abs(line.positions - columns @ np.stack([origin, step])).max()
    if off > 0.75 * ROUNDED_MM:
        return None
    _log.info(
        "%s: slice positions are rounded to %.3g mm; they are read as even, %.4g mm apart, up to %.2g mm off.",
        line.frames[0].path.parent,
        ROUNDED_MM,
        np.linalg.norm(step),
        off,
    )
    return origin, step, places


def _filled(line: _Line, places: np.ndarray, allow: Collection[str]) -> tuple[tuple[int, int, float], ...]:
    """Plan the interpolation of missing slices."""
    missing = int(places[-1]) + 1 - len(line.frames)
    if missing:
        gaps = np.diff(line.along)
        widest = int(gaps.argmax())
        usual = float(np.median(gaps / np.diff(places)))
        _require(line, widest, MISSING, allow, f"{missing} slice(s) missing", usual)
        if missing > len(line.frames):
            raise ImageError(
                f"{line.frames[widest].place}: {missing} slices missing and only {len(line.frames)} there, with"
                f" {gaps[widest]:.4g} mm to {line.frames[widest + 1].name}; more slices would be interpolated than read. Find the"
                " missing files."
            )
        _log.warning(
            "%s: %d of %d slices are missing and were filled by linear interpolation, the widest gap %.4g mm between %s"
            " and %s where %.4g mm are usual.",
            line.frames[0].path.parent,
            missing,
            int(places[-1]) + 1,
            gaps[widest],
            line.frames[widest].name,
            line.frames[widest + 1].name,
            usual,
        )
    return _weights(np.arange(int(places[-1]) + 1), places)


def _resampled(line: _Line, allow: Collection[str]) -> tuple[np.ndarray, tuple[tuple[int, int, float], ...]]:
    """Step and plan of an even grid through slices at uneven distances."""
    gaps = np.diff(line.along)
    usual = float(np.median(gaps))
    if len(gaps) and gaps.max() >= GAP * usual:
        _require(line, int(gaps.argmax()), MISSING, allow, "slices missing", usual)
    _require(line, int(np.argmax(np.abs(gaps - usual))), UNEVEN, allow, "uneven slice spacing", usual)
    length = line.along[-1] - line.along[0]
    direction = (line.positions[-1] - line.positions[0]) / length
    shifted = _shifted(line, (line.positions[0], direction, line.along - line.along[0]))
    if shifted:
        raise ImageError(shifted)
    count = int(np.floor(length / usual + 1e-6)) + 1
    _log.warning(
        "%s: slices %.4g to %.4g mm apart were resampled by linear interpolation to %d slices every %.4g mm; the last"
        " %.3g mm are left out.",
        line.frames[0].path.parent,
        gaps.min(),
        gaps.max(),
        count,
        usual,
        max(0.0, length - (count - 1) * usual),
    )
    return direction * usual, _weights(usual * np.arange(count), line.along - line.along[0])


def _weights(wanted: np.ndarray, known: np.ndarray) -> tuple[tuple[int, int, float], ...]:
    """Neighbours and weights of linear interpolation; at the position of a slice that slice is taken unchanged."""
    plan = []
    for place in wanted:
        upper = min(int(np.searchsorted(known, place)), len(known) - 1)
        lower = max(upper - 1, 0)
        weight = float((place - known[lower]) / (known[upper] - known[lower])) if upper > lower else 0.0
        if weight < 1e-6 or weight > 1 - 1e-6:
            nearest = upper if weight > 0.5 else lower
            lower, upper, weight = nearest, nearest, 0.0
        plan.append((lower, upper, weight))
    return tuple(plan)


def _require(line: _Line, index: int, name: str, allow: Collection[str], finding: str, usual: float) -> None:
    """Raise ImageError about the distance between a slice and the next one, unless `allow` contains `name`."""
    if name in allow:
        return
    gaps = np.diff(line.along)
    advice = {
        MISSING: f"find the missing files and copy the series again, or fill the gaps by interpolation: --allow {MISSING}",
        UNEVEN: f"export a series with even spacing, or resample it to {usual:.4g} mm: --allow {UNEVEN}",
    }[name]
    raise ImageError(
        f"{line.frames[index].place}: {finding}: {gaps[index]:.4g} mm to the next slice {line.frames[index + 1].name} where"
        f" {usual:.4g} mm are usual (allowed: {_tolerance(usual):.3g} mm off the even position); {advice}."
    )


def _shifted(line: _Line, fit: _Fit) -> str:
    """Message about the slice that is shifted sideways off the line; "" if there is none."""
    origin, step, places = fit
    away = line.positions - (origin + np.outer(places, step))
    along = away @ line.normal
    off = np.linalg.norm(away - np.outer(along, line.normal), axis=1)
    worst = int(off.argmax())
    tolerance = max(_tolerance(float(np.median(np.diff(line.along)))), float(np.abs(along).max()))
    if off[worst] <= tolerance:
        return ""
    return (
        f"{line.frames[worst].place}: shifted sideways by {off[worst]:.4g} mm against the line through the other slices"
        f" (allowed: {tolerance:.3g} mm); export a series with one field of view."
    )


def _note_tilt(line: _Line, step: np.ndarray, count: int) -> None:
    distance = float(step @ line.normal)
    sideways = float(np.linalg.norm(step - distance * line.normal))
    angle = float(np.degrees(np.arctan2(sideways, distance)))
    if angle > TILT_DEGREES and sideways * (count - 1) > SPACING_TOLERANCE_MM:
        _log.info(
            "%s: gantry tilt of %.3g degrees: slices shift sideways by %.3g mm each; read as a sheared affine.",
            line.frames[0].path.parent,
            angle,
            sideways,
        )
