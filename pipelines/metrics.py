"""Dice per case and class, and how cases are put together."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pipelines.files import replacing


def confusion_matrix(prediction: torch.Tensor, reference: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Voxel counts (num_classes, num_classes): row = reference class, column = predicted class.

    Raises:
        ValueError: the two differ in shape or hold a class outside 0..num_classes-1.
    """
    if prediction.shape != reference.shape:
        raise ValueError(
            f"prediction {tuple(prediction.shape)} and reference {tuple(reference.shape)} differ"
        )
    # torch has no max() of uint16, the type of label maps with more than 256 classes.
    rows, columns = reference.reshape(-1).long(), prediction.reshape(-1).long()
    for values in (rows, columns):
        if values.numel() and not (int(values.min()) >= 0 and int(values.max()) < num_classes):
            raise ValueError(
                f"a label map holds classes {int(values.min())} to {int(values.max())}; there are {num_classes}, "
                f"0 to {num_classes - 1}"
            )
    pairs = rows * num_classes + columns
    return torch.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def case_dice(prediction: torch.Tensor, reference: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Dice coefficient 2|A and B| / (|A| + |B|) of every class, shape (num_classes,), float64.

    A class that neither map holds has no Dice: NaN. Dice, Ecology 26(3), 1945.
    """
    counts = confusion_matrix(torch.as_tensor(prediction), torch.as_tensor(reference), num_classes).double()
    return 2 * counts.diagonal() / (counts.sum(0) + counts.sum(1))


def summarise(cases: Sequence[Mapping[str, Any]], class_names: Sequence[str]) -> dict[str, Any]:
    """Mean, median, minimum and number of cases per class, and the mean over the classes.

    NaN (the structure is absent in reference and prediction) does not count; a class without any value is
    NaN and left out of the mean over the classes.
    """
    per_class: dict[str, dict[str, float]] = {}
    for name in class_names:
        values = torch.tensor([case["dice"][name] for case in cases], dtype=torch.float64)
        values = values[~values.isnan()]
        if len(values):
            per_class[name] = {
                "mean": float(values.mean()),
                "median": float(values.quantile(0.5)),
                "min": float(values.min()),
                "cases": len(values),
            }
        else:
            per_class[name] = {"mean": math.nan, "median": math.nan, "min": math.nan, "cases": 0}
    means = [row["mean"] for row in per_class.values() if row["cases"]]
    return {"mean_dice": sum(means) / len(means) if means else math.nan, "classes": per_class}


def table(summary: Mapping[str, Any]) -> str:
    """The summary as a short plain-text table, one line per class."""
    width = max([5, *(len(name) for name in summary["classes"])])
    lines = [f"{'class':<{width}}  Dice mean  median     min  cases"]
    for name, row in summary["classes"].items():
        lines.append(
            f"{name:<{width}}  {row['mean']:9.4f}  {row['median']:6.4f}  {row['min']:6.4f}  {row['cases']:5d}"
        )
    lines.append(f"{'mean':<{width}}  {summary['mean_dice']:9.4f}")
    return "\n".join(lines)


def write_csv(path: Path, cases: Sequence[Mapping[str, Any]], class_names: Sequence[str]) -> None:
    """One line per case and class: case,class,dice. An absent structure has an empty value."""
    with replacing(path) as temporary, temporary.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["case", "class", "dice"])
        for case in cases:
            for name in class_names:
                value = case["dice"][name]
                writer.writerow([case["case"], name, "" if math.isnan(value) else f"{value:.6f}"])


def write_json(path: Path, cases: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> None:
    """Summary and cases; absent structures are null."""
    with replacing(path) as temporary:
        temporary.write_text(
            json.dumps(_without_nan({"summary": summary, "cases": list(cases)}), indent=2) + "\n"
        )


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
