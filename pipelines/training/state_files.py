"""The names of the files that hold the state of a training, now and in folders of version 0.1."""

from __future__ import annotations

from pathlib import Path

from transforms.utils.files import put_in_place

__all__ = ["EARLIER", "LAST", "STATES", "UNREADABLE", "rename_old", "state_file"]

# Not *.pt: MONAI Label offers every such file beside a model as another one, the shortest name first.
LAST, EARLIER, UNREADABLE = "last.ckpt", "earlier.ckpt", "unreadable.ckpt"
STATES = (LAST, EARLIER, UNREADABLE)
_OLD_SUFFIX = ".pt"


def state_file(folder: Path, name: str) -> Path:
    """The path of one of `STATES` in a folder; under its old name where only that exists."""
    path = folder / name
    before = path.with_suffix(_OLD_SUFFIX)
    return before if before.is_file() and not path.exists() else path


def rename_old(folder: Path) -> None:
    """Give states under old names the new ones."""
    for name in STATES:
        path = state_file(folder, name)
        if path.name != name:
            put_in_place(path, folder / name)
