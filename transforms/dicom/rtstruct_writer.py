"""A label map as DICOM RTSTRUCT: closed planar contours on the images of its series.

PS3.3 A.19 (RT Structure Set IOD), C.8.8.5 (Structure Set), C.8.8.6 (ROI Contour)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from transforms.dicom.contours import outlines
from transforms.dicom.rtstruct import CLOSED
from transforms.dicom.source_images import (
    SourceImages,
    label_on_source,
    numbered_structures,
    replace_file,
    software_version,
)
from transforms.errors import SettingError
from transforms.label_values import Box, bounding_boxes, box_of, mask_of
from transforms.utils.colours import colour_of
from transforms.utils.coordinates import LPS_RAS

if TYPE_CHECKING:
    from monai.data import MetaTensor

    from transforms.dicom.series import Series

_DIGITS = 4


def write_rtstruct(
    path: str | Path,
    label: MetaTensor,
    source: Series,
    names: Mapping[int, str],
    *,
    codes: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
    algorithm_name: str = "segbundles",
    algorithm_version: str | None = None,
    series_description: str = "",
    series_number: int = 301,
    geometric_type: str = "CLOSED_PLANAR",
    regions: Mapping[str, Sequence[int]] | None = None,
) -> Path:
    """Write a label map as DICOM RTSTRUCT on the slices of its CT.

    Contours run half-way between voxel centres inside and outside of a class, so that exactly the centres inside
    belong to it: `read_rtstruct` restores the label map exactly. A hole is a contour inside another.

    Args:
        path: the file; missing folders are made, a file of that name is replaced when the new one is whole.
        label: ``(1, X, Y, Z)`` class ids on the grid of the series.
        source: what `transforms.dicom.series.scan_series` returned; its images are referred to and
            patient and study copied.
        names: class id to name. ROI numbers are the class ids; a class without voxels is an ROI without
            contours.
        codes: codes of the user, see `transforms.dicom.segment_codes.segment_code`.
        algorithm_name, algorithm_version: written to ROIGenerationDescription; default version: that of this
            package.
        series_description: SeriesDescription and StructureSetLabel (16 characters of it); default: the
            algorithm's name.
        series_number: SeriesNumber (0020,0011).
        geometric_type: "CLOSED_PLANAR", which every planning system supports, or "CLOSEDPLANAR_XOR" (PS3.3
            C.8.8.6.3), which states explicitly that inner contours are holes.
        regions: name to the classes that make it up: one ROI for each, instead of one for each class; they may overlap.

    Returns:
        The file written.

    Raises:
        ImageError: the label map is not on the grid of the series, or the series or the names cannot be
            referred to.
    """
    from transforms.dicom.segment_codes import segment_code  # importing it takes half a second

    path = Path(path)
    if geometric_type not in CLOSED:
        raise SettingError(f"geometric_type is {geometric_type!r}; choose one of {', '.join(CLOSED)}.")
    frames = label_on_source(path, label, source)
    named = numbered_structures(path, frames, names, regions)
    images = SourceImages.of(path, source)
    description = series_description or algorithm_name
    result = _blank(images, description, series_number)
    result.ReferencedFrameOfReferenceSequence = [_referenced_frame(images)]
    generation = f"{algorithm_name} {algorithm_version or software_version()}"[:64]
    to_world = LPS_RAS @ images.affine
    boxes = bounding_boxes(frames)
    result.StructureSetROISequence = []
    result.ROIContourSequence = []
    result.RTROIObservationsSequence = []
    for number, (name, values) in named.items():
        result.StructureSetROISequence.append(
            _item(
                ROINumber=number,
                ReferencedFrameOfReferenceUID=images.first.FrameOfReferenceUID,
                ROIName=name,
                ROIGenerationAlgorithm="AUTOMATIC",
                ROIGenerationDescription=generation,
            )
        )
        code = segment_code(name, codes)
        identification = _item(
            CodeValue=code.type.value,
            CodingSchemeDesignator=code.type.scheme_designator,
            CodeMeaning=code.type.meaning,
        )
        result.RTROIObservationsSequence.append(
            _item(
                ObservationNumber=number,
                ReferencedROINumber=number,
                RTROIIdentificationCodeSequence=[identification],
                RTROIInterpretedType="",
                ROIInterpreter="",
            )
        )
        contours = [
            _contour(polygon, index, to_world, images, geometric_type)
            for index, polygon in _outlines(frames, boxes, values)
        ]
        for position, contour in enumerate(contours):
            contour.ContourNumber = position + 1
        item = _item(ROIDisplayColor=list(colour_of(number)), ReferencedROINumber=number)
        if contours:
            item.ContourSequence = contours
        result.ROIContourSequence.append(item)
    # Implicit VR, because explicit VR has 16 bits for the length of a contour, enough for only some 2,000 points.
    return replace_file(path, result, ImplicitVRLittleEndian)


def _outlines(
    frames: np.ndarray, boxes: Mapping[int, Box], values: Sequence[int]
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield slice and polygon of what some classes make up, in voxel indices (x, y), looking only where they are."""
    box = box_of([boxes], values)
    if box is None:
        return
    part = mask_of(frames[box], values)
    for index, mask in enumerate(part, box[0].start):
        for polygon in outlines(mask.T):
            yield index, polygon + np.array([box[2].start, box[1].start])


