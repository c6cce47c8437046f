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
    """Puts files into a journal. One that the disk does not take is lost, which the run will say.

    Args:
        journal: of this process.
    """

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        # Bytes of each file by its name in the run; None of one that is lost.
        self._sizes: dict[str, int | None] = {}
        self._warned = False

    def keep(self, path: str | os.PathLike, name: str) -> None:
        """Keep a file of the user's under a name in the run.

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
        self._say(file, name)

    def write(self, name: str, write: Callable[[Path], Any], op: str = "file", table: bool = False) -> None:
        """Have `write` make a new file that gets a name in the run."""
        path = None
        try:
            path = self.journal.place(Path(name).name if op == "file" else "picture.npy")
            write(path)
        except OSError as error:
            if path is not None:
                shutil.rmtree(path.parent, ignore_errors=True)
            self.lose(name, error, op)
            return
        self._say(path.relative_to(self.journal.folder).as_posix(), name, op, table=table)

    def keep_whole(self, root: Path, folder: str) -> None:
        """Keep all files below a folder of the disk, or none of them: they are of no use one without another.

        The largest goes first, so that a server that takes no large files has none of them.
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
            self._say(file, name, whole=folder)

    def lose(self, name: str, error: OSError, op: str = "file") -> None:
        """Note that a file of this name, or all below it, will not be in the run."""
        reason = error.strerror or str(error)
        if not self._warned:
            logger.warning(
                "%s cannot be kept for the run in %s (%s); all lost files are listed at the end",
                name,
                self.journal.folder,
                reason,
            )
        self._warned = True
        self._sizes[name] = None
        self.journal.refuse({"op": op, "name": name, "lost": True}, f"it could not be kept ({reason})")

    def below(self, folder: str) -> dict[str, int | None]:
        """Bytes of all files in a folder of the run by their names in it; None of those that are lost."""
        found = {name: size for name, size in self._sizes.items() if is_below(name, folder)}
        return {name.removeprefix(f"{folder}/"): size for name, size in found.items()}

    def _say(self, file: str, name: str, op: str = "file", whole: str = "", table: bool = False) -> None:
        self._sizes[name] = (self.journal.folder / file).stat().st_size
        record: Record = {"op": op, "file": file, "name": name}
        if whole:
            record["whole"] = whole
        if table:
            record["table"] = True
        self.journal.append(record)


def table_json(name: str, columns: Mapping[str, Sequence[Any]]) -> str:
    """Columns of equal length as the JSON of the MLflow table of a name.

    Raises:
        SettingError: the name does not end in .json.
        ValueError: the columns differ in length.
    """
    if not name.endswith(".json"):
        raise SettingError(f"the table '{name}' needs a name that ends in .json")
    rows = [[_cell(cell) for cell in row] for row in zip(*columns.values(), strict=True)]
    return json.dumps({"columns": list(columns), "data": rows}, default=str)


def _cell(value: Any) -> Any:
    """A value of a table as JSON has it: numpy's numbers are numbers, what is no number is null."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not np.isfinite(value) else value
