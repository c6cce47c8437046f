"""Headers of the images that a SEG or RTSTRUCT is written for, and the attributes that are copied from them."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom import Dataset
from pydicom.uid import UID, CTImageStorage

from transforms.dicom.label_painter import GRID_TOLERANCE
from transforms.errors import ImageError
from transforms.label_values import stored_labels
from transforms.utils.coordinates import LPS_RAS
from transforms.utils.files import replacing

if TYPE_CHECKING:
    from monai.data import MetaTensor

    from transforms.dicom.frame import Frame
    from transforms.dicom.series import Series

__all__ = [
    "REQUIRED",
    "SourceImages",
    "label_on_source",
    "numbered_structures",
    "replace_file",
    "software_version",
]


REQUIRED = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "PositionReferenceIndicator",
)
"""Attributes of type 2, which must be present but may be empty (PS3.3 C.7.1.1, C.7.2.1, C.7.4.1)."""
_COPIED = (
    *REQUIRED,
    "SpecificCharacterSet",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "StudyDescription",
    "StudyInstanceUID",
    "FrameOfReferenceUID",
)


@dataclass(frozen=True)
class SourceImages:
    """Headers of a CT series, slice by slice.

    Attributes:
        headers: for each file its UIDs and its size. The first one is the whole header except private elements;
            attributes of patient and study that the standard requires are added empty if missing.
        slices: per slice of the grid the position of its file in `headers` and its zero-based frame (None: a
            file of one frame); None for a slice without a file.
        affine: 4x4, voxel index to millimetres, RAS+.
        identity: patient, study and frame of reference of the first image, to be copied exactly, as archives
            sort by them.
    """

    headers: list[Dataset]
    slices: list[tuple[int, int | None] | None]
    affine: np.ndarray
    identity: Dataset

    @classmethod
    def of(cls, path: Path, source: Series) -> SourceImages:
        """Collect the attributes from the headers that were parsed when the series was read.

        Raises:
            ImageError: a file of the series has changed or no longer exists; the images state no frame of reference,
                study, series or instance UID to refer to; or two of them have the same instance UID.
        """
        files: dict[Path, int] = {}
        headers: list[Dataset] = []
        slices: list[tuple[int, int | None] | None] = []
        for lower, _, weight in source.plan:
            if weight != 0:
                slices.append(None)
                continue
            frame = source.frames[lower]
            if frame.path not in files:
                frame.require_unchanged()
                files[frame.path] = len(headers)
                headers.append(_reference(path, frame) if headers else _copied(path, frame))
            slices.append((files[frame.path], frame.index if frame.grouped else None))
        instances = Counter(str(header.SOPInstanceUID) for header in headers)
        twice = [uid for uid, count in instances.items() if count > 1]
        if twice:
            raise ImageError(
                f"{path}: cannot be written, because {instances[twice[0]]} files of the CT have the same SOPInstanceUID"
                f" ({twice[0]}), so nothing can refer to one of them; write NIfTI instead."
            )
        identity = Dataset()
        for keyword in _COPIED:
            if keyword in headers[0]:
                identity[keyword] = copy.deepcopy(headers[0][keyword])
        return cls(headers, slices, np.asarray(source.affine, dtype=np.float64), identity)

    @property
    def first(self) -> Dataset:
        """Header of the first file."""
        return self.headers[0]

    def position(self, index: int) -> list[float]:
        """Return the centre of the first voxel of a slice in mm, LPS+."""
        return (LPS_RAS @ self.affine @ [0, 0, index, 1])[:3].tolist()

    @property
    def cosines(self) -> list[float]:
        """Direction of growing column and row index, six numbers, LPS+."""
        axes = (LPS_RAS @ self.affine)[:3, :2]
        return (axes / np.linalg.norm(axes, axis=0)).T.ravel().tolist()

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres between columns, between rows, and between slices along their normal."""
        across, down, step = self.affine[:3, 0], self.affine[:3, 1], self.affine[:3, 2]
        normal = np.cross(across, down)
        distance = abs(float(step @ normal / np.linalg.norm(normal)))
        return float(np.linalg.norm(across)), float(np.linalg.norm(down)), distance


