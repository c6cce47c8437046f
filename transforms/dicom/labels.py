"""DICOM SEG and RTSTRUCT as label maps on the grid of their CT."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.filereader import read_file_meta_info
from pydicom.uid import RTStructureSetStorage, SegmentationStorage

from transforms.dicom.frame import Frame
from transforms.dicom.headers import frames_of, holds_dicom
from transforms.dicom.label_frames import check_frame_of_reference
from transforms.dicom.rtstruct import read_rtstruct, rtstruct_names
from transforms.dicom.seg import read_seg, seg_names
from transforms.dicom.segment_names import match_names
from transforms.errors import ImageError
from transforms.utils.image_paths import bounded, check_path
from transforms.utils.sentences import few_of
from transforms.utils.walk import files_below

__all__ = ["check_dicom_label", "dicom_label_names", "find_dicom_label", "read_dicom_label"]

LabelMapSegmentationStorage = "1.2.840.10008.5.1.4.1.1.66.7"
KINDS = {
    str(SegmentationStorage): "SEG",
    LabelMapSegmentationStorage: "SEG",
    str(RTStructureSetStorage): "RTSTRUCT",
}


def find_dicom_label(path: str | Path) -> Path:
    """Return the SEG or RTSTRUCT: the file itself, or the only one in a folder (subfolders included).

    Other files in the folder, such as the slices of the CT, are ignored.

    Raises:
        ImageError: there is none, or more than one.
    """
    path = Path(path)
    check_path(path)
    if not path.exists():
        raise ImageError(f"{path}: no such file or folder.")
    if path.is_dir():
        found = [file for file in bounded(files_below(path), path) if _kind(file)]
        if not found:
            raise ImageError(
                f"{path}: no DICOM SEG or RTSTRUCT in this folder; give the file or folder of the label map."
            )
        if len(found) > 1:
            files = few_of((f"{file.relative_to(path)} ({_kind(file)})" for file in found), 10)
            raise ImageError(
                f"{path}: {len(found)} DICOM label maps in this folder ({files}); name the file to use."
            )
        return found[0]
    if not _kind(path):
        raise ImageError(
            f"{path}: neither a DICOM SEG nor an RTSTRUCT{_other_kind(path)}; label maps are read from those, NIfTI,"
            " NRRD, MHA and 2D pictures."
        )
    return path


def read_dicom_label(
    path: str | Path,
    grid: Any,
    labels: Mapping[int, str],
    *,
    image: str | Path | None = None,
    threshold: float = 0.5,
) -> np.ndarray:
    """Read a DICOM SEG or RTSTRUCT onto the grid of its CT.

    Args:
        path: the file, or a folder that holds exactly one SEG or RTSTRUCT.
        grid: anything with ``shape`` (X, Y, Z) and ``affine`` (4x4, voxel index to mm, RAS+; may be sheared).
        labels: class id to name. Segments and ROIs are matched by name, up to case and ``_``, ``-`` or space.
        image: folder of the CT, to compare the frame of reference with.
        threshold: see `transforms.dicom.seg.read_seg`.

    Returns:
        ``(X, Y, Z)`` uint8, or uint16 where a class id needs it. Where classes overlap, the higher class id
        stays.

    Raises:
        ImageError: it does not lie on the grid, belongs to another frame of reference, names no class, or is
            damaged.
    """
    path = find_dicom_label(path)
    shape = tuple(int(n) for n in grid.shape)
    if len(shape) != 3:
        raise ImageError(f"{path}: a DICOM label map needs a 3D image, this one has the size {shape}.")
    dataset = _read(path)
    kind = _kind(path)
    affine = np.asarray(grid.affine, dtype=np.float64)
    with _naming(path):
        if image is not None:
            check_frame_of_reference(
                path, dataset, _named(path, kind, dataset, labels), _images(path, Path(image))
            )
        if kind == "SEG":
            return read_seg(path, dataset, shape, affine, labels, threshold)
        return read_rtstruct(path, dataset, shape, affine, labels)


def check_dicom_label(
    path: str | Path, labels: Mapping[int, str] | None, image: str | Path | None = None
) -> None:
    """Check without pixels that this is a SEG or RTSTRUCT of the image that names a class.

    Raises:
        ImageError: as `read_dicom_label`, for what the header shows; and without `labels`, which names
            need.
    """
    path = find_dicom_label(path)
    if not labels:
        raise ImageError(
            f'{path}: segments have names; write a dataset.json whose "labels" names the classes.'
        )
    dataset = _read(path, pixels=False)
    kind = _kind(path)
    with _naming(path):
        names = (seg_names if kind == "SEG" else rtstruct_names)(path, dataset)
        match_names(path, names, labels, "segment" if kind == "SEG" else "ROI", quiet=True)
        if image is not None:
            check_frame_of_reference(
                path, dataset, _named(path, kind, dataset, labels), _images(path, Path(image)), quiet=True
            )


# --- files ----------------------------------------------------------------------------------------------------------


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Convert any error of the parser to one that names the file; pydicom parses values only when they are accessed."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:
        raise _damaged(path, error) from error


def _sop_class(path: Path) -> str | None:
    """Return MediaStorageSOPClassUID of a DICOM file, None for any other."""
    with _naming(path):
        with path.open("rb") as stream:
            if stream.read(132)[128:] != b"DICM":
                return None
        return str(read_file_meta_info(path).get("MediaStorageSOPClassUID", ""))


def _kind(path: Path) -> str:
    return KINDS.get(_sop_class(path) or "", "")


def _other_kind(path: Path) -> str:
    uid = _sop_class(path)
    if uid is None:
        return " (not even a standard DICOM file: the prefix DICM of PS3.10 is missing)"
    return f" ({pydicom.uid.UID(uid).name})"


def _read(path: Path, pixels: bool = True) -> pydicom.Dataset:
    with _naming(path):
        dataset = pydicom.dcmread(path, stop_before_pixels=not pixels)
        for tag in sorted(dataset.keys()):
            # pydicom reads a truncated file without an error, but with fewer contours.
            element = dataset.get_item(tag)
            if not isinstance(element, RawDataElement) or element.value is None:
                continue
            if element.length not in (0xFFFFFFFF, len(element.value)):
                raise ImageError(
                    f"{path}: cut off: {len(element.value)} of {element.length} bytes of {tag}; copy the file again."
                )
        return dataset


def _damaged(path: Path, error: Exception) -> ImageError:
    reason = str(error).strip() or type(error).__name__
    return ImageError(f"{path}: the DICOM file is damaged or incomplete ({reason}); copy or export it again.")


def _named(path: Path, kind: str, dataset: pydicom.Dataset, labels: Mapping[int, str]) -> set[int] | None:
    """Numbers of the ROIs that are read; None for a SEG, whose segments share one frame of reference."""
    if kind == "SEG":
        return None
    return set(match_names(path, rtstruct_names(path, dataset), labels, "ROI", quiet=True))


def _images(label: Path, image: Path) -> Iterator[Frame]:
    """The DICOM images of a folder or a file, one frame of each; nothing for an image of another format."""
    for file in bounded(files_below(image), image) if image.is_dir() else [image]:
        if file != label and file.is_file() and holds_dicom(file):
            first = frames_of(file)[0]
            if first.media_class not in KINDS:
                yield first


def dicom_label_names(path: str | Path) -> dict[int, str]:
    """Return the number and name of every segment (SEG) or ROI (RTSTRUCT).

    Raises:
        ImageError: the file is neither, or damaged.
    """
    path = find_dicom_label(path)
    dataset = _read(path, pixels=False)
    with _naming(path):
        return (seg_names if _kind(path) == "SEG" else rtstruct_names)(path, dataset)
