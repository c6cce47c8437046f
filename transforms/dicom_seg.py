"""DICOM SEG to a label map on the grid of its CT.

PS3.3 A.51 (Segmentation IOD), A.86 (Label Map Segmentation IOD) and C.8.20. Every frame is one plane of one segment (or
of all segments, in a label map) with its own position and orientation; frames come in any order and those that are
empty may be left out. Each is placed in world space by itself.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.pixels import pixel_array

from transforms.errors import ImageError
from transforms.label_names import match_names

__all__ = ["GRID_TOLERANCE", "Painter", "place_frame", "read_seg", "seg_names"]

GRID_TOLERANCE = 0.05
"""How far, in voxels of the CT, the corners of a frame may lie off the voxels that they are placed on."""

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
_EXPORT = "Export the segmentation again on the grid of its CT."
_log = logging.getLogger(__name__)


class Painter:
    """A label map that regions are painted into; of several classes at one voxel the highest class id stays.

    So a lesion (2) inside its organ (1) is kept, as in label maps of the usual data sets.
    """

    def __init__(self, shape: tuple[int, ...], highest: int) -> None:
        self.array = np.zeros(shape, np.uint8 if highest <= 255 else np.uint16)
        self._shared: np.ndarray | None = None

    def paint(self, region: tuple[Any, ...], mask: np.ndarray, index: int) -> None:
        """Give class `index` to the voxels of a boolean mask, which has the shape of ``array[region]``."""
        view = self.array[region]
        shared = mask & (view != 0) & (view != index)
        if shared.any():
            if self._shared is None:
                self._shared = np.zeros(self.array.shape, bool)
            self._shared[region] |= shared
        view[mask & (view < index)] = index

    @property
    def overlap(self) -> int:
        """Number of voxels that more than one class claims."""
        return 0 if self._shared is None else int(np.count_nonzero(self._shared))

    def report(self, path: Path, labels: Mapping[int, str]) -> None:
        """Log how many voxels had to be decided."""
        if self._shared is not None:
            won = ", ".join(labels[int(index)] for index in np.unique(self.array[self._shared]))
            _log.warning(
                "%s: %d voxels belong to several classes and got the one with the higher class id (%s).",
                path,
                self.overlap,
                won,
            )


def seg_names(path: Path, dataset: Dataset) -> dict[int, str]:
    """Return number and label of every segment.

    Raises
    ------
    ImageError
        If the file describes no segments.
    """
    segments = dataset.get("SegmentSequence") or []
    names = {int(item.SegmentNumber): str(item.get("SegmentLabel", "")) for item in segments}
    if not names or len(names) != len(segments):
        raise ImageError(f"{path}: its segments have no numbers, or the same one twice. {_EXPORT}")
    return names


def read_seg(
    path: Path,
    dataset: Dataset,
    shape: tuple[int, ...],
    affine: np.ndarray,
    labels: Mapping[int, str],
    threshold: float = 0.5,
) -> np.ndarray:
    """Bring a DICOM SEG to a grid.

    Parameters
    ----------
    path : Path
        For messages.
    dataset : pydicom.Dataset
        The whole file.
    shape, affine
        ``(X, Y, Z)`` and 4x4 from voxel index to millimetres, RAS+; may be sheared.
    labels : mapping of int to str
        Class id to name, see :func:`transforms.label_names.match_names`.
    threshold : float
        A voxel of a FRACTIONAL segmentation belongs to its segment from this part of MaximumFractionalValue on.

    Returns
    -------
    numpy.ndarray
        ``(X, Y, Z)`` uint8, or uint16 where a class id needs it.

    Raises
    ------
    ImageError
        If frames do not lie on voxels of the grid (with the distance in mm), segments lie outside of it, or the file
        cannot be decoded.
    """
    classes = match_names(path, seg_names(path, dataset), labels, "segment")
    kind = str(dataset.get("SegmentationType", ""))
    if kind not in ("BINARY", "FRACTIONAL", "LABELMAP"):
        raise ImageError(f"{path}: SegmentationType is {kind or 'missing'}. {_EXPORT}")
    level = threshold * float(dataset.get("MaximumFractionalValue", 0)) if kind == "FRACTIONAL" else 1
    if level <= 0:
        raise ImageError(f"{path}: a fractional segmentation without MaximumFractionalValue. {_EXPORT}")
    painter = Painter(shape, max(labels))
    to_voxel = np.linalg.inv(affine)
    to_class = _label_map_classes(dataset, classes)
    seen: dict[str, bytes] = {}
    for number, groups in enumerate(_frame_groups(path, dataset)):
        segment = 0 if kind == "LABELMAP" else _segment(path, groups, number)
        if kind != "LABELMAP" and segment not in classes:
            continue
        frame = _decode(path, dataset, number)
        if kind == "LABELMAP":
            frame = to_class[frame]
            if (frame < 0).any():
                raise ImageError(
                    f"{path}: frame {number + 1} holds values that no segment of the file has. {_EXPORT}"
                )
        else:
            frame = (frame >= level) * np.int32(classes[segment])
        present = np.unique(frame)
        if not present.any():
            continue
        matrix = to_voxel @ _frame_matrix(path, groups, number)
        region, values = place_frame(path, number, frame, matrix, shape, affine)
        digest = hashlib.blake2b(np.ascontiguousarray(values).tobytes()).digest()
        if seen.setdefault(f"{segment} {region}", digest) != digest:
            raise ImageError(
                f"{path}: frame {number + 1} shows segment {segment} at a place where another frame shows it"
                " differently (several points in time?). Export one label map per CT."
            )
        for index in present[present > 0]:
            painter.paint(region, values == index, int(index))
    painter.report(path, labels)
    return painter.array


def place_frame(
    path: Path,
    number: int,
    frame: np.ndarray,
    matrix: np.ndarray,
    shape: tuple[int, ...],
    affine: np.ndarray,
) -> tuple[tuple[Any, ...], np.ndarray]:
    """Find the voxels of a frame.

    Parameters
    ----------
    path, number
        For messages.
    frame : numpy.ndarray
        ``(rows, columns)``.
    matrix : numpy.ndarray
        4x4; ``(column, row, 0, 1)`` to voxel index of the grid.
    shape, affine
        The grid.

    Returns
    -------
    region : tuple
        Index of the voxels in the grid: two slices and one whole number.
    values : numpy.ndarray
        The pixels of the frame that lie in the grid, in the order of that region.

    Raises
    ------
    ImageError
        If pixels are not voxels of the grid, or a pixel that is not 0 lies outside of it.
    """
    rows, columns = frame.shape
    whole = np.rint(matrix[:3, [0, 1, 3]])
    corners = np.array([[c, r, 1] for c in (0, columns - 1) for r in (0, rows - 1)]).T
    apart = (matrix[:3, [0, 1, 3]] - whole) @ corners
    across, down = (np.flatnonzero(whole[:, axis]) for axis in (0, 1))
    aligned = len(across) == len(down) == 1 and across[0] != down[0] and (abs(whole[:, :2]).sum(0) == 1).all()
    if not aligned or np.abs(apart).max() > GRID_TOLERANCE:
        # Axes that fit no voxel axis at all have no whole step to compare with: the nearest centres have.
        exact = matrix[:3, [0, 1, 3]] @ corners
        distance = np.linalg.norm(affine[:3, :3] @ (exact - np.rint(exact) if not aligned else apart), axis=0)
        steps = np.linalg.norm(affine[:3, :3] @ matrix[:3, :2], axis=0)
        raise ImageError(
            f"{path}: frame {number + 1} does not lie on the voxels of the CT: its corners are up to"
            f" {distance.max():.3g} mm off (allowed: {GRID_TOLERANCE} voxels), its pixels"
            f" {steps[0]:.4g} x {steps[1]:.4g} mm; find the CT that it was drawn on, or resample it to this one."
        )
    a, b = int(across[0]), int(down[0])
    k = 3 - a - b
    start = whole[:, 2].astype(int)
    values = frame.T
    region: list[Any] = [int(start[k])] * 3
    window = []
    for position, (axis, count) in enumerate(((a, columns), (b, rows))):
        first = int(start[axis])
        if whole[axis, position] < 0:
            values = np.flip(values, position)
            first -= count - 1
        low, high = max(first, 0), min(first + count, shape[axis])
        region[axis] = slice(low, max(low, high))
        window.append(slice(low - first, max(low, high) - first))
    inside = 0 <= region[k] < shape[k]
    kept = values[tuple(window)] if inside else values[:0, :0]
    lost = int(np.count_nonzero(values)) - int(np.count_nonzero(kept))
    if lost:
        raise ImageError(
            f"{path}: {lost} pixels of frame {number + 1} lie outside of the CT, whose {shape[k]} planes along axis {k}"
            f" the frame meets at index {region[k]}; give the whole CT that it was drawn on."
        )
    if not inside:
        region[k], region[a], region[b] = 0, slice(0, 0), slice(0, 0)
    return tuple(region), kept.T if a > b else kept


def _label_map_classes(dataset: Dataset, classes: Mapping[int, int]) -> np.ndarray:
    """Return the class id of every stored value of a LABELMAP; -1 where a value has no meaning."""
    table = np.full(65536, -1, np.int32)
    for item in dataset.SegmentSequence:
        table[int(item.SegmentNumber)] = classes.get(int(item.SegmentNumber), 0)
    for value in (0, int(dataset.get("PixelPaddingValue") or 0)):
        table[value] = max(table[value], 0)
    return table


# --- one frame ------------------------------------------------------------------------------------------------------


def _frame_groups(path: Path, dataset: Dataset) -> list[Dataset]:
    """Return the functional groups of every frame (PS3.3 C.7.6.16), those shared by all filled in."""
    frames = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    count = int(dataset.get("NumberOfFrames") or 1)
    if len(frames) != count:
        raise ImageError(f"{path}: {count} frames, but the places of {len(frames)}. {_EXPORT}")
    if shared:
        for frame in frames:
            for element in shared[0]:
                if element.tag not in frame:
                    frame.add(element)
    return list(frames)


def _item(path: Path, groups: Dataset, number: int, sequence: str, keyword: str) -> Any:
    items = groups.get(sequence)
    value = items[0].get(keyword) if items else None
    if value is None or value == "":
        raise ImageError(
            f"{path}: {keyword} of frame {number + 1} is missing, so it has no known place. {_EXPORT}"
        )
    return value


def _segment(path: Path, groups: Dataset, number: int) -> int:
    return int(_item(path, groups, number, "SegmentIdentificationSequence", "ReferencedSegmentNumber"))


def _frame_matrix(path: Path, groups: Dataset, number: int) -> np.ndarray:
    """Return 4x4: ``(column, row, 0, 1)`` to millimetres in RAS+ (PS3.3 C.7.6.2.1.1)."""
    try:
        position, cosines, spacing = (
            np.asarray(_item(path, groups, number, *names), dtype=np.float64)
            for names in (
                ("PlanePositionSequence", "ImagePositionPatient"),
                ("PlaneOrientationSequence", "ImageOrientationPatient"),
                ("PixelMeasuresSequence", "PixelSpacing"),
            )
        )
        matrix = np.eye(4)
        matrix[:3, 0] = _LPS_TO_RAS @ cosines[:3] * spacing[1]
        matrix[:3, 1] = _LPS_TO_RAS @ cosines[3:] * spacing[0]
        matrix[:3, 3] = _LPS_TO_RAS @ position
    except (ValueError, IndexError) as error:
        raise ImageError(
            f"{path}: the place of frame {number + 1} is no set of numbers ({error}). {_EXPORT}"
        ) from error
    if not np.isfinite(matrix).all():
        raise ImageError(f"{path}: the place of frame {number + 1} is not finite. {_EXPORT}")
    return matrix


def _decode(path: Path, dataset: Dataset, number: int) -> np.ndarray:
    try:
        frame = pixel_array(dataset, index=number)
    except Exception as error:  # decoders raise whatever they like; the file has to be named
        raise ImageError(
            f"{path}: frame {number + 1} cannot be decoded ({str(error).strip() or type(error).__name__}); the file is"
            " damaged, or compressed in an unsupported way. Copy or export it again."
        ) from error
    if frame.shape != (int(dataset.Rows), int(dataset.Columns)):
        raise ImageError(
            f"{path}: frame {number + 1} has the size {frame.shape}; it must have one value per pixel. {_EXPORT}"
        )
    return frame
