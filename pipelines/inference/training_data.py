"""What a model's description says of the data that it was trained on: few figures, bounded, perhaps a stranger's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from pipelines.inference.card_values import CardError, mapping, number, shown, text, whole

__all__ = [
    "PERCENTS",
    "ChannelData",
    "Quantiles",
    "Range",
    "TrainingData",
    "checked_training_data",
]

PERCENTS = (0.5, 5.0, 50.0, 95.0, 99.5)
"""Which quantiles are kept, by the names that `Quantiles` gives them."""
_NAMES = tuple(f"{percent:g}" for percent in PERCENTS)
_MOST = 1e38
"""Beyond what float32 holds, which images are read as."""
_MILLIMETRES = 1e-4, 1e9
_CASES = 10**9
_CHANNELS, _CLASSES, _ORIENTATIONS = 1024, 65_536, 48
_LETTERS = 256


class Range(TypedDict):
    """A figure over the cases that have it: smallest, median, largest."""

    low: float
    median: float
    high: float


Quantiles = dict[str, float]
"""Values at `PERCENTS`, by "0.5", "5", "50", "95" and "99.5"; empty where there was no voxel."""


class ChannelData(TypedDict):
    """One channel of the training cases.

    Attributes:
        name: as the dataset names it; empty where it does not.
        hounsfield: whether the model takes them for Hounsfield units.
        inside, outside: quantiles over all voxels of any class, and of the background, in the units of the files.
        image: of the quantiles of whole cases, the range over the cases. Where `hounsfield` is false, intensities
            have a unit of their own in each case, and these are distances from the case's mean in its deviations.
    """

    name: str
    hounsfield: bool
    inside: Quantiles
    outside: Quantiles
    image: dict[str, Range]


class TrainingData(TypedDict):
    """The cases that a model was trained on.

    Attributes:
        cases: how many.
        spacing, extent: millimetres between voxels, and of the whole image, along R, A, S (X, Y in 2D, where they
            are pixels).
        orientations: of the files, with the number of cases; empty in 2D.
        channels: one record per channel.
        volumes: of each class by name in the cases that have it, in millilitres (in 2D its area); None where none has.
    """

    cases: int
    spacing: list[Range]
    extent: list[Range]
    orientations: dict[str, int]
    channels: list[ChannelData]
    volumes: dict[str, Range | None]


def checked_training_data(content: Any) -> TrainingData:
    """Check what a description says; returns it without whatever nobody here knows.

    Raises:
        CardError: it is no such record, or beyond the bounds.
    """
    where = "training_data"
    found = mapping(content, where)
    axes = len(_items(found.get("spacing"), f"{where}#spacing", 3))
    if axes < 2 or len(_items(found.get("extent"), f"{where}#extent", 3)) != axes:
        raise CardError(f"{where} has to give spacing and extent along the same two or three axes")
    channels = _items(found.get("channels"), f"{where}#channels", _CHANNELS)
    orientations = _entries(found.get("orientations"), f"{where}#orientations", _ORIENTATIONS)
    volumes = _entries(found.get("volumes"), f"{where}#volumes", _CLASSES)
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


def _entries(content: Any, where: str, most: int) -> Mapping[str, Any]:
    found = mapping(content, where)
    if len(found) > most:
        raise CardError(f"{where} has {len(found)} entries; {most} are the most")
    return found
