"""Results per case as artifacts of an MLflow run: values, pictures, figures."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.evaluation.figures import axes_of
from pipelines.metrics.result_files import Measured, Results
from pipelines.metrics.summary import CaseMetrics, value_of
from pipelines.tracking.run import Tracking

FOLDER = "results"


def log_results(
    tracking: Tracking,
    record: Results,
    pictures: Mapping[str, bytes],
    confusion: np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
) -> None:
    """Store the results of a set of cases in a run, below `results/`, replacing earlier ones.

    Args:
        record: the results.
        pictures: case id to PNG.
        confusion: int64 (classes, classes) voxels, row = reference, background first; None to draw none.
        class_names: names of the foreground classes, if they are not what was measured.
    """
    names, cases = record["classes"], record["cases"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "cases.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        if cases:
            draw_dice(folder / "dice.png", cases, names)
        if confusion is not None:
            draw_confusion(folder / "confusion.png", confusion, ["background", *(class_names or names)])
        for path in sorted(folder.iterdir()):
            tracking.artifact(path, FOLDER)
        for case, picture in pictures.items():
            path = folder / f"{case}.png"
            path.write_bytes(picture)
            tracking.artifact(path, f"{FOLDER}/pictures")


def case_table(measured: Measured) -> dict[str, list[Any]]:
    """The results as columns: case, class and one column per metric; None for a missing value."""
    cases: Sequence[Mapping[str, Any]] = measured["cases"]
    metrics = sorted({key for case in cases for key, value in case.items() if isinstance(value, Mapping)})
    columns: dict[str, list[Any]] = {"case": [], "class": [], **{metric: [] for metric in metrics}}
    for case in cases:
        for name in measured["classes"]:
            columns["case"].append(case["case"])
            columns["class"].append(name)
            for metric in metrics:
                columns[metric].append(case.get(metric, {}).get(name))
    return columns


_NUMBERS_UP_TO = 20


def draw_confusion(path: Path, counts: np.ndarray, names: Sequence[str]) -> None:
    """Write a confusion matrix as PNG: the share of each reference class (row) predicted as each class (column).

    Args:
        counts: (classes, classes) voxels, row = reference, background first.
        names: names of all classes, background first.
    """
    totals = counts.sum(1, keepdims=True)
    share = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
    size = min(24.0, max(4.5, 2.2 + 0.42 * len(names)))
    figure, axes = axes_of(size + 1.0, size)
    shown = axes.imshow(share, vmin=0, vmax=1, cmap="Blues")
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("reference")
    figure.colorbar(shown, ax=axes, fraction=0.046, label="share of the reference's voxels")
    if len(names) <= _NUMBERS_UP_TO:
        for row, column in np.argwhere(~np.isnan(share)):
            value = share[row, column]
            # A small share of a large class is many voxels, so it is not rounded to zero.
            text = f"{value:.2f}" if value >= 0.005 or value == 0 else "<.01"
            colour = "white" if value > 0.6 else "black"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7)
    figure.savefig(path, format="png")


def draw_dice(path: Path, cases: Sequence[CaseMetrics], names: Sequence[str]) -> None:
    """Write a box plot of Dice per class as PNG, with a point per case that has the structure.

    Args:
        cases: metrics of the cases.
        names: names of the foreground classes.
    """
    values = []
    for name in names:
        found = np.array([value_of(case, "dice", name) for case in cases], float)
        values.append(found[~np.isnan(found)])
    figure, axes = axes_of(8.0, min(30.0, max(2.5, 1.2 + 0.32 * len(names))))
    places = np.arange(1, len(names) + 1)
    axes.boxplot(values, positions=places, orientation="horizontal", widths=0.6, showfliers=False)
    for place, found in zip(places, values, strict=True):
        # Deterministic, so that the same results give the same figure.
        jitter = 0.22 * np.sin(np.arange(len(found)) * 2.4)
        axes.plot(found, place + jitter, "o", markersize=3.5, alpha=0.6, color="#1f77b4")
    axes.set_yticks(places, [f"{name} ({len(v)})" for name, v in zip(names, values, strict=True)])
    axes.invert_yaxis()
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel(f"Dice, {len(cases)} cases (in brackets: cases with a value)")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, format="png")
