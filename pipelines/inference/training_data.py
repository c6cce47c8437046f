"""The summary of the training data in `model.json`: a few bounded values, checked because the file is not trusted."""

from __future__ import annotations

from typing import Any, TypedDict

from pipelines.inference.card_values import CardError, entries, mapping, number, shown, text, whole

__all__ = [
    "PERCENTS",
    "ChannelData",
    "Quantiles",
    "Range",
    "TrainingData",
    "checked_training_data",
]

PERCENTS = (0.5, 5.0, 50.0, 95.0, 99.5)
"""The quantiles that are kept, in percent."""
_NAMES = tuple(f"{percent:g}" for percent in PERCENTS)
_MOST = 1e38
"""Bound on intensities, about the largest float32, the type of images in memory."""
_MILLIMETRES = 1e-4, 1e9
_CASES = 10**9
_CHANNELS, _CLASSES, _ORIENTATIONS = 1024, 65_536, 48
_LETTERS = 256


class Range(TypedDict):
    """Smallest, median and largest of a value over the cases that have it."""

    low: float
    median: float
    high: float


Quantiles = dict[str, float]
"""Intensities at `PERCENTS`, with the keys "0.5", "5", "50", "95" and "99.5"; empty if there was no voxel."""


class ChannelData(TypedDict):
    """One channel of the training cases.

    Attributes:
        name: name of the channel in the dataset; empty if it has none.
        hounsfield: whether the model treats the values as Hounsfield units.
        inside, outside: quantiles over the voxels of all classes, and of the background, of all cases together, in the
            units of the files.
        image: ranges over the cases of the quantiles of each whole image. If `hounsfield` is false, the values of each
            image are standardised first (minus its mean, divided by its standard deviation).
    """

    name: str
    hounsfield: bool
    inside: Quantiles
    outside: Quantiles
    image: dict[str, Range]


class TrainingData(TypedDict):
    """Summary of the cases that a model was trained on.

    Attributes:
        cases: number of cases.
        spacing, extent: voxel spacing, and size of the whole image, in millimetres along R, A, S (in 2D in pixels along
            X, Y).
        orientations: number of cases by orientation of the file; empty in 2D.
        channels: one record per channel.
        volumes: volume in millilitres (in 2D area) by class name, over the cases with the class; None if no case has it.
    """

    cases: int
    spacing: list[Range]
    extent: list[Range]
    orientations: dict[str, int]
    channels: list[ChannelData]
    volumes: dict[str, Range | None]


def checked_training_data(content: Any) -> TrainingData:
    """Check a summary from a model's description; unknown keys are dropped.

    Raises:
        CardError: a value is missing, of the wrong type, or out of bounds.
    """
    where = "training_data"
    found = mapping(content, where)
    axes = len(_items(found.get("spacing"), f"{where}#spacing", 3))
    if axes < 2 or len(_items(found.get("extent"), f"{where}#extent", 3)) != axes:
        raise CardError(f"{where} has to give spacing and extent along the same two or three axes")
    channels = _items(found.get("channels"), f"{where}#channels", _CHANNELS)
    orientations = entries(found.get("orientations"), f"{where}#orientations", _ORIENTATIONS)
    volumes = entries(found.get("volumes"), f"{where}#volumes", _CLASSES)
    return {
        "cases": whole(found.get("cases"), f"{where}#cases", 1, _CASES),
        "spacing": [_range(each, f"{where}#spacing", *_MILLIMETRES) for each in found["spacing"]],
        "extent": [_range(each, f"{where}#extent", *_MILLIMETRES) for each in found["extent"]],
        "orientations": {
            text(name, f"{where}#orientations", 3): whole(count, f"{where}#orientations", 1, _CASES)
            for name, count in orientations.items()
        },
        "channels": [_channel(each, f"{where}#channels") for each in channels],
        "volumes": {
            text(name, f"{where}#volumes", _LETTERS): None
            if each is None
            else _range(each, f"{where}#volumes", 0, _MOST)
            for name, each in volumes.items()
        },
    }


def _channel(content: Any, where: str) -> ChannelData:
    found = mapping(content, where)
    hounsfield, name = found.get("hounsfield"), found.get("name")
    if not isinstance(hounsfield, bool):
        raise CardError(f"{where}#hounsfield is {shown(hounsfield)}, neither true nor false")
    image = mapping(found.get("image"), f"{where}#image")
    return {
        "name": "" if name == "" else text(name, f"{where}#name", _LETTERS),
        "hounsfield": hounsfield,
        "inside": _quantiles(found.get("inside"), f"{where}#inside"),
        "outside": _quantiles(found.get("outside"), f"{where}#outside"),
        "image": {name: _range(image.get(name), f"{where}#image#{name}", -_MOST, _MOST) for name in _NAMES},
    }


def _quantiles(content: Any, where: str) -> Quantiles:
    found = mapping(content, where)
    return {name: number(found.get(name), f"{where}#{name}", -_MOST, _MOST) for name in _NAMES if found}


def _range(content: Any, where: str, low: float, high: float) -> Range:
    found = mapping(content, where)
    first, middle, last = (number(found.get(key), where, low, high) for key in ("low", "median", "high"))
    if not first <= middle <= last:
        raise CardError(f"{where} runs from {first:g} over {middle:g} to {last:g}, which does not rise")
    return {"low": first, "median": middle, "high": last}


def _items(content: Any, where: str, most: int) -> list[Any]:
    if not isinstance(content, list) or not 1 <= len(content) <= most:
        raise CardError(f"{where} is {shown(content)}, no list of 1 to {most} items")
    return content
