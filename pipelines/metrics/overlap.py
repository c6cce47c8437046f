"""How good the segmentation of a case is, per class; and how cases are put together.

Names and conventions are in docs/evaluation.md. Overlap is counted once per case, in one confusion matrix.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipelines.metrics.intervals import class_mean, interval
from pipelines.metrics.names import metric_names
from pipelines.metrics.result_files import guarded
from pipelines.metrics.surfaces import surface_distances
from transforms.label_values import bounding_boxes
from transforms.utils.files import replacing

OVERLAP_METRICS = ("dice", "iou", "sensitivity", "precision", "volume_error_ml")
SURFACE_METRICS = ("hd95_mm", "msd_mm", "nsd")
METRICS = OVERLAP_METRICS + SURFACE_METRICS
FORMAT = 1
PRESENT, MISSED, FALSE_POSITIVE, ABSENT = "present", "missed", "false positive", "absent"
_BLOCK = 1 << 20


def confusion_matrix(prediction: torch.Tensor, reference: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Voxel counts int64 (num_classes, num_classes): row = reference class, column = predicted class.

    Raises:
        ValueError: the two differ in shape or hold a class outside 0..num_classes-1.
    """
    if prediction.shape != reference.shape:
        raise ValueError(
            f"prediction {tuple(prediction.shape)} and reference {tuple(reference.shape)} differ"
        )
    rows, columns = (
        torch.as_tensor(x).as_subclass(torch.Tensor).reshape(-1) for x in (reference, prediction)
    )
    for values in (rows, columns):
        # torch has no max() of uint16, the type of label maps with more than 256 classes.
        values = values if values.dtype != torch.uint16 else values.to(torch.int32)
        if values.numel() and not (int(values.min()) >= 0 and int(values.max()) < num_classes):
            raise ValueError(
                f"a label map holds classes {int(values.min())} to {int(values.max())}; there are {num_classes}, "
                f"0 to {num_classes - 1}"
            )
    # A pair of classes as one number of the smallest type that holds it, block by block: what is counted stays
    # in the processor's cache (40 times faster than int64 over the whole volume, at 15 classes).
    pairs = num_classes**2
    kind = next(
        t for t in (torch.uint8, torch.int16, torch.int32, torch.int64) if pairs - 1 <= torch.iinfo(t).max
    )
    counts = torch.zeros(pairs, dtype=torch.int64, device=rows.device)
    for start in range(0, rows.numel(), _BLOCK):
        pair = rows[start : start + _BLOCK].to(kind) * num_classes + columns[start : start + _BLOCK].to(kind)
        counts += torch.bincount(pair, minlength=pairs)
    return counts.reshape(num_classes, num_classes)


