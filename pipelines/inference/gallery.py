"""One page over all cases of a prediction: pictures, volumes, Dice, and what failed."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path
from urllib.parse import quote

from pipelines.inference.case_reports import CaseReport
from pipelines.metrics.volumes import Volume
from transforms.utils.files import replacing

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em; color: #ddd; background: #111; }
h2 { margin: 2em 0 .3em; font-size: 1.1em; }
table { border-collapse: collapse; }
th, td { padding: .2em .8em; border-bottom: 1px solid #333; text-align: right; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; display: block; }
a { color: #8bf; } .failed { color: #f88; white-space: pre-line; } .notice { color: #fc8; }
"""


def write_gallery(path: Path, reports: Iterable[CaseReport]) -> None:
    """Write the page; pictures are those beside it, and nothing is loaded from elsewhere."""
    reports = list(reports)
    done = [report for report in reports if report["status"] == "done"]
    names = list(dict.fromkeys(name for report in done for name in report["volumes"]))
    flat = bool(done) and all(v["ml"] is None for report in done for v in report["volumes"].values())
    rows = []
    for report in reports:
        link = f'<a href="#{escape(quote(report["case"]))}">{escape(report["case"])}</a>'
        if report["status"] != "done":
            rows.append(
                f'<tr><td>{link}</td><td class="failed" colspan="{max(1, len(names))}">failed</td></tr>'
            )
            continue
        cells = "".join(f"<td>{_amount(report['volumes'].get(name))}</td>" for name in names)
        rows.append(f"<tr><td>{link}</td>{cells}</tr>")
    head = "".join(f"<th>{escape(name)} ({'voxels' if flat else 'ml'})</th>" for name in names)
    page = [
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Segmentations</title>',
        f"<style>{_STYLE}</style><h1>Segmentations</h1>",
        f"<p>{len(done)} of {len(reports)} cases. Not for clinical use.</p>",
        f"<table><tr><th>case</th>{head}</tr>{''.join(rows)}</table>",
        *(_section(report) for report in reports),
        "</html>\n",
    ]
    with replacing(path) as temporary:
        temporary.write_text("\n".join(page), encoding="utf-8")


def _amount(found: Volume | None) -> str:
    if found is None:
        return ""
    return f"{found['voxels']}" if found["ml"] is None else f"{found['ml']:.4g}"


def _section(report: CaseReport) -> str:
    parts = [f'<h2 id="{escape(quote(report["case"]))}">{escape(report["case"])}</h2>']
    if report["status"] != "done":
        parts.append(f'<p class="failed">{escape(str(report.get("error", "failed")))}</p>')
    parts += [f'<p class="notice">{escape(str(text))}</p>' for text in report.get("notices", [])]
    scores = {
        name: value
        for name, value in ((report.get("metrics") or {}).get("dice") or {}).items()
        if value is not None
    }
    if scores:
        parts.append("<p>Dice: " + ", ".join(f"{escape(n)} {v:.3f}" for n, v in scores.items()) + "</p>")
    for name in report.get("outputs", {}) if report["status"] == "done" else ():
        if name == f"{report['case']}_preview.png":
            parts.append(f'<img loading="lazy" src="{escape(quote(name))}" alt="{escape(report["case"])}">')
    return "\n".join(parts)
