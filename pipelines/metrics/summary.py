"""Summary of the metrics of all cases: mean, spread and confidence interval per class, and counts of errors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, cast

import numpy as np

from pipelines.metrics.centerlines import CenterlineScores
from pipelines.metrics.confidence import Agreement, Estimates, agreement, mean_agreement
from pipelines.metrics.mlflow_names import metric_names
from pipelines.metrics.names import METRICS
from pipelines.metrics.overlap import OverlapScores
from pipelines.metrics.pixels import PixelScores
from pipelines.metrics.statistics import class_mean, interval
from pipelines.metrics.surfaces import SurfaceScores

if TYPE_CHECKING:
    from typing import NotRequired


class Scores(OverlapScores, SurfaceScores, CenterlineScores, PixelScores, Estimates, total=False):
    """The metrics that were computed for one case, and the network's own estimates."""


class CaseMetrics(Scores):
    """The metrics of one case, with its id.

    Attributes:
        case: the id.
        field_of_view: share of the voxels that were counted, where only those inside a field of view were.
    """

    case: str
    field_of_view: NotRequired[float]


class Statistics(TypedDict):
    """Statistics of a metric of a class over the cases with a value; without any, all but `n` are NaN (JSON: None)."""

    mean: float
    median: float
    min: float
    max: float
    std: float
    n: int
    ci95: NotRequired[list[float] | None]
    """95% confidence interval [low, high] of the mean; None if fewer than two cases have a value."""


class _Counts(TypedDict):
    absent: int
    missed: int | None
    false_positives: int | None
    false_positive_ml: float | None


class ClassSummary(_Counts):
    """The summary of a class over all cases: counts, and under the name of each metric its `Statistics`.

    `absent`, `missed` and `false_positives` are numbers of cases, `false_positive_ml` is the total volume of the
    false positives. If the records hold no voxel counts, all of them except `absent` are None.
    """


class ConfidenceSummary(TypedDict):
    """How well the confidence tells the Dice: the mean over the classes, and by the names of the classes."""

    mean: Agreement
    classes: dict[str, Agreement]


class _Intervals(TypedDict, total=False):
    mean_ci95: dict[str, list[float] | None]
    confidence: ConfidenceSummary


class Summary(_Intervals):
    """The summary of all cases, made by `summarise`.

    Attributes:
        cases: number of cases.
        mean_dice: mean Dice over the classes of the means over the cases; NaN if no class has a value.
        mean: the same mean for each metric.
        mean_ci95: 95% confidence interval [low, high] of each mean, if requested.
        confidence: how well the confidence predicts the Dice, if cases have a confidence.
        absent, missed, false_positives: sums over the classes, see `ClassSummary`.
        classes: class name to its summary.
    """

    cases: int
    mean_dice: float
    mean: dict[str, float]
    absent: int | None
    missed: int | None
    false_positives: int | None
    classes: dict[str, ClassSummary]


PRESENT, MISSED, FALSE_POSITIVE, ABSENT = "present", "missed", "false positive", "absent"


def values_of(case: CaseMetrics, metric: str) -> Mapping[str, float | None]:
    """The values of a metric in a case, by class name; empty if it was not computed."""
    measured: Mapping[str, Any] = case
    return measured.get(metric) or {}


def value_of(case: CaseMetrics, metric: str, name: str) -> float:
    """The value of a metric of a class in a case; NaN if it is undefined or was not computed."""
    value = values_of(case, metric).get(name)
    return math.nan if value is None else value


def statistics_of(row: ClassSummary, metric: str) -> Statistics:
    """The statistics of a metric that was computed."""
    measured: Mapping[str, Any] = row
    return measured[metric]


def outcome(case: CaseMetrics, name: str) -> str:
    """The outcome for a structure in a case: present, missed, false positive or absent.

    Examples:
        >>> case = {"case": "a", "reference_voxels": {"lesion": 40}, "prediction_voxels": {"lesion": 0}}
        >>> outcome(case, "lesion")
        'missed'
    """
    reference, predicted = case["reference_voxels"][name] > 0, case["prediction_voxels"][name] > 0
    if reference:
        return PRESENT if predicted else MISSED
    return FALSE_POSITIVE if predicted else ABSENT


def summarise(cases: Sequence[CaseMetrics], class_names: Sequence[str], intervals: bool = False) -> Summary:
    """Summarise all cases, per class and overall.

    NaN values are left out of the means; the numbers of absent, missed and false positive structures are counted
    separately. The overall means are means over the classes of the means over the cases.

    Args:
        cases: metrics of each case.
        class_names: names of the foreground classes.
        intervals: also compute 95% confidence intervals, see `pipelines.metrics.statistics.interval`.

    Examples:
        >>> cases = [{"case": "a", "dice": {"liver": 0.9}}, {"case": "b", "dice": {"liver": 0.8}}]
        >>> round(summarise(cases, ["liver"])["mean_dice"], 3)
        0.85
    """
    metrics = [metric for metric in METRICS if any(metric in case for case in cases)]
    # Without cases the summary still has a mean Dice, which is NaN.
    shape = len(cases), len(class_names)
    columns: dict[str, np.ndarray] = {
        metric: np.array([[value_of(case, metric, name) for name in class_names] for case in cases]).reshape(
            shape
        )
        for metric in metrics or ["dice"]
    }
    classes: dict[str, ClassSummary] = {}
    for index, name in enumerate(class_names):
        statistics = {m: _statistics(values[:, index], intervals) for m, values in columns.items()}
        classes[name] = cast(ClassSummary, {**statistics, **_counts(cases, name)})
    mean = {metric: float(class_mean(values)) for metric, values in columns.items()}
    counts = classes.values()
    sure: _Intervals = {}
    if intervals:
        sure["mean_ci95"] = {metric: interval(values) for metric, values in columns.items()}
    if any("confidence" in case for case in cases):
        sure["confidence"] = _confidence(cases, class_names)
    return {
        "cases": len(cases),
        "mean_dice": mean.get("dice", math.nan),
        "mean": mean,
        **sure,
        "absent": sum(row["absent"] for row in counts),
        "missed": _sum(row["missed"] for row in counts),
        "false_positives": _sum(row["false_positives"] for row in counts),
        "classes": classes,
    }


