"""A comparison as one HTML page: tables, plots, pictures, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from pathlib import Path

from PIL import Image

from pipelines.comparison.comparison import ALL, Comparison, Row
from pipelines.comparison.differences import Difference, config_differences, origin_differences
from pipelines.comparison.plots import MOST_POINTS, boxes, differences
from pipelines.comparison.run_finder import RunFinder
from pipelines.comparison.run_results import RunResults, picture_of
from pipelines.comparison.text_report import number, p_value
from transforms.utils.files import replacing

WORST, BEST, MOST_PICTURES = 3, 2, 6
PICTURE_WIDTH = 900
MOST_BYTES = 6_000_000
MOST_CELLS = 5000

_STYLE = """
:root { color-scheme: light dark; --ground: #fff; --text: #1b1f24; --soft: #667; --rule: #d8dce2; --shade: #f3f5f8;
  --better: #1a73c4; --worse: #c9500a; --c0: #1a73c4; --c1: #c9500a; --c2: #23875b; --c3: #8a4fbd; --c4: #a8841a;
  --c5: #b8336a; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171b; --text: #dfe3e8; --soft: #98a1ad; --rule: #333a43;
  --shade: #1d2228; --better: #6bb1f5; --worse: #f59a5b; --c0: #6bb1f5; --c1: #f59a5b; --c2: #63c99b; --c3: #c39bea;
  --c4: #dcc063; --c5: #ee82ac; } }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 1200px; padding: 0 1.5em;
  color: var(--text); background: var(--ground); }
h1 { font-size: 1.5em; } h2 { margin: 2.2em 0 .4em; font-size: 1.2em; } h3 { margin: 1.4em 0 .3em; font-size: 1em; }
p { margin: .4em 0; } .soft, caption { color: var(--soft); } .notice { border-left: 3px solid var(--worse);
  padding-left: .8em; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2em .5em; border-bottom: 1px solid var(--rule); text-align: right; white-space: nowrap; }
th:first-child, td:first-child, td.left, th.left { text-align: left; } td.text { white-space: normal;
  overflow-wrap: anywhere; text-align: left; max-width: 28em; }
tr.all td { font-weight: 600; } .better { color: var(--better); } .worse { color: var(--worse); }
code { font-size: .9em; } svg { width: 100%; height: auto; font-size: 12px; } svg text { fill: var(--text); }
svg .label { text-anchor: end; } svg .tick { text-anchor: middle; fill: var(--soft); }
svg .grid { stroke: var(--rule); } svg .zero { stroke: var(--soft); stroke-width: 1.5; }
svg circle { fill-opacity: .55; } svg .better { fill: var(--better); } svg .worse { fill: var(--worse); }
svg .same { fill: var(--soft); } svg .interval { stroke: var(--text); stroke-width: 3; } svg .mean { fill: var(--text);
  stroke: var(--ground); }
