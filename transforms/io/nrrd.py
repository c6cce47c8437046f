"""The header of a NRRD file (.nrrd, .nhdr), https://teem.sourceforge.net/nrrd/format.html."""

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

__all__ = ["nrrd_header"]

_NAMES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": (
        *("longlong", "long long", "long long int", "signed long long", "signed long long int"),
        *("int64", "int64_t"),
    ),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_TYPES = {name: code for code, names in _NAMES.items() for name in names}
_ENCODINGS = {
    "raw": "raw",
    **dict.fromkeys(("txt", "text", "ascii"), "text"),
    "hex": "hex",
    **dict.fromkeys(("gz", "gzip"), "deflate"),
    **dict.fromkeys(("bz2", "bzip2"), "bzip2"),
}
# Signs of the axes that convert each space to LPS+.
_SPACES = {
    "left posterior superior": (1.0, 1.0, 1.0),
    "left anterior superior": (1.0, -1.0, 1.0),
    "right anterior superior": (-1.0, -1.0, 1.0),
}
_SPACES |= {"".join(word[0] for word in name.split()): signs for name, signs in _SPACES.items()}
_FIELDS = {
    *(
        "content",
        "number",
        "type",
        "block size",
        "dimension",
        "space",
        "space dimension",
        "sizes",
        "spacings",
    ),
    *(
        "thicknesses",
        "axis mins",
        "axis maxs",
        "space directions",
        "centers",
        "kinds",
        "labels",
        "units",
        "min",
    ),
    *("max", "old min", "old max", "endian", "encoding", "line skip", "byte skip", "sample units"),
    *("space units", "space origin", "measurement frame", "data file"),
}
# The standard allows these names without the blank.
_ALIKE = {
    name.replace(" ", ""): name for name in _FIELDS if not name.startswith(("space", "measurement"))
} | {"centerings": "centers"}
_POSITIONS = ("domain", "space", "time", "???", "none")
_EXPORT_LAYERS = (
    "the segments overlap and are stored in layers; export them from 3D Slicer as one labelmap"
    " (Segmentations > Export/import > Labelmap) in which no two segments overlap"
)
_HUGE = 2**62


def nrrd_header(path: Path) -> RawVolume:
    """Read and check a header.

    Args:
        path: a .nrrd or .nhdr file.

    Raises:
        ImageError: a field is missing, not a number, out of range, or names a file in another folder; the
            position in the body is not certain; or the file holds layers of overlapping segments.
    """
    with path.open("rb") as stream:
        fields, pairs = _fields(path, stream)
        return _volume(path, fields, pairs, stream)


def _fields(path: Path, stream: BinaryIO) -> tuple[dict[str, str], set[str]]:
    """The fields of the standard, and the keys of other pairs; leaves the stream at the first voxel."""
    fields: dict[str, str] = {}
    pairs: set[str] = set()
    for number, line in enumerate(header_lines(path, stream)):
        if number == 0:
            if not line.startswith("NRRD"):
                raise ImageError(f"{path}: not a NRRD file.")
            continue
        if not line:
            return fields, pairs
        if line.startswith("#"):
            continue
        key, found, value = line.partition(":")
        if value.startswith("="):
            pairs.add(key.lower())
            continue
        key = _ALIKE.get(key.strip().lower(), key.strip().lower())
        if not found or key not in _FIELDS or key in fields:
            reason = f"'{key}' occurs twice in" if key in fields else f"'{line[:40]}' is not a field of"
            raise ImageError(f"{path}: {reason} a NRRD header; the file is damaged.")
        fields[key] = value.strip()
        if key == "data file" and value.split()[:1] == ["LIST"]:  # its lines are the rest of the file
            return fields, pairs
    if "data file" in fields:
        return fields, pairs
    raise ImageError(f"{path}: cut off: the header has no end.")


def _volume(path: Path, fields: dict[str, str], pairs: set[str], stream: BinaryIO) -> RawVolume:
    axes = axis_count(path, "dimension", fields.get("dimension", ""))
    sizes = whole_numbers(path, "sizes", fields.get("sizes", ""), axes, 1, _HUGE)
    if "segment0_id" in pairs and axes > 3 and sizes[0] != 1:
        raise ImageError(f"{path}: {_EXPORT_LAYERS}.")
    encoding = _ENCODINGS.get(fields.get("encoding", "").lower())
    if encoding is None:
        raise ImageError(f"{path}: the encoding '{fields.get('encoding', '')[:40]}' is unknown.")
    lines, skip = (
        whole_numbers(path, key, fields.get(key, "0"), 1, low, _HUGE)[0]
        for key, low in (("line skip", 0), ("byte skip", -1 if encoding == "raw" else 0))
    )
    components, directions = _components(path, fields, axes)
    files, offset = _files(path, fields, sizes, stream)
    return RawVolume(
        path=path,
        sizes=sizes,
        components=components,
        affine=_affine(path, fields, directions),
        dtype=_dtype(path, fields, encoding),
        encoding=encoding,
        files=files,
        offset=offset,
        skip_lines=lines,
        skip_bytes=skip,
    )