def case_dice(prediction: torch.Tensor, reference: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Dice coefficient 2|A and B| / (|A| + |B|) of every class, shape (num_classes,), float64.

    A class that neither map holds has no Dice: NaN. Dice, Ecology 26(3), 1945.
    """
    counts = confusion_matrix(torch.as_tensor(prediction), torch.as_tensor(reference), num_classes).double()
    return 2 * counts.diagonal() / (counts.sum(0) + counts.sum(1))


def overlap_metrics(
    confusion: torch.Tensor, class_names: Sequence[str], voxel_ml: float | None
) -> dict[str, dict[str, float]]:
    """Overlap of every foreground class of one case, from its confusion matrix.

    With TP, FP and FN counted in voxels: dice 2TP / (2TP + FP + FN), iou TP / (TP + FP + FN), sensitivity
    TP / (TP + FN), precision TP / (TP + FP), and volume_error_ml, the volume of the prediction minus that of the
    reference. What would be 0 / 0 is NaN; so is the volume error of a structure that neither map holds.

    Args:
        confusion: see `confusion_matrix`; class 0 is the background.
        voxel_ml: millilitres of a voxel; None (a 2D picture) leaves the volume error NaN.

    Returns:
        Name of the metric to {class: value}; and "reference_voxels" and "prediction_voxels" likewise.
    """
    counts = confusion.double().cpu()
    hit, reference, predicted = (x[1:] for x in (counts.diagonal(), counts.sum(1), counts.sum(0)))
    error = (predicted - reference) * (math.nan if voxel_ml is None else voxel_ml)
    values = {
        "dice": 2 * hit / (reference + predicted),
        "iou": hit / (reference + predicted - hit),
        "sensitivity": hit / reference,
        "precision": hit / predicted,
        "volume_error_ml": torch.where(reference + predicted > 0, error, math.nan),
    }
    found: dict[str, dict[str, Any]] = {
        name: dict(zip(class_names, v.tolist(), strict=True)) for name, v in values.items()
    }
    for name, voxels in (("reference_voxels", reference), ("prediction_voxels", predicted)):
        found[name] = dict(zip(class_names, (int(n) for n in voxels), strict=True))
    return found


def surface_metrics(
    prediction: np.ndarray,
    reference: np.ndarray,
    class_names: Sequence[str],
    affine: np.ndarray,
    tolerance: float | Mapping[str, float],
) -> dict[str, dict[str, float]]:
    """Distances between the surfaces of every foreground class of one case, see `pipelines.metrics.surfaces`.

    Args:
        prediction, reference: classes, (X, Y, Z) or (X, Y), on one grid.
        affine: 4x4, voxel index to mm.
        tolerance: mm within which a surface counts as right in nsd; one number, or one per class.

    Returns:
        "hd95_mm", "msd_mm" and "nsd", each {class: value}. Where only one of the two maps holds the structure
        there is no distance (NaN) and nsd is 0; where neither does, all are NaN.
    """
    boxes = [bounding_boxes(labels) for labels in (prediction, reference)]
    found: dict[str, dict[str, float]] = {name: {} for name in SURFACE_METRICS}
    for value, name in enumerate(class_names, start=1):
        limit = tolerance[name] if isinstance(tolerance, Mapping) else tolerance
        held = [box[value] for box in boxes if value in box]
        if held:
            box = tuple(
                slice(min(part.start for part in parts), max(part.stop for part in parts))
                for parts in zip(*held, strict=True)
            )
            distances = surface_distances(prediction[box] == value, reference[box] == value, affine)
            row = (distances.hd95, distances.mean, distances.dice(limit))
        else:
            row = (math.nan, math.nan, math.nan)
        for metric, number in zip(SURFACE_METRICS, row, strict=True):
            found[metric][name] = number
    return found


def require_tolerance(
    tolerance: float | Mapping[str, float], class_names: Sequence[str]
) -> float | Mapping[str, float]:
    """The tolerance itself.

    Raises:
        ValueError: it is no positive number of mm, or not given for every class by name.
    """
    numbers = tolerance if isinstance(tolerance, Mapping) else {name: tolerance for name in class_names}
    missing = [name for name in class_names if name not in numbers]
    if missing:
        raise ValueError(
            f"surface_tolerance has no number for the class '{missing[0]}'; give mm for every class"
        )
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise ValueError(
                f"surface_tolerance is {value!r} for the class '{name}'; give a number of mm above 0, or none"
            )
    return tolerance


def outcome(case: Mapping[str, Any], name: str) -> str:
    """What became of a structure in a case: present, missed, false positive or absent."""
    reference, predicted = case["reference_voxels"][name] > 0, case["prediction_voxels"][name] > 0
    if reference:
        return PRESENT if predicted else MISSED
    return FALSE_POSITIVE if predicted else ABSENT


def summarise(
    cases: Sequence[Mapping[str, Any]], class_names: Sequence[str], intervals: bool = False
) -> dict[str, Any]:
    """All cases together, per class and overall.

    NaN does not count in a mean; how often a structure was absent, missed or predicted where there is none is
    counted beside it. The means over the classes are means of the classes' means.

    Args:
        cases: records with "case" and some of `METRICS`, see `overlap_metrics`.
        intervals: also 95% confidence intervals of the means, see `pipelines.metrics.intervals`.

    Returns:
        "cases": their number. "mean_dice": the mean over the classes; NaN where no class has a value.
        "mean": {metric: mean over the classes}. "mean_ci95": {metric: [low, high]}, with `intervals`.
        "absent", "missed", "false_positives": numbers of structures in cases.
        "classes": class to {metric: {"mean", "median", "min", "max", "std", "n"[, "ci95"]}}, "absent", "missed",
        "false_positives" (None where the records hold no voxel counts) and "false_positive_ml", the volumes of
        the false positives together.
    """
    metrics = [metric for metric in METRICS if any(metric in case for case in cases)]
    # Without any case there is still a mean Dice, of nothing.
    columns = {
        metric: np.array(
            [[case.get(metric, {}).get(name, math.nan) for name in class_names] for case in cases]
        )
        for metric in metrics or ["dice"]
    }
    columns = {metric: values.reshape(len(cases), len(class_names)) for metric, values in columns.items()}
    classes: dict[str, dict[str, Any]] = {}
    for index, name in enumerate(class_names):
        row: dict[str, Any] = {m: _statistics(v[:, index], intervals) for m, v in columns.items()}
        classes[name] = row | _counts(cases, name)
    summary: dict[str, Any] = {"cases": len(cases)}
    mean = {metric: float(class_mean(values)) for metric, values in columns.items()}
    summary |= {"mean_dice": mean.get("dice", math.nan), "mean": mean}
    if intervals:
        summary["mean_ci95"] = {metric: interval(values) for metric, values in columns.items()}
    for count in ("absent", "missed", "false_positives"):
        numbers = [row[count] for row in classes.values()]
        summary[count] = None if None in numbers else sum(numbers)
    return summary | {"classes": classes}


def figures(summary: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The summary as MLflow metrics: mean_<metric> over the classes and <metric>_<class>, NaN left out.

    A class is called there as `pipelines.metrics.names` has it.
    """
    keys = metric_names(list(summary["classes"]))
    values = {f"{prefix}mean_{metric}": value for metric, value in summary["mean"].items()}
    for name, row in summary["classes"].items():
        values |= {f"{prefix}{metric}_{keys[name]}": row[metric]["mean"] for metric in summary["mean"]}
    for count in ("missed", "false_positives"):
        if summary[count] is not None:
            values[f"{prefix}{count}"] = float(summary[count])
    return {key: value for key, value in values.items() if not math.isnan(value)}


def table(summary: Mapping[str, Any]) -> str:
    """The summary as a short plain-text table, one line per class."""
    width = max([5, *(len(name) for name in summary["classes"])])
    shown = [m for m in ("iou", "hd95_mm", "msd_mm", "nsd", "volume_error_ml") if m in summary["mean"]]
    counted = summary["missed"] is not None
    head = f"{'class':<{width}}  Dice mean  median     min  cases" + "".join(f"  {m:>9}" for m in shown)
    lines = [head + ("  missed  false positive" if counted else "")]
    for name, row in summary["classes"].items():
        dice = row["dice"]
        line = (
            f"{name:<{width}}  {dice['mean']:9.4f}  {dice['median']:6.4f}  {dice['min']:6.4f}  {dice['n']:5d}"
        )
        line += "".join(f"  {row[m]['mean']:{max(9, len(m))}.{_digits(m)}f}" for m in shown)
        lines.append(line + (f"  {row['missed']:6d}  {row['false_positives']:14d}" if counted else ""))
    last = f"{'mean':<{width}}  {summary['mean_dice']:9.4f}"
    if shown:
        last += " " * 23 + "".join(f"  {summary['mean'][m]:{max(9, len(m))}.{_digits(m)}f}" for m in shown)
    sure = summary.get("mean_ci95", {}).get("dice")
    lines.append(last.rstrip())
    if sure is not None:
        lines.append(f"95% confidence interval of the mean Dice: {sure[0]:.4f} to {sure[1]:.4f}")
    return "\n".join(lines)


def write_csv(path: Path, cases: Sequence[Mapping[str, Any]], class_names: Sequence[str]) -> None:
    """One line per case and class with all its metrics; what has no value is empty.

    "outcome" tells present, missed, false positive and absent apart, where the records hold voxel counts.
    """
    metrics = [metric for metric in METRICS if any(metric in case for case in cases)]
    counted = all("reference_voxels" in case for case in cases)
    extra = ["outcome", "reference_voxels", "prediction_voxels"] if counted else []
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["case", "class", *metrics, *extra])
        for case in cases:
            for name in class_names:
                row = [_text(case.get(metric, {}).get(name)) for metric in metrics]
                if counted:
                    row += [outcome(case, name), *(str(case[key][name]) for key in extra[1:])]
                writer.writerow(guarded([case["case"], name, *row]))


