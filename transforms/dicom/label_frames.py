"""Check that a SEG or RTSTRUCT has the coordinate system of an image (PS3.3 C.7.4.1, C.8.8.5)."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from pydicom import Dataset

from transforms.dicom.frame import Frame
from transforms.errors import ImageError

__all__ = ["check_frame_of_reference"]

_log = logging.getLogger(__name__)


def check_frame_of_reference(
    path: Path,
    dataset: Dataset,
    rois: Collection[int] | None,
    images: Iterable[Frame],
    quiet: bool = False,
) -> None:
    """Raise unless the coordinates of label and image can be compared.

    Some tools write a new frame of reference, for the whole file or for a ROI, but refer to the series or images that
    were contoured; the contours then have the coordinates of these images, and only a message is logged. The images
    are those that the ROI's contours refer to; without them, those of its frame of reference; and if the file lists
    none for that frame, all images that the file refers to.

    Args:
        path: the label.
        dataset: its content.
        rois: ROIs of an RTSTRUCT that are read; None for a SEG.
        images: the images.
        quiet: log no message.

    Raises:
        ImageError: naming the frames of reference.
    """
    general = str(dataset.get("FrameOfReferenceUID") or "")
    stated = {0: general} if rois is None else _stated(dataset, rois, general)
    if not any(stated.values()):
        return
    frames: set[str] = set()
    known: set[str] = set()
    folder: Path | None = None
    for image in images:
        folder = folder or image.path.parent
        frames |= {image.text("FrameOfReferenceUID")} - {""}
        if set(stated.values()) - {""} <= frames:
            return  # in most folders the first file decides
        known |= {image.text(name) for name in ("SOPInstanceUID", "SeriesInstanceUID")} - {""}
    if not frames:
        return
    other = {number: frame for number, frame in stated.items() if frame and frame not in frames}
    references = {0: _references(dataset)} if rois is None else _drawn_on(dataset, other)
    strange = sorted({frame for number, frame in other.items() if not references[number] & known})
    if strange:
        raise ImageError(
            f"{path}: its frame of reference ({', '.join(strange)}) is not that of the image in {folder}"
            f" ({', '.join(sorted(frames))}), and it names none of those images for it, so positions cannot be compared;"
            " find the CT that it was drawn on."
        )
    if not quiet:
        _log.warning(
            "%s: states another frame of reference (%s) than the image in %s, but names its series or images; read in"
            " their coordinates.",
            path,
            ", ".join(sorted(set(other.values()))),
            folder,
        )


def _stated(dataset: Dataset, rois: Collection[int], general: str) -> dict[int, str]:
    """Return number and frame of reference of each ROI; "" if neither the ROI nor the file states one."""
    listed = {str(item.get("FrameOfReferenceUID") or "") for item in _items(dataset)}
    fallback = listed.pop() if len(listed) == 1 else general
    return {
        int(item.ROINumber): str(item.get("ReferencedFrameOfReferenceUID") or "") or fallback
        for item in dataset.get("StructureSetROISequence") or []
        if int(item.ROINumber) in rois
    }


def _drawn_on(dataset: Dataset, frames: Mapping[int, str]) -> dict[int, set[str]]:
    """Return the UIDs of series and images that each ROI was drawn on, from the ROI or its frame of reference."""
    described: dict[str, set[str]] = {}
    for item in _items(dataset):
        described.setdefault(str(item.get("FrameOfReferenceUID") or ""), set()).update(_references(item))
    drawn: dict[int, set[str]] = {}
    for item in dataset.get("ROIContourSequence") or []:
        named = drawn.setdefault(int(item.get("ReferencedROINumber", -1)), set())
        for contour in item.get("ContourSequence") or []:
            for image in contour.get("ContourImageSequence") or []:
                named.add(str(image.get("ReferencedSOPInstanceUID") or ""))
    anything = set[str]().union(*described.values())
    return {number: drawn.get(number) or described.get(frame) or anything for number, frame in frames.items()}


def _items(dataset: Dataset) -> Sequence[Dataset]:
    return dataset.get("ReferencedFrameOfReferenceSequence") or []


def _references(dataset: Dataset) -> set[str]:
    """Return the UIDs of all series and images that a dataset refers to."""
    names = ("ReferencedSOPInstanceUID", "SeriesInstanceUID")
    found = {str(element.value) for element in dataset.iterall() if element.keyword in names}
    return found - {str(dataset.get("SeriesInstanceUID") or "")}
