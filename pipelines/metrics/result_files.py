"""Results as files: CSV tables that people open in a spreadsheet, and JSON."""

from __future__ import annotations

import contextlib
import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.metrics.names import METRICS
from pipelines.metrics.overlap import FORMAT
from pipelines.metrics.summary import outcome, summarise
from transforms.utils.files import replacing

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def guarded(row: Iterable[Any]) -> list[Any]:
    """The cells of a CSV line; text that a spreadsheet would run as a formula gets an apostrophe before it.

    Names of cases are names of files, which others have given. Numbers stay as they are. OWASP, CSV injection.

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
    """A CSV file that appears when the block ends; what it yields writes one line, its cells `guarded`.

    Args:
        head: the first line.
    """
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(head)
        yield lambda row: writer.writerow(guarded(row))


def write_csv(path: Path, cases: Sequence[Mapping[str, Any]], class_names: Sequence[str]) -> None:
    """One line per case and class with all its metrics; what has no value is empty.

    "outcome" tells present, missed, false positive and absent apart, where the records hold voxel counts.

    Examples:
        >>> write_csv(Path("metrics.csv"), [{"case": "a", "dice": {"liver": 0.9}}], ["liver"])
        >>> Path("metrics.csv").read_text().splitlines()
        ['case,class,dice', 'a,liver,0.900000']
    """
    metrics = [metric for metric in METRICS if any(metric in case for case in cases)]
    counted = all("reference_voxels" in case for case in cases)
    extra = ["outcome", "reference_voxels", "prediction_voxels"] if counted else []
    with csv_table(path, ["case", "class", *metrics, *extra]) as write:
        for case in cases:
            for name in class_names:
                row = [_text(case.get(metric, {}).get(name)) for metric in metrics]
                if counted:
                    row += [outcome(case, name), *(str(case[key][name]) for key in extra[1:])]
                write([case["case"], name, *row])


def write_summary_csv(path: Path, summary: Mapping[str, Any]) -> None:
    """One line per class and metric: mean, its interval, median, min, max, std, n and the counts."""
    keys = ("n", "mean", "median", "min", "max", "std")
    counts = ("absent", "missed", "false_positives", "false_positive_ml")
    with csv_table(path, ["class", "metric", *keys, "ci95_low", "ci95_high", *counts]) as write:
        for name, row in summary["classes"].items():
            for metric in summary["mean"]:
                low, high = row[metric].get("ci95") or (math.nan, math.nan)
                values = [_text(row[metric][key]) for key in keys] + [_text(low), _text(high)]
                write([name, metric, *values, *(_text(row[key]) for key in counts)])


def results(
    cases: Sequence[Mapping[str, Any]],
    class_names: Sequence[str],
    summary: Mapping[str, Any] | None = None,
    split: str = "validation",
) -> dict[str, Any]:
    """The results of a set of cases as plain JSON: format, split, classes, cases, summary; NaN becomes None.

    Examples:
        >>> found = results([{"case": "a", "dice": {"liver": float("nan")}}], ["liver"])
        >>> found["classes"], found["cases"]
        (['liver'], [{'case': 'a', 'dice': {'liver': None}}])
    """
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


def with_nan(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Metrics of a case as they were before `without_nan`.

    Examples:
        >>> with_nan({"dice": {"liver": 0.9, "lesion": None}})
        {'dice': {'liver': 0.9, 'lesion': nan}}
    """
    return {
        metric: {name: math.nan if value is None else value for name, value in values.items()}
        for metric, values in metrics.items()
    }


def _text(value: float | None) -> str:
    return (
        ""
        if value is None or math.isnan(value)
        else f"{value:.6f}"
        if isinstance(value, float)
        else str(value)
    )
