"""Copies the files of a run to its journal, and records files that are lost on a full disk."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.tracking.journal import Journal
from pipelines.tracking.records import Record
from pipelines.tracking.registry import is_below
from transforms.errors import SettingError

logger = logging.getLogger(__name__)


class RunFiles:
    """Stores the files of a run in its journal, and lists files that could not be saved as lost.

    Args:
        journal: journal of this process.
    """

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        # Size in bytes of each file, by its artifact path; None for a lost file.
        self._sizes: dict[str, int | None] = {}
        self._warned = False

    def keep(self, path: str | os.PathLike, name: str) -> None:
        """Store an existing file under an artifact path of the run.

        Raises:
            FileNotFoundError: there is no such file.
        """
        try:
            file = self.journal.keep(path)
        except FileNotFoundError:
            raise
        except OSError as error:
            self.lose(name, error)
            return
        self._append(file, name)

    def write(self, name: str, write: Callable[[Path], Any], op: str = "file", table: bool = False) -> None:
        """Store a new file under an artifact path of the run.

        Args:
            name: artifact path, or name of a picture.
            write: creates the file at the path that it is given.
            op: type of the record, "file" or "image".
            table: whether the file is an MLflow table.
        """
        path = None
        try:
            path = self.journal.place(Path(name).name if op == "file" else "picture.npy")
            write(path)
        except OSError as error:
            if path is not None:
                shutil.rmtree(path.parent, ignore_errors=True)
            self.lose(name, error, op)
            return
        self._append(path.relative_to(self.journal.folder).as_posix(), name, op, table=table)

    def keep_whole(self, root: Path, folder: str) -> None:
        """Store all files below a folder of the disk under an artifact folder, or none, because they need one another.

        The largest file is sent first, so that a server that refuses it gets none of the others.
        """
        paths = [path for path in root.rglob("*") if path.is_file()]
        paths.sort(key=lambda path: (-path.stat().st_size, path))
        names = [f"{folder}/{path.relative_to(root).as_posix()}" for path in paths]
        kept: list[str] = []
        try:
            for path in paths:
                kept.append(self.journal.keep(path))
        except OSError as error:
            for file in kept:
                self.journal.drop_file({"file": file})
            for name in names:
                self.lose(name, error)
            return
        for file, name in zip(kept, names, strict=True):
            self._append(file, name, whole=folder)

    def lose(self, name: str, error: OSError, op: str = "file") -> None:
        """Record that the artifact of this name, or all artifacts in the folder of this name, are lost."""
        reason = error.strerror or str(error)
        if not self._warned:
            logger.warning(
                "%s cannot be saved for the run in %s (%s); all lost files are listed at the end of the run",
                name,
                self.journal.folder,
                reason,
            )
        self._warned = True
        self._sizes[name] = None
        self.journal.refuse({"op": op, "name": name, "lost": True}, f"it could not be saved ({reason})")

    def below(self, folder: str) -> dict[str, int | None]:
        """Sizes in bytes of all files in an artifact folder, by their paths in it; None for lost files."""
        found = {name: size for name, size in self._sizes.items() if is_below(name, folder)}
        return {name.removeprefix(f"{folder}/"): size for name, size in found.items()}

    def _append(self, file: str, name: str, op: str = "file", whole: str = "", table: bool = False) -> None:
        self._sizes[name] = (self.journal.folder / file).stat().st_size
        record: Record = {"op": op, "file": file, "name": name}
        if whole:
            record["whole"] = whole
        if table:
            record["table"] = True
        self.journal.append(record)


def table_json(name: str, columns: Mapping[str, Sequence[Any]]) -> str:
    """The JSON of an MLflow table with columns of equal length.

    Args:
        name: artifact path of the table.
        columns: values of each column, by its title.

    Raises:
        SettingError: the name does not end in .json.
        ValueError: the columns differ in length.
    """
    if not name.endswith(".json"):
        raise SettingError(f"the table '{name}' needs a name that ends in .json")
    rows = [[_cell(cell) for cell in row] for row in zip(*columns.values(), strict=True)]
    return json.dumps({"columns": list(columns), "data": rows}, default=str)


def _cell(value: Any) -> Any:
    """A value of a table for JSON: numbers of NumPy become numbers of Python; NaN and infinity become None."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not np.isfinite(value) else value
