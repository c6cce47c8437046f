"""The header of a MetaImage file (.mha, .mhd), https://itk.org/Wiki/MetaIO/Documentation, as MetaIO reads it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import BinaryIO

import numpy as np

from transforms.errors import ImageError
from transforms.io.raw_volume import (
    RawVolume,
    axis_count,
    data_file,
    header_lines,
    listed_files,
    numbers,
    pattern_files,
    require_files,
    whole_numbers,
)

__all__ = ["metaimage_header"]

_TYPES = {
    "CHAR": "i1",
    "UCHAR": "u1",
    "SHORT": "i2",
    "USHORT": "u2",
    "INT": "i4",
    "UINT": "u4",
    "LONG": "i4",  # MetaIO's long has four bytes everywhere
    "ULONG": "u4",
    "LONG_LONG": "i8",
    "ULONG_LONG": "u8",
    "FLOAT": "f4",
    "DOUBLE": "f8",
}
_SYNONYMS = {
    "TransformMatrix": ("TransformMatrix", "Rotation", "Orientation"),
    "Offset": ("Offset", "Position", "Origin"),
    "ByteOrder": ("BinaryDataByteOrderMSB", "ElementByteOrderMSB"),
}
_KNOWN = {
    *("ObjectType", "NDims", "DimSize", "ElementSpacing", "ElementSize", "ElementType", "ElementDataFile"),
    *("ElementNumberOfChannels", "BinaryData", "CompressedData", "CompressedDataSize", "HeaderSize"),
    *(name for names in _SYNONYMS.values() for name in names),
}
_HUGE = 2**62


def metaimage_header(path: Path) -> RawVolume:
    """Read and check a header.

    Args:
        path: a .mha or .mhd file.

    Raises:
        ImageError: a field is missing, not a number, out of range, or names a file in another folder.
    """
    with path.open("rb") as stream:
        fields = _fields(path, stream)
        return _volume(path, fields, stream)


def _fields(path: Path, stream: BinaryIO) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in header_lines(path, stream):
        found = re.match(r"(\w+)\s*[=:]\s*(.*)$", line)
        if found is None:
            continue
        key, value = found.groups()
        if key in _KNOWN and key in fields:
            raise ImageError(f"{path}: {key} occurs twice in the header; the file is damaged.")
        fields[key] = value
        if key == "ElementDataFile":  # the last one
            return fields
    raise ImageError(f"{path}: cut off or not a MetaImage: the header names no ElementDataFile.")


def _volume(path: Path, fields: dict[str, str], stream: BinaryIO) -> RawVolume:
    if fields.get("ObjectType", "Image") != "Image":
        raise ImageError(f"{path}: holds the object '{fields['ObjectType'][:40]}' and no image.")
    axes = axis_count(path, "NDims", fields.get("NDims", ""))
    sizes = whole_numbers(path, "DimSize", fields.get("DimSize", ""), axes, 1, _HUGE)
    stated_channels = fields.get("ElementNumberOfChannels", "1")
    (channels,) = whole_numbers(path, "ElementNumberOfChannels", stated_channels, 1, 1, 1 << 16)
    compressed = _is_true(path, fields, "CompressedData", False)
    binary = _is_true(path, fields, "BinaryData", True)
    length = fields.get("CompressedDataSize") if compressed else None
    files, offset = _files(path, fields, sizes, stream, compressed)
    return RawVolume(
        path=path,
        sizes=(channels, *sizes) if channels > 1 else sizes,
        components=0 if channels > 1 else None,
        affine=_affine(path, fields, axes),
        dtype=_dtype(path, fields),
        encoding="deflate" if compressed else "raw" if binary else "text",
        files=files,
        offset=offset,
        length=None
        if length is None
        else whole_numbers(path, "CompressedDataSize", length, 1, 0, _HUGE)[0] or None,
    )


def _stated(path: Path, fields: dict[str, str], key: str) -> str | None:
    """The value of a field that has several names."""
    found = {name: fields[name] for name in _SYNONYMS[key] if name in fields}
    if len({" ".join(value.split()) for value in found.values()}) > 1:
        raise ImageError(f"{path}: {' and '.join(found)} contradict each other; the file is damaged.")
    return next(iter(found.values()), None)


def _is_true(path: Path, fields: dict[str, str], key: str, default: bool) -> bool:
    text = (_stated(path, fields, key) if key in _SYNONYMS else fields.get(key)) or str(default)
    text = text.lower()
    if text not in ("true", "false", "1", "0"):
        raise ImageError(f"{path}: {key} is '{text[:40]}', not True or False; the header is damaged.")
    return text in ("true", "1")


def _dtype(path: Path, fields: dict[str, str]) -> np.dtype:
    name = fields.get("ElementType", "")
    code = _TYPES.get(name.removeprefix("MET_").removesuffix("_ARRAY"))
    if code is None or not name.startswith("MET_"):
        raise ImageError(f"{path}: ElementType is '{name[:40]}', which is not a voxel type.")
    return np.dtype(code).newbyteorder(">" if _is_true(path, fields, "ByteOrder", False) else "<")


def _affine(path: Path, fields: dict[str, str], axes: int) -> np.ndarray:
    matrix = _stated(path, fields, "TransformMatrix")
    if matrix is None and axes > 2:
        raise ImageError(
            f"{path}: the file states no orientation (no TransformMatrix), so left and right are unknown;"
            " convert it again from its source."
        )
    directions = np.eye(axes)
    if matrix is not None:  # the direction of each axis in turn
        directions = numbers(path, "TransformMatrix", matrix, axes * axes).reshape(axes, axes).T
    spacing = fields.get("ElementSpacing", fields.get("ElementSize", "1 " * axes))
    affine = np.eye(axes + 1)
    affine[:axes, :axes] = directions * numbers(path, "ElementSpacing", spacing, axes)
    offset = _stated(path, fields, "Offset")
    if offset is not None:
        affine[:axes, axes] = numbers(path, "Offset", offset, axes)
    return affine


def _files(
    path: Path, fields: dict[str, str], sizes: tuple[int, ...], stream: BinaryIO, compressed: bool
) -> tuple[tuple[Path, ...], int]:
    """The files of voxels, and the offset of the first voxel in each."""
    name = fields["ElementDataFile"]
    (skip,) = whole_numbers(path, "HeaderSize", fields.get("HeaderSize", "0"), 1, -1, _HUGE)
    if skip < 0 and compressed:
        raise ImageError(f"{path}: HeaderSize is -1, which has no meaning for compressed voxels.")
    if name.upper() == "LOCAL":
        start = stream.tell()
        if 0 < skip < start:
            raise ImageError(f"{path}: HeaderSize is {skip}, and the header alone has {start} bytes.")
        return (path,), skip or start
    listed = re.fullmatch(r"LIST(?:\s+(\d)D?)?", name)
    if listed:
        axes = int(listed[1] or 0)
        if not 1 <= axes <= len(sizes):
            axes = len(sizes) - 1
        files = listed_files(path, stream)
    elif "%" in name:
        files, axes = pattern_files(path, name.split()), len(sizes) - 1
    else:
        files, axes = (data_file(path, name),), len(sizes)
    require_files(path, files, sizes, axes)
    return files, skip
