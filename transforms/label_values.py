"""Counts and boxes of the classes in a label map, slab by slab, so that no second volume is made."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import ndimage

__all__ = ["bounding_boxes", "counts_of", "value_counts"]

_SLAB_VOXELS = 1 << 22

Box = tuple[slice, ...]


def _slabs(array: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
    """Parts of an array along its slowest axis in memory: that axis, where the part starts, the part."""
    axis = int(np.argmax(np.abs(array.strides))) if array.ndim else 0
    thick = max(1, _SLAB_VOXELS * array.shape[axis] // max(1, array.size))
    for start in range(0, array.shape[axis], thick):
        yield axis, start, array[(slice(None),) * axis + (slice(start, start + thick),)]


def value_counts(labels: np.ndarray, length: int = 1) -> np.ndarray:
    """Number of voxels of each value 0, 1, ... in an array of whole numbers from 0 up; at least `length` of them."""
    counts = np.zeros(max(1, length), np.int64)
    for _, _, part in _slabs(labels):
        found = np.bincount(part.ravel(order="K"))
        if len(found) > len(counts):
            counts = np.pad(counts, (0, len(found) - len(counts)))
        counts[: len(found)] += found
    return counts


def counts_of(labels: np.ndarray) -> dict[int, int]:
    """Number of voxels of each value that occurs in an array of whole numbers, negative ones too, in order."""
    if labels.dtype.kind == "i":  # one counter per value up to the largest could be gigabytes
        values, counts = np.unique(labels, return_counts=True)
        return {int(value): int(count) for value, count in zip(values, counts, strict=True)}
    counts = value_counts(labels)  # several times faster than a sort
    return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}


def bounding_boxes(labels: np.ndarray) -> dict[int, Box]:
    """The smallest box around each value above 0 that occurs."""
    boxes: dict[int, Box] = {}
    for axis, start, part in _slabs(labels):
        for value, box in enumerate(ndimage.find_objects(part.astype(np.int32)), start=1):
            if box is None:
                continue
            placed = list(box)
            placed[axis] = slice(box[axis].start + start, box[axis].stop + start)
            known = boxes.get(value, tuple(placed))
            boxes[value] = tuple(
                slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(known, placed, strict=True)
            )
    return dict(sorted(boxes.items()))
