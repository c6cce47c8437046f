"""The files of one image: the named file, and those in its folder that hold its voxels or its header."""

from __future__ import annotations

import contextlib
from pathlib import Path

from transforms.errors import ImageError
from transforms.io.header import PAIR_HEADERS, PAIR_VOXELS, pair_header, pair_voxels
from transforms.io.itk import voxel_files

__all__ = ["image_files"]

_DETACHED = (".mhd", ".nhdr")


def image_files(path: str | Path) -> list[Path]:
    """The file itself first, then the others that exist of a NIfTI pair, an MHD or a detached NRRD.

    A digest or a modification time of an image has to cover all of them.
    """
    path = Path(path)
    name = path.name.lower()
    found: list[Path] = []
    if name.endswith(PAIR_HEADERS):
        found = pair_voxels(path)
    elif name.endswith(PAIR_VOXELS):
        header = pair_header(path)
        found = [] if header is None else [header]
    elif name.endswith(_DETACHED) and path.is_file():  # reading a pipe of that name would never end
        with contextlib.suppress(ImageError, OSError):  # the reader reports these errors
            found = [file for file in voxel_files(path) if file != path]
    return [path, *found]
