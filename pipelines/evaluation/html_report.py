"""The results of an evaluation as one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.metrics.names import METRICS
from pipelines.metrics.result_files import Results
from pipelines.metrics.summary import (
    ABSENT,
    FALSE_POSITIVE,
    MISSED,
    CaseMetrics,
    Summary,
    outcome,
    statistics_of,
    value_of,
)
from transforms.utils.files import replacing

# The columns that come first.
_FIRST = ("dice", "nsd", "hd95_mm", "msd_mm", "volume_error_ml")
_PLOTTED = ("dice", "nsd", "hd95_mm", "volume_error_ml")
PICTURES = 12
"""Pictures on the page, of the worst cases."""
ROWS = 5000
"""Lines of the table of cases; the page would be slow with more, and metrics.csv has them all."""

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --back: #fff; --line: #d5d5d5; --soft: #666; --mark: #2166ac;
  --fill: #2166ac33; --bad: #b2182b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e4e4; --back: #141414; --line: #3a3a3a; --soft: #a0a0a0;
  --mark: #74add1; --fill: #74add133; --bad: #f4806c; } }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 80em; padding: 0 1em; color: var(--ink);
  background: var(--back); }
h2 { margin: 2em 0 .4em; } h3 { margin: 1.4em 0 .2em; font-size: 1em; }
p.soft, caption, .soft { color: var(--soft); text-align: left; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
small { font-size: .75em; } th, td { padding: .2em .5em; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { white-space: normal; vertical-align: bottom; } th:first-child, td:first-child, td.text, th.text { text-align: left; }
th button { all: unset; cursor: pointer; } th button:focus-visible { outline: 2px solid var(--mark); }
th[aria-sort=ascending] button::after { content: " \\25b2"; } th[aria-sort=descending] button::after { content: " \\25bc"; }
.bad { color: var(--bad); } img { max-width: 100%; display: block; margin: .4em 0; }
svg { display: block; max-width: 100%; height: auto; } svg text { fill: var(--ink); font: 12px system-ui, sans-serif; }
svg .axis { stroke: var(--line); } svg .box { fill: var(--fill); stroke: var(--mark); }
svg .median { stroke: var(--mark); stroke-width: 2.5; } svg .whisker { stroke: var(--mark); }
svg .case { fill: var(--ink); fill-opacity: .45; }
"""

# Sorts by what a cell holds: numbers where both are, empty cells always last.
_SCRIPT = """
for (const head of document.querySelectorAll("table.sortable th")) head.firstChild.onclick = () => {
  const table = head.closest("table"), column = head.cellIndex, body = table.tBodies[0];
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const key = row => row.cells[column].textContent, sign = down ? -1 : 1;
  const rows = [...body.rows].sort((a, b) => {
    const x = key(a), y = key(b);
    if (!x || !y) return (!x) - (!y);
    return sign * (isNaN(x) || isNaN(y) ? x.localeCompare(y, undefined, {numeric: true}) : x - y);
  });
  body.append(...rows);
};
"""


def write_report(
    path: Path,
    results: Results,
    title: str,
    facts: Mapping[str, str] | None = None,
    pictures: Mapping[str, Path] | None = None,
) -> None:
    """Write the page: summary, box plots per class, the worst cases with pictures, and a table of all.

    Args:
        results: what the page shows.
        title: of the page.
        facts: what was evaluated and how, shown under the title.
        pictures: case to a PNG file; the page holds those of the `PICTURES` worst cases.
    """
    metrics = [m for m in dict.fromkeys((*_FIRST, *METRICS)) if m in results["summary"]["mean"]]
    lines = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>",
        "<p>" + "<br>".join(f"{escape(k)}: {escape(v)}" for k, v in (facts or {}).items()) + "</p>",
        '<p class="soft">Not for clinical use.</p>',
        *_summary(results["summary"], metrics),
        "<h2>Spread over the cases</h2>",
        *(_plot(results, metric) for metric in _PLOTTED if metric in metrics),
        *_worst(results, metrics, pictures or {}),
        *_table(results, metrics),
        f"<script>{_SCRIPT}</script></body></html>\n",
    ]
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines), encoding="utf-8")


def worst_first(cases: Sequence[CaseMetrics]) -> list[CaseMetrics]:
    """Cases by their mean Dice over the classes, those without any structure last."""
    return sorted(cases, key=badness)


def badness(case: CaseMetrics) -> tuple[float, str]:
    """What `worst_first` sorts by: the mean Dice of a case (infinite without one), then its name."""
    values = [v for v in case["dice"].values() if v is not None and not math.isnan(v)]
    return (sum(values) / len(values) if values else math.inf), str(case["case"])


