"""What one labelled case looks like: read once, and every figure from a few passes over its voxels."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import torch
from scipy import ndimage
from skimage.measure import label as label_components

from pipelines.config.errors import problem
from pipelines.data.cases import CaseItem, first_image, reading, segment_names
from pipelines.data.label_names import IGNORE
from pipelines.planning.intensity_statistics import inside_and_outside, whole_numbers
from pipelines.planning.records import FORMAT, CaseFingerprint, ChannelFingerprint, ClassFingerprint
from pipelines.utils.logs import warnings_of
from pipelines.utils.worker_processes import end_with_parent
from transforms.errors import ImageError
from transforms.hounsfield import not_hounsfield
from transforms.io.grids import Turn, require_grid
from transforms.io.header import Header
from transforms.io.readers import image_array, label_array
from transforms.label_values import Box, bounding_boxes, check_label_values, counts_of, value_counts
from transforms.spatial.geometry import Geometry, GeometryError, orient, voxel_ml
from transforms.spatial.shear import straighten_labels

__all__ = ["Job", "case_fingerprint", "look_in_worker", "outcome_of", "start_worker"]

_AIR = -900.0
"""HU: what is lower is air."""
_BODY = -500.0
"""HU: what is higher is the patient or the table."""
_FACES = {1: 1.0, 2: 4 / math.pi, 3: 1.5}
"""Area of the faces of a region's voxels over that of its surface, the mean over all directions of the surface."""
_OVERLAP = 6
"""Classes are looked at one by one in their boxes, unless the boxes together hold so many times the box around all."""


class Job(NamedTuple):
    """What decides the fingerprint of a case beside its files.

    Attributes:
        labels, channels: see `case_fingerprint`.
    """

    labels: dict[int, str]
    channels: int | None

    @property
    def parameters(self) -> dict[str, Any]:
        """Plain JSON types, with the version of the record."""
        return {"format": FORMAT, "labels": sorted(self.labels), "channels": self.channels}


_job: Job


def start_worker(job: Job) -> None:
    """Make a new process ready for `look_in_worker`."""
    global _job
    _job = job
    torch.set_num_threads(1)
    end_with_parent()


def look_in_worker(case: tuple[int, CaseItem]) -> CaseFingerprint | str:
    """`outcome_of` a numbered case in a process of its own."""
    return outcome_of(_job, case[1])


def outcome_of(job: Job, item: CaseItem) -> CaseFingerprint | str:
    """The fingerprint of a case, or in words why there is none."""
    try:
        # They are said when the patch store prepares the case.
        with warnings_of("transforms", "pipelines"):
            return case_fingerprint(item, job.labels, job.channels)
    except Exception as error:  # one case must not hide the others
        return problem(error, first_image(item))


def case_fingerprint(
    item: CaseItem, labels: Mapping[int, str], channels: int | None = None
) -> CaseFingerprint:
    """Read a case and say what it looks like.

    Args:
        item: the case, with a label.
        labels: class id to name, background included; of a DICOM label the names decide the class ids.
        channels: of the image, where the dataset states them, see `transforms.io.readers.read_image`.

    Raises:
        ImageError: image or label cannot be read with certainty, the label does not lie on the image's grid, or it
            holds a value that has no name.
    """
    path = first_image(item)
    image, affine = image_array(item["image"], channels=channels, **reading(item))
    grid = Header(image.shape[1:], len(image), affine)
    found, place = label_array(item["label"], grid, segment_names(item, labels), image=path)
    require_grid(item["label"], Header(found.shape[1:], len(found), place), grid)
    found = found[0]
    ignore = item.get("ignore")
    marked = {} if ignore is None else {ignore: IGNORE}
    check_label_values(counts_of(found), {**labels, **marked}, item["label"])
    ignored = 0.0
    if ignore is not None:
        left_out = found == ignore
        ignored = np.count_nonzero(left_out) / found.size
        found = np.where(left_out, 0, found).astype(found.dtype)
    try:
        geometry = orient(grid.shape, affine)
    except GeometryError as error:
        raise ImageError(f"{path}: {error}") from error
    inside = found > 0
    measured = [_channel(channel, inside) for channel in image]
    spacing = geometry.straight_spacing
    return {
        "case": item["case"],
        "shape": list(geometry.straight_shape),
        "spacing": list(spacing),
        "orientation": "".join(nib.orientations.aff2axcodes(affine)) if len(grid.shape) == 3 else "",
        "channels": measured,
        "classes": _classes(_turned(found, geometry), labels, geometry),
        "ignored": ignored,
        "body": _body(image, [channel["hounsfield"] for channel in measured], geometry),
    }


def _turned(array: np.ndarray, geometry: Geometry) -> np.ndarray:
    """A label map or mask (*file shape) along R, A, S, straightened where the file's axes lean; a view if it can be."""
    turned = Turn(geometry.axes, geometry.flips).apply(array)
    if geometry.shear is None:
        return turned
    whole = np.ascontiguousarray(turned, np.int32 if array.dtype.itemsize > 1 else np.uint8)
    return straighten_labels(torch.from_numpy(whole), geometry).numpy().astype(array.dtype)


# -- intensities -------------------------------------------------------------------------------------------


