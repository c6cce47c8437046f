"""Files that appear in another folder without being copied: by symbolic links, or hard ones where those cannot be made."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

Kind = Literal["symbolic links", "hard links", "paths"]


def kind_of_links(folder: Path, file: Path) -> Kind:
    """Which links to a file can be made in a folder, which must exist; "paths" where none can."""
    with tempfile.TemporaryDirectory(prefix=".links-", dir=folder) as place:
        for kind in ("symbolic links", "hard links"):
            try:
                make_link(Path(place, "file"), file, kind)
            except OSError:  # no right, no such links in this file system, another disk
                continue
            return kind
    return "paths"


def make_link(path: Path, file: Path, kind: Kind) -> None:
    """Link to a file.

    Raises:
        OSError: the link cannot be made.
    """
    if kind == "hard links":
        os.link(os.path.realpath(file), path)
    else:
        os.symlink(path_from(path.parent, file), path)


def path_from(folder: Path, file: Path) -> str:
    """The path of a file as seen from a folder, with forward slashes; absolute where there is no other, on Windows."""
    # Of the real folder: ".." behind a link is not where the name says.
    try:
        return Path(os.path.relpath(os.path.abspath(file), os.path.realpath(folder))).as_posix()
    except ValueError:  # on another drive
        return Path(os.path.abspath(file)).as_posix()


def link_problems(folder: Path, wanted: Mapping[str, Path | None]) -> list[str]:
    """What stands in a folder where links shall be made and is none of them.

    Args:
        wanted: name to the file that it shall lead to; None where a file of its own is written.
    """
    if not os.path.lexists(folder):
        return []
    if not folder.is_dir():
        return [f"{folder} is there and no folder; take it away, or choose another destination."]
    problems = []
    for name in sorted(os.listdir(folder)):
        path = folder / name
        if name.startswith("."):
            continue
        if name not in wanted:
            problems.append(f"{path} is no part of the dataset; take it away, or choose another destination.")
        elif (file := wanted[name]) is not None and not leads_to(path, file):
            problems.append(
                f"{path} is there and is not {file}; take it away, or choose another destination."
            )
    return problems


def leads_to(path: Path, file: Path) -> bool:
    """Whether a path is the file, by whatever kind of link."""
    try:
        return os.path.samefile(path, file)
    except OSError:
        return False
