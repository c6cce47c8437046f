"""A picture of a segmentation that a person can look at: three slices, coloured, with names and volumes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from monai.data import MetaTensor
from PIL import Image, ImageDraw, ImageFont

from transforms.label_values import value_counts
from transforms.visualization.planes import (
    BACKGROUND,
    HEIGHT,
    INK,
    LINE,
    LUNG,
    MARGIN,
    SOFT_TISSUE,
    colour_of,
    contour,
    ct_window,
    enlarged,
    grey,
    largest_place,
    picture_size,
    planes,
    spread_window,
    write_letters,
)

__all__ = ["HEIGHT", "LUNG", "SOFT_TISSUE", "Panel", "colour_of", "draw_preview", "panels"]

OPACITY = 0.35


class Panel(NamedTuple):
    """One plane, ready to be shown: arrays (rows, columns), first row at the top.

    Attributes:
        name: "axial", "coronal", "sagittal", or "" for a 2D picture.
        image, label: values and classes of the plane.
        size: width and height in millimetres (2D: pixels).
        letters: what lies at left, right, top, bottom; empty for a 2D picture.
    """

    name: str
    image: np.ndarray
    label: np.ndarray
    size: tuple[float, float]
    letters: tuple[str, str, str, str] | tuple[()]


def panels(image: MetaTensor, label: MetaTensor) -> list[Panel]:
    """The three planes through the largest structure, or the picture itself in 2D.

    Args:
        image: (C, X, Y, Z) or (C, X, Y); the first channel is shown.
        label: (1, ...) classes on the same grid.

    Each plane is the one in which the structure has its largest area. Without any structure the planes are the
    middle ones. On a grid that is oblique to the body the planes are those nearest to the anatomical ones.
    """
    values, classes = (volume.as_tensor().cpu().numpy()[0] for volume in (image, label))
    affine = np.asarray(image.affine.cpu(), dtype=np.float64)
    return [
        Panel(plane.name, plane.of(values), plane.of(classes), plane.size, plane.letters)
        for plane in planes(values.shape, affine, largest_place(classes, affine))
    ]


def draw_preview(
    path: str | Path,
    image: MetaTensor,
    label: MetaTensor,
    names: Mapping[int, str],
    volumes: Mapping[str, float | None] | None = None,
    title: str = "",
    ct: bool = True,
) -> Path:
    """Draw a preview as PNG, whatever the ending of `path` is.

    Args:
        image: (C, X, Y, Z) or (C, X, Y), HU for CT.
        label: (1, ...) classes on the same grid.
        names: class id to name; the legend lists the foreground classes that are there.
        volumes: class name to ml, for the legend; None values are not written.
        title: a line above the planes, such as the case.
        ct: the values are HU and shown in a CT window: for soft tissue, or for lungs where the structures are
            mostly air. Otherwise the window is from the 1st to the 99th percentile of the planes.
    """
    shown = panels(image, label)
    lower, upper = _window(shown, ct)
    drawn = [_plane(panel, lower, upper) for panel in shown]
    lines = []
    for value in np.flatnonzero(value_counts(label.as_tensor().cpu().numpy())[1:]) + 1:
        name = names.get(int(value), f"class {value}")
        ml = (volumes or {}).get(name)
        lines.append((value, name if ml is None else f"{name}  {ml:.4g} ml"))
    font = ImageFont.load_default(15)
    width = max(sum(p.width for p in drawn) + MARGIN * (len(drawn) + 1), 320)
    columns = max(1, width // 260)
    rows = max(1, -(-len(lines) // columns))
    top = 2 * LINE + MARGIN
    height = top + max(p.height for p in drawn) + MARGIN + rows * LINE + MARGIN
    canvas = Image.new("RGB", (width, height), BACKGROUND)
    pen = ImageDraw.Draw(canvas)
    window = f"window {lower:.4g} to {upper:.4g}{' HU' if ct else ''}"
    pen.text((MARGIN, 8), f"{title}   {window}".strip(), fill=INK, font=font)
    left = MARGIN
    for panel, plane in zip(shown, drawn, strict=True):
        pen.text((left, 10 + LINE), panel.name, fill=INK, font=font)
        canvas.paste(plane, (left, top))
        write_letters(pen, panel.letters, (left, top, plane.width, plane.height), font)
        left += plane.width + MARGIN
    under = height - rows * LINE - MARGIN
    if not lines:
        pen.text((MARGIN, under), "no structure found", fill=INK, font=font)
    for index, (value, text) in enumerate(lines):
        x, y = MARGIN + (index % columns) * 260, under + (index // columns) * LINE
        pen.rectangle((x, y + 3, x + 12, y + 15), fill=colour_of(int(value)))
        pen.text((x + 20, y), text, fill=INK, font=font)
    canvas.save(path, format="PNG")
    return Path(path)


def _window(shown: list[Panel], ct: bool) -> tuple[float, float]:
    if not ct:
        return spread_window(panel.image for panel in shown)
    return ct_window(np.concatenate([panel.image[panel.label > 0] for panel in shown]))


def _plane(panel: Panel, lower: float, upper: float) -> Image.Image:
    size = picture_size(panel.size, bool(panel.letters))
    pixels = grey(panel.image, (lower, upper), size)
    label = enlarged(panel.label, size)
    edge = contour(label)
    for value in np.unique(label[label > 0]):
        colour, inside = np.array(colour_of(int(value)), np.float32), label == value
        pixels[inside] = (1 - OPACITY) * pixels[inside] + OPACITY * colour
        pixels[inside & edge] = colour
    return Image.fromarray(pixels.round().astype(np.uint8))