def write_summary_csv(path: Path, summary: Mapping[str, Any]) -> None:
    """One line per class and metric: mean, its interval, median, min, max, std, n and the counts."""
    keys = ("n", "mean", "median", "min", "max", "std")
    counts = ("absent", "missed", "false_positives", "false_positive_ml")
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["class", "metric", *keys, "ci95_low", "ci95_high", *counts])
        for name, row in summary["classes"].items():
            for metric in summary["mean"]:
                low, high = row[metric].get("ci95") or (math.nan, math.nan)
                values = [_text(row[metric][key]) for key in keys] + [_text(low), _text(high)]
                writer.writerow(guarded([name, metric, *values, *(_text(row[key]) for key in counts)]))


def results(
    cases: Sequence[Mapping[str, Any]],
    class_names: Sequence[str],
    summary: Mapping[str, Any] | None = None,
    split: str = "validation",
) -> dict[str, Any]:
    """The results of a set of cases as plain JSON: format, split, classes, cases, summary; NaN becomes None."""
    found = summarise(cases, class_names) if summary is None else summary
    content = {"format": FORMAT, "split": split, "classes": list(class_names)}
    return without_nan(content | {"cases": list(cases), "summary": found})


def write_json(
    path: Path,
    cases: Sequence[Mapping[str, Any]],
    class_names: Sequence[str],
    summary: Mapping[str, Any] | None = None,
    split: str = "validation",
) -> None:
    """Write `results`."""
    with replacing(path) as temporary:
        content = results(cases, class_names, summary, split)
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def without_nan(value: Any) -> Any:
    """Plain JSON: NaN and infinity, which JSON does not have, become None."""
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def with_nan(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Metrics of a case as they were before `without_nan`."""
    return {
        metric: {name: math.nan if value is None else value for name, value in values.items()}
        for metric, values in metrics.items()
    }


def _statistics(values: np.ndarray, intervals: bool) -> dict[str, Any]:
    values = values[~np.isnan(values)]
    if not len(values):
        empty: dict[str, Any] = {key: math.nan for key in ("mean", "median", "min", "max", "std")}
        return empty | {"n": 0} | ({"ci95": None} if intervals else {})
    found: dict[str, Any] = {
        "mean": float(values.mean()),
        "median": float(np.median(values)),
        "min": float(values.min()),
        "max": float(values.max()),
        "std": float(values.std(ddof=1)) if len(values) > 1 else math.nan,
        "n": len(values),
    }
    return found | ({"ci95": interval(values[:, None])} if intervals else {})


def _counts(cases: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    if not all("reference_voxels" in case for case in cases):
        dice = [case.get("dice", {}).get(name, math.nan) for case in cases]
        counts: dict[str, Any] = {"absent": sum(map(math.isnan, dice)), "missed": None}
        return counts | {"false_positives": None, "false_positive_ml": None}
    found = [outcome(case, name) for case in cases]
    false = [case for case, what in zip(cases, found, strict=True) if what == FALSE_POSITIVE]
    return {
        "absent": found.count(ABSENT),
        "missed": found.count(MISSED),
        "false_positives": len(false),
        "false_positive_ml": float(sum(case["volume_error_ml"][name] for case in false)),
    }


def _digits(metric: str) -> int:
    return 2 if metric.endswith(("_mm", "_ml")) else 4


def _text(value: float | None) -> str:
    return (
        ""
        if value is None or math.isnan(value)
        else f"{value:.6f}"
        if isinstance(value, float)
        else str(value)
    )
