"""In what an image is unlike those that a model was trained on, in sentences with both figures.

A model answers on any image, with the same certainty; what it has never seen it may get wrong. The bounds are wide:
a training of a few cases knows little of what is usual.
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
"""Sizes and spacings within this factor of the training's are like them."""
_SHARE = 0.5, 0.2
"""An intensity may lie this share of the range of the training's cases beyond it, and this share of the width of the
median case."""
_VOXELS = 2_000_000
"""So many, evenly spread, are looked at."""
_AIR, _METAL = -1024.0, 3071.0
"""HU: what lies beyond is padding or metal, of which there is a lot or nothing."""
_AXES = {3: ("from left to right", "from back to front", "from foot to head"), 2: ("in x", "in y")}


class _Size(NamedTuple):
    """What is compared of an image along each axis."""

    spacing: Sequence[float]
    extent: Sequence[float]


def unlike_training(
    image: np.ndarray, geometry: Geometry, training: TrainingData, ct: bool = False
) -> list[str]:
    """Say in what an image is unlike the training's; nothing where it is like them.

    Args:
        image: (C, *file shape) as it was read.
        geometry: how it lies in space; what a crop leaves out counts.
        training: what the model's card says.
        ct: the image is known to be a CT.
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
    """Voxels are turned as the header says, so that it matters only where the header seems to be wrong."""
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
    """The one quantile that is furthest from the training's, by its own margin."""
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