def validation_metrics(summary: Summary) -> dict[str, float]:
    """The Dice of a validation under the names that `state.metrics` and MLflow's curves have.

    "val_mean_dice" is the mean over the classes or regions, "val_dice_<class>" that of a class, see
    `pipelines.metrics.mlflow_names`; the value of a class that no case has is NaN.

    Examples:
        >>> validation_metrics(summarise([{"case": "a", "dice": {"liver": 0.9}}], ["liver"]))
        {'val_mean_dice': 0.9, 'val_dice_liver': 0.9}
    """
    keys = metric_names(list(summary["classes"]))
    return {"val_mean_dice": summary["mean_dice"]} | {
        f"val_dice_{keys[name]}": statistics_of(row, "dice")["mean"]
        for name, row in summary["classes"].items()
    }


def figures(summary: Summary, prefix: str = "") -> dict[str, float]:
    """The summary as MLflow metrics: mean_<metric> over the classes and <metric>_<class>, without NaN values.

    The names of classes are those of `pipelines.metrics.mlflow_names`. With a confidence there are also
    confidence_spearman and confidence_error, and both with _<class>.

    Examples:
        >>> summary = summarise([{"case": "a", "dice": {"liver": 0.9}}], ["liver"])
        >>> figures(summary)
        {'mean_dice': 0.9, 'dice_liver': 0.9}
    """
    keys = metric_names(list(summary["classes"]))
    values = {f"{prefix}mean_{metric}": value for metric, value in summary["mean"].items()}
    for name, row in summary["classes"].items():
        values |= {
            f"{prefix}{metric}_{keys[name]}": statistics_of(row, metric)["mean"] for metric in summary["mean"]
        }
    for key, count in (("missed", summary["missed"]), ("false_positives", summary["false_positives"])):
        if count is not None:
            values[f"{prefix}{key}"] = float(count)
    if "confidence" in summary:
        for ending, found in (
            ("", summary["confidence"]["mean"]),
            *((f"_{keys[name]}", row) for name, row in summary["confidence"]["classes"].items()),
        ):
            values[f"{prefix}confidence_spearman{ending}"] = found["spearman"]
            values[f"{prefix}confidence_error{ending}"] = found["mean_absolute_error"]
    return {key: value for key, value in values.items() if not math.isnan(value)}


def table(summary: Summary) -> str:
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
        dice = statistics_of(row, "dice")
        line = (
            f"{name:<{width}}  {dice['mean']:9.4f}  {dice['median']:6.4f}  {dice['min']:6.4f}  {dice['n']:5d}"
        )
        line += "".join(
            f"  {statistics_of(row, m)['mean']:{max(9, len(m))}.{METRICS[m].digits}f}" for m in shown
        )
        lines.append(line + (f"  {row['missed']:6d}  {row['false_positives']:14d}" if counted else ""))
    last = f"{'mean':<{width}}  {summary['mean_dice']:9.4f}"
    if shown:
        last += " " * 23 + "".join(
            f"  {summary['mean'][m]:{max(9, len(m))}.{METRICS[m].digits}f}" for m in shown
        )
    sure = summary["mean_ci95"]["dice"] if "mean_ci95" in summary else None
    lines.append(last.rstrip())
    if sure is not None:
        lines.append(f"95% confidence interval of the mean Dice: {sure[0]:.4f} to {sure[1]:.4f}")
    return "\n".join(lines)


def _confidence(cases: Sequence[CaseMetrics], class_names: Sequence[str]) -> ConfidenceSummary:
    columns = {
        name: [np.array([value_of(case, key, name) for case in cases]) for key in ("confidence", "dice")]
        for name in class_names
    }
    classes = {name: agreement(confidence, dice) for name, (confidence, dice) in columns.items()}
    return {"mean": mean_agreement(list(classes.values())), "classes": classes}


def _statistics(values: np.ndarray, intervals: bool) -> Statistics:
    values = values[~np.isnan(values)]
    some = len(values) > 0
    found: Statistics = {
        "mean": float(values.mean()) if some else math.nan,
        "median": float(np.median(values)) if some else math.nan,
        "min": float(values.min()) if some else math.nan,
        "max": float(values.max()) if some else math.nan,
        "std": float(values.std(ddof=1)) if len(values) > 1 else math.nan,
        "n": len(values),
    }
    if intervals:
        found["ci95"] = interval(values[:, None])
    return found


def _counts(cases: Sequence[CaseMetrics], name: str) -> _Counts:
    if not all("reference_voxels" in case for case in cases):
        absent = sum(math.isnan(value_of(case, "dice", name)) for case in cases)
        return {"absent": absent, "missed": None, "false_positives": None, "false_positive_ml": None}
    found = [outcome(case, name) for case in cases]
    false = [case for case, what in zip(cases, found, strict=True) if what == FALSE_POSITIVE]
    return {
        "absent": found.count(ABSENT),
        "missed": found.count(MISSED),
        "false_positives": len(false),
        "false_positive_ml": float(sum(value_of(case, "volume_error_ml", name) for case in false)),
    }


def _sum(numbers: Iterable[int | None]) -> int | None:
    """The sum; None if one of the numbers is None."""
    known = list(numbers)
    return None if None in known else sum(number for number in known if number is not None)
