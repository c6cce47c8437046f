"""A dataset's fingerprint in few figures, however many cases it has: for rules, tables and the card of a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypedDict

import numpy as np

from pipelines.inference.training_data import Range
from pipelines.planning.intensity_statistics import pooled_quantiles
from pipelines.planning.records import QUANTILES, ClassFingerprint, Fingerprint, Intensities, Pair

__all__ = ["ChannelSummary", "ClassSummary", "Summary", "figures_of", "pooled", "summarise"]


class ChannelSummary(TypedDict):
    """One channel over all cases.

    Attributes:
        name: as dataset.json names it; empty where it does not.
        inside, outside: the voxels of all cases together that are of any class, and of the background.
        whole_numbers, hounsfield: share of the cases of which this holds.
        air: share of the voxels below -900.
    """

    name: str
    inside: Intensities
    outside: Intensities
    whole_numbers: float
    hounsfield: float
    air: Range


class ClassSummary(TypedDict):
    """One class over the cases that have it; all else is empty where none has.

    Attributes:
        name: of the class.
        cases: that have it.
        millilitres: its volume; in 2D its area in square millimetres.
        components: connected parts.
        smallest_component: of all cases, in voxels.
        extent: millimetres of its bounding box along R, A, S (X, Y in 2D).
    """

    name: str
    cases: int
    millilitres: Range | None
    components: Range | None
    smallest_component: int
    extent: list[Range]


class Summary(TypedDict):
    """A dataset.

    Attributes:
        name: of the dataset.
        digest: of the fingerprint.
        cases: how many.
        shape, spacing, size: voxels, millimetres per voxel, and millimetres of the whole image per axis.
        anisotropy: largest by smallest spacing of a case.
        orientations: of the files, with the number of cases.
        channels: one record per channel.
        classes: class id as text to its record, the background left out.
        pairs: left and right.
        ignored: share of the voxels that have the ignore label.
    """

    name: str
    digest: str
    cases: int
    shape: list[Range]
    spacing: list[Range]
    size: list[Range]
    anisotropy: Range
    orientations: dict[str, int]
    channels: list[ChannelSummary]
    classes: dict[str, ClassSummary]
    pairs: list[Pair]
    ignored: Range


def summarise(found: Fingerprint) -> Summary:
    """What the cases of a fingerprint look like together."""
    cases = found["cases"]
    names = found["channel_names"]
    channels = range(len(cases[0]["channels"]))
    return {
        "name": found["name"],
        "digest": found["digest"],
        "cases": len(cases),
        "shape": _columns(case["shape"] for case in cases),
        "spacing": _columns(case["spacing"] for case in cases),
        "size": _columns(np.multiply(case["shape"], case["spacing"]).tolist() for case in cases),
        "anisotropy": figures_of([max(case["spacing"]) / min(case["spacing"]) for case in cases]),
        "orientations": dict(Counter(case["orientation"] for case in cases).most_common()),
        "channels": [
            _channel(found, channel, names[channel] if channel < len(names) else "") for channel in channels
        ],
        "classes": {
            value: _class(name, [case["classes"][value] for case in cases])
            for value, name in found["labels"].items()
            if value in cases[0]["classes"]
        },
        "pairs": found["pairs"],
        "ignored": figures_of([case["ignored"] for case in cases]),
    }


def pooled(records: Iterable[Intensities]) -> Intensities:
    """Intensities of the voxels of several cases together, every voxel counted once.

    Mean and deviation are exact, of the quantiles see `pipelines.planning.intensity_statistics.pooled_quantiles`.
    """
    present = [record for record in records if record["voxels"]]
    if not present:
        return {"voxels": 0, "mean": 0.0, "deviation": 0.0, "quantiles": []}
    voxels = np.array([record["voxels"] for record in present])
    means = np.array([record["mean"] for record in present])
    deviations = np.array([record["deviation"] for record in present])
    mean = float(np.average(means, weights=voxels))
    variance = float(np.average(np.square(deviations) + np.square(means - mean), weights=voxels))
    return {
        "voxels": int(voxels.sum()),
        "mean": mean,
        "deviation": float(np.sqrt(variance)),
        "quantiles": pooled_quantiles(present, QUANTILES),
    }


def _channel(found: Fingerprint, channel: int, name: str) -> ChannelSummary:
    records = [case["channels"][channel] for case in found["cases"]]
    return {
        "name": name,
        "inside": pooled(record["inside"] for record in records),
        "outside": pooled(record["outside"] for record in records),
        "whole_numbers": float(np.mean([record["whole_numbers"] for record in records])),
        "hounsfield": float(np.mean([record["hounsfield"] for record in records])),
        "air": figures_of([record["air"] for record in records]),
    }


def _class(name: str, records: Sequence[ClassFingerprint]) -> ClassSummary:
    present = [record for record in records if record["voxels"]]
    return {
        "name": name,
        "cases": len(present),
        "millilitres": figures_of([record["millilitres"] for record in present]) if present else None,
        "components": figures_of([record["components"] for record in present]) if present else None,
        "smallest_component": min((record["smallest_component"] for record in present), default=0),
        "extent": _columns(record["extent"] for record in present),
    }


def _columns(rows: Iterable[Sequence[float]]) -> list[Range]:
    return [figures_of(column) for column in zip(*rows, strict=True)]


def figures_of(values: Sequence[float]) -> Range:
    """Smallest, median and largest of some values, at least one."""
    return {"low": float(min(values)), "median": float(np.median(values)), "high": float(max(values))}
