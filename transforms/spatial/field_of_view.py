"""The part of a photograph that shows something: a round field of view within a dark surround."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

__all__ = ["round_field"]

DARK = 0.1
"""Of the way from the darkness of the corners to the brightest of the picture, above which a pixel shows something."""

ROUND, OFF = 0.9, 0.02
"""Share of the edge of a field, but for where the picture ends, that lies on one circle, and by how much of its radius it may
miss it. A body or a cell on a dark ground is no field of view, and what is predicted outside of it is wrong."""

SMALLEST, LARGEST = 0.3, 0.99
"""Share of the picture that a field covers."""

_CORNER = 0.02
"""Of each side of the picture, that belongs to a corner."""


def round_field(picture: np.ndarray) -> np.ndarray | None:
    """The field of view of a photograph through a round aperture, as of a fundus camera or an endoscope.

    The pixels that are brighter than the corners, of which the largest piece is taken and its holes are filled, if its edge is
    a circle or a part of one. Holes and dark structures inside belong to it.

    Args:
        picture: (C, X, Y), of any scale.

    Returns:
        bool (X, Y); None where there is no such field: the corners are not dark, or what is bright is not round or covers
        too little of the picture.

    Examples:
        >>> x, y = np.ogrid[:100, :100]
        >>> disc = (x - 50) ** 2 + (y - 50) ** 2 < 45**2
        >>> found = round_field(np.where(disc, 100, 3)[None])
        >>> bool((found == disc).all())
        True
        >>> round_field(np.full((1, 100, 100), 100)) is None
        True
    """
    bright = np.asarray(picture, dtype=np.float32).max(0)
    ends = [slice(None, max(1, round(_CORNER * n))) for n in bright.shape]
    turns = [(a, b) for a in (1, -1) for b in (1, -1)]
    corners = [bright[::a, ::b][tuple(ends)] for a, b in turns]
    dark, light = float(np.median(np.stack(corners))), float(np.percentile(bright, 95))
    limit = dark + DARK * (light - dark)
    if not light > dark or any(float(np.median(corner)) > limit for corner in corners):
        return None
    pieces, count = ndimage.label(bright > limit)
    if not count:
        return None
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    field = ndimage.binary_fill_holes(pieces == sizes.argmax())
    # Noise of the surround that touches the field, as that of JPEG.
    field = ndimage.binary_opening(field, iterations=2)
    if not SMALLEST <= field.mean() <= LARGEST:
        return None
    return field if _is_round(field) else None


def _is_round(field: np.ndarray) -> bool:
    """Whether the edge lies on a circle, of which the borders of the picture may cut off a part."""
    edge = field & ~ndimage.binary_erosion(field, border_value=1)
    points = np.argwhere(edge).astype(float)
    if len(points) < 3:
        return False
    # Kasa's fit: |p|^2 = 2 c p + (r^2 - |c|^2) is linear in the centre c. Twice, the second time without what lies off.
    kept = np.ones(len(points), bool)
    for _ in range(2):
        system = np.c_[2 * points[kept], np.ones(kept.sum())]
        x, y, rest = np.linalg.lstsq(system, (points[kept] ** 2).sum(1), rcond=None)[0]
        radius = np.sqrt(max(rest + x**2 + y**2, 0.0))
        kept = np.abs(np.hypot(*(points - (x, y)).T) - radius) <= max(OFF * radius, 1.5)
        if kept.mean() < ROUND / 2:
            return False
    return bool(kept.mean() >= ROUND)
