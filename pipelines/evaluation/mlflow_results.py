"""The results of the best validation as files: values per case, pictures, figures."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.evaluation.figures import draw_confusion, draw_dice
from pipelines.tracking.run import Tracking

FOLDER = "results"


def log_results(
    tracking: Tracking,
    record: Mapping[str, Any],
    pictures: Mapping[str, bytes],
    confusion: np.ndarray | None = None,
) -> None:
    """Store the results of a set of cases with a run, under `results/`, in place of earlier ones.

    Args:
        record: see `pipelines.metrics.overlap.results`.
        pictures: PNG by case id.
        confusion: int64 (classes, classes) voxels, row = reference, background first; None draws none.
    """
    names, cases = record["classes"], record["cases"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "cases.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        if cases:
            draw_dice(folder / "dice.png", cases, names)
        if confusion is not None:
            draw_confusion(folder / "confusion.png", confusion, ["background", *names])
        for path in sorted(folder.iterdir()):
            tracking.artifact(path, FOLDER)
        for case, picture in pictures.items():
            path = folder / f"{case}.png"
            path.write_bytes(picture)
            tracking.artifact(path, f"{FOLDER}/pictures")


def case_table(record: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The cases of a record as columns: case, class and one column per metric; NaN where there is no value."""
    metrics = sorted(
        {
            key
            for case in record["cases"]
            for key, value in case.items()
            if key != "case" and isinstance(value, Mapping)
        }
    )
    columns: dict[str, list[Any]] = {"case": [], "class": [], **{metric: [] for metric in metrics}}
    for case in record["cases"]:
        for name in record["classes"]:
            columns["case"].append(case["case"])
            columns["class"].append(name)
            for metric in metrics:
                columns[metric].append(case.get(metric, {}).get(name))
    return columns
