"""The colour of a class: one in all pictures, DICOM objects and label tables."""

from __future__ import annotations

import colorsys

__all__ = ["colour_of"]

# Kelly's colours of maximum contrast (1965), without black, white and grey.
_COLOURS = (
    (230, 60, 60),
    (60, 140, 235),
    (250, 190, 20),
    (60, 190, 90),
    (200, 90, 220),
    (255, 130, 40),
    (80, 220, 220),
    (240, 130, 180),
    (160, 110, 60),
    (170, 220, 60),
    (130, 110, 240),
    (0, 150, 140),
    (180, 30, 90),
    (220, 200, 140),
    (110, 170, 250),
    (120, 130, 30),
)
_GOLDEN_ANGLE = 0.61803398875


def colour_of(value: int) -> tuple[int, int, int]:
    """The colour (red, green, blue; 0 to 255) of a class id from 1 up.

    The first 16 are those of Kelly; beyond them, neighbours are far apart in hue and no two of several hundred are equal.
    """
    if value <= len(_COLOURS):
        return _COLOURS[value - 1]
    red, green, blue = colorsys.hsv_to_rgb(value * _GOLDEN_ANGLE % 1, 0.55 + 0.15 * (value % 3), 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)
