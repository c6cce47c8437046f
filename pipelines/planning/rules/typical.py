"""The typical image and the typical structures of a dataset, which the rules of a plan go by."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pipelines.planning.records import CaseFingerprint, ClassFingerprint, Fingerprint

CROP_MARGIN = 10.0
"""Millimetres that `transforms.preprocess.Preprocess` keeps around the patient where air is cut away."""


class Structure(NamedTuple):
    """A class, as it typically is in the cases that have it.

    Attributes:
        name: of the class.
        size: millimetres across, of a connected part.
        extent: millimetres of the bounding box of all of it, per axis.
        volume: of all of it, in millimetres to the power of the axes.
    """

    name: str
    size: float
    extent: tuple[float, ...]
    volume: float

    def voxels_on(self, spacing: Sequence[float], dims: int) -> float:
        """How many voxels it has at a spacing, of `dims` axes in an image or in one of its slices."""
        return self.volume / math.prod(self.extent[dims:]) / math.prod(spacing[:dims])


class Typical(NamedTuple):
    """A dataset's typical image.

    Attributes:
        cases: how many there are.
        dims: axes of a patch, 2 or 3.
        shape: voxels per axis of the files, medians.
        spacing: millimetres per axis of the files, medians.
        size: millimetres per axis of what preprocessing leaves of an image, medians.
        structures: one per class that occurs.
        classes: how many the dataset names, with the background.
    """

    cases: int
    dims: int
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    size: tuple[float, ...]
    structures: tuple[Structure, ...]
    classes: int

    @property
    def voxels(self) -> int:
        """Of a file."""
        count = 1
        for n in self.shape:
            count *= n
        return count

    def on_grid(self, spacing: Sequence[float]) -> tuple[int, ...]:
        """Voxels per axis that an image has at a spacing, along the axes of a patch."""
        return tuple(
            max(1, round(s / v)) for s, v in zip(self.size[: self.dims], spacing[: self.dims], strict=True)
        )

    @property
    def images(self) -> int:
        """How many there are to take patches of: the cases, or where patches are flat their slices."""
        return self.cases * math.prod(self.shape[self.dims :])

    def dataset_on_grid(self, spacing: Sequence[float]) -> int:
        """Voxels of all images at a spacing."""
        return self.images * math.prod(self.on_grid(spacing))

    def share_of(self, patch: Sequence[int], spacing: Sequence[float]) -> float:
        """The part of an image at a spacing that a patch holds; what it has beyond the image is padding."""
        return math.prod(min(1.0, p / n) for p, n in zip(patch, self.on_grid(spacing), strict=True))


def typical(fingerprint: Fingerprint, cropped: bool, flat: bool = False) -> Typical:
    """The typical image of a dataset.

    Args:
        fingerprint: of the dataset, at least one case.
        cropped: whether preprocessing cuts air away.
        flat: whether patches are slices although images have a third axis.
    """
    cases = fingerprint["cases"]
    shape = tuple(round(n) for n in medians(case["shape"] for case in cases))
    one_slice = len(shape) == 2 or max(case["shape"][2] for case in cases) == 1
    return Typical(
        cases=len(cases),
        dims=2 if one_slice or flat else 3,
        shape=shape,
        spacing=tuple(medians(case["spacing"] for case in cases)),
        size=tuple(medians(size_of(case, cropped) for case in cases)),
        structures=tuple(_structures(fingerprint)),
        classes=len(fingerprint["labels"]),
    )


def size_of(case: CaseFingerprint, cropped: bool) -> list[float]:
    """Millimetres per axis of what preprocessing leaves of an image."""
    whole = [n * s for n, s in zip(case["shape"], case["spacing"], strict=True)]
    if not cropped:
        return whole
    return [min(w, b + 2 * CROP_MARGIN) for w, b in zip(whole, case["body"], strict=True)]


def medians(rows: Iterable[Sequence[float]]) -> list[float]:
    """The median of each column."""
    return [float(statistics.median(column)) for column in zip(*rows, strict=True)]


def times(values: Sequence[float]) -> str:
    """Numbers along axes as a person reads them.

    Examples:
        >>> times([1.0, 0.78125, 3])
        '1 x 0.7812 x 3'
    """
    return " x ".join(f"{value:.4g}" for value in values)


def count(number: float, what: str) -> str:
    """A number of things.

    Examples:
        >>> count(1, "case"), count(2000, "case")
        ('1 case', '2,000 cases')
    """
    return f"{number:,.0f} {what}" if round(number) == 1 else f"{number:,.0f} {what}s"


def _structures(fingerprint: Fingerprint) -> Iterable[Structure]:
    for label, name in fingerprint["labels"].items():
        found = [
            (case, record)
            for case in fingerprint["cases"]
            if (record := case["classes"].get(label)) is not None and record["voxels"] > 0
        ]
        if found and label != "0":
            extent = medians(record["extent"] for _, record in found)
            size = statistics.median(_across(case, record) for case, record in found)
            volume = statistics.median(_volume(case, record) for case, record in found)
            yield Structure(name, float(size), tuple(extent), float(volume))


def _volume(case: CaseFingerprint, record: ClassFingerprint) -> float:
    return record["voxels"] * math.prod(case["spacing"][: len(case["shape"])])


def _across(case: CaseFingerprint, record: ClassFingerprint) -> float:
    """Millimetres across an average connected part of a class that the case has.

    At most the side of a cube of its volume, and what volume and surface give for a ball: a tree of thin branches has
    much volume and no less surface, so that it is not taken for one thick part.
    """
    axes = [axis for axis, n in enumerate(case["shape"]) if n > 1]
    if not axes:
        return 0.0
    volume = record["voxels"] * math.prod(case["spacing"][axis] for axis in axes)
    cube = (volume / record["components"]) ** (1 / len(axes))
    ball = 2 * len(axes) * volume / record["surface"]
    return min(cube, ball, *(record["extent"][axis] for axis in axes))
