"""Headers of a CT as the library that writes SEGs wants them, and what the SEG refers to in the end."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import NamedTuple

from pydicom import Dataset
from pydicom.uid import CTImageStorage, generate_uid

from transforms.dicom.source_images import SourceImages

__all__ = ["aligned_headers", "refer_to_files"]


class _Place(NamedTuple):
    """What a stand-in stands for: class and instance UID of a file, and its frame counted from one, if it has several."""

    sop_class: str
    instance: str
    frame: int | None


def aligned_headers(images: SourceImages) -> tuple[list[Dataset], dict[str, _Place]]:
    """Return headers whose geometry is that of the grid to the last digit, of a patient of whom nothing is said.

    highdicom refers a frame to the image at exactly its place and refuses a series whose cosines are not all the same;
    those of real series differ in the last digits, and the grid has their mean. It also refuses what scanners do
    write as sex, dates and times, and a multi-frame file beside other files: where one is among them, each slice gets a
    stand-in of a file of its own.

    Returns:
        headers: for ``source_images``.
        stands_for: SOPInstanceUID of each stand-in to what it stands for; empty where there are none.
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
    """Let a SEG refer to the files that stand-ins stand for: each once in lists of files, and by frame elsewhere."""
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
