"""The classes in a label map, slab by slab to avoid a copy of the volume, and the structures that they make up."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from scipy import ndimage

from transforms.errors import ImageError

__all__ = [
    "bounding_boxes",
    "box_of",
    "check_label_values",
    "counts_of",
    "mask_of",
    "stored_labels",
    "structure_masks",
    "structures_of",
    "value_counts",
]

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


def structures_of(
    labels: Mapping[int, str], regions: Mapping[str, Sequence[int]] | None = None
) -> dict[str, tuple[int, ...]]:
    """What is measured and drawn: the regions, or without any each foreground class for itself.

    Args:
        labels: class id to name.
        regions: name to the classes that make it up; they may overlap.

    Examples:
        >>> structures_of({0: "background", 1: "oedema", 2: "core"}, {"tumour": [1, 2], "core": [2]})
        {'tumour': (1, 2), 'core': (2,)}
        >>> structures_of({0: "background", 1: "liver"})
        {'liver': (1,)}
    """
    if regions:
        return {name: tuple(int(value) for value in values) for name, values in regions.items()}
    return {name: (value,) for value, name in sorted(labels.items()) if value != 0}


def mask_of(labels: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """Where a label map holds one of some values, bool of its shape."""
    mask = labels == values[0]
    for value in values[1:]:
        mask |= labels == value
    return mask


def stored_labels(path: str | os.PathLike[str], array: np.ndarray) -> np.ndarray:
    """A label map as it is written to a file: uint8 if all values fit, else uint16.

    Args:
        path: of the file, for messages.
        array: of any shape and type.

    Raises:
        ImageError: a value is not a whole number from 0 to 65535.
    """
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= 65535) or (array.dtype.kind == "f" and (array != np.rint(array)).any()):
        raise ImageError(
            f"{path}: label values lie between {low} and {high}; they must be whole numbers from 0 to 65535."
        )
    return array.astype(np.uint8 if high <= 255 else np.uint16, copy=False)


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


def box_of(boxes: Sequence[Mapping[int, Box]], values: Sequence[int]) -> Box | None:
    """The smallest box around some values in several label maps of one grid; None if none holds any.

    Args:
        boxes: of each label map, from `bounding_boxes`.
        values: in the box.

    Examples:
        >>> maps = np.array([[0, 1, 0, 0], [0, 0, 0, 2]])
        >>> box_of([bounding_boxes(row) for row in maps], [1, 2])
        (slice(1, 4, None),)
    """
    held = [box[value] for box in boxes for value in values if value in box]
    if not held:
        return None
    return tuple(
        slice(min(part.start for part in parts), max(part.stop for part in parts))
        for parts in zip(*held, strict=True)
    )


def structure_masks(
    prediction: np.ndarray,
    reference: np.ndarray,
    structures: Mapping[str, Sequence[int]],
    ignore: int | None = None,
) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray] | None]]:
    """Each structure's masks in two label maps of one grid, cut to a box around both; None where neither map has it.

    Args:
        prediction, reference: classes, of one shape.
        structures: name to the values that make it up, from `structures_of`.
        ignore: value of the reference's voxels that count as background in both maps.
    """
    maps = [prediction, reference]
    if ignore is not None:
        left_out = reference == ignore
        maps = [np.where(left_out, 0, labels) for labels in maps]
    boxes = [bounding_boxes(labels) for labels in maps]
    for name, values in structures.items():
        box = box_of(boxes, values)
        if box is None:
            yield name, None
        else:
            predicted, expected = (mask_of(labels[box], values) for labels in maps)
            yield name, (predicted, expected)


def check_label_values(values: Iterable[int] | np.ndarray, labels: Mapping[int, str], path: str) -> None:
    """Check that a label map holds only values that have a name.

    Args:
        values: the values found, for instance from `numpy.unique`.
        labels: class id to name, background included.
        path: of the label map, for the message.

    Raises:
        ImageError: naming the file and the values.
    """
    found = sorted({int(value) for value in np.asarray(list(values)).ravel()})
    unknown = [value for value in found if value not in labels]
    if not unknown:
        return
    shown = ", ".join(map(str, unknown[:10])) + (" ..." if len(unknown) > 10 else "")
    advice = "name them in dataset.json or correct the label map"
    if unknown == [255] and len(labels) == 2:
        advice = "a mask of 0 and 255 has to be stored as 0 and 1"
    elif unknown[0] < 0:
        advice = "class ids start at 0, so store what is not labelled as 0 (background)"
    raise ImageError(
        f"{path}: label value(s) {shown} are not among the classes 0 to {len(labels) - 1} of the dataset; {advice}"
    )