def _copied(path: Path, frame: Frame) -> Dataset:
    """The whole header of an image with decoded texts, since the patient's name in the CT's character set and class
    names in any other are written in one character set."""
    header = copy.deepcopy(frame.header or Dataset())
    header.pop("NumberOfFrames", None)
    try:
        header.decode()
    except Exception as error:  # on damaged data the parser can raise any exception
        raise ImageError(
            f"{path}: cannot be written, because a header of the CT ({frame.path}) cannot be copied ({error}); write NIfTI"
            " instead."
        ) from error
    header.SpecificCharacterSet = "ISO_IR 192"
    header.update(_reference(path, frame))
    for keyword in REQUIRED:
        if keyword not in header:
            setattr(header, keyword, "")
    return header


def _reference(path: Path, frame: Frame) -> Dataset:
    """What refers to an image."""
    header = Dataset()
    header.SOPClassUID = UID(frame.text("SOPClassUID") or frame.media_class or CTImageStorage)
    for keyword in ("FrameOfReferenceUID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        if not frame.has(keyword):
            raise ImageError(
                f"{path}: cannot be written, because the CT ({frame.path}) has no {keyword} to refer to; write NIfTI"
                " instead."
            )
        setattr(header, keyword, UID(frame.text(keyword)))
    header.Rows, header.Columns = frame.rows, frame.columns
    return header


def label_on_source(path: Path, label: MetaTensor, source: Series) -> np.ndarray:
    """Return a label map ``(1, X, Y, Z)`` as ``(Z, Y, X)``, the order of DICOM frames.

    Raises:
        ImageError: it does not lie on the grid of the series.
    """
    array = label.detach().cpu().numpy()
    if array.ndim != 4 or array.shape[0] != 1 or tuple(array.shape[1:]) != tuple(source.shape):
        raise ImageError(
            f"{path}: the label map has the shape {array.shape}, the CT (1, {', '.join(map(str, source.shape))});"
            " write the label map of this CT."
        )
    affine = np.asarray(label.affine, dtype=np.float64)
    size = np.array(source.shape) - 1
    corners = np.vstack([np.array(np.meshgrid(*([0, n] for n in size))).reshape(3, -1), np.ones((1, 8))])
    apart = (np.linalg.inv(source.affine) @ affine - np.eye(4)) @ corners
    if np.abs(apart).max() > GRID_TOLERANCE:
        distance = float(np.linalg.norm((affine - source.affine) @ corners, axis=0).max())
        raise ImageError(
            f"{path}: the label map lies up to {distance:.3g} mm off the CT; write the label map of this CT."
        )
    return np.ascontiguousarray(stored_labels(path, array[0].transpose(2, 1, 0)))


def numbered_structures(
    path: Path, array: np.ndarray, names: Mapping[int, str], regions: Mapping[str, Sequence[int]] | None
) -> dict[int, tuple[str, tuple[int, ...]]]:
    """Return by number the name of every segment or ROI and the class ids that make it up.

    The number of a class is its id; regions are numbered from 1 in their order.

    Raises:
        ImageError: as `class_names`.
    """
    named = class_names(path, array, names)
    if not regions:
        return {number: (name, (number,)) for number, name in named.items()}
    titles = class_names(path, array[:0], dict(enumerate(regions, start=1)))
    return {
        number: (name, tuple(values))
        for (number, name), values in zip(titles.items(), regions.values(), strict=True)
    }


def class_names(path: Path, array: np.ndarray, names: Any) -> dict[int, str]:
    """Return class id to name without the background, checked against the values of a label map.

    Raises:
        ImageError: a value has no name, or a name does not fit into DICOM's 64 characters.
    """
    named = {int(index): str(name).strip() for index, name in sorted(names.items()) if int(index) > 0}
    unknown = sorted({int(value) for value in np.flatnonzero(np.bincount(array.ravel()))} - {0, *named})
    if unknown:
        raise ImageError(f"{path}: the label map holds the values {unknown[:10]}, which have no name.")
    wrong = [name for name in named.values() if not 0 < len(name) <= 64 or "\\" in name]
    if wrong or not named:
        raise ImageError(
            f"{path}: {wrong or 'no name'} cannot be the name of a segment; a name has 1 to 64 characters and no"
            " backslash (PS3.5 6.2, LO)."
        )
    return named


def software_version() -> str:
    """Return the version of this package, "0" where it is not installed."""
    try:
        return version("segbundles")
    except PackageNotFoundError:
        return "0"


def replace_file(path: Path, dataset: Dataset, syntax: UID) -> Path:
    """Write a DICOM file under a temporary name and rename it once it is complete."""
    dataset.file_meta.TransferSyntaxUID = syntax
    with replacing(path, synced=False) as part:
        dataset.save_as(part, enforce_file_format=True, implicit_vr=syntax.is_implicit_VR, little_endian=True)
    return path
