"""The images that a SEG or RTSTRUCT is written for: their headers, and what is copied from them."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
from pydicom import Dataset
from pydicom.uid import UID, CTImageStorage

from transforms.dicom.files import open_file
from transforms.dicom.label_painter import GRID_TOLERANCE
from transforms.errors import ImageError
from transforms.label_values import stored_labels
from transforms.utils.files import replacing

if TYPE_CHECKING:
    from monai.data import MetaTensor

__all__ = ["SourceImages", "label_on_source", "replace_file", "software_version"]

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

_REQUIRED = (
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
"""Of type 2: present, if only empty (PS3.3 C.7.1.1, C.7.2.1, C.7.4.1)."""
_COPIED = (
    *_REQUIRED,
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

    Attributes
    ----------
    headers : list of pydicom.Dataset
        One per file, without pixels, with what the standard requires of a patient and a study filled in (empty).
    slices : list
        Per slice of the grid the position of its file in `headers` and its zero-based frame (None: a file of one
        frame); None for a slice without a file.
    affine : numpy.ndarray
        4x4, voxel index to millimetres, RAS+.
    identity : pydicom.Dataset
        Patient, study and frame of reference as the first image states them, to be copied letter by letter: archives
        sort by them.
    """

    headers: list[Dataset]
    slices: list[tuple[int, int | None] | None]
    affine: np.ndarray
    identity: Dataset

    @classmethod
    def read(cls, path: Path, source: Any) -> SourceImages:
        """Read the headers of a ``Series`` (:func:`transforms.dicom.series.scan_series`).

        Raises
        ------
        ImageError
            If the images state no frame of reference, study, series or instance, without which nothing can refer to
            them, or two of them the same instance.
        """
        places = getattr(source, "sources", None) or [(file, 0) for file in source.files]
        files: dict[Path, int] = {}
        headers: list[Dataset] = []
        slices: list[tuple[int, int | None] | None] = []
        for place in places:
            if place is None:
                slices.append(None)
                continue
            file, frame = Path(place[0]), int(place[1])
            if file not in files:
                files[file] = len(headers)
                headers.append(_header(path, file))
            header = headers[files[file]]
            slices.append((files[file], frame if "PerFrameFunctionalGroupsSequence" in header else None))
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
        return (LPS @ self.affine @ [0, 0, index, 1])[:3].tolist()

    @property
    def cosines(self) -> list[float]:
        """Direction of growing column and row index, six numbers, LPS+."""
        axes = (LPS @ self.affine)[:3, :2]
        return (axes / np.linalg.norm(axes, axis=0)).T.ravel().tolist()

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres between columns, between rows, and between slices along their normal."""
        across, down, step = self.affine[:3, 0], self.affine[:3, 1], self.affine[:3, 2]
        normal = np.cross(across, down)
        distance = abs(float(step @ normal / np.linalg.norm(normal)))
        return float(np.linalg.norm(across)), float(np.linalg.norm(down)), distance


def _header(path: Path, file: Path) -> Dataset:
    with open_file(file) as stream:
        header = pydicom.dcmread(stream, stop_before_pixels=True, force=True)
    if not header.get("SOPClassUID"):
        header.SOPClassUID = header.file_meta.get("MediaStorageSOPClassUID") or CTImageStorage
    if "PerFrameFunctionalGroupsSequence" not in header:  # one frame, whatever the number says
        header.pop("NumberOfFrames", None)
    try:
        header.decode()  # names of patients in the CT's character set, and of classes in any, are written in one
    except Exception as error:  # a parser of damaged bytes raises whatever it likes
        raise ImageError(
            f"{path}: cannot be written, because a header of the CT ({file}) cannot be copied ({error}); write NIfTI"
            " instead."
        ) from error
    header.SpecificCharacterSet = "ISO_IR 192"
    for keyword in ("FrameOfReferenceUID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        if not header.get(keyword):
            raise ImageError(
                f"{path}: cannot be written, because the CT ({file}) has no {keyword} to refer to; write NIfTI instead."
            )
    for keyword in _REQUIRED:
        if keyword not in header:
            setattr(header, keyword, "")
    return header


def label_on_source(path: Path, label: MetaTensor, source: Any) -> np.ndarray:
    """Return a label map ``(1, X, Y, Z)`` as ``(Z, Y, X)``, the order of DICOM frames.

    Raises
    ------
    ImageError
        If it does not lie on the grid of the series.
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


def class_names(path: Path, array: np.ndarray, names: Any) -> dict[int, str]:
    """Return class id to name without the background, checked against the values of a label map.

    Raises
    ------
    ImageError
        If a value has no name, or a name does not fit into DICOM's 64 characters.
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
    """Write a DICOM file by way of a temporary name beside it, so that nobody sees half of it."""
    dataset.file_meta.TransferSyntaxUID = syntax
    with replacing(path, synced=False) as part:
        dataset.save_as(part, enforce_file_format=True, implicit_vr=syntax.is_implicit_VR, little_endian=True)
    return path
