"""Detect CT images whose values cannot be Hounsfield units (air -1000, water 0), on which results are unreliable.

Other programs export images scaled to 0..1 or 0..255, or as the scanner's stored values (HU + 1024). The checks look
for signs that never occur in a CT in HU, whether it is whole, cropped, padded or contains metal. An image without
such signs is not proven to be in HU.
"""

from __future__ import annotations

import logging
import math

import numpy as np

__all__ = ["not_hounsfield", "warn_unless_hounsfield"]

logger = logging.getLogger(__name__)

_VOXELS = 2_000_000
"""Number of voxels that are examined, evenly spread over the volume."""
_NARROW = 4.0
"""The values of every CT in HU have a wider range than this, by noise alone."""
_BELOW_AIR = -1100.0
"""Lower values are padding around the field of view, or a metal artefact."""
_FAT = -60.0
"""Every part of the body larger than an organ contains lower values: fat or air."""
_AIR = -900.0
"""Lower values that are not padding are air."""
_TISSUE = 150.0
"""Soft tissue and fat lie within this much of 0."""
_PAINTED = 50
"""An image with fewer different values is synthetic, such as a phantom."""
_OFFSETS = {1024: "HU + 1024, as scanners store them", 32768: "HU + 32768"}


def warn_unless_hounsfield(volume: np.ndarray, name: str) -> None:
    """Log a warning that names the image where its values cannot be HU.

    Args:
        volume: (C, *spatial) of any real type.
        name: for the message.
    """
    reason = not_hounsfield(volume)
    if reason:
        logger.warning(
            "%s: not a CT in Hounsfield units (air -1000, water 0): %s. A network for CT gives unreliable results on it;"
            " convert the image to HU.",
            name,
            reason,
        )


def not_hounsfield(volume: np.ndarray) -> str:
    """Return why the values of a volume (C, *spatial) cannot be HU; "" if they can."""
    step = max(1, math.ceil((volume.size / _VOXELS) ** (1 / max(1, volume.ndim - 1))))
    values = volume[(slice(None), *(slice(None, None, step),) * (volume.ndim - 1))].ravel().astype(np.float32)
    if not values.size:
        return ""
    low, high = float(values.min()), float(values.max())
    if low == high:
        low, high = float(volume.min()), float(volume.max())
        if low == high:
            return f"every voxel is {low + 0.0:g}"  # not -0
    if low >= _BELOW_AIR and high < _AIR:
        return ""
    if abs(float(values.mean())) < 0.5 and 0.5 < float(values.std()) < 2:
        return "its values are normalised to a mean of 0 and a deviation of 1"
    if high - low <= _NARROW:
        return f"its values run from {low:.4g} to {high:.4g} only"
    if high > 32767 and not low < _BELOW_AIR:
        return f"its values run from {low:.6g} to {high:.6g}"
    inner = np.sort(values[values >= _BELOW_AIR])
    masked = _masked(inner)
    inner = inner[masked:]
    levels = int(np.count_nonzero(np.diff(inner))) + 1 if inner.size else 0
    if levels < 2:
        return ""
    lowest, highest = float(inner[0]), float(inner[-1])
    if masked and highest - lowest <= _NARROW:
        return f"apart from padding of {low:g} its values run from {lowest:.4g} to {highest:.4g} only"
    painted = levels < _PAINTED
    return "" if painted and masked else _shifted(inner, painted)


def _shifted(inner: np.ndarray, painted: bool) -> str:
    """As `not_hounsfield`, for sorted values without padding."""
    lowest, highest, few = float(inner[0]), float(inner[-1]), float(inner[len(inner) // 1000])
    if few < _FAT:
        return ""
    # A synthetic organ may have any density; in a scan most voxels that are not air have that of soft tissue.
    width, least = (250.0, 600.0) if painted else (_TISSUE, 300.0)
    for offset, what in _OFFSETS.items():
        soft = _share(inner, offset - width, offset + width)
        if soft >= max(0.005, 0.5 * _share(inner, least, math.inf)):
            return f"no value is as low as air or fat, and many are near {offset}; it seems to be {what}"
    if few > 300:
        return f"only 0.1% of its values are below {few:.4g}, where air, fat and soft tissue are"
    if -20 <= lowest <= 10 and 60 < highest <= 255.5:
        darkest = _share(inner, lowest - 1, lowest + 0.1 * (highest - lowest))
        if darkest >= 0.05 or (lowest < 1 and highest > 250):
            return f"its values run from {lowest:.4g} to {highest:.4g}, as in an 8-bit picture"
    return ""


def _masked(inner: np.ndarray) -> int:
    """Number of equal lowest values far below all others: a mask around the head or the field of view."""
    if not inner.size or inner[0] >= _FAT:
        return 0
    same = int(np.searchsorted(inner, inner[0], side="right"))
    alone = 0.001 * len(inner) <= same < len(inner) and inner[same] - inner[0] > 100
    return same if alone else 0


def _share(values: np.ndarray, low: float, high: float) -> float:
    """Share of values above `low` and up to `high`."""
    return float(np.count_nonzero((values > low) & (values <= high))) / len(values)
