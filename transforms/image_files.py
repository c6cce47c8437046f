"""The files that make one image: the one that is named, and those beside it that hold its voxels or its header."""

from __future__ import annotations

import re
from pathlib import Path

from transforms.errors import ImageError
from transforms.header import PAIR_HEADERS, PAIR_VOXELS, pair_header, pair_voxels
from transforms.itk_files import text_header

__all__ = ["image_files"]

_DETACHED = (".mhd", ".nhdr")


def image_files(path: str | Path) -> list[Path]:
    """The file itself first, then the others that exist of a NIfTI pair, an MHD or a detached NRRD.

    What is said of an image's content or age has to be said of all of them.
    """
    path = Path(path)
    name = path.name.lower()
    found: list[Path] = []
    if name.endswith(PAIR_HEADERS):
        found = pair_voxels(path)
    elif name.endswith(PAIR_VOXELS):
        header = pair_header(path)
        found = [] if header is None else [header]
    elif name.endswith(_DETACHED):
        found = [file for file in map(path.parent.joinpath, _named(path)) if file.is_file()]
    return [path, *found]


def _named(path: Path) -> list[str]:
    """File names in a text header: one, a list of lines, or a pattern with a first and a last number."""
    try:
        fields = text_header(path)
        stated = next((fields[k] for k in ("elementdatafile", "data file", "datafile") if fields.get(k)), "")
        if not re.match("list", stated, re.IGNORECASE):
            pattern = re.fullmatch(r"(\S*%\d*d\S*)\s+(\d+)\s+(\d+)(?:\s+(\d+))?.*", stated)
            if pattern is None:
                return [stated] if stated else []
            first, last, step = int(pattern[2]), int(pattern[3]), int(pattern[4] or 1)
            return [pattern[1] % number for number in range(first, min(last, first + 100_000) + 1, step or 1)]
        with path.open(encoding="latin-1") as stream:
            lines = [line.strip() for line in stream]
    except (ImageError, OSError):  # what is wrong with it is said when it is read
        return []
    start = next(n for n, line in enumerate(lines) if re.match(r"(element)?data ?file", line, re.IGNORECASE))
    return [line for line in lines[start + 1 :] if line]