def _dtype(path: Path, fields: dict[str, str], encoding: str) -> np.dtype:
    code = _TYPES.get(fields.get("type", "").lower())
    if code is None:
        raise ImageError(f"{path}: the type '{fields.get('type', '')[:40]}' is not a voxel type.")
    dtype = np.dtype(code)
    if dtype.itemsize == 1 or encoding == "text":
        return dtype
    endian = fields.get("endian", "").lower()
    if endian not in ("little", "big"):
        raise ImageError(f"{path}: endian is '{endian[:40]}', not little or big; the header is damaged.")
    return dtype.newbyteorder("<" if endian == "little" else ">")


def _components(path: Path, fields: dict[str, str], axes: int) -> tuple[int | None, list[str] | None]:
    """The axis of components, and the directions of the other axes; None if no space is stated."""
    kinds = fields.get("kinds", "").split() or ["???"] * axes
    if len(kinds) != axes:
        raise ImageError(f"{path}: kinds are '{fields['kinds'][:80]}', not {axes}; the header is damaged.")
    if "complex" in (kind.lower() for kind in kinds):
        raise ImageError(f"{path}: voxels are complex numbers; convert the image to one number per voxel.")
    of_values = [axis for axis, kind in enumerate(kinds) if kind.lower() not in _POSITIONS]
    if len(of_values) > 1:
        raise ImageError(f"{path}: {len(of_values)} of the axes are not spatial; export one value per voxel.")
    component = of_values[0] if of_values else None
    if "space directions" not in fields:
        return component, None
    words = re.findall(r"none|\([^()]*\)", fields["space directions"])
    if len(words) != axes:
        raise ImageError(
            f"{path}: space directions are '{fields['space directions'][:80]}', not {axes}; the header is damaged."
        )
    directions = [word for axis, word in enumerate(words) if axis != component]
    if "none" in directions:
        raise ImageError(
            f"{path}: an axis of kind '{kinds[words.index('none')]}' has no direction; if it is time, export one time"
            " point, if it holds channels, its kind is 'list'."
        )
    return component, directions


def _affine(path: Path, fields: dict[str, str], directions: list[str] | None) -> np.ndarray:
    space = fields.get("space", "").lower().replace("-", " ")
    axes = int(fields["dimension"]) if directions is None else len(directions)
    if axes > 2 and (space not in _SPACES or directions is None):
        raise ImageError(
            f"{path}: the file states no anatomical orientation (space: {space or 'absent'}), so left and right are"
            " unknown; convert it again from its source."
        )
    if directions is None:
        return _plane(path, fields)
    wide = 3 if space in _SPACES else axes
    if wide != axes or ("space dimension" in fields and fields["space dimension"] != str(axes)):
        raise ImageError(
            f"{path}: {axes} axes in a space with another number of dimensions; export a whole volume."
        )
    affine = np.eye(axes + 1)
    signs = np.array(_SPACES.get(space, (1.0,) * axes))
    for axis, text in enumerate(directions):
        affine[:axes, axis] = signs * numbers(path, "space directions", text[1:-1], axes)
    origin = fields.get("space origin", "")
    if origin and not re.fullmatch(r"\(\s*nan(\s*,\s*nan)*\s*\)", origin.lower()):  # not known
        affine[:axes, axes] = signs * numbers(path, "space origin", origin.strip("() "), axes)
    return affine


def _plane(path: Path, fields: dict[str, str]) -> np.ndarray:
    """The affine of two axes without directions; unstated centers are taken as cells."""
    axes = 2
    if len(fields["sizes"].split()) != axes:
        axes = len([kind for kind in fields["kinds"].split() if kind.lower() in _POSITIONS])
    spacing = np.ones(axes)
    words = [word for word in fields.get("spacings", "").split() if word.lower() != "nan"]
    if words:
        spacing = numbers(path, "spacings", " ".join(words), axes)
    affine = np.diag([*spacing, 1.0])
    mins = [word for word in fields.get("axis mins", "").split() if word.lower() != "nan"]
    if mins:
        cells = np.array(
            [0.0 if word == "node" else 0.5 for word in (*fields.get("centers", "").split(), "cell", "cell")]
        )
        affine[:axes, axes] = numbers(path, "axis mins", " ".join(mins), axes) + cells[:axes] * spacing
    return affine


def _files(
    path: Path, fields: dict[str, str], sizes: tuple[int, ...], stream: BinaryIO
) -> tuple[tuple[Path, ...], int]:
    """The files of voxels, and the offset of the first voxel in each."""
    name = fields.get("data file")
    if name is None:
        return (path,), stream.tell()
    words = name.split()
    axes = len(sizes) - 1
    if words[:1] == ["LIST"]:
        files = listed_files(path, stream)
        stated = words[1:]
    elif len(words) > 3 and "%" in words[0]:
        files = pattern_files(path, words[:4])
        stated = words[4:]
    else:
        return (data_file(path, name),), 0
    if stated:
        (axes,) = whole_numbers(path, "data file", " ".join(stated), 1, 1, len(sizes))
    if not files or axes < len(sizes):
        require_files(path, files, sizes, axes)
    return files, 0
