"""Compares an image with the training data of a model and describes each difference in a sentence with both values.

A model gives a result for any image, also for one that is unlike its training data, where it is less reliable. The
bounds are wide, because a training with few cases has seen only a part of the usual variation.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import nibabel as nib
import numpy as np

from pipelines.inference.training_data import PERCENTS, ChannelData, Range, TrainingData
from transforms.spatial.geometry import Geometry

__all__ = ["unlike_training"]

_FACTOR = 1.5
"""Extents and spacings beyond the training's range by more than this factor are reported."""
_SHARE = 0.5, 0.2
"""Margin around the training's range of a quantile: the first share of that range plus the second share of the distance
between the median case's lowest and highest quantile."""
_VOXELS = 2_000_000
"""About so many evenly spaced voxels are compared."""
_AIR, _METAL = -1024.0, 3071.0
"""HU: values beyond are padding or metal, whose amount varies between normal images, and are clipped."""
_AXES = {3: ("from left to right", "from back to front", "from foot to head"), 2: ("in x", "in y")}


class _Size(NamedTuple):
    """Spacing and extent of an image in millimetres, along R, A, S (X, Y in 2D)."""

    spacing: Sequence[float]
    extent: Sequence[float]


def unlike_training(
    image: np.ndarray, geometry: Geometry, training: TrainingData, ct: bool = False
) -> list[str]:
    """Describe in which respects an image differs from the training data.

    Args:
        image: original image (C, *file shape).
        geometry: geometry of the image; the whole image is compared, whatever the crop.
        training: summary of the training data from the model's card.
        ct: whether the image is known to be a CT.

    Returns:
        One sentence per difference; empty if there is none.
    """
    spacing = geometry.straight_spacing
    size = _Size(spacing, [mm * count for mm, count in zip(spacing, geometry.straight_shape, strict=True)])
    if len(spacing) != len(training["spacing"]):
        return [f"it has {len(spacing)} axes; the training's images had {len(training['spacing'])}"]
    found = _sizes(size, training)
    if found and len(spacing) == 3:
        found += _orientation(size, geometry, training)
    for number, (channel, known) in enumerate(zip(image, training["channels"], strict=False)):
        name = "" if len(image) == 1 else f" of channel {number + 1}{_named(known)}"
        found += _intensities(channel, known, name)
    if ct and not any(known["hounsfield"] for known in training["channels"]):
        found.append("it is a CT, and the training's images were not")
    return found


def _named(known: ChannelData) -> str:
    return f" ({known['name']})" if known["name"] else ""


# -- size and place ----------------------------------------------------------------------------------------


def _beyond(value: float, known: Range) -> bool:
    return not known["low"] / _FACTOR <= value <= known["high"] * _FACTOR


def _sizes(size: _Size, training: TrainingData) -> list[str]:
    unit = "mm" if len(size.spacing) == 3 else "pixels"
    found = []
    for axis, name in enumerate(_AXES[len(size.spacing)]):
        known = training["spacing"][axis]
        if _beyond(size.spacing[axis], known):
            found.append(
                f"its voxels are {size.spacing[axis]:.3g} {unit} apart {name}; the training's were {_between(known)} {unit}"
            )
    for axis, name in enumerate(_AXES[len(size.spacing)]):
        known = training["extent"][axis]
        if _beyond(size.extent[axis], known):
            found.append(
                f"it covers {size.extent[axis]:.3g} {unit} {name}; the training's images covered {_between(known)} {unit}"
            )
    return found


def _orientation(size: _Size, geometry: Geometry, training: TrainingData) -> list[str]:
    """Preprocessing follows the header, so another orientation is reported only if the header seems to be wrong."""
    here = "".join(nib.orientations.aff2axcodes(np.asarray(geometry.affine)))
    if here in training["orientations"]:
        return []
    for order in itertools.permutations(range(3)):
        turned = _Size([size.spacing[axis] for axis in order], [size.extent[axis] for axis in order])
        if not _sizes(turned, training):
            usual = " or ".join(sorted(training["orientations"]))
            return [
                f"its axes run {here} by its header, the training's ran {usual}, and in another order its size would be"
                " like theirs: see whether the header is right"
            ]
    return []


# -- intensities -------------------------------------------------------------------------------------------


def _intensities(channel: np.ndarray, known: ChannelData, name: str) -> list[str]:
    """The quantile that is furthest beyond its margin, as a sentence; empty if none is."""
    values = _quantiles(channel, known["hounsfield"])
    inner, outer = known["image"][f"{PERCENTS[0]:g}"], known["image"][f"{PERCENTS[-1]:g}"]
    width = _clipped(outer["median"], known) - _clipped(inner["median"], known)
    worst, sentence = 0.0, []
    for percent, value in zip(PERCENTS, values, strict=True):
        figures = known["image"][f"{percent:g}"]
        low, high = _clipped(figures["low"], known), _clipped(figures["high"], known)
        margin = _SHARE[0] * (high - low) + _SHARE[1] * width
        distance = max(low - value, value - high) - margin
        if distance > worst:
            worst = distance
            unit = " HU" if known["hounsfield"] else " deviations from its mean"
            sentence = [
                f"{percent:g}% of the voxels{name} lie below {value:.3g}{unit}; of the training's images below"
                f" {_between({**figures, 'low': low, 'high': high})}"
            ]
    return sentence


def _clipped(value: float, known: ChannelData) -> float:
    return min(max(value, _AIR), _METAL) if known["hounsfield"] else value


def _quantiles(channel: np.ndarray, hounsfield: bool) -> list[float]:
    step = max(1, math.ceil((channel.size / _VOXELS) ** (1 / channel.ndim)))
    values = channel[(slice(None, None, step),) * channel.ndim].ravel().astype(np.float64)
    known = values.clip(_AIR, _METAL) if hounsfield else (values - values.mean()) / (values.std() or 1.0)
    return [float(value) for value in np.percentile(known, PERCENTS)]


def _between(known: Range) -> str:
    low, high = f"{known['low']:.3g}", f"{known['high']:.3g}"
    return low if low == high else f"{low} to {high}"
