"""The metrics of all cases in numbers: mean, spread and confidence per class, and what was missed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipelines.metrics.names import METRICS, metric_names
from pipelines.metrics.statistics import class_mean, interval

PRESENT, MISSED, FALSE_POSITIVE, ABSENT = "present", "missed", "false positive", "absent"


def outcome(case: Mapping[str, Any], name: str) -> str:
    """What became of a structure in a case: present, missed, false positive or absent.

    Examples:
        >>> case = {"case": "a", "reference_voxels": {"lesion": 40}, "prediction_voxels": {"lesion": 0}}
        >>> outcome(case, "lesion")
        'missed'
    """
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
        cases: records with "case" and some of `pipelines.metrics.names.METRICS`, see `overlap_metrics`.
        intervals: also 95% confidence intervals of the means, see `pipelines.metrics.statistics.interval`.

    Returns:
        "cases": their number. "mean_dice": the mean over the classes; NaN where no class has a value.
        "mean": {metric: mean over the classes}. "mean_ci95": {metric: [low, high]}, with `intervals`.
        "absent", "missed", "false_positives": numbers of structures in cases.
        "classes": class to {metric: {"mean", "median", "min", "max", "std", "n"[, "ci95"]}}, "absent", "missed",
        "false_positives" (None where the records hold no voxel counts) and "false_positive_ml", the volumes of
        the false positives together.

    Examples:
        >>> cases = [{"case": "a", "dice": {"liver": 0.9}}, {"case": "b", "dice": {"liver": 0.8}}]
        >>> round(summarise(cases, ["liver"])["mean_dice"], 3)
        0.85
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

    Examples:
        >>> summary = summarise([{"case": "a", "dice": {"liver": 0.9}}], ["liver"])
        >>> figures(summary)
        {'mean_dice': 0.9, 'dice_liver': 0.9}
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
    """The summary as a short plain-text table, one line per class.

    Examples:
        >>> print(table(summarise([{"case": "a", "dice": {"liver": 0.9}}], ["liver"])))
        class  Dice mean  median     min  cases
        liver     0.9000  0.9000  0.9000      1
        mean      0.9000
    """
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
        line += "".join(f"  {row[m]['mean']:{max(9, len(m))}.{METRICS[m].digits}f}" for m in shown)
        lines.append(line + (f"  {row['missed']:6d}  {row['false_positives']:14d}" if counted else ""))
    last = f"{'mean':<{width}}  {summary['mean_dice']:9.4f}"
    if shown:
        last += " " * 23 + "".join(
            f"  {summary['mean'][m]:{max(9, len(m))}.{METRICS[m].digits}f}" for m in shown
        )
    sure = summary.get("mean_ci95", {}).get("dice")
    lines.append(last.rstrip())
    if sure is not None:
        lines.append(f"95% confidence interval of the mean Dice: {sure[0]:.4f} to {sure[1]:.4f}")
    return "\n".join(lines)


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