def _summary(summary: Summary, metrics: Sequence[str]) -> list[str]:
    counted = summary["missed"] is not None
    interval = summary["mean_ci95"].get("dice") if "mean_ci95" in summary else None
    text = f"Mean Dice over the classes: <b>{_number('dice', summary['mean_dice'])}</b>"
    if interval:
        text += f" (95% confidence interval {_number('dice', interval[0])} to {_number('dice', interval[1])})"
    text += f", {summary['cases']} case{'' if summary['cases'] == 1 else 's'}."
    if counted:
        text += (
            f" Missed structures: {summary['missed']}. False positives, structures predicted where the reference has"
            f" none: {summary['false_positives']}. Absent in both: {summary['absent']}."
        )
    head = ["class", "cases", *(("missed", "false positives", "absent") if counted else ())]
    head += [METRICS[m].heading for m in metrics]
    rows = []
    for name, row in summary["classes"].items():
        cells = [escape(name), str(statistics_of(row, "dice")["n"])]
        if counted:
            cells += [_count(row["missed"]), _count(row["false_positives"]), str(row["absent"])]
        for metric in metrics:
            found = statistics_of(row, metric)
            cell = _number(metric, found["mean"])
            if found["n"]:
                low, high = found.get("ci95") or (None, None)
                tip = f"median {_number(metric, found['median'])}, {_number(metric, found['min'])} to "
                tip += f"{_number(metric, found['max'])}, std {_number(metric, found['std'])}, n {found['n']}"
                if low is not None:
                    tip += f", 95% CI {_number(metric, low)} to {_number(metric, high)}"
                    cell += (
                        f'<br><small class="soft">{_number(metric, low)} to {_number(metric, high)}</small>'
                    )
                cell = f'<span title="{escape(tip)}">{cell}</span>'
                if found["n"] != statistics_of(row, "dice")["n"]:
                    cell += f'<br><small class="bad">of {found["n"]} cases</small>'
            cells.append(cell)
        rows.append(cells)
    last = ["mean of the classes", ""]
    if counted:
        last += [str(n) for n in (summary["missed"], summary["false_positives"], summary["absent"])]
    last += [_number(metric, summary["mean"][metric]) for metric in metrics]
    note = (
        "Means over the cases that have a value, under them the 95% confidence interval (bootstrap over cases). A missed"
        " structure has Dice 0 and no distance; a false positive has Dice 0, no distance and no sensitivity; a structure"
        " absent in both has no value."
    )
    return [f"<h2>Summary</h2><p>{text}</p>", _grid(head, [*rows, last]), f'<p class="soft">{note}</p>']


def _plot(results: Results, metric: str) -> str:
    """Box plots of a metric, a line per class: quartiles, whiskers to 1.5 times their range (Tukey), every case a dot."""
    columns = {
        name: [(c["case"], v) for c in results["cases"] if not math.isnan(v := value_of(c, metric, name))]
        for name in results["classes"]
    }
    values = [value for column in columns.values() for _, value in column]
    if not values:
        return ""
    shares = not METRICS[metric].unit
    low, high = (0.0, 1.0) if shares else (min(0.0, *values, 0.0), max(0.0, *values, 0.0))
    high = high if high > low else low + 1
    left, width, step = 10 + 7 * min(40, max(map(len, columns))), 640, 22
    total, height = left + width + 60, 24 + step * len(columns) + 24

    def across(value: float) -> str:
        return f"{left + (value - low) / (high - low) * width:.1f}"

    parts = [
        f'<svg viewBox="0 0 {total} {height}" width="{total}" role="img" aria-label="{escape(METRICS[metric].heading)}">'
    ]
    for tick in _ticks(low, high):
        parts.append(
            f'<line class="axis" x1="{across(tick)}" x2="{across(tick)}" y1="18" y2="{height - 24}"/>'
        )
        parts.append(f'<text x="{across(tick)}" y="{height - 8}" text-anchor="middle">{tick:g}</text>')
    for index, (name, column) in enumerate(columns.items()):
        y = 24 + step * index + step // 2
        shown = name if len(name) <= 40 else name[:39] + "…"
        parts.append(f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{escape(shown)}</text>')
        parts += _box(np.array([value for _, value in column]), y, across) if column else []
        for number, (case, value) in enumerate(column):
            shift = (number * 0.618034 % 1 - 0.5) * 9  # spread evenly, the same at every time
            tip = f"{escape(case)}: {_number(metric, value)}"
            parts.append(
                f'<circle class="case" cx="{across(value)}" cy="{y + shift:.1f}" r="2"><title>{tip}</title></circle>'
            )
    return f"<h3>{escape(METRICS[metric].heading)}</h3><div class=wide>" + "".join(parts) + "</svg></div>"


def _box(values: np.ndarray, y: int, across: Any) -> list[str]:
    first, middle, third = (float(v) for v in np.percentile(values, (25, 50, 75)))
    reach = 1.5 * (third - first)
    low, high = float(values[values >= first - reach].min()), float(values[values <= third + reach].max())
    whiskers = [(low, min(low, first), first), (high, third, max(high, third))]
    parts = [
        f'<line class="whisker" x1="{across(a)}" x2="{across(b)}" y1="{y}" y2="{y}"/>'
        f'<line class="whisker" x1="{across(end)}" x2="{across(end)}" y1="{y - 4}" y2="{y + 4}"/>'
        for end, a, b in whiskers
    ]
    extent = float(across(third)) - float(across(first))
    parts.append(f'<rect class="box" x="{across(first)}" y="{y - 7}" width="{extent:.1f}" height="14"/>')
    return [
        *parts,
        f'<line class="median" x1="{across(middle)}" x2="{across(middle)}" y1="{y - 7}" y2="{y + 7}"/>',
    ]


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * n for n in (1, 2, 5, 10) if power * n >= raw * 0.999)
    return [
        round(n * step, 10) for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    ]


