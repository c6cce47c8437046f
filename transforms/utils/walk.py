"""The files below a folder, in one walk for reading, counting and digests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["files_below", "leads_nowhere"]


def files_below(
    folder: str | os.PathLike[str],
    hidden: bool = False,
    dangling: bool = True,
    without: str | os.PathLike[str] | None = None,
    onerror: Callable[[OSError], None] | None = None,
) -> Iterator[Path]:
    """Walk through a folder and its subfolders, linked ones too, which data managers use.

    Every folder is entered once, under its own name rather than that of a link to it, so that cycles of links end.
    Pipes, sockets and devices are passed over.

    Args:
        folder: where to begin; paths are given with it in front.
        hidden: also names that begin with a dot, which readers ignore; hidden links to folders are not
            followed.
        dangling: also broken links: a reader has to report them, a digest ignores them as they have no
            content.
        without: a folder that is left out with all below it.
        onerror: gets the error of each folder that cannot be listed, which then counts as empty.

    Yields:
        Folder by folder, the files of each by name.

    Raises:
        OSError: a folder cannot be listed, unless there is `onerror`.
    """
    seen = set() if without is None else {os.path.realpath(without)}
    # Links wait until every folder that can be entered under its own name has been, and what is hidden waits for both.
    folders, links, dark = [Path(folder)], list[Path](), list[Path]()
    while folders or links or dark:
        in_the_dark = not folders and not links
        here = folders.pop() if folders else links.pop(0) if links else dark.pop()
        real = os.path.realpath(here)
        if real in seen:
            continue
        seen.add(real)
        try:
            with os.scandir(here) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            if onerror is None:
                raise
            onerror(error)
            continue
        inside: list[Path] = []
        for entry in entries:
            concealed = in_the_dark or entry.name.startswith(".")
            path = here / entry.name
            if concealed and not hidden:
                continue
            if not entry.is_symlink():
                if entry.is_dir():
                    (dark if concealed else inside).append(path)
                elif entry.is_file():
                    yield path
            elif os.path.isdir(path):
                if not concealed:
                    links.append(path)
            elif os.path.isfile(path) or (dangling and leads_nowhere(path)):
                yield path
        folders += reversed(inside)


def leads_nowhere(path: str | os.PathLike[str]) -> bool:
    """Whether it is a link whose target is missing: stores of large files have such links for what is not fetched."""
    return os.path.islink(path) and not os.path.exists(path)
