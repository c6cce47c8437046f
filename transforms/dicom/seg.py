"""DICOM SEG to a label map on the grid of its CT.

PS3.3 A.51 (Segmentation IOD), A.86 (Label Map Segmentation IOD) and C.8.20. Every frame is one plane of one segment (or
of all segments, in a label map) with its own position and orientation; frames are in any order, and empty ones may be
left out. So each frame is placed in world space individually.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom import Dataset
from pydicom.pixels import pixel_array
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, generate_uid

from transforms.dicom.label_painter import LabelPainter, place_frame
from transforms.dicom.seg_sources import aligned_headers, refer_to_files
from transforms.dicom.segment_names import match_names, numbered_names
from transforms.dicom.source_images import (
    SourceImages,
    label_on_source,
    numbered_structures,
    replace_file,
    software_version,
)
from transforms.errors import ImageError, SettingError
from transforms.label_values import mask_of
from transforms.utils.colours import colour_of
from transforms.utils.coordinates import LPS_RAS

if TYPE_CHECKING:
    from monai.data import MetaTensor

    from transforms.dicom.series import Series

__all__ = ["read_seg", "seg_names", "write_seg"]

_EXPORT = "Export the segmentation again on the grid of its CT."


def seg_names(path: Path, dataset: Dataset) -> dict[int, str]:
    """Return number and label of every segment.

    Raises:
        ImageError: the file describes no segments.
    """
    segments = dataset.get("SegmentSequence") or []
    return numbered_names(path, segments, "SegmentNumber", "SegmentLabel", "segments", _EXPORT)


def read_seg(
    path: Path,
    dataset: Dataset,
    shape: tuple[int, ...],
    affine: np.ndarray,
    labels: Mapping[int, str],
    threshold: float = 0.5,
) -> np.ndarray:
    """Convert a DICOM SEG to a label map on a grid.

    Args:
        path: for messages.
        dataset: the whole file.
        shape, affine: ``(X, Y, Z)`` and 4x4 from voxel index to millimetres, RAS+; may be sheared.
        labels: class id to name, see `transforms.dicom.segment_names.match_names`.
        threshold: a voxel of a FRACTIONAL segmentation belongs to its segment from this part of
            MaximumFractionalValue on.

    Returns:
        ``(X, Y, Z)`` uint8, or uint16 where a class id needs it.

    Raises:
        ImageError: frames do not lie on voxels of the grid (with the distance in mm), segments lie outside of
            it, or the file cannot be decoded.
    """
    classes = match_names(path, seg_names(path, dataset), labels, "segment")
    kind = str(dataset.get("SegmentationType", ""))
    if kind not in ("BINARY", "FRACTIONAL", "LABELMAP"):
        raise ImageError(f"{path}: SegmentationType is {kind or 'missing'}. {_EXPORT}")
    level = threshold * float(dataset.get("MaximumFractionalValue", 0)) if kind == "FRACTIONAL" else 1
    if level <= 0:
        raise ImageError(f"{path}: a fractional segmentation without MaximumFractionalValue. {_EXPORT}")
    painter = LabelPainter(shape, max(labels))
    to_voxel = np.linalg.inv(affine)
    to_class, known = _label_map_classes(dataset, classes, painter.array.dtype)
    seen: dict[str, bytes] = {}
    for number, groups in enumerate(_frame_groups(path, dataset)):
        segment = 0 if kind == "LABELMAP" else _segment(path, groups, number)
        if kind != "LABELMAP" and segment not in classes:
            continue
        frame = _decode(path, dataset, number)
        if kind == "LABELMAP":
            if not known[np.flatnonzero(np.bincount(frame.ravel()))].all():
                raise ImageError(
                    f"{path}: frame {number + 1} holds values that no segment of the file has. {_EXPORT}"
                )
            frame = to_class[frame]
        else:
            frame = (frame >= level).view(np.uint8).astype(painter.array.dtype, copy=False)
            frame *= painter.array.dtype.type(classes[segment])
        matrix = to_voxel @ _frame_matrix(path, groups, number)
        rows, columns = (np.flatnonzero(frame.any(axis=axis)) for axis in (1, 0))
        shown = frame[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] if len(rows) else frame[:0, :0]
        digest = hashlib.blake2b(rows.tobytes() + columns.tobytes() + shown.tobytes()).digest()
        if seen.setdefault(f"{segment} {np.rint(matrix).astype(int).tolist()}", digest) != digest:
            raise ImageError(
                f"{path}: frame {number + 1} shows segment {segment} at a place where another frame shows it"
                " differently (several points in time?). Export one label map per CT."
            )
        if len(rows):
            matrix[:3, 3] += matrix[:3, :2] @ [columns[0], rows[0]]
            painter.paint(*place_frame(path, number, shown, matrix, shape, affine))
    painter.report(path, labels)
    return painter.array


def _label_map_classes(
    dataset: Dataset, classes: Mapping[int, int], dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray]:
    """Return for every stored value of a LABELMAP its class id, and whether a segment has this value."""
    table, known = np.zeros(65536, dtype), np.zeros(65536, bool)
    for item in dataset.SegmentSequence:
        table[int(item.SegmentNumber)] = classes.get(int(item.SegmentNumber), 0)
        known[int(item.SegmentNumber)] = True
    known[[0, int(dataset.get("PixelPaddingValue") or 0)]] = True
    return table, known


# --- one frame ------------------------------------------------------------------------------------------------------


def _frame_groups(path: Path, dataset: Dataset) -> list[Dataset]:
    """Return the functional groups of every frame (PS3.3 C.7.6.16), including the shared ones."""
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
        matrix[:3, 0] = LPS_RAS[:3, :3] @ cosines[:3] * spacing[1]
        matrix[:3, 1] = LPS_RAS[:3, :3] @ cosines[3:] * spacing[0]
        matrix[:3, 3] = LPS_RAS[:3, :3] @ position
    except (ValueError, IndexError) as error:
        raise ImageError(
            f"{path}: the place of frame {number + 1} is not a set of numbers ({error}). {_EXPORT}"
        ) from error
    if not np.isfinite(matrix).all():
        raise ImageError(f"{path}: the place of frame {number + 1} is not finite. {_EXPORT}")
    return matrix


def _bits(dataset: Dataset, number: int) -> np.ndarray:
    """Return one frame of one bit per pixel (PS3.5 8.1.1); pydicom 3.0 fails if frames end within a byte."""
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    start = number * rows * columns
    stop = start + rows * columns
    data = np.frombuffer(dataset.PixelData, np.uint8)[start // 8 : -(-stop // 8)]
    return np.unpackbits(data, bitorder="little")[start % 8 :][: stop - start].reshape(rows, columns)


def _decode(path: Path, dataset: Dataset, number: int) -> np.ndarray:
    try:
        packed = int(dataset.BitsAllocated) == 1 and not dataset.file_meta.TransferSyntaxUID.is_encapsulated
        frame = _bits(dataset, number) if packed else pixel_array(dataset, index=number)
    except Exception as error:  # decoders can raise any exception; the message has to name the file
        raise ImageError(
            f"{path}: frame {number + 1} cannot be decoded ({str(error).strip() or type(error).__name__}); the file is"
            " damaged, or compressed in an unsupported way. Copy or export it again."
        ) from error
    if frame.shape != (int(dataset.Rows), int(dataset.Columns)):
        raise ImageError(
            f"{path}: frame {number + 1} has the size {frame.shape}; it must have one value per pixel. {_EXPORT}"
        )
    return frame


# --- writing --------------------------------------------------------------------------------------------------------


def write_seg(
    path: str | Path,
    label: MetaTensor,
    source: Series,
    names: Mapping[int, str],
    *,
    codes: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
    algorithm_name: str = "segbundles",
    algorithm_version: str | None = None,
    series_description: str = "",
    series_number: int = 300,
    kind: str = "BINARY",
    probabilities: np.ndarray | None = None,
    compress: bool = True,
    regions: Mapping[str, Sequence[int]] | None = None,
) -> Path:
    """Write a label map as DICOM SEG on the grid of its CT.

    Args:
        path: the file; missing folders are made, a file of that name is replaced when the new one is whole.
        label: ``(1, X, Y, Z)`` class ids on the grid of the series.
        source: what `transforms.dicom.series.scan_series` returned; its images are referred to and
            patient and study copied.
        names: class id to name. Segment numbers are the class ids; DICOM requires them to run from 1 without gaps.
        codes: codes of the user, see `transforms.dicom.segment_codes.segment_code`.
        algorithm_name, algorithm_version: for the algorithm identification (PS3.3 10.16); default version:
            that of this package.
        series_description: SeriesDescription (0008,103E); default: the algorithm's name.
        series_number: SeriesNumber (0020,0011).
        kind: "BINARY" (supported by every reader), or "LABELMAP" (Supplement 243, supported by few readers).
        probabilities: ``(C, X, Y, Z)`` from 0 to 1, background first: written as FRACTIONAL of type
            PROBABILITY, in steps of 1/255, instead of the label map.
        regions: name to the classes that make it up: a segment for each, instead of one for each class. They may
            overlap, as segments of a BINARY segmentation may (PS3.3 C.8.20.2).
        compress: deflated (1.2.840.10008.1.2.1.99): lossless, a twentieth of the size. Otherwise explicit
            little endian.

    Returns:
        The file written. Frames without any voxel are left out.

    Raises:
        ImageError: the label map is not on the grid of the series, or the series or the names cannot be
            referred to.
        SettingError: regions in a label map or with probabilities, which hold one class at a voxel.
    """
    import highdicom  # imported here because it takes half a second and only writing needs it
    from pydicom.sr.codedict import codes as terms

    path = Path(path)
    frames = label_on_source(path, label, source)
    if regions and (kind != "BINARY" or probabilities is not None):
        raise SettingError(
            "regions overlap, so they are written as a BINARY segmentation of the label map alone."
        )
    named = numbered_structures(path, frames, names, regions)
    if list(named) != list(range(1, len(named) + 1)):
        raise ImageError(
            f"{path}: the class ids {list(named)} do not run from 1 without gaps, as segment numbers must (PS3.3"
            " C.8.20.2); renumber the classes."
        )
    if regions:
        frames = np.stack([mask_of(frames, values) for _, values in named.values()], -1).view(np.uint8)
    if probabilities is not None:
        kind = "FRACTIONAL"
        frames = _fractions(path, probabilities, frames.shape, len(named))
    images = SourceImages.of(path, source)
    version = algorithm_version or software_version()
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=algorithm_name[:64], family=terms.DCM.ArtificialIntelligence, version=version
    )
    x, y, z = images.spacing
    sources, stands_for = aligned_headers(images)
    dataset = highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=frames,
        segmentation_type=kind,
        segment_descriptions=[
            _description(index, name, codes, algorithm) for index, (name, _) in named.items()
        ],
        series_instance_uid=generate_uid(),
        series_number=series_number,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="segbundles",
        manufacturer_model_name=algorithm_name[:64],
        software_versions=software_version(),
        device_serial_number="0",
        max_fractional_value=255,
        content_label="SEGMENTATION",
        content_creator_name=f"{algorithm_name[:62]}^",  # "^" ends a name of one part (PS3.5 6.2.1)
        content_description=(series_description or algorithm_name)[:64],
        series_description=(series_description or algorithm_name)[:64],
        plane_positions=[
            highdicom.PlanePositionSequence("PATIENT", images.position(index)) for index in range(len(frames))
        ],
        plane_orientation=highdicom.PlaneOrientationSequence("PATIENT", images.cosines),
        pixel_measures=highdicom.PixelMeasuresSequence((y, x), z, z),
        omit_empty_frames=True,
    )
    refer_to_files(dataset, stands_for)
    dataset.update(images.identity)
    syntax = DeflatedExplicitVRLittleEndian if compress else ExplicitVRLittleEndian
    return replace_file(path, dataset, syntax)


def _description(
    index: int, name: str, own: Mapping[str, Mapping[str, Sequence[str]]] | None, algorithm: Any
) -> Any:
    import highdicom

    from transforms.dicom.segment_codes import segment_code

    code = segment_code(name, own)
    item = highdicom.seg.SegmentDescription(
        segment_number=index,
        segment_label=name,
        segmented_property_category=code.category,
        segmented_property_type=code.type,
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
        display_color=highdicom.color.CIELabColor.from_rgb(*colour_of(index)),
    )
    if code.modifier is not None:
        item.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [
            highdicom.sr.CodedConcept.from_code(code.modifier)
        ]
    return item


def _fractions(path: Path, probabilities: np.ndarray, shape: tuple[int, ...], classes: int) -> np.ndarray:
    array = np.asarray(probabilities)
    if array.shape != (classes + 1, *shape[::-1]):
        raise ImageError(
            f"{path}: probabilities have the shape {array.shape}, not {(classes + 1, *shape[::-1])} (background and"
            " classes, X, Y, Z)."
        )
    return np.ascontiguousarray(array[1:].transpose(3, 2, 1, 0).astype(np.float32)).clip(0, 1)
