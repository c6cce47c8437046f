"""Headers of a CT in the form that highdicom requires for writing a SEG, and the references of the SEG to the CT."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import NamedTuple

from pydicom import Dataset
from pydicom.uid import CTImageStorage, generate_uid

from transforms.dicom.source_images import SourceImages

__all__ = ["aligned_headers", "refer_to_files"]


class _Place(NamedTuple):
    """The image that a stand-in replaces: class and instance UID of a file, and the one-based frame if it has several."""

    sop_class: str
    instance: str
    frame: int | None


def aligned_headers(images: SourceImages) -> tuple[list[Dataset], dict[str, _Place]]:
    """Return headers with exactly the geometry of the grid and empty patient attributes.

    highdicom refers a frame to the image at exactly the same position and refuses a series with different cosines; in
    real series they differ in the last digits, and the grid has their mean. It also refuses some values of sex, dates
    and times that scanners write, and a multi-frame file together with other files: then each slice gets a stand-in,
    the header of an imaginary single-frame file.

    Returns:
        headers: for ``source_images``.
        stands_for: SOPInstanceUID of each stand-in to the image that it replaces; empty without stand-ins.
    """
    import highdicom

    for header in images.headers:
        for keyword in ("PatientName", "PatientSex", "PatientBirthDate", "StudyDate", "StudyTime"):
            setattr(header, keyword, "")
    orientation = highdicom.PlaneOrientationSequence("PATIENT", images.cosines)
    x, y, z = images.spacing
    measures = highdicom.PixelMeasuresSequence((y, x), z, z)
    grouped = any(place is not None and place[1] is not None for place in images.slices)
    stands_for: dict[str, _Place] = {}
    standing: list[Dataset] = []
    for index, place in enumerate(images.slices):
        if place is None:
            continue
        header, frame = images.headers[place[0]], place[1]
        position = highdicom.PlanePositionSequence("PATIENT", images.position(index))
        if grouped:
            number = None if frame is None else frame + 1
            of = _Place(header.SOPClassUID, header.SOPInstanceUID, number)
            header = _stand_in(header)
            header.PixelSpacing, header.SliceThickness = measures[0].PixelSpacing, measures[0].SliceThickness
            stands_for[header.SOPInstanceUID] = of
            standing.append(header)
        elif "PixelSpacing" not in header:  # that of the first one is what the SEG states
            header.PixelSpacing = measures[0].PixelSpacing
        header.ImageOrientationPatient = orientation[0].ImageOrientationPatient
        header.ImagePositionPatient = position[0].ImagePositionPatient
    return (standing, stands_for) if grouped else (images.headers, {})


def _stand_in(header: Dataset) -> Dataset:
    result = Dataset()
    for element in header:
        result.add(copy.copy(element))  # setting an attribute changes the element in place
    result.SOPClassUID, result.SOPInstanceUID = CTImageStorage, generate_uid()
    return result


def refer_to_files(dataset: Dataset, stands_for: Mapping[str, _Place]) -> None:
    """Replace references to stand-ins by those to the real files: once per file in lists of files, else by frame."""
    for element in dataset if stands_for else ():
        if element.VR != "SQ":
            continue
        items, seen = [], set()
        listed = element.keyword == "ReferencedInstanceSequence" or "SegmentSequence" in dataset
        for item in element.value:
            refer_to_files(item, stands_for)
            place = stands_for.get(str(item.get("ReferencedSOPInstanceUID", "")))
            if place is not None:
                item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = place.sop_class, place.instance
                if place.frame is not None and not listed:
                    item.ReferencedFrameNumber = place.frame
            instance = item.get("ReferencedSOPInstanceUID")
            if not listed or instance is None or instance not in seen:
                items.append(item)
            seen.add(instance)
        element.value = items
