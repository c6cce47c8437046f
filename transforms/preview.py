"""A picture of a segmentation that a person can look at: three slices, coloured, with names and volumes.

Anatomical planes are shown as radiologists see them: the patient's right on the left of axial and coronal
pictures, anterior on the left of sagittal ones, superior (axial: anterior) at the top.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from monai.data import MetaTensor
from PIL import Image, ImageDraw, ImageFont

from transforms.values import bounding_boxes, value_counts

__all__ = ["Panel", "colour_of", "draw_preview", "panels"]

SOFT_TISSUE, LUNG = (-160.0, 240.0), (-1350.0, 150.0)
"""CT windows in HU: level 40 and width 400; level -600 and width 1500."""
HEIGHT = 420
"""Height of a plane in pixels; at least one pixel a voxel is shown up to `WIDEST`."""
WIDEST = 900
OPACITY = 0.35
_MARGIN, _LINE = 14, 20
_BACKGROUND, _INK = (0, 0, 0), (235, 235, 235)
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


def colour_of(value: int) -> tuple[int, int, int]:
    """The colour (red, green, blue) of a class, the same in every picture."""
    return _COLOURS[(value - 1) % len(_COLOURS)]


def panels(image: MetaTensor, label: MetaTensor) -> list[Panel]:
    """The three planes through the largest structure, or the picture itself in 2D.

    Args:
        image: (C, X, Y, Z) or (C, X, Y); the first channel is shown.
        label: (1, ...) classes on the same grid.

    Each plane is the one in which the structure has its largest area. Without any structure the planes are the
    middle ones. On a grid that is oblique to the body the planes are those nearest to the anatomical ones.
    """
    values, classes = (volume.as_tensor().cpu().numpy()[0] for volume in (image, label))
    if values.ndim == 2:
        return [Panel("", values.T, classes.T, (float(values.shape[0]), float(values.shape[1])), ())]
    affine = np.asarray(image.affine.cpu(), dtype=np.float64)
    orientation = nib.orientations.io_orientation(affine)
    spacing = np.empty(3)
    spacing[orientation[:, 0].astype(int)] = np.linalg.norm(affine[:3, :3], axis=0)
    # Views, so that only the three planes are ever copied.
    values, classes = (
        nib.orientations.apply_orientation(volume, orientation) for volume in (values, classes)
    )
    place = _largest(classes)
    shown = []
    for name, normal, across, up, letters in (
        ("axial", 2, 0, 1, ("R", "L", "A", "P")),
        ("coronal", 1, 0, 2, ("R", "L", "S", "I")),
        ("sagittal", 0, 1, 2, ("A", "P", "S", "I")),
    ):
        # Rows run down and columns to the right: against R, A and S, hence both are reversed.
        plane = (slice(None),) * normal + (place[normal],)
        planes = [volume[plane].T[::-1, ::-1] for volume in (values, classes)]
        size = (float(spacing[across] * values.shape[across]), float(spacing[up] * values.shape[up]))
        shown.append(Panel(name, planes[0], planes[1], size, letters))
    return shown


def _largest(classes: np.ndarray) -> list[int]:
    """Index along each axis of the plane in which the largest class has its largest area."""
    counts = value_counts(classes)[1:]
    if not counts.any():
        return [n // 2 for n in classes.shape]
    value = 1 + int(counts.argmax())
    box = bounding_boxes(classes)[value]
    mask = classes[box] == value
    areas = [np.count_nonzero(mask, axis=tuple(a for a in range(3) if a != axis)) for axis in range(3)]
    # Of several planes of the largest area the middle one: the first is often the structure's blurred end.
    widest = [np.flatnonzero(area == area.max()) for area in areas]
    return [part.start + int(at[len(at) // 2]) for part, at in zip(box, widest, strict=True)]


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
    width = max(sum(p.width for p in drawn) + _MARGIN * (len(drawn) + 1), 320)
    columns = max(1, width // 260)
    rows = max(1, -(-len(lines) // columns))
    top = 2 * _LINE + _MARGIN
    height = top + max(p.height for p in drawn) + _MARGIN + rows * _LINE + _MARGIN
    canvas = Image.new("RGB", (width, height), _BACKGROUND)
    pen = ImageDraw.Draw(canvas)
    window = f"window {lower:.4g} to {upper:.4g}{' HU' if ct else ''}"
    pen.text((_MARGIN, 8), f"{title}   {window}".strip(), fill=_INK, font=font)
    left = _MARGIN
    for panel, plane in zip(shown, drawn, strict=True):
        pen.text((left, 10 + _LINE), panel.name, fill=_INK, font=font)
        canvas.paste(plane, (left, top))
        if panel.letters:
            _letters(pen, panel.letters, (left, top, plane.width, plane.height), font)
        left += plane.width + _MARGIN
    under = height - rows * _LINE - _MARGIN
    if not lines:
        pen.text((_MARGIN, under), "no structure found", fill=_INK, font=font)
    for index, (value, text) in enumerate(lines):
        x, y = _MARGIN + (index % columns) * 260, under + (index // columns) * _LINE
        pen.rectangle((x, y + 3, x + 12, y + 15), fill=colour_of(int(value)))
        pen.text((x + 20, y), text, fill=_INK, font=font)
    canvas.save(path, format="PNG")
    return Path(path)


def _window(shown: list[Panel], ct: bool) -> tuple[float, float]:
    if not ct:
        values = np.concatenate([panel.image.reshape(-1) for panel in shown])
        lower, upper = (float(v) for v in np.percentile(values, (1, 99)))
        return lower, upper if upper > lower else lower + 1
    inside = np.concatenate([panel.image[panel.label > 0] for panel in shown])
    return LUNG if inside.size and np.median(inside) < -300 else SOFT_TISSUE


def _plane(panel: Panel, lower: float, upper: float) -> Image.Image:
    width, height = panel.size
    scale = max(HEIGHT / height, 1.0 if not panel.letters else 0.0)
    scale = min(scale, WIDEST / width, WIDEST / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    grey = np.clip((panel.image.astype(np.float32) - lower) / (upper - lower), 0, 1) * 255
    picture = Image.fromarray(grey.astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
    # Classes are numbers, not amounts: only the nearest may be taken.
    rows = np.minimum((np.arange(size[1]) + 0.5) * panel.label.shape[0] / size[1], panel.label.shape[0] - 1)
    columns = np.minimum(
        (np.arange(size[0]) + 0.5) * panel.label.shape[1] / size[0], panel.label.shape[1] - 1
    )
    label = panel.label[rows.astype(int)][:, columns.astype(int)]
    pixels = np.repeat(np.asarray(picture)[..., None], 3, axis=2).astype(np.float32)
    edge = _contour(label)
    for value in np.unique(label[label > 0]):
        colour, inside = np.array(colour_of(int(value)), np.float32), label == value
        pixels[inside] = (1 - OPACITY) * pixels[inside] + OPACITY * colour
        pixels[inside & edge] = colour
    return Image.fromarray(pixels.round().astype(np.uint8))


def _contour(label: np.ndarray) -> np.ndarray:
    """Pixels with a neighbour of another class, the two on either side of each border."""
    edge = np.zeros(label.shape, bool)
    for axis in (0, 1):
        differs = np.diff(label.astype(np.int32), axis=axis) != 0
        for shift in (slice(None, -1), slice(1, None)):
            edge[(slice(None),) * axis + (shift,)] |= differs
    return edge


def _letters(
    pen: ImageDraw.ImageDraw,
    letters: tuple[str, str, str, str],
    box: tuple[int, int, int, int],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    left, top, width, height = box
    middle, centre = top + height // 2, left + width // 2
    spots = ((left + 4, middle, "lm"), (left + width - 4, middle, "rm"), (centre, top + 3, "mt"))
    for letter, (x, y, anchor) in zip(letters, (*spots, (centre, top + height - 3, "mb")), strict=True):
        pen.text(
            (x, y),
            letter,
            fill=(255, 235, 90),
            font=font,
            anchor=anchor,
            stroke_width=2,
            stroke_fill=(0, 0, 0),
        )