def _contour(
    polygon: np.ndarray, index: int, to_world: np.ndarray, images: SourceImages, geometric_type: str
) -> Dataset:
    points = np.column_stack([polygon, np.full(len(polygon), float(index))])
    points = points @ to_world[:3, :3].T + to_world[:3, 3]
    item = _item(
        ContourGeometricType=geometric_type,
        NumberOfContourPoints=len(points),
        ContourData=[f"{value:.{_DIGITS}f}" for value in points.ravel() + 0.0],
    )
    place = images.slices[index]
    if place is not None:
        item.ContourImageSequence = [_image(images.headers[place[0]], place[1])]
    return item


def _image(header: Dataset, frame: int | None = None) -> Dataset:
    item = _item(ReferencedSOPClassUID=header.SOPClassUID, ReferencedSOPInstanceUID=header.SOPInstanceUID)
    if frame is not None:
        item.ReferencedFrameNumber = frame + 1
    return item


def _referenced_frame(images: SourceImages) -> Dataset:
    series = _item(
        SeriesInstanceUID=images.first.SeriesInstanceUID,
        ContourImageSequence=[_image(header) for header in images.headers],
    )
    study = _item(
        ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1",  # Detached Study Management, retired but still required
        ReferencedSOPInstanceUID=images.first.StudyInstanceUID,
        RTReferencedSeriesSequence=[series],
    )
    return _item(FrameOfReferenceUID=images.first.FrameOfReferenceUID, RTReferencedStudySequence=[study])


def _item(**values: Any) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def _blank(images: SourceImages, description: str, series_number: int) -> FileDataset:
    """Return a structure set without regions, with patient, study and frame of reference of the CT."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = RTStructureSetStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ImplicitVRLittleEndian
    result = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    result.update(images.identity)
    now = datetime.now()
    result.SOPClassUID, result.SOPInstanceUID = RTStructureSetStorage, meta.MediaStorageSOPInstanceUID
    result.SeriesInstanceUID = generate_uid()
    result.Modality = "RTSTRUCT"
    result.SeriesNumber, result.InstanceNumber = series_number, 1
    result.SeriesDescription = description[:64]
    result.OperatorsName = ""
    result.Manufacturer = result.ManufacturerModelName = "segbundles"
    result.SoftwareVersions = software_version()
    result.InstanceCreationDate = result.SeriesDate = result.StructureSetDate = now.strftime("%Y%m%d")
    result.InstanceCreationTime = result.SeriesTime = result.StructureSetTime = now.strftime("%H%M%S")
    result.StructureSetLabel = description[:16]
    result.StructureSetName = description[:64]
    result.ApprovalStatus = "UNAPPROVED"
    return result