def _worst(results: Results, metrics: Sequence[str], pictures: Mapping[str, Path]) -> list[str]:
    cases = [case for case in worst_first(results["cases"]) if badness(case)[0] < math.inf]
    shown = [case for case in cases if case["case"] in pictures][:PICTURES] or cases[:PICTURES]
    parts = ["<h2>Worst cases</h2>"]
    if not pictures:
        parts.append(
            '<p class="soft">Without pictures: there were no images, or pictures were switched off.</p>'
        )
    for case in shown:
        parts.append(f"<h3>{escape(case['case'])}: mean Dice {_number('dice', badness(case)[0])}</h3>")
        dice = {name: value_of(case, "dice", name) for name in results["classes"]}
        names = sorted((name for name in dice if not math.isnan(dice[name])), key=lambda name: dice[name])
        said = []
        for name in names[:8]:
            what = outcome(case, name) if "reference_voxels" in case else ""
            mark = f' <span class="bad">{what}</span>' if what in (MISSED, FALSE_POSITIVE) else ""
            said.append(f"{escape(name)} {_number('dice', dice[name])}{mark}")
        more = f", and {len(names) - 8} better ones" if len(names) > 8 else ""
        parts.append("<p>" + ", ".join(said) + more + "</p>")
        if case["case"] in pictures:
            data = base64.b64encode(Path(pictures[case["case"]]).read_bytes()).decode()
            parts.append(f'<img alt="{escape(case["case"])}" src="data:image/png;base64,{data}">')
    return parts


def _table(results: Results, metrics: Sequence[str]) -> list[str]:
    rows = []
    for case in worst_first(results["cases"]):
        for name in results["classes"]:
            what = outcome(case, name) if "reference_voxels" in case else ""
            if what == ABSENT:
                continue
            mark = f'<span class="bad">{what}</span>' if what in (MISSED, FALSE_POSITIVE) else what
            numbers = [_number(metric, value_of(case, metric, name)) for metric in metrics]
            rows.append([escape(case["case"]), escape(name), *numbers, mark])
    note = (
        "Worst cases first; a click on a heading sorts. Structures that are absent in both maps are left out."
    )
    if len(rows) > ROWS:
        note += f" The first {ROWS} of {len(rows)} lines; all are in metrics.csv."
    head = ["case", "class", *(METRICS[metric].heading for metric in metrics), "outcome"]
    return [f'<h2>All cases</h2><p class="soft">{note}</p>', _grid(head, rows[:ROWS], "sortable")]


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    text = {index for index, name in enumerate(head) if name in ("case", "class", "outcome")}

    def css(index: int) -> str:
        return ' class="text"' if index in text else ""

    titles = "".join(
        f"<th{css(i)}>" + (f"<button>{escape(name)}</button>" if kind else escape(name)) + "</th>"
        for i, name in enumerate(head)
    )
    body = "\n".join(
        "<tr>" + "".join(f"<td{css(i)}>{cell}</td>" for i, cell in enumerate(row)) + "</tr>" for row in rows
    )
    return f'<div class=wide><table class="{kind}"><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>'


def _number(metric: str, value: float | None) -> str:
    if value is None or math.isnan(value):
        return ""
    return f"{value:.{METRICS[metric].digits}f}"


def _count(number: int | None) -> str:
    return f'<span class="bad">{number}</span>' if number else "0"
