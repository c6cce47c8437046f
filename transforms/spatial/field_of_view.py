"""The part of a photograph that shows something: a round field of view within a dark surround."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.morphology import convex_hull_image

__all__ = ["round_field"]

DARK = 0.1
"""Of the way from the darkness of the corners to the brightest of the picture, above which a pixel shows something."""

SOLID = 0.97
"""Share of its convex hull that a field covers: an aperture is round, what lies on a dark ground mostly is not."""

SMALLEST, LARGEST = 0.3, 0.99
"""Share of the picture that a field covers."""

_CORNER = 0.02
"""Of each side of the picture, that belongs to a corner."""


def round_field(picture: np.ndarray) -> np.ndarray | None:
    """The field of view of a photograph through a round aperture, as of a fundus camera or an endoscope.

    The pixels that are brighter than the corners, of which the largest piece is taken and its holes are filled. Holes and
    dark structures inside belong to it.

    Args:
        picture: (C, X, Y), of any scale.

    Returns:
        bool (X, Y); None where there is no such field: the corners are not dark, or what is bright is not nearly convex or
        covers too little of the picture.

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
    return field if field.sum() >= SOLID * convex_hull_image(field).sum() else None
