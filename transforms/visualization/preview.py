"""Draw a segmentation as coloured overlay on three planes, with a legend of class names and volumes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from monai.data import MetaTensor
from PIL import Image

from transforms.label_values import value_counts
from transforms.utils.colours import colour_of
from transforms.visualization.planes import (
    COLUMN,
    HEIGHT,
    LUNG,
    MARGIN,
    SOFT_TISSUE,
    Plane,
    composed,
    contour,
    ct_window,
    enlarged,
    grey,
    largest_place,
    picture_size,
    planes,
    shown_channels,
    spread_window,
)

__all__ = ["HEIGHT", "LUNG", "SOFT_TISSUE", "Panel", "draw_preview", "panels"]

OPACITY = 0.35


class Panel(NamedTuple):
    """One plane, ready to be shown: arrays (rows, columns), first row at the top.

    Attributes:
        name: "axial", "coronal", "sagittal", or "" for a 2D picture.
        image, label: values and classes of the plane; values in colour have a third axis.
        size: width and height in millimetres (2D: pixels).
        letters: what lies at left, right, top, bottom; empty for a 2D picture.
    """

    name: str
    image: np.ndarray
    label: np.ndarray
    size: tuple[float, float]
    letters: tuple[str, str, str, str] | tuple[()]


def panels(image: MetaTensor, label: MetaTensor, ct: bool = True) -> list[Panel]:
    """The three planes through the largest structure, or the picture itself in 2D.

    Args:
        image: (C, X, Y, Z) or (C, X, Y); the first channel is shown, or all three of a colour picture.
        label: (1, ...) classes on the same grid.
        ct: the values are HU.

    Each plane is the one in which the structure has its largest area. Without any structure the planes are the
    middle ones. On a grid that is oblique to the body the planes are those nearest to the anatomical ones.
    """
    classes = label.as_tensor().cpu().numpy()[0]
    volume = image.as_tensor().cpu()
    channels = volume[: shown_channels(volume, ct)].numpy()
    affine = np.asarray(image.affine.cpu(), dtype=np.float64)
    return [
        Panel(plane.name, _shown(plane, channels), plane.of(classes), plane.size, plane.letters)
        for plane in planes(classes.shape, affine, largest_place(classes, affine))
    ]


def _shown(plane: Plane, channels: np.ndarray) -> np.ndarray:
    values = [plane.of(channel) for channel in channels]
    return values[0] if len(values) == 1 else np.stack(values, -1)


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
    shown = panels(image, label, ct)
    lower, upper = _window(shown, ct)
    drawn = [_plane(panel, lower, upper) for panel in shown]
    lines: list[tuple[int | None, str]] = []
    for value in np.flatnonzero(value_counts(label.as_tensor().cpu().numpy())[1:]) + 1:
        name = names.get(int(value), f"class {value}")
        ml = (volumes or {}).get(name)
        lines.append((int(value), name if ml is None else f"{name}  {ml:.4g} ml"))
    width = max(sum(p.width for p in drawn) + MARGIN * (len(drawn) + 1), 320)
    window = f"window {lower:.4g} to {upper:.4g}{' HU' if ct else ''}"
    named = [(panel.name, panel.letters) for panel in shown]
    heading = f"{title}   {window}".strip()
    canvas = composed(named, drawn, heading, lines, "no structure found", width, max(1, width // COLUMN))
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