svg .run0 { --c: var(--c0); } svg .run1 { --c: var(--c1); } svg .run2 { --c: var(--c2); } svg .run3 { --c: var(--c3); }
svg .run4 { --c: var(--c4); } svg .run5 { --c: var(--c5); } svg g[class^=run] * { stroke: var(--c); }
svg g rect { fill: var(--c); fill-opacity: .25; } svg g circle { fill: var(--c); } svg g .median { stroke-width: 2.5; }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; vertical-align: -.05em; }
.pair { display: grid; gap: .8em; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30em), 1fr)); }
figure { margin: 0; } figure img { width: 100%; display: block; background: #000; } details { margin: .6em 0; }
figcaption { color: var(--soft); }
"""


def pictures(finder: RunFinder, comparison: Comparison) -> dict[str, list[str | None]]:
    """Overlays of the cases that changed most: case to one data URI per run, None where a run has no picture.

    Scaled to `PICTURE_WIDTH` pixels, as many as stay below `MOST_BYTES` in all.
    """
    chosen: list[str] = []
    for other in range(1, len(comparison.runs)):
        changes = comparison.changes(other)
        chosen += [change.case for change in (*changes[:WORST], *reversed(changes[WORST:][-BEST:]))]
    found: dict[str, list[str | None]] = {}
    size = 0
    for case in list(dict.fromkeys(chosen))[:MOST_PICTURES]:
        row = [_data_uri(picture_of(finder, run, case)) for run in comparison.runs]
        size += sum(len(uri) for uri in row if uri)
        if any(row) and size <= MOST_BYTES:
            found[case] = row
    return found


def write_report(path: Path, comparison: Comparison, shown: Mapping[str, Sequence[str | None]]) -> None:
    """Write the page.

    Args:
        path: file to write.
        comparison: what to tell.
        shown: of `pictures`.
    """
    others = range(1, len(comparison.runs))
    better = "higher is better" if comparison.higher_is_better else "lower is better"
    names = " and ".join(run.name for run in comparison.runs[:3]) + (
        " and more" if len(comparison.runs) > 3 else ""
    )
    page = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>{escape(names)}: {comparison.metric}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(names)}</h1>",
        f'<p class="soft">{comparison.metric} of {len(comparison.cases)} case{"s"[: len(comparison.cases) != 1]} in {len(comparison.classes)} '
        f"classes; {better}. Not for clinical use.</p>",
        _runs(comparison),
        *(f'<p class="notice">{escape(notice)}</p>' for notice in comparison.notices),
        *(_statistics(comparison, other) for other in others),
        f"<h2>Values per class</h2>{boxes(comparison)}",
        _pictures(comparison, shown),
        *(_cases(comparison, other) for other in others),
        _differing("Configuration", config_differences(comparison.runs), comparison.runs),
        _differing("Code, data, machine", origin_differences(comparison.runs), comparison.runs),
        "<h2>How to read this</h2><p>Intervals are of the mean difference over cases, by bootstrap (BCa, 95%); with "
        "few cases they are too narrow. p is of the Wilcoxon signed-rank test, two-sided, corrected after Holm over "
        "all classes and runs; n/a below six cases. A case without a value in one of the two runs has no "
        "difference.</p></body></html>\n",
    ]
    with replacing(path) as temporary:
        temporary.write_text("\n".join(part for part in page if part), encoding="utf-8")


def _runs(comparison: Comparison) -> str:
    rows = []
    for index, run in enumerate(comparison.runs):
        key = f'<span class="key" style="background:var(--c{index % 6})"></span>'
        known = [value for value in comparison.means[index].tolist() if not math.isnan(value)]
        mean = number(sum(known) / len(known) if known else math.nan, comparison.metric)
        started = f"{datetime.fromtimestamp(run.start_time / 1000):%Y-%m-%d %H:%M}"
        commit = run.tags.get("mlflow.source.git.commit", "")[:8]
        commit += " + changes" if run.tags.get("git.dirty") == "true" else ""
        told = (run.name, run.experiment, run.kind, run.split, run.status, started, commit)
        cells = "".join(f'<td class="left">{escape(text)}</td>' for text in told)
        rows.append(
            f"<tr><td>{key} {index + 1}</td>{cells}<td><code>{run.run_id[:8]}</code></td><td>{mean}</td></tr>"
        )
    words = ("run", "experiment", "kind", "split", "status", "started", "code")
    head = "".join(f'<th class="left">{word}</th>' for word in words)
    return f'<div class="wide"><table><tr><th></th>{head}<th>id</th><th>mean</th></tr>{"".join(rows)}</table></div>'


def _statistics(comparison: Comparison, other: int) -> str:
    rows = "".join(_statistics_row(comparison, row) for row in comparison.rows_of(other))
    head = (
        f"<th>class</th><th>cases</th><th>1</th><th>{other + 1}</th><th>difference</th><th>95% interval</th>"
    )
    head += "<th>p</th><th>p (Holm)</th><th>better</th><th>worse</th><th>same</th>"
    head += f"<th>only 1</th><th>only {other + 1}</th><th>neither</th>"
    count = sum(row.statistics.pairs for row in comparison.rows_of(other))
    missing = (
        "" if count <= MOST_POINTS else f' <span class="soft">{count} points are too many to draw.</span>'
    )
    return (
        f"<h2>{escape(comparison.runs[other].name)} against {escape(comparison.runs[0].name)}</h2>"
        f'<div class="wide"><table><tr>{head}</tr>{rows}</table></div>'
        f"<h3>Differences per class</h3><p>A point is a case, to the right of zero where run {other + 1} has the "
        f"higher value; the diamond is the mean, the bar its 95% interval.{missing}</p>{differences(comparison, other)}"
    )


def _statistics_row(comparison: Comparison, row: Row) -> str:
    s, metric = row.statistics, comparison.metric
    interval = "n/a"
    if not math.isnan(s.low):
        interval = f"{number(s.low, metric, True)} to {number(s.high, metric, True)}"
    figures = [
        str(s.pairs),
        number(s.baseline, metric),
        number(s.other, metric),
        f'<span class="{_direction(comparison, s.difference)}">{number(s.difference, metric, True)}</span>',
        interval,
        p_value(s.p),
        p_value(row.p_holm),
        str(comparison.better(row)),
        str(comparison.worse(row)),
        str(s.equal),
        *(str(count) for count in (s.only_baseline, s.only_other, s.neither)),
    ]
    kind = ' class="all"' if row.name == ALL else ""
    return f"<tr{kind}><td>{escape(row.name)}</td>{''.join(f'<td>{figure}</td>' for figure in figures)}</tr>"


def _cases(comparison: Comparison, other: int) -> str:
    changes = comparison.changes(other)
    metric, classes = comparison.metric, comparison.classes
    wide = len(changes) * len(classes) <= MOST_CELLS
    head = f"<th>case</th><th>1</th><th>{other + 1}</th><th>difference</th>"
    head += "".join(f"<th>{escape(name)}</th>" for name in classes) if wide else '<th class="left">most</th>'
    place = {case: index for index, case in enumerate(comparison.cases)}
    rows = []
    for change in changes:
        cells = [
            number(change.baseline, metric),
            number(change.other, metric),
            _signed(comparison, change.difference),
        ]
        if wide:
            first, second = (
                comparison.values[0, place[change.case]],
                comparison.values[other, place[change.case]],
            )
            cells += [
                f'<span title="{number(a, metric)} and {number(b, metric)}">{_side(comparison, a, b)}</span>'
                for a, b in zip(first.tolist(), second.tolist(), strict=True)
            ]
        else:
            cells.append(f"{escape(change.most[0])} {_signed(comparison, change.most[1])}")
        rows.append(f"<tr><td>{escape(change.case)}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    lost = len(comparison.cases) - len(changes)
    note = f'<p class="soft">{lost} cases have no value in both runs.</p>' if lost else ""
    explained = "per class: value of both runs and the difference" if wide else "the classes are in the CSV"
    return (
        f"<h2>Case by case: {escape(comparison.runs[other].name)} against {escape(comparison.runs[0].name)}</h2>"
        f'<p class="soft">The case that lost most first; {explained}.</p>{note}'
        f'<div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>'
    )


def _side(comparison: Comparison, first: float, second: float) -> str:
    metric = comparison.metric
    if math.isnan(first) and math.isnan(second):
        return '<span class="soft">n/a</span>'
    values = f'<span class="soft">{number(first, metric)} · {number(second, metric)}</span>'
    return values if math.isnan(second - first) else f"{values} {_signed(comparison, second - first)}"


def _signed(comparison: Comparison, difference: float) -> str:
    return f'<span class="{_direction(comparison, difference)}">{number(difference, comparison.metric, True)}</span>'


def _direction(comparison: Comparison, difference: float) -> str:
    gain = difference if comparison.higher_is_better else -difference
    return "better" if gain > 0 else "worse" if gain < 0 else "soft"


def _pictures(comparison: Comparison, shown: Mapping[str, Sequence[str | None]]) -> str:
    if not shown:
        return (
            '<h2>Pictures</h2><p class="soft">The runs have no pictures of the cases that changed most.</p>'
        )
    parts = ["<h2>Cases that changed most</h2>"]
    for case, row in shown.items():
        figures = []
        for index, (run, uri) in enumerate(zip(comparison.runs, row, strict=True)):
            value = number(float(comparison.means[index, comparison.cases.index(case)]), comparison.metric)
            image = f'<img alt="{escape(case)}, run {index + 1}" src="{uri}">' if uri else "<p>no picture</p>"
            caption = f"{index + 1} {run.name}: {comparison.metric} {value}"
            figures.append(f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>")
        parts.append(f'<h3>{escape(case)}</h3><div class="pair">{"".join(figures)}</div>')
    return "".join(parts)


def _differing(title: str, found: Sequence[Difference], runs: Sequence[RunResults]) -> str:
    if not found:
        return f'<h2>{title}</h2><p class="soft">No differences.</p>'
    head = "".join(f'<th class="left">{index + 1} {escape(run.name)}</th>' for index, run in enumerate(runs))
    rows = []
    for difference in found:
        cells = "".join(
            '<td class="text soft">none</td>'
            if value is None
            else f'<td class="text">{escape(value[:500])}</td>'
            for value in difference.values
        )
        rows.append(f"<tr><td><code>{escape(difference.name)}</code></td>{cells}</tr>")
    return f'<h2>{title}</h2><div class="wide"><table><tr><th></th>{head}</tr>{"".join(rows)}</table></div>'


def _data_uri(png: bytes | None) -> str | None:
    if png is None:
        return None
    with Image.open(io.BytesIO(png)) as picture:
        small = picture.convert("RGB")
    small.thumbnail((PICTURE_WIDTH, 4 * PICTURE_WIDTH))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
