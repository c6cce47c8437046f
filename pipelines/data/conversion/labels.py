"""Label maps that are written because they cannot be linked: merged from masks, drawn from DICOM, or of another format."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.data.case_state import case_state
from pipelines.data.cases import Case, CaseItem
from pipelines.data.stored_case import StoreError
from pipelines.utils.cores import available_cores
from pipelines.utils.progress import Steps
from transforms.errors import ImageError
from transforms.io.grids import grid_difference
from transforms.io.header import Header
from transforms.io.readers import read_header, read_label
from transforms.io.writers import write_label
from transforms.label_values import check_label_values, counts_of

_RECORD = ".label_maps.jsonl"
_MOST_AT_ONCE = 4


def write_label_maps(
    root: Path, jobs: Sequence[tuple[Case, Path]], labels: Mapping[int, str]
) -> tuple[int, list[str]]:
    """Write the label map of each case, unless an earlier call wrote it from the same files.

    What was written is noted in a hidden file of `root`, a line each, so that the same command goes on where it
    stopped. A label map that stands there without a note is read: it stays if it is equal, and is never replaced.

    Args:
        root: of the dataset that is made.
        jobs: cases, and where their label maps go.
        labels: class id to name.

    Returns:
        How many were written now, and what is wrong, by case.
    """
    notes = _Notes(root / _RECORD)

    def one(job: tuple[Case, Path]) -> tuple[bool, str]:
        case, path = job
        try:
            state = _state(case, labels)
            if notes.knows(path, state):
                return False, ""
            written = _write(case, path, labels)
            notes.add(path, state)
        except (ImageError, StoreError, OSError) as error:
            return False, f"case {case.id!r}: label {error}"
        return written, ""

    # Few at a time: whole volumes are in memory.
    with (
        Steps(len(jobs), "label map", "writing", leave=False, delay=2.0) as steps,
        ThreadPoolExecutor(max(1, min(_MOST_AT_ONCE, available_cores()))) as pool,
    ):
        results = []
        for result in pool.map(one, jobs):
            results.append(result)
            steps.step()
    return sum(written for written, _ in results), [said for _, said in results if said]


def _write(case: Case, path: Path, labels: Mapping[int, str]) -> bool:
    """Write a label map; False where the very same one stands there."""
    assert case.label is not None
    grid = read_header(case.images, **case.reading)
    label = read_label(case.label, grid, labels, image=case.image)
    difference = grid_difference(grid, Header(tuple(label.shape[1:]), 1, label.affine.numpy()))
    if difference:
        raise ImageError(
            f"{case.label}: not on the grid of image {case.image}: {difference}; resample it to the image."
        )
    check_label_values(counts_of(label.numpy()), labels, str(case.label))
    if not os.path.lexists(path):
        write_label(path, label, like=case.image)
        return True
    try:
        same = np.array_equal(read_label(path, grid).numpy(), label.numpy())
    except ImageError:
        same = False
    if not same:
        raise ImageError(
            f"{case.label}: its label map goes to {path}, where something else is; take that away, or choose another"
            " destination."
        )
    return False


def _state(case: Case, labels: Mapping[int, str]) -> str:
    item: CaseItem = {"image": [str(path) for path in case.images], "label": str(case.label), "case": case.id}
    names = {str(value): name for value, name in labels.items()}
    return f"{case_state(item).entry} {json.dumps(names, sort_keys=True)}"


class _Notes:
    """Which label maps were written from which files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, Any] = {}
        if path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    name, *rest = json.loads(line)
                except ValueError:  # the last line of a process that was killed
                    continue
                self._known[name] = rest

    def knows(self, path: Path, state: str) -> bool:
        return path.is_file() and self._known.get(self._name(path)) == [state, *_stamp(path)]

    def add(self, path: Path, state: str) -> None:
        line = json.dumps([self._name(path), state, *_stamp(path)]) + "\n"
        with self.path.open("a", encoding="utf-8") as stream:  # one write of one line, whole among threads
            stream.write(line)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.path.parent).as_posix()


def _stamp(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]
