"""NRRD and MetaImage files to voxels and a place in space, or a reason why not (SimpleITK)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from transforms.errors import ImageError
from transforms.header import Header, check_affine

__all__ = ["itk_header", "read_itk", "text_header"]

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_EXPORT_LAYERS = (
    "the segments overlap and are stored in layers; export them from 3D Slicer as one labelmap"
    " (Segmentations > Export/import > Labelmap) in which no two segments overlap"
)


def itk_header(path: Path, channels: int | None) -> Header:
    import SimpleITK as sitk

    _check_text_header(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise ImageError(f"{path}: the header cannot be read ({_itk_reason(error)}).") from error
    return _itk_layout(path, reader, int(reader.GetNumberOfComponents()), channels)


def read_itk(path: Path, channels: int | None) -> tuple[np.ndarray, np.ndarray]:
    import SimpleITK as sitk

    _check_text_header(path)
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise ImageError(f"{path}: the file is damaged or cut off ({_itk_reason(error)}).") from error
    if "complex" in image.GetPixelIDTypeAsString():
        raise ImageError(f"{path}: voxels are complex numbers; convert the image to one number per voxel.")
    layout = _itk_layout(path, image, int(image.GetNumberOfComponentsPerPixel()), channels)
    array = sitk.GetArrayFromImage(image)  # (Z, Y, X[, C]), a fourth axis comes first
    if image.GetNumberOfComponentsPerPixel() > 1:
        array = np.moveaxis(array, -1, 0)
    elif image.GetDimension() < 4:
        array = array[None]
    return array.transpose(0, *range(array.ndim - 1, 0, -1)), layout.affine


def text_header(path: Path) -> dict[str, str]:
    """Return the keys of a NRRD or MetaImage header in lower case; both are lines of text before the data."""
    fields: dict[str, str] = {}
    with path.open("rb") as stream:
        for number, raw in enumerate(stream):
            line = raw[:4096].decode("latin-1").strip()
            nrrd = path.suffix.lower() in (".nrrd", ".nhdr")
            if nrrd and number == 0 and not line.startswith("NRRD"):
                raise ImageError(f"{path}: not a NRRD file.")
            if not line and nrrd:
                break
            key, found, value = line.partition(":" if nrrd else "=")
            if found and not line.startswith("#"):
                fields[key.strip().lower()] = value.lstrip("=").strip()
            if not nrrd and key.strip().lower() == "elementdatafile":
                break
            if number > 100_000:
                raise ImageError(f"{path}: the text header has no end; the file is damaged.")
    return fields


def _check_text_header(path: Path) -> None:
    fields = text_header(path)
    if path.suffix.lower() in (".nrrd", ".nhdr"):
        kinds = fields.get("kinds", "").split()
        sizes = fields.get("sizes", "").split()
        if "segment0_id" in fields and len(sizes) > 3 and sizes[0] != "1":
            raise ImageError(f"{path}: {_EXPORT_LAYERS}.")
        if "complex" in kinds:
            raise ImageError(
                f"{path}: voxels are complex numbers; convert the image to one number per voxel."
            )
        space = fields.get("space", "").lower().replace("-", " ")
        known = (
            "right anterior superior",
            "left anterior superior",
            "left posterior superior",
            "ras",
            "las",
            "lps",
        )
        if _axis_count(path, fields, "dimension") > 2 and (
            space not in known or "space directions" not in fields
        ):
            raise ImageError(
                f"{path}: the file states no anatomical orientation (space: {space or 'absent'}), so left and right"
                " are unknown; convert it again from its source."
            )
    else:
        stated = {"transformmatrix", "rotation", "orientation"} & fields.keys()
        if _axis_count(path, fields, "ndims") > 2 and not stated:
            raise ImageError(
                f"{path}: the file states no orientation (no TransformMatrix), so left and right are unknown;"
                " convert it again from its source."
            )


def _axis_count(path: Path, fields: dict[str, str], key: str) -> int:
    text = fields.get(key, "0")
    try:
        return int(text)
    except ValueError:
        raise ImageError(f"{path}: the header states '{text}' axes ({key}); the file is damaged.") from None


def _itk_layout(path: Path, image: Any, count: int, channels: int | None) -> Header:
    size = tuple(int(n) for n in image.GetSize())
    dimension = len(size)
    direction = np.asarray(image.GetDirection(), dtype=np.float64).reshape(dimension, dimension)
    matrix = direction * np.asarray(image.GetSpacing(), dtype=np.float64)
    origin = np.asarray(image.GetOrigin(), dtype=np.float64)
    if dimension == 4:
        if count != 1 or (size[3] != 1 and size[3] != channels):
            raise ImageError(
                f"{path}: the image has 4 axes {size}; if the fourth axis is time, export one time point; if it"
                ' holds channels, name as many of them under "modality" in dataset.json.'
            )
        count = size[3]
    spatial = min(dimension, 3)
    affine = np.eye(4)
    affine[:spatial, :spatial] = matrix[:spatial, :spatial]
    affine[:spatial, 3] = origin[:spatial]
    return Header(size[:spatial], count, check_affine(path, _LPS_TO_RAS @ affine))


def _itk_reason(error: RuntimeError) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    lines = [line for line in lines if line and not line.startswith("Reason:")]  # errno of some earlier call
    return lines[-1] if lines else "no reason given"
