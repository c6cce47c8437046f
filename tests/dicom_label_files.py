"""DICOM SEG and RTSTRUCT written by hand, attribute by attribute, so that no library's idea of them is tested.

And two ways to compare label maps in world space, which know nothing of how they were read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from pydicom import Dataset
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    RTStructureSetStorage,
    SegmentationStorage,
    generate_uid,
)

from tests.dicom_phantom import LPS, Phantom, world_grid
from transforms.io.readers import Header

LABEL_MAP_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"


def regions(world: np.ndarray) -> np.ndarray:
    """Return class 0, 1, 2 or 3 at points in mm (RAS+, ``(..., 3)``), nowhere symmetric."""
    x, y, z = np.moveaxis(np.asarray(world, dtype=np.float64), -1, 0)
    value = np.sin(0.31 * x + 0.21 * y) + np.cos(0.43 * y - 0.17 * z) + 0.3 * np.sin(0.37 * z + 0.11 * x)
    return np.digitize(value, [-0.6, 0.4, 1.1]).astype(np.uint8)


def label_map(shape: Sequence[int], affine: np.ndarray) -> np.ndarray:
    """Return `regions` at the voxel centres of a grid."""
    return regions(world_grid(shape, affine))


def carried_over(array: np.ndarray, affine: np.ndarray, shape: Sequence[int], grid: np.ndarray) -> np.ndarray:
    """Put the voxels of a label map that are not 0 onto another grid by way of world space (RAS+)."""
    index = np.argwhere(array)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    inverse = np.linalg.inv(grid)
    voxel = world @ inverse[:3, :3].T + inverse[:3, 3]
    assert np.abs(voxel - np.rint(voxel)).max() < 0.02, "the label map does not lie on the grid"
    result = np.zeros(shape, array.dtype)
    result[tuple(np.rint(voxel).astype(int).T)] = array[tuple(index.T)]
    return result


def item(**values: object) -> Dataset:
    """Return a data set with these attributes."""
    result = Dataset()
    for keyword, value in values.items():
        setattr(result, keyword, value)
    return result


def _blank(sop_class: str, modality: str, frame_of_reference: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    result = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    result.SOPClassUID, result.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    result.Modality = modality
    result.StudyInstanceUID, result.SeriesInstanceUID = generate_uid(), generate_uid()
    if frame_of_reference:
        result.FrameOfReferenceUID = frame_of_reference
    return result


def save(dataset: FileDataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, implicit_vr=False, little_endian=True, enforce_file_format=True)
    return path


def frames_of(
    array: np.ndarray, affine: np.ndarray, planes: int = 2
) -> tuple[list[tuple[np.ndarray, np.ndarray]], np.ndarray, tuple[float, float]]:
    """Cut a volume into frames along one of its axes.

    Returns frames as (position in LPS+ mm, ``(rows, columns)``), the six direction cosines and (column, row) spacing.
    """
    columns, rows = [axis for axis in range(3) if axis != planes]
    axes = (LPS @ affine)[:3, [columns, rows]]
    spacing = np.linalg.norm(axes, axis=0)
    frames = []
    for index in range(array.shape[planes]):
        start = np.zeros(4)
        start[planes], start[3] = index, 1
        frames.append(((LPS @ affine @ start)[:3], np.take(array, index, planes).T))
    return frames, (axes / spacing).T.ravel(), (float(spacing[0]), float(spacing[1]))


def seg_file(
    path: Path,
    names: Mapping[int, str],
    frames: Sequence[tuple[int, np.ndarray, np.ndarray]],
    cosines: np.ndarray,
    spacing: tuple[float, float],
    kind: str = "BINARY",
    frame_of_reference: str = "",
    shared: bool = True,
    **attributes: object,
) -> Path:
    """Write a SEG of frames (segment, position in LPS+, ``(rows, columns)`` stored values)."""
    uid = LABEL_MAP_STORAGE if kind == "LABELMAP" else SegmentationStorage
    result = _blank(uid, "SEG", frame_of_reference)
    result.SegmentationType = kind
    result.Rows, result.Columns = frames[0][2].shape
    result.NumberOfFrames = len(frames)
    result.SamplesPerPixel, result.PhotometricInterpretation = 1, "MONOCHROME2"
    bits = 1 if kind == "BINARY" else 8
    result.BitsAllocated, result.BitsStored, result.HighBit = bits, bits, bits - 1
    result.PixelRepresentation = 0
    if kind == "FRACTIONAL":
        result.SegmentationFractionalType, result.MaximumFractionalValue = "PROBABILITY", 200
    result.SegmentSequence = [
        item(SegmentNumber=number, SegmentLabel=name, SegmentAlgorithmType="MANUAL")
        for number, name in names.items()
    ]
    places = {
        "PlaneOrientationSequence": [item(ImageOrientationPatient=[_decimal(v) for v in cosines])],
        "PixelMeasuresSequence": [item(PixelSpacing=[_decimal(spacing[1]), _decimal(spacing[0])])],
    }
    result.SharedFunctionalGroupsSequence = [item(**(places if shared else {}))]
    groups = []
    for segment, position, _ in frames:
        group = item(
            PlanePositionSequence=[item(ImagePositionPatient=[_decimal(v) for v in position])],
            **({} if shared else places),
        )
        if kind != "LABELMAP":
            group.SegmentIdentificationSequence = [item(ReferencedSegmentNumber=segment)]
        groups.append(group)
    result.PerFrameFunctionalGroupsSequence = groups
    values = np.stack([frame for _, _, frame in frames]).astype(np.uint8)
    data = np.packbits(values.ravel(), bitorder="little") if kind == "BINARY" else values
    result.PixelData = data.tobytes() + b"\0" * (data.size % 2)
    result["PixelData"].VR = "OB"
    for keyword, value in attributes.items():
        setattr(result, keyword, value)
    return save(result, path)


def rtstruct_file(
    path: Path,
    rois: Mapping[str, Sequence[tuple[str, np.ndarray]]],
    frame_of_reference: str = "",
    images: Sequence[str] = (),
) -> Path:
    """Write an RTSTRUCT of ROIs by name, each a list of (geometric type, ``(N, 3)`` points in LPS+ mm)."""
    result = _blank(RTStructureSetStorage, "RTSTRUCT", "")
    result.StructureSetROISequence, result.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(rois.items(), 1):
        roi = item(ROINumber=number, ROIName=name)
        if frame_of_reference:
            roi.ReferencedFrameOfReferenceUID = frame_of_reference
        result.StructureSetROISequence.append(roi)
        sequence = []
        for kind, points in contours:
            values = [_decimal(value) for value in np.asarray(points, dtype=float).ravel()]
            contour = item(
                ContourGeometricType=kind, NumberOfContourPoints=len(values) // 3, ContourData=values
            )
            if images:
                contour.ContourImageSequence = [item(ReferencedSOPInstanceUID=uid) for uid in images]
            sequence.append(contour)
        result.ROIContourSequence.append(item(ReferencedROINumber=number, ContourSequence=sequence))
    return save(result, path)


def _decimal(value: float) -> str:
    return f"{float(value):.9f}"[:16]


def disc(ct: Phantom, index: float, centre, radius, count: int = 400) -> np.ndarray:
    """A circle of `radius` mm in the plane of a slice, LPS+; the centre in voxels."""
    lps = LPS @ ct.affine
    turn = np.linspace(0, 2 * np.pi, count, endpoint=False)[:, None]
    middle = (lps @ [*centre, index, 1])[:3]
    return middle + radius * (np.cos(turn) * ct.axes[:, 0] + np.sin(turn) * ct.axes[:, 1])


def grid(ct: Phantom) -> Header:
    return Header(ct.shape, 1, ct.affine)


def meta_tensor(array, affine):
    return MetaTensor(torch.from_numpy(array[None]), affine=torch.from_numpy(affine))
