"""Whether the values of a CT can be Hounsfield units (air -1000, water 0), so that nobody believes a result on others.

Images leave other programs scaled to 0..1 or 0..255, or as the scanner's raw numbers (HU + 1024). Looked for are
signs that no CT in HU shows, neither whole nor cropped, padded, or with metal in it. What shows none is not thereby
shown to be in HU.
"""

from __future__ import annotations

import logging
import math

import numpy as np

__all__ = ["not_hounsfield", "warn_unless_hounsfield"]

logger = logging.getLogger(__name__)

_VOXELS = 2_000_000
"""So many, evenly spread, are looked at."""
_NARROW = 4.0
"""Noise alone spreads the values of any CT further than this."""
_BELOW_AIR = -1100.0
"""What is lower is padding around the field of view, or an artefact of metal."""
_FAT = -60.0
"""No part of a body that is larger than an organ is without something below this: fat or air."""
_AIR = -900.0
"""What is lower, and no padding, is air."""
_TISSUE = 150.0
"""Soft tissue and fat lie within this much of 0."""
_PAINTED = 50
"""An image with fewer different values was made by hand, as phantoms are."""
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
            "%s: not a CT in Hounsfield units (air -1000, water 0): %s. Do not believe what a network for CT makes of it;"
            " convert the image to HU.",
            name,
            reason,
        )


def not_hounsfield(volume: np.ndarray) -> str:
    """Say why the values of a volume (C, *spatial) cannot be HU; "" where they can."""
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
        return f"beside padding of {low:g} its values run from {lowest:.4g} to {highest:.4g} only"
    painted = levels < _PAINTED
    return "" if painted and masked else _shifted(inner, painted)


def _shifted(inner: np.ndarray, painted: bool) -> str:
    """The same for sorted values without padding."""
    lowest, highest, few = float(inner[0]), float(inner[-1]), float(inner[len(inner) // 1000])
    if few < _FAT:
        return ""
    # A painted organ may have any density; in a scan most of what is not air lies at that of soft tissue.
    width, least = (250.0, 600.0) if painted else (_TISSUE, 300.0)
    for offset, what in _OFFSETS.items():
        soft = _share(inner, offset - width, offset + width)
        if soft >= max(0.005, 0.5 * _share(inner, least, math.inf)):
            return f"nothing is as low as air or fat, much near {offset}; it seems to be {what}"
    if few > 300:
        return f"nothing but 0.1% of it is below {few:.4g}, where air, fat and soft tissue are"
    if -20 <= lowest <= 10 and 60 < highest <= 255.5:
        darkest = _share(inner, lowest - 1, lowest + 0.1 * (highest - lowest))
        if darkest >= 0.05 or (lowest < 1 and highest > 250):
            return f"its values run from {lowest:.4g} to {highest:.4g}, as in a picture of 8 bits"
    return ""


def _masked(inner: np.ndarray) -> int:
    """How many sorted values are one and the same, far below all others: painted around a head or a field of view."""
    if not inner.size or inner[0] >= _FAT:
        return 0
    same = int(np.searchsorted(inner, inner[0], side="right"))
    alone = 0.001 * len(inner) <= same < len(inner) and inner[same] - inner[0] > 100
    return same if alone else 0


def _share(values: np.ndarray, low: float, high: float) -> float:
    """Share of values above `low` and up to `high`."""
    return float(np.count_nonzero((values > low) & (values <= high))) / len(values)
