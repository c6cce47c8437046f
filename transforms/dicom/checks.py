"""Checks of single slices, and of the common grid of all slices of a volume."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from pydicom.uid import UID, CTImageStorage

from transforms.dicom.headers import CT_CLASSES, EXPORT, Frame
from transforms.dicom.units import other_unit
from transforms.errors import ImageError

__all__ = ["check_common_grid", "check_slice", "warn_of_mixture"]

ORIENTATION_TOLERANCE = 1e-4
"""Largest difference of a direction cosine between slices; 1e-4 moves a corner 250 mm away by 0.025 mm."""
PIXEL_SPACING_TOLERANCE = 1e-4
"""Largest relative difference of the pixel spacing between slices."""
UNIT_TOLERANCE = 1e-3
"""Largest deviation of direction cosines from unit length and from a right angle (they are rounded decimals)."""

LARGEST_HU = 1e12
"""Largest plausible magnitude: far above any 32-bit stored value times a scanner's slope, far below float32's limit."""

_log = logging.getLogger(__name__)
_ENHANCED = CT_CLASSES - {CTImageStorage}


def check_slice(frame: Frame) -> None:
    """Raise ImageError for a slice whose position or Hounsfield units are not certain."""
    _check_kind(frame)
    _ = (
        frame.cosines,
        frame.position,
        frame.spacing,
        frame.slope,
        frame.intercept,
    )  # each property raises if it is missing
    _check_values(frame)
    _check_layout(frame)
    cosines = frame.cosines.reshape(2, 3)
    if np.abs(cosines @ cosines.T - np.eye(2)).max() > 2 * UNIT_TOLERANCE:
        raise ImageError(
            f"{frame.place}: ImageOrientationPatient {cosines.ravel().tolist()} is not a pair of perpendicular unit vectors."
            f" {EXPORT}"
        )
    if (frame.spacing <= 0).any():
        raise ImageError(
            f"{frame.place}: PixelSpacing is {frame.text('PixelSpacing')}, which must be positive. {EXPORT}"
        )


def _check_kind(frame: Frame) -> None:
    kind = UID(frame.text("SOPClassUID"))
    frames = frame.integer("NumberOfFrames", 1)
    if frames != frame.count or (kind in _ENHANCED and not frame.grouped):
        raise ImageError(
            f"{frame.path}: a multi-frame image ({kind.name}, {frames} frames) without functional groups, so its frames"
            " have no known places; export it as enhanced or as single-frame CT."
        )
    if "DISTORTED" in frame.text("VolumetricProperties").upper().split("\\"):
        raise ImageError(
            f"{frame.place}: VolumetricProperties is DISTORTED, so its pixels do not lie on a plane; use the original"
            " series."
        )


def _check_values(frame: Frame) -> None:
    if frame.has("ModalityLUTSequence"):
        raise ImageError(
            f"{frame.place}: values come through a modality LUT table instead of slope and intercept. {EXPORT}"
        )
    if frame.slope == 0:
        raise ImageError(f"{frame.place}: RescaleSlope is 0, so all values are lost. {EXPORT}")
    _check_range(frame)
    unit = other_unit(frame)
    if unit:
        raise ImageError(f"{frame.place}: values are {unit}, not Hounsfield units; use the CT series.")
    photometric = frame.text("PhotometricInterpretation")
    if photometric != "MONOCHROME2" or frame.integer("SamplesPerPixel", 1) != 1:
        raise ImageError(
            f"{frame.place}: PhotometricInterpretation is {photometric or 'missing'}, a CT image is MONOCHROME2 (PS3.3"
            " C.8.2.1); whether its values are inverted or colours is uncertain. Use the original series."
        )


def _check_range(frame: Frame) -> None:
    """Refuse a modality LUT that maps all stored values to one value, or to implausible Hounsfield units."""
    slope, intercept = frame.slope, frame.intercept
    span = abs(slope) * 2.0 ** min(frame.bits_stored, 64)
    if not span + abs(intercept) <= LARGEST_HU or span < 1:
        raise ImageError(
            f"{frame.place}: RescaleSlope {frame.text('RescaleSlope')} and RescaleIntercept"
            f" {frame.text('RescaleIntercept')} make values of {span:.3g} HU from end to end around {intercept:.3g} HU, which"
            f" no CT has. {EXPORT}"
        )


def _check_layout(frame: Frame) -> None:
    allocated, stored = frame.bits_allocated, frame.bits_stored
    rows, columns = frame.rows, frame.columns
    if frame.integer("PixelRepresentation") not in (0, 1):
        raise ImageError(
            f"{frame.place}: PixelRepresentation is {frame.text('PixelRepresentation')}, not 0 or 1. {EXPORT}"
        )
    if rows < 1 or columns < 1:
        raise ImageError(
            f"{frame.place}: the image has no pixels ({columns} x {rows}); it is damaged. Copy the series again."
        )
    if (
        allocated not in (8, 16, 32)
        or not 1 <= stored <= allocated
        or frame.integer("HighBit", stored - 1) != stored - 1
    ):
        raise ImageError(
            f"{frame.place}: {stored} bits stored in {allocated} with the high bit {frame.text('HighBit')} is not a layout"
            f" of a CT image. {EXPORT}"
        )
    needed = frame.count * rows * columns * allocated // 8
    plain = not (frame.syntax.is_encapsulated or frame.syntax.is_deflated)
    if plain and frame.size is not None and frame.size < needed:
        raise ImageError(
            f"{frame.path}: cut off: {frame.size} bytes, its {columns} x {rows} pixels alone need {needed}. Copy the"
            " series again."
        )


def check_common_grid(frames: Sequence[Frame]) -> None:
    """Raise ImageError if orientation or pixel spacing differ between slices of one volume."""
    for what, values, tolerance in (
        ("orientation", np.stack([frame.cosines for frame in frames]), ORIENTATION_TOLERANCE),
        ("pixel spacing", np.stack([frame.spacing for frame in frames]), PIXEL_SPACING_TOLERANCE),
    ):
        middle = np.median(values, axis=0)
        scale = 1.0 if what == "orientation" else middle
        apart = np.abs((values - middle) / scale).max(axis=1)
        worst = int(apart.argmax())
        if apart[worst] > tolerance:
            unit = "" if what == "orientation" else " mm"
            raise ImageError(
                f"{frames[worst].place}: {what} {_list(values[worst])}{unit} differs from {_list(middle)}{unit} of the"
                f" other slices (allowed: {tolerance:g}); remove the files that do not belong to the series."
            )


def warn_of_mixture(frames: Sequence[Frame]) -> None:
    """Warn if slices of one volume come from different reconstructions or exposures."""
    for keyword in ("ConvolutionKernel", "FilterType", "KVP", "ReconstructionDiameter", "ContrastBolusAgent"):
        first: dict[str, Frame] = {}
        for frame in frames:
            first.setdefault(frame.text(keyword) or "none", frame)
        if len(first) > 1:
            found = ", ".join(f"{value} (such as {frame.name})" for value, frame in list(first.items())[:4])
            _log.warning(
                "%s: slices of one stack differ in %s: %s; they are read as one volume.",
                frames[0].path.parent,
                keyword,
                found,
            )


def _list(values: np.ndarray) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in values) + ")"