def _channel(channel: np.ndarray, inside: np.ndarray) -> ChannelFingerprint:
    within, outside = inside_and_outside(channel, inside)
    return {
        "inside": within,
        "outside": outside,
        "whole_numbers": whole_numbers(channel),
        "hounsfield": not not_hounsfield(channel[None]),
        "air": np.count_nonzero(channel < _AIR) / channel.size,
        "minimum_share": np.count_nonzero(channel == channel.min()) / channel.size,
    }


def _body(image: np.ndarray, hounsfield: list[bool], geometry: Geometry) -> list[float]:
    """Millimetres of the box around the patient; all of an image in which no channel shows air in HU."""
    size = geometry.straight_shape
    # A channel without air, such as the PET of a PET/CT, would be patient everywhere.
    shown = [channel > _BODY for channel, is_ct in zip(image, hounsfield, strict=True) if is_ct]
    shown = [above for above in shown if not above.all()]
    if len(size) == 3 and shown:
        above = functools.reduce(np.logical_or, shown)
        box = bounding_boxes(_turned(above.view(np.uint8), geometry)).get(1)
        size = size if box is None else tuple(part.stop - part.start for part in box)
    return _millimetres(size, geometry)


def _millimetres(size: tuple[int, ...], geometry: Geometry) -> list[float]:
    return [count * mm for count, mm in zip(size, geometry.straight_spacing, strict=True)]


# -- classes -----------------------------------------------------------------------------------------------


class _Components(NamedTuple):
    """Connected parts of a class: how many, and voxels of the smallest and of the largest."""

    number: int
    smallest: int
    largest: int


def _classes(found: np.ndarray, labels: Mapping[int, str], geometry: Geometry) -> dict[str, ClassFingerprint]:
    boxes = bounding_boxes(found)
    parts = _components(found, boxes)
    unit = voxel_ml(geometry.straight_affine, found.ndim) or float(np.prod(geometry.straight_spacing))
    classes: dict[str, ClassFingerprint] = {}
    for value in sorted(labels):
        if value == 0:
            continue
        if value not in boxes:
            classes[str(value)] = _absent()
            continue
        box = boxes[value]
        mask = found[box] == value
        voxels = int(np.count_nonzero(mask))
        classes[str(value)] = {
            "voxels": voxels,
            "millilitres": voxels * unit,
            "components": parts[value].number,
            "smallest_component": parts[value].smallest,
            "largest_component": parts[value].largest,
            "surface": _surface(mask, found.shape, geometry.straight_spacing),
            "extent": _millimetres(mask.shape, geometry),
            "centre": _centre(mask, box, found.shape),
        }
    return classes


def _absent() -> ClassFingerprint:
    return {
        "voxels": 0,
        "millilitres": 0.0,
        "components": 0,
        "smallest_component": 0,
        "largest_component": 0,
        "surface": 0.0,
        "extent": [],
        "centre": [],
    }


def _surface(mask: np.ndarray, shape: tuple[int, ...], spacing: Sequence[float]) -> float:
    """Surface of a mask (of a picture or single slice the length of its outline) in an image of this shape."""
    axes = [axis for axis, voxels in enumerate(shape) if voxels > 1]
    voxel = math.prod(spacing[axis] for axis in axes)
    total = 0.0
    for axis in axes:
        ends = sum(np.count_nonzero(mask.take(end, axis)) for end in (0, -1))
        total += (np.count_nonzero(np.diff(mask, axis=axis)) + ends) * voxel / spacing[axis]
    return total / _FACES[len(axes)] if axes else 0.0


def _centre(mask: np.ndarray, box: Box, shape: tuple[int, ...]) -> list[float]:
    """Centre of mass as a share of the image's size: 0.5 in the middle, whatever the number of voxels."""
    centre = []
    for axis, size in enumerate(shape):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        counts = np.count_nonzero(mask, axis=others)
        at = counts @ np.arange(len(counts)) / counts.sum()
        centre.append(float((box[axis].start + at + 0.5) / size))
    return centre


def _components(found: np.ndarray, boxes: Mapping[int, Box]) -> dict[int, _Components]:
    """Parts of every class whose voxels touch by faces, edges or corners."""
    if not boxes:
        return {}
    whole = tuple(
        slice(min(box[axis].start for box in boxes.values()), max(box[axis].stop for box in boxes.values()))
        for axis in range(found.ndim)
    )
    # In the order of memory, which is several times faster.
    order = np.argsort(np.negative(np.abs(found.strides)), kind="stable")
    if sum(map(_voxels, boxes.values())) > _OVERLAP * _voxels(whole):
        return _components_at_once(found[whole].transpose(order))
    corners = np.ones((3,) * found.ndim, bool)
    parts = {}
    for value, box in boxes.items():
        numbered, _ = ndimage.label(found[box].transpose(order) == value, corners)
        parts[value] = _sizes(value_counts(numbered)[1:])
    return parts


def _components_at_once(found: np.ndarray) -> dict[int, _Components]:
    """All classes in one pass, slower than for a single class, and with 16 bytes a voxel."""
    numbered = label_components(found, background=0, connectivity=found.ndim)
    sizes = value_counts(numbered)
    classes = np.zeros(len(sizes), found.dtype)
    classes[numbered.reshape(-1)] = found.reshape(-1)
    return {int(value): _sizes(sizes[classes == value]) for value in np.unique(classes[1:])}


def _sizes(voxels: np.ndarray) -> _Components:
    return _Components(len(voxels), int(voxels.min()), int(voxels.max()))


def _voxels(box: Box) -> int:
    return int(np.prod([part.stop - part.start for part in box]))
