"""Names and colours of classes, for viewers of label maps in NIfTI, which holds only numbers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from transforms.utils.colours import colour_of
from transforms.utils.files import replacing

__all__ = ["LABEL_TABLES", "write_label_tables"]

LABEL_TABLES = ("labels_itksnap.txt", "labels.ctbl")
"""For ITK-SNAP (Segmentation, Import Label Descriptions), and for 3D Slicer and FreeView as a colour table."""


def write_label_tables(folder: str | os.PathLike[str], names: Mapping[int, str]) -> None:
    """Write the files of `LABEL_TABLES`, with which viewers show a label map in NIfTI with names and colours.

    Args:
        folder: where; existing files are replaced.
        names: class id to name, the background included.
    """
    snap = ["# ITK-SNAP label descriptions: id, red, green, blue, opacity, visible, in the 3D view, name"]
    table = ["# Colour table of 3D Slicer and FreeView: id, name, red, green, blue, opacity"]
    for value, name in sorted(names.items()):
        red, green, blue = colour_of(value) if value else (0, 0, 0)
        shown = int(value != 0)
        quoted = name.replace('"', "'")
        snap.append(
            f'{value:5d} {red:5d} {green:4d} {blue:4d} {shown:8d} {shown:2d} {shown:2d}    "{quoted}"'
        )
        table.append(f"{value} {'_'.join(name.split())} {red} {green} {blue} {255 * shown}")
    for file, lines in zip(LABEL_TABLES, (snap, table), strict=True):
        with replacing(Path(folder) / file, synced=False) as part:
            part.write_text("\n".join(lines) + "\n", encoding="utf-8")
