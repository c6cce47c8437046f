"""Writing results as CSV tables and JSON."""

from __future__ import annotations

import contextlib
import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from pipelines.metrics.names import ESTIMATES, METRICS
from pipelines.metrics.overlap import FORMAT
from pipelines.metrics.pixels import PooledScores
from pipelines.metrics.summary import CaseMetrics, Summary, outcome, statistics_of, summarise, value_of
from transforms.utils.files import replacing


class Measured(TypedDict):
    """Cases, and the names of the classes that were measured in them."""

    classes: list[str]
    cases: list[CaseMetrics]


class _Pooled(TypedDict, total=False):
    pooled: Mapping[str, PooledScores]


class Results(Measured, _Pooled):
    """The results of a set of cases as plain JSON, which has None for NaN.

    `pooled` is there where pixels were measured: the metrics over those of all cases, by the names of the structures.
    """

    format: int
    split: str
    summary: Summary


_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def guarded(row: Iterable[Any]) -> list[Any]:
    """The cells of a CSV line; text that a spreadsheet would run as a formula is preceded by an apostrophe.

    Case names come from file names, which may be chosen by strangers. Numbers are unchanged. OWASP, CSV injection.

    Examples:
        >>> guarded(["=SUM(A1)", "case_1", 0.9])
        ["'=SUM(A1)", 'case_1', 0.9]
    """
    return [f"'{cell}" if isinstance(cell, str) and _is_formula(cell) else cell for cell in row]


def _is_formula(text: str) -> bool:
    if not text.startswith(_FORMULA):
        return False
    try:
        float(text)
    except ValueError:
        return True
    return False


@contextlib.contextmanager
def csv_table(path: Path, head: Sequence[str]) -> Iterator[Callable[[Iterable[Any]], None]]:
    """Write a CSV file, which is put in place when the block ends; yields a function that writes one `guarded` line.

    Args:
        path: file to write.
        head: cells of the first line.
    """
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(head)
        yield lambda row: writer.writerow(guarded(row))


def write_csv(path: Path, cases: Sequence[CaseMetrics], class_names: Sequence[str]) -> None:
    """Write one line per case and class with all metrics; a missing value is an empty cell.

    If the records hold voxel counts, the column "outcome" is present, missed, false positive or absent. The last columns are
    `pipelines.metrics.names.ESTIMATES`.

    Examples:
        >>> write_csv(Path("metrics.csv"), [{"case": "a", "dice": {"liver": 0.9}}], ["liver"])
        >>> Path("metrics.csv").read_text().splitlines()
        ['case,class,dice', 'a,liver,0.900000']
    """
    metrics = [metric for metric in METRICS if any(metric in case for case in cases)]
    counted = all("reference_voxels" in case for case in cases)
    extra = ["outcome", "reference_voxels", "prediction_voxels"] if counted else []
    estimates = [name for name in ESTIMATES if any(name in case for case in cases)]
    with csv_table(path, ["case", "class", *metrics, *extra, *estimates]) as write:
        for case in cases:
            for name in class_names:
                row = [_text(value_of(case, metric, name)) for metric in metrics]
                if counted:
                    voxels = case["reference_voxels"][name], case["prediction_voxels"][name]
                    row += [outcome(case, name), *map(str, voxels)]
                row += [_text(value_of(case, estimate, name)) for estimate in estimates]
                write([case["case"], name, *row])


def write_summary_csv(path: Path, summary: Summary) -> None:
    """Write one line per class and metric: mean, its interval, median, min, max, std, n and the counts."""
    head = (
        *("class", "metric", "n", "mean", "median", "min", "max", "std", "ci95_low", "ci95_high"),
        *("absent", "missed", "false_positives", "false_positive_ml"),
    )
    with csv_table(path, head) as write:
        for name, row in summary["classes"].items():
            for metric in summary["mean"]:
                found = statistics_of(row, metric)
                spread = found["mean"], found["median"], found["min"], found["max"], found["std"]
                sure = found.get("ci95") or (math.nan, math.nan)
                counts = row["absent"], row["missed"], row["false_positives"], row["false_positive_ml"]
                numbers = map(_text, (found["n"], *spread, *sure, *counts))
                write([name, metric, *numbers])


def results(
    cases: Sequence[CaseMetrics],
    class_names: Sequence[str],
    summary: Summary | None = None,
    split: str = "validation",
    pooled: Mapping[str, PooledScores] | None = None,
) -> Results:
    """The results of a set of cases as plain JSON.

    Examples:
        >>> found = results([{"case": "a", "dice": {"liver": float("nan")}}], ["liver"])
        >>> found["classes"], found["cases"]
        (['liver'], [{'case': 'a', 'dice': {'liver': None}}])
    """
    content: Results = {
        "format": FORMAT,
        "split": split,
        "classes": list(class_names),
        "cases": list(cases),
        "summary": summarise(cases, class_names) if summary is None else summary,
    }
    if pooled is not None:
        content["pooled"] = pooled
    return without_nan(content)


def write_json(
    path: Path,
    cases: Sequence[CaseMetrics],
    class_names: Sequence[str],
    summary: Summary | None = None,
    split: str = "validation",
    pooled: Mapping[str, PooledScores] | None = None,
) -> None:
    """Write `results`."""
    with replacing(path) as temporary:
        content = results(cases, class_names, summary, split, pooled)
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def without_nan(value: Any) -> Any:
    """Plain JSON: NaN and infinity, which JSON does not have, become None.

    Examples:
        >>> without_nan({"dice": {"liver": 0.9, "lesion": float("nan")}})
        {'dice': {'liver': 0.9, 'lesion': None}}
    """
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _text(value: float | None) -> str:
    return (
        ""
        if value is None or math.isnan(value)
        else f"{value:.6f}"
        if isinstance(value, float)
        else str(value)
    )
