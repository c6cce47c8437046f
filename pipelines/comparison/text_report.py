"""A comparison as text for a terminal of 100 columns, and as CSV."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

from pipelines.comparison.comparison import ALL, Change, Comparison, Row
from pipelines.comparison.differences import Difference, config_differences, origin_differences
from pipelines.metrics.names import METRICS
from pipelines.metrics.result_files import csv_table

WIDTH = 100
MOST_CLASSES, MOST_CASES, MOST_DIFFERENCES = 40, 8, 12


def as_text(comparison: Comparison) -> str:
    """The comparison as text; long tables are shortened, with a line that states how many entries are left out."""
    parts = [_head(comparison)]
    parts += [_against(comparison, other) for other in range(1, len(comparison.runs))]
    parts.append(_differing("configuration", config_differences(comparison.runs)))
    parts.append(_differing("code, data, machine", origin_differences(comparison.runs)))
    return "\n\n".join(part for part in parts if part)


def number(value: float, metric: str, signed: bool = False) -> str:
    """A value of a metric as text: four decimals for ratios, two for mm or ml, n/a for NaN."""
    if math.isnan(value):
        return "n/a"
    text = f"{value:{'+' if signed else ''}.{METRICS[metric].digits}f}"
    # A difference that rounds to zero is shown without a sign.
    return text.lstrip("+-") if not float(text) else text


def p_value(value: float) -> str:
    if math.isnan(value):
        return "n/a"
    return "<0.0001" if value < 0.0001 else f"{value:.4f}"


def _head(comparison: Comparison) -> str:
    better = "higher is better" if comparison.higher_is_better else "lower is better"
    cases, classes = len(comparison.cases), len(comparison.classes)
    lines = [f"{comparison.metric} of {_count(cases, 'case')} in {_count(classes, 'class')}, {better}", ""]
    for index, run in enumerate(comparison.runs):
        what = f"{run.kind}, {run.split}" if run.split else run.kind
        known = [value for value in comparison.means[index].tolist() if not math.isnan(value)]
        mean = number(sum(known) / len(known) if known else math.nan, comparison.metric)
        baseline = "  baseline" if index == 0 else ""
        lines.append(
            f"{index + 1:2d}  {_cut(run.name, 28):<28}  {run.run_id[:8]}  {_cut(run.experiment, 14):<14}  "
            f"{_cut(what, 20):<20}  {mean}{baseline}"
        )
    if comparison.notices:
        lines.append("")
        for notice in comparison.notices:
            lines += textwrap.wrap(f"notice: {notice}", WIDTH, subsequent_indent="        ")
    return "\n".join(lines)


def _against(comparison: Comparison, other: int) -> str:
    metric = comparison.metric
    title = f"{other + 1} {comparison.runs[other].name} against 1 {comparison.runs[0].name}"
    lines = [title, "-" * min(len(title), WIDTH)]
    rows = comparison.rows_of(other)
    shown, hidden = _shown(rows)
    lines.append(
        f"{'class':<20}  cases  {'1':>7}  {other + 1:>7}  {'difference':>10}  {'95% interval':>18}  "
        f"{'p, Holm':>7}  better/worse"
    )
    for row in shown:
        s = row.statistics
        interval = "n/a"
        if not math.isnan(s.low):
            interval = f"{number(s.low, metric, True)} to {number(s.high, metric, True)}"
        lines.append(
            f"{_cut(row.name, 20):<20}  {s.pairs:5d}  {number(s.baseline, metric):>7}  "
            f"{number(s.other, metric):>7}  {number(s.difference, metric, True):>10}  {interval:>18}  "
            f"{p_value(row.p_holm):>7}  {f'{comparison.better(row)}/{comparison.worse(row)}':>12}"
        )
    if hidden:
        lines.append(
            f"{_count(hidden, 'class')} with smaller differences not shown: --csv or --html lists all"
        )
    lines += _absent(rows)
    changes = comparison.changes(other)
    sign = 1 if comparison.higher_is_better else -1
    worse = [change for change in changes if change.difference * sign < 0]
    better = [change for change in reversed(changes) if change.difference * sign > 0]
    for word, cases in (("worse", worse), ("better", better)):
        lines += _cases(word, cases, other, metric)
    lines += _one_sided(comparison, other)
    return "\n".join(lines)


def _shown(rows: Sequence[Row]) -> tuple[list[Row], int]:
    classes, overall = [row for row in rows if row.name != ALL], [row for row in rows if row.name == ALL]
    if len(classes) <= MOST_CLASSES:
        return [*classes, *overall], 0
    ranked = sorted(classes, key=_by_significance)
    return [*ranked[:MOST_CLASSES], *overall], len(classes) - MOST_CLASSES


def _by_significance(row: Row) -> tuple[bool, bool, float]:
    """Sort key: significant differences first, then by size; classes without a difference last."""
    size = row.statistics.difference
    return not row.p_holm < 0.05, math.isnan(size), -abs(size)


def _absent(rows: Sequence[Row]) -> list[str]:
    gaps = [
        (row.name, s.neither, s.only_baseline, s.only_other)
        for row in rows
        if row.name != ALL and (s := row.statistics) and (s.neither or s.only_baseline or s.only_other)
    ]
    lines = [
        f"{name}: {neither} in neither run, {first} only in 1, {second} only in {rows[0].other + 1}"
        for name, neither, first, second in gaps[:MOST_CASES]
    ]
    if len(gaps) > MOST_CASES:
        lines.append(f"and {len(gaps) - MOST_CASES} more classes, see --csv")
    return (
        ["", "cases left out above, because a run has no value for them:", *_indent(lines)] if lines else []
    )


def _cases(word: str, changes: Sequence[Change], other: int, metric: str) -> list[str]:
    if not changes:
        return ["", f"no case got {word}"]
    lines = ["", f"{_count(len(changes), 'case')} got {word} (mean over the classes of a case)"]
    lines.append(f"  {'case':<34}  {'1':>8}  {other + 1:>8}  {'difference':>10}  most")
    for change in changes[:MOST_CASES]:
        name, most = change.most
        lines.append(
            f"  {_cut(change.case, 34):<34}  {number(change.baseline, metric):>8}  "
            f"{number(change.other, metric):>8}  {number(change.difference, metric, True):>10}  "
            f"{_cut(name, 18)} {number(most, metric, True)}"
        )
    if len(changes) > MOST_CASES:
        lines.append(f"  and {len(changes) - MOST_CASES} more, see --csv")
    return lines


def _one_sided(comparison: Comparison, other: int) -> list[str]:
    found = comparison.one_sided(other)
    if not found:
        return []
    lines = [
        f"{case} {name}: 1 {number(first, comparison.metric)}, {other + 1} {number(second, comparison.metric)}"
        for case, name, first, second in found[:MOST_CASES]
    ]
    if len(found) > MOST_CASES:
        lines.append(f"and {len(found) - MOST_CASES} more, see --csv")
    return ["", "values that only one run has:", *_indent(lines)]


def _differing(title: str, differences: Sequence[Difference]) -> str:
    if not differences:
        return f"{title}: no differences"
    lines = [f"{title}: {_count(len(differences), 'difference')}"]
    for difference in differences[:MOST_DIFFERENCES]:
        values = " | ".join("(none)" if value is None else _cut(value, 40) for value in difference.values)
        lines.append("  " + _cut(f"{_cut(difference.name, 44)}: {values}", WIDTH - 2))
    if len(differences) > MOST_DIFFERENCES:
        lines.append(f"  and {len(differences) - MOST_DIFFERENCES} more, see --html")
    return "\n".join(lines)


def _indent(lines: Sequence[str]) -> list[str]:
    return ["  " + line for line in lines]


def _cut(text: str, width: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"


def _count(number: int, noun: str) -> str:
    plural = {"class": "classes"}.get(noun, noun + "s")
    return f"{number} {noun if number == 1 else plural}"


def write_cases_csv(path: Path, comparison: Comparison) -> None:
    """Write one line per case and class: the value of each run, and the difference of each run to the first.

    A missing value is an empty cell.
    """
    labels = [f"{i + 1} {run.name} {run.run_id[:8]}" for i, run in enumerate(comparison.runs)]
    differences = [f"{i + 1} minus 1" for i in range(1, len(comparison.runs))]
    with csv_table(path, ["case", "class", "metric", *labels, *differences]) as write:
        for i, case in enumerate(comparison.cases):
            for k, name in enumerate(comparison.classes):
                values = comparison.values[:, i, k]
                cells = [_cell(value) for value in (*values, *(values[1:] - values[0]))]
                write([case, name, comparison.metric, *cells])


def classes_file(path: Path) -> Path:
    """The path of the file with the statistics that belong to the values in `path`."""
    return path.with_name(f"{path.stem}_classes{path.suffix}")


def write_classes_csv(path: Path, comparison: Comparison) -> None:
    """Write one line per run after the baseline and class: means, difference, interval, p, counts."""
    head = [
        "run",
        "run_id",
        "class",
        "metric",
        "pairs",
        "baseline",
        "other",
        "difference",
        "low_95",
        "high_95",
    ]
    head += ["p", "p_holm", "better", "worse", "equal", "only_baseline", "only_other", "neither"]
    with csv_table(path, head) as write:
        for row in comparison.rows:
            run, s = comparison.runs[row.other], row.statistics
            figures = (s.baseline, s.other, s.difference, s.low, s.high, s.p, row.p_holm)
            counts = (comparison.better(row), comparison.worse(row), s.equal)
            absent = (s.only_baseline, s.only_other, s.neither)
            names = [run.name, run.run_id, row.name, comparison.metric, s.pairs]
            write([*names, *(_cell(value) for value in figures), *counts, *absent])


def _cell(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"
