"""The three anatomical planes of a volume in radiological convention, and drawing functions for all pictures of them.

The patient's right is on the left of axial and coronal planes, anterior on the left of sagittal ones, superior
(axial: anterior) at the top.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import nibabel as nib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from transforms.label_values import bounding_boxes, value_counts
from transforms.utils.colours import colour_of

__all__ = [
    "BACKGROUND",
    "COLUMN",
    "HEIGHT",
    "INK",
    "LINE",
    "LUNG",
    "MARGIN",
    "SOFT_TISSUE",
    "Plane",
    "composed",
    "contour",
    "ct_window",
    "enlarged",
    "grey",
    "largest_place",
    "middle",
    "picture_size",
    "planes",
    "shown_channels",
    "spread_window",
    "write_letters",
]

SOFT_TISSUE, LUNG = (-160.0, 240.0), (-1350.0, 150.0)
"""CT windows in HU: level 40 and width 400; level -600 and width 1500."""
HEIGHT = 420
"""Height of a plane in pixels; at least one pixel a voxel is shown up to `WIDEST`."""
WIDEST = 900
MARGIN, LINE = 14, 20
COLUMN = 260
"""Width of a column of the legend in pixels."""
BACKGROUND, INK = (0, 0, 0), (235, 235, 235)
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


class Plane(NamedTuple):
    """One plane through a grid.

    Attributes:
        name: "axial", "coronal", "sagittal", or "" for a 2D picture.
        orientation: of the grid, see `nibabel.orientations`; None in 2D.
        normal, position: oriented axis that the plane is perpendicular to, and its index there.
        size: width and height in millimetres (2D: pixels).
        letters: what lies at left, right, top, bottom; empty for a 2D picture.
    """

    name: str
    orientation: np.ndarray | None
    normal: int
    position: int
    size: tuple[float, float]
    letters: tuple[str, str, str, str] | tuple[()]

    def of(self, volume: np.ndarray) -> np.ndarray:
        """The plane (rows, columns) of a volume on the grid, first row at the top; a view."""
        if self.orientation is None:
            return volume.T
        oriented = nib.orientations.apply_orientation(volume, self.orientation)
        # Rows run down and columns to the right: against R, A and S, hence both are reversed.
        return oriented[(slice(None),) * self.normal + (self.position,)].T[::-1, ::-1]

    def voxels(self, shape: tuple[int, ...]) -> np.ndarray:
        """Voxel index on the grid of every pixel of the plane, (axes, rows, columns)."""
        indices = []
        for axis, count in enumerate(shape):
            line = np.arange(count).reshape([-1 if other == axis else 1 for other in range(len(shape))])
            indices.append(self.of(np.broadcast_to(line, shape)))
        return np.stack(indices)


def planes(shape: tuple[int, ...], affine: np.ndarray, place: tuple[int, ...] | None = None) -> list[Plane]:
    """The three planes of a grid through `place`, or the picture itself in 2D.

    Args:
        shape: (X, Y, Z) or (X, Y).
        affine: 4x4, voxel to RAS+ millimetres.
        place: index along R, A and S, see `largest_place`; None is the middle.

    On a grid that is oblique to the body the planes are those nearest to the anatomical ones.
    """
    if len(shape) == 2:
        return [Plane("", None, 0, 0, (float(shape[0]), float(shape[1])), ())]
    affine = np.asarray(affine, dtype=np.float64)
    orientation = nib.orientations.io_orientation(affine)
    spacing, count = np.empty(3), np.empty(3, int)
    target = orientation[:, 0].astype(int)
    spacing[target] = np.linalg.norm(affine[:3, :3], axis=0)
    count[target] = shape
    where = middle(tuple(count)) if place is None else place
    return [
        Plane(
            name,
            orientation,
            normal,
            int(where[normal]),
            (float(spacing[across] * count[across]), float(spacing[up] * count[up])),
            letters,
        )
        for name, normal, across, up, letters in (
            ("axial", 2, 0, 1, ("R", "L", "A", "P")),
            ("coronal", 1, 0, 2, ("R", "L", "S", "I")),
            ("sagittal", 0, 1, 2, ("A", "P", "S", "I")),
        )
    ]


def middle(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Index of the middle voxel of a grid."""
    return tuple(n // 2 for n in shape)


def largest_place(classes: np.ndarray, affine: np.ndarray) -> tuple[int, ...] | None:
    """Index along R, A and S of the planes in which the largest structure has its largest area.

    Args:
        classes: (X, Y, Z) whole numbers; (X, Y) has no planes to choose from.
        affine: 4x4, voxel to RAS+ millimetres.

    Returns:
        None without any structure.
    """
    counts = value_counts(classes)[1:]
    if classes.ndim != 3 or not counts.any():
        return None
    oriented = nib.orientations.apply_orientation(
        classes, nib.orientations.io_orientation(np.asarray(affine, dtype=np.float64))
    )
    value = 1 + int(counts.argmax())
    box = bounding_boxes(oriented)[value]
    mask = oriented[box] == value
    areas = [np.count_nonzero(mask, axis=tuple(a for a in range(3) if a != axis)) for axis in range(3)]
    # If several planes share the largest area, take the middle one: the first is often the structure's blurred end.
    widest = [np.flatnonzero(area == area.max()) for area in areas]
    return tuple(part.start + int(at[len(at) // 2]) for part, at in zip(box, widest, strict=True))


def shown_channels(image: torch.Tensor, ct: bool) -> int:
    """How many channels of an image (C, *spatial) a picture shows: three of a picture in colour, else the first."""
    return 3 if not ct and image.ndim == 3 and len(image) == 3 else 1


def spread_window(values: Iterable[np.ndarray]) -> tuple[float, float]:
    """The window (lower, upper) from the 1st to the 99th percentile, for images without units."""
    lower, upper = (float(v) for v in np.percentile(np.concatenate([v.reshape(-1) for v in values]), (1, 99)))
    return lower, upper if upper > lower else lower + 1


def ct_window(inside: np.ndarray) -> tuple[float, float]:
    """The window (lower, upper) HU for structures with these HU: of the lung where they are mostly air."""
    return LUNG if inside.size and np.median(inside) < -300 else SOFT_TISSUE


def picture_size(plane_size: tuple[float, float], physical: bool) -> tuple[int, int]:
    """Width and height in pixels of a plane with this width and height."""
    width, height = plane_size
    scale = max(HEIGHT / height, 0.0 if physical else 1.0)
    scale = min(scale, WIDEST / width, WIDEST / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def grey(values: np.ndarray, window: tuple[float, float], size: tuple[int, int]) -> np.ndarray:
    """Values (rows, columns), or of red, green and blue (rows, columns, 3), as float32 (height, width, 3), 0 to 255."""
    lower, upper = window
    shade = np.clip((values.astype(np.float32) - lower) / (upper - lower), 0, 1) * 255
    picture = Image.fromarray(shade.astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
    return np.asarray(picture.convert("RGB")).astype(np.float32)


def enlarged(classes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Classes (rows, columns) at (height, width), by nearest neighbour, since class ids cannot be interpolated."""
    rows, columns = (
        np.minimum((np.arange(new) + 0.5) * old / new, old - 1).astype(int)
        for new, old in zip(size[::-1], classes.shape, strict=True)
    )
    return classes[rows][:, columns]


def contour(label: np.ndarray) -> np.ndarray:
    """Mask of the pixels next to one of another class: one pixel on either side of each border."""
    edge = np.zeros(label.shape, bool)
    for axis in (0, 1):
        differs = np.diff(label.astype(np.int32), axis=axis) != 0
        for shift in (slice(None, -1), slice(1, None)):
            edge[(slice(None),) * axis + (shift,)] |= differs
    return edge


def write_letters(
    pen: ImageDraw.ImageDraw,
    letters: tuple[str, str, str, str] | tuple[()],
    box: tuple[int, int, int, int],
    font: Font,
) -> None:
    """Write the patient's directions at the edges of a plane that fills a box (left, top, width, height)."""
    if not letters:
        return
    left, top, width, height = box
    row, column = top + height // 2, left + width // 2
    spots = ((left + 4, row, "lm"), (left + width - 4, row, "rm"), (column, top + 3, "mt"))
    for letter, (x, y, anchor) in zip(letters, (*spots, (column, top + height - 3, "mb")), strict=True):
        pen.text(
            (x, y),
            letter,
            fill=(255, 235, 90),
            font=font,
            anchor=anchor,
            stroke_width=2,
            stroke_fill=(0, 0, 0),
        )


def composed(
    shown: Sequence[tuple[str, tuple[str, str, str, str] | tuple[()]]],
    pictures: Sequence[Image.Image],
    heading: str,
    lines: Sequence[tuple[int | None, str]],
    nothing: str,
    width: int,
    columns: int,
    key: str = "",
) -> Image.Image:
    """One picture of several planes side by side, with a heading above and a legend of the classes below.

    Args:
        shown: name and letters of each plane, see `Plane`.
        pictures: of the planes, as they are drawn.
        lines: class (None: no colour) and text of each line of the legend.
        nothing: text to show if the legend has no lines.
        width: of the whole in pixels.
        columns: of the legend.
        key: a line above the legend; "" for none.
    """
    font = ImageFont.load_default(15)
    top = 2 * LINE + MARGIN
    under = top + max(picture.height for picture in pictures) + MARGIN
    height = under + (bool(key) + max(1, -(-len(lines) // columns))) * LINE + MARGIN
    canvas = Image.new("RGB", (width, height), BACKGROUND)
    pen = ImageDraw.Draw(canvas)
    pen.text((MARGIN, 8), heading, fill=INK, font=font)
    left = MARGIN
    for (name, letters), picture in zip(shown, pictures, strict=True):
        pen.text((left, 10 + LINE), name, fill=INK, font=font)
        canvas.paste(picture, (left, top))
        write_letters(pen, letters, (left, top, picture.width, picture.height), font)
        left += picture.width + MARGIN
    if key:
        pen.text((MARGIN, under), key, fill=INK, font=font)
        under += LINE
    if not lines:
        pen.text((MARGIN, under), nothing, fill=INK, font=font)
    for index, (value, text) in enumerate(lines):
        x, y = MARGIN + (index % columns) * COLUMN, under + (index // columns) * LINE
        if value is not None:
            pen.rectangle((x, y + 3, x + 12, y + 15), fill=colour_of(value))
        pen.text((x + 20, y), text, fill=INK, font=font)
    return canvas
