"""DICOM RTSTRUCT to a label map on the grid of its CT.

PS3.3 A.19 (RT Structure Set IOD), C.8.8.5 (Structure Set) and C.8.8.6 (ROI Contour). A contour is a closed polygon in
patient coordinates that lies in one slice; a voxel belongs to a region when its centre lies inside an odd number of
the region's polygons in that slice, so that an inner polygon makes a hole and a keyhole polygon does, too.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pydicom import Dataset

from transforms.dicom.contours import crossed, fill_polygons
from transforms.dicom.label_painter import LabelPainter
from transforms.dicom.segment_names import match_names, numbered_names
from transforms.errors import ImageError
from transforms.utils.coordinates import LPS_RAS

__all__ = ["read_rtstruct", "rtstruct_names"]

SLICE_TOLERANCE_MM = 0.1
SLICE_TOLERANCE = 0.1
"""Largest distance of a contour from its slice (mm, and times the slice distance, whichever is less). Planning systems
round coordinates to 0.1 or 0.01 mm, so up to 0.05 mm are rounding; a tenth of the distance is never another slice.
"""

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
_EXPORT = "Export the structure set again on its CT."
_log = logging.getLogger(__name__)


def rtstruct_names(path: Path, dataset: Dataset) -> dict[int, str]:
    """Return number and name of every ROI.

    Raises:
        ImageError: the file lists no ROIs.
    """
    items = dataset.get("StructureSetROISequence") or []
    return numbered_names(path, items, "ROINumber", "ROIName", "ROIs", _EXPORT)


def read_rtstruct(
    path: Path, dataset: Dataset, shape: tuple[int, ...], affine: np.ndarray, labels: Mapping[int, str]
) -> np.ndarray:
    """Convert a DICOM RTSTRUCT to a label map on a grid.

    Args:
        path: for messages.
        dataset: the whole file.
        shape, affine: ``(X, Y, Z)`` and 4x4 from voxel index to millimetres, RAS+; slices lie along Z. May be
            sheared.
        labels: class id to name, see `transforms.dicom.segment_names.match_names`.

    Returns:
        ``(X, Y, Z)`` uint8, or uint16 where a class id needs it.

    Raises:
        ImageError: a contour of a named ROI does not lie on a slice (with the distance in mm) or is not
            planar.
    """
    names = rtstruct_names(path, dataset)
    classes = match_names(path, names, labels, "ROI")
    if "ROIContourSequence" not in dataset:
        raise ImageError(f"{path}: it names ROIs and has no contours (ROIContourSequence). {_EXPORT}")
    painter = LabelPainter(shape, max(labels))
    to_voxel = np.linalg.inv(affine) @ LPS_RAS  # from LPS+
    drawn: dict[int, dict[int, list[np.ndarray]]] = {}
    for item in dataset.ROIContourSequence or []:
        number = int(item.get("ReferencedROINumber", -1))
        if number in classes:
            slices = drawn.setdefault(number, {})
            _collect(path, names[number], item, to_voxel, shape, affine, slices)
    empty = [names[number] for number in classes if not drawn.get(number)]
    if empty:
        _log.info("%s: ROI(s) %s have no closed contour and stay empty.", path, ", ".join(empty))
    for number, slices in drawn.items():
        overlap = 0
        for index, polygons in slices.items():
            points = np.concatenate(polygons)
            low = np.clip(np.floor(points.min(axis=0)), 0, shape[:2]).astype(int)
            high = np.clip(np.ceil(points.max(axis=0)) + 1, low, shape[:2]).astype(int)
            local = [polygon - low for polygon in polygons]
            mask = fill_polygons(local, high - low)
            overlap += crossed(local, high - low)
            region = (slice(low[0], high[0]), slice(low[1], high[1]), index)
            painter.paint(region, mask * painter.array.dtype.type(classes[number]))
        if overlap:
            _log.warning(
                "%s: contours of ROI %r cross each other; %d voxels inside of two of them count as outside.",
                path,
                names[number],
                overlap,
            )
        if slices and len(slices) < max(slices) - min(slices) + 1:
            gaps = max(slices) - min(slices) + 1 - len(slices)
            _log.warning(
                "%s: ROI %r has no contour on %d of the %d slices between its ends; they stay empty.",
                path,
                names[number],
                gaps,
                gaps + len(slices),
            )
    painter.report(path, labels)
    return painter.array


def _collect(
    path: Path,
    name: str,
    item: Dataset,
    to_voxel: np.ndarray,
    shape: tuple[int, ...],
    affine: np.ndarray,
    slices: dict[int, list[np.ndarray]],
) -> None:
    """Sort the closed contours of one ROI by slice, as ``(N, 2)`` voxel indices."""
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    step = abs(float(affine[:3, 2] @ normal / np.linalg.norm(normal)))
    tolerance = min(SLICE_TOLERANCE_MM, SLICE_TOLERANCE * step)
    left_out: dict[str, int] = {}
    twice, beyond = 0, 0.0
    seen: set[tuple[int, bytes]] = set()
    for number, contour in enumerate(item.get("ContourSequence") or []):
        kind = str(contour.get("ContourGeometricType", "")).strip().upper()
        points = _points(path, name, number, contour)
        if kind not in CLOSED or len(points) < 3:
            kind = kind if kind not in CLOSED else f"{kind} of {len(points)} point(s)"
            left_out[kind or "no type"] = left_out.get(kind or "no type", 0) + 1
            continue
        voxels = points @ to_voxel[:3, :3].T + to_voxel[:3, 3]
        index = int(np.rint(np.median(voxels[:, 2])))
        spread = float(np.ptp(voxels[:, 2])) * step
        where = f"{path}: contour {number + 1} of ROI {name!r} (at {_list(points.mean(axis=0))} mm, LPS)"
        if spread > 2 * tolerance:
            raise ImageError(
                f"{where} is not planar: its points reach over {spread:.3g} mm across the slices (allowed:"
                f" {2 * tolerance:.3g} mm); export the structure set on the slices of this CT."
            )
        inside = min(max(index, 0), shape[2] - 1)
        distance = float(np.abs(voxels[:, 2] - inside).max()) * step
        if distance > tolerance:
            raise ImageError(
                f"{where} lies {distance:.3g} mm off the nearest slice of the CT (allowed: {tolerance:.3g} mm); give the"
                " whole CT that it was drawn on, or export the structure set on this one."
            )
        flat = voxels[:, :2]
        out = np.maximum(-0.5 - flat, flat - np.array(shape[:2]) + 0.5).max(axis=0)
        beyond = max(beyond, float((out * np.linalg.norm(affine[:3, :2], axis=0)).max()))
        polygons = slices.setdefault(index, [])
        corners = (
            index,
            np.unique(np.round(flat, 3), axis=0).tobytes(),
        )  # independent of starting point and direction
        if corners in seen:
            twice += 1
            continue
        seen.add(corners)
        polygons.append(flat)
    if left_out:
        found = ", ".join(f"{count} {kind}" for kind, count in left_out.items())
        _log.warning("%s: ROI %r: %s contour(s) left out; only closed ones count.", path, name, found)
    if beyond > 0.01:
        _log.warning("%s: ROI %r reaches up to %.3g mm out of the CT and is cut there.", path, name, beyond)
    if twice:
        _log.warning("%s: ROI %r: %d contour(s) occur twice and are counted once.", path, name, twice)


def _points(path: Path, name: str, number: int, contour: Dataset) -> np.ndarray:
    """Return ``(N, 3)`` points in millimetres, LPS+."""
    element = contour.get_item("ContourData") if "ContourData" in contour else None
    stored = None if element is None else element.value
    if isinstance(
        stored, bytes
    ):  # pydicom's conversion takes ten times as long, and there are millions of numbers
        values = [float(part) for part in stored.strip(b" \0").split(b"\\") if stored.strip(b" \0")]
    else:
        values = [] if stored in (None, "") else [float(part) for part in np.atleast_1d(stored)]
    stated = int(contour.get("NumberOfContourPoints") or len(values) // 3)
    if len(values) != 3 * stated or not np.isfinite(values).all():
        raise ImageError(
            f"{path}: contour {number + 1} of ROI {name!r} has {len(values)} coordinates for {stated} points;"
            f" the file is damaged. {_EXPORT}"
        )
    return np.asarray(values, dtype=np.float64).reshape(-1, 3)


def _list(values: np.ndarray) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"


# --- writing --------------------------------------------------------------------------------------------------------

"""Decimals of contour coordinates in mm; 1e-4 mm are negligible against the half voxel between a contour and the centres."""
