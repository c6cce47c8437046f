"""Draw the contours of prediction and reference over three planes, with a legend of class names and Dice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from monai.data import MetaTensor
from PIL import Image
from scipy import ndimage

from transforms.errors import SettingError
from transforms.label_values import value_counts
from transforms.utils.colours import colour_of
from transforms.visualization.planes import (
    COLUMN,
    MARGIN,
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

__all__ = ["draw_overlay", "overlay_place", "reference_colour"]

DASH = 5
"""Length in pixels of a dash of the reference's contour, and of the gap after it."""
BODY, BESIDE = -500.0, 10.0
"""HU above which a voxel counts as patient (or table), and the margin kept around them in millimetres."""
MOST = 24
"""Most lines in the legend; the last one counts the classes left out."""


def reference_colour(value: int) -> tuple[int, int, int]:
    """The lighter shade of a class's colour in which the reference is drawn."""
    red, green, blue = ((c + 255) // 2 for c in colour_of(value))
    return red, green, blue


def overlay_place(prediction: MetaTensor, reference: MetaTensor | None = None) -> tuple[int, ...] | None:
    """Where `draw_overlay` cuts: index along R, A, S through the largest structure of the reference.

    If the reference is empty, that of the prediction; None (the middle) if both are empty.
    """
    for labels in (reference, prediction):
        if labels is not None:
            classes = labels.as_tensor().cpu().numpy()[0]
            place = largest_place(classes, np.asarray(labels.affine.cpu()))
            if place is not None:
                return place
    return None


def draw_overlay(
    image: MetaTensor,
    prediction: MetaTensor,
    reference: MetaTensor | None,
    names: Mapping[int, str],
    title: str = "",
    dice: Mapping[str, float | None] | None = None,
    ct: bool = True,
    place: Sequence[int] | None = None,
) -> np.ndarray:
    """Draw contours of prediction (solid) and reference (dashed, lighter) over three orthogonal planes.

    Args:
        image: (C, X, Y, Z) or (C, X, Y), HU for CT; the first channel is shown, or
            all three of a colour picture. If its grid differs from that of the labels, it is interpolated linearly at
            the labels' voxels on the three planes.
        prediction: (1, ...) classes.
        reference: (1, ...) classes on the same grid; None where there is none.
        names: class id to name; the legend lists the foreground classes that the planes show.
        title: a line above the planes, such as the case.
        dice: class name to Dice, for the legend, which then lists every class that has one; a class without
            (None or NaN: absent from both) is listed only where it is shown.
        ct: the values are HU and shown in a CT window: for soft tissue, or for lungs where the structures are
            mostly air. Otherwise the window is from the 1st to the 99th percentile of the planes.
        place: index along R, A, S where to cut, as `overlay_place` finds it (which is most of the work).

    Returns:
        (height, width, 3) uint8.

    Raises:
        SettingError: reference and prediction differ in shape.
    """
    if reference is not None and reference.shape != prediction.shape:
        raise SettingError(
            f"prediction {tuple(prediction.shape)} and reference {tuple(reference.shape)} differ in shape"
        )
    predicted = prediction.as_tensor().cpu().numpy()[0]
    expected = None if reference is None else reference.as_tensor().cpu().numpy()[0]
    affine = np.asarray(prediction.affine.cpu(), dtype=np.float64)
    where = tuple(place) if place is not None else overlay_place(prediction, reference)
    shown = planes(predicted.shape, affine, where)
    values = [_values(image, plane, predicted.shape, affine, ct) for plane in shown]
    guesses = [plane.of(predicted) for plane in shown]
    truths = [
        np.zeros_like(guess) if expected is None else plane.of(expected)
        for plane, guess in zip(shown, guesses, strict=True)
    ]
    if ct:
        shown, values, guesses, truths = _framed(shown, values, guesses, truths)
        inside = [
            value[(truth if truth.any() else guess) > 0]
            for value, truth, guess in zip(values, truths, guesses, strict=True)
        ]
        window = ct_window(np.concatenate(inside))
    else:
        window = spread_window(values)
    drawn = [
        _drawn(plane, value, guess, truth, window)
        for plane, value, guess, truth in zip(shown, values, guesses, truths, strict=True)
    ]
    lines = _legend([*guesses, *truths], names, dice or {})
    heading = f"{title}   window {window[0]:.4g} to {window[1]:.4g}{' HU' if ct else ''}".strip()
    key = "solid line: prediction" + ("   dashed, lighter: reference" if reference is not None else "")
    if any(score is not None and score == score for score in (dice or {}).values()):
        key += "   numbers: Dice"
    return _composed(shown, drawn, heading, key, lines)


def _values(
    image: MetaTensor, plane: Plane, shape: tuple[int, ...], affine: np.ndarray, ct: bool
) -> np.ndarray:
    """The image at the pixels of a plane of the labels' grid, (rows, columns), in colour (rows, columns, 3)."""
    volume, own = image.as_tensor().detach().cpu(), np.asarray(image.affine.cpu(), dtype=np.float64)
    count = shown_channels(volume, ct)
    values = [_of_channel(channel, own, plane, shape, affine, ct) for channel in volume[:count]]
    return values[0] if count == 1 else np.stack(values, -1)


def _of_channel(
    channel: torch.Tensor, own: np.ndarray, plane: Plane, shape: tuple[int, ...], affine: np.ndarray, ct: bool
) -> np.ndarray:
    if tuple(channel.shape) == shape and np.allclose(own, affine, atol=1e-4):
        return plane.of(channel.numpy())
    voxels = plane.voxels(shape).astype(np.float64)
    there = np.linalg.inv(own) @ affine
    dims = len(shape)
    at = np.tensordot(there[:dims, :dims], voxels, 1) + there[:dims, 3].reshape(-1, 1, 1)
    field = channel.to(torch.float32).numpy()
    found = ndimage.map_coordinates(field, at, order=1, mode="nearest")
    count = np.array(field.shape).reshape(-1, 1, 1)
    # A voxel extends half of its size beyond its centre; positions farther outside were cut off and are shown as air.
    outside = ((at < -0.5 - 1e-3) | (at > count - 0.5 + 1e-3)).any(0)
    if outside.any():
        found[outside] = min(float(field.min()), -1000.0) if ct else field.min()
    return found


def _framed(
    shown: list[Plane], *layers: list[np.ndarray]
) -> tuple[list[Plane], list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """Crop each plane to the body and all labels: often half of a CT is air beside the patient."""
    values, guesses, truths = layers
    for index, plane in enumerate(shown):
        if not plane.letters:
            continue
        kept = (values[index] > BODY) | (guesses[index] > 0) | (truths[index] > 0)
        if not kept.any():
            continue
        box, size = [], []
        for axis, extent in ((0, plane.size[1]), (1, plane.size[0])):
            hit = np.flatnonzero(kept.any(1 - axis))
            step = extent / kept.shape[axis]
            margin = round(BESIDE / step)
            box.append(slice(max(0, hit[0] - margin), min(kept.shape[axis], hit[-1] + 1 + margin)))
            size.append((box[-1].stop - box[-1].start) * step)
        shown[index] = plane._replace(size=(float(size[1]), float(size[0])))
        for layer in layers:
            layer[index] = layer[index][tuple(box)]
    return shown, values, guesses, truths


def _drawn(
    plane: Plane, values: np.ndarray, guess: np.ndarray, truth: np.ndarray, window: tuple[float, float]
) -> Image.Image:
    size = picture_size(plane.size, bool(plane.letters))
    pixels = grey(values, window, size)
    predicted, expected = enlarged(guess, size), enlarged(truth, size)
    edge = contour(predicted)
    for value in np.unique(predicted[edge]):
        if value:
            pixels[edge & (predicted == value)] = colour_of(int(value))
    rows, columns = np.arange(expected.shape[0])[:, None], np.arange(expected.shape[1])
    # Dashes are drawn last, so that the two colours alternate where both contours agree.
    dashes = contour(expected) & ((rows + columns) // DASH % 2 == 0)
    for value in np.unique(expected[dashes]):
        if value:
            pixels[dashes & (expected == value)] = reference_colour(int(value))
    return Image.fromarray(pixels.round().astype(np.uint8))


def _legend(
    labels: Sequence[np.ndarray], names: Mapping[int, str], dice: Mapping[str, float | None]
) -> list[tuple[int | None, str]]:
    """Colour and text of every class that the planes show or that has a Dice."""
    seen = {int(value) for plane in labels for value in np.flatnonzero(value_counts(plane))}
    scores = {name: score for name, score in dice.items() if score is not None and score == score}
    seen |= {value for value, name in names.items() if name in scores}
    lines: list[tuple[int | None, str]] = []
    for value in sorted(seen - {0}):
        name = names.get(value, f"class {value}")
        lines.append((value, f"{name}  {scores[name]:.3f}" if name in scores else name))
    if len(lines) > MOST:
        lines = [*lines[: MOST - 1], (None, f"and {len(lines) - MOST + 1} more classes")]
    return lines


def _composed(
    shown: Sequence[Plane],
    drawn: Sequence[Image.Image],
    heading: str,
    key: str,
    lines: Sequence[tuple[int | None, str]],
) -> np.ndarray:
    width = max(sum(picture.width for picture in drawn) + MARGIN * (len(drawn) + 1), 420)
    columns = max(1, (width - MARGIN) // COLUMN)
    named = [(plane.name, plane.letters) for plane in shown]
    canvas = composed(named, drawn, heading, lines, "no structure in either", width, columns, key)
    return np.asarray(canvas)
