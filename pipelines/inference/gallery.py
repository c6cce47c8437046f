"""An HTML page with all cases of a prediction: pictures, volumes, Dice and errors."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pipelines.inference.case_reports import CaseReport
from pipelines.metrics.volumes import Volume
from pipelines.utils.html import write_page


def write_gallery(path: Path, reports: Iterable[CaseReport]) -> None:
    """Write the page. It shows the pictures in its own folder and loads nothing from other places."""
    reports = list(reports)
    done = [report for report in reports if report["status"] == "done"]
    flat = bool(done) and all(v["ml"] is None for report in done for v in report["volumes"].values())
    names = list(dict.fromkeys(name for report in done for name in report["volumes"]))
    write_page(
        path,
        Path(__file__).with_suffix(".html"),
        title="Segmentations",
        done=len(done),
        columns=[f"{name} ({'voxels' if flat else 'ml'})" for name in names],
        cases=[_case(report, names) for report in reports],
    )


def _case(report: CaseReport, names: Iterable[str]) -> dict[str, Any]:
    done = report["status"] == "done"
    preview = f"{report['case']}_preview.png"
    dice = (report.get("metrics") or {}).get("dice") or {}
    return {
        "name": report["case"],
        "anchor": quote(report["case"]),
        "error": None if done else str(report.get("error", "failed")),
        "amounts": [_amount(report["volumes"].get(name)) for name in names] if done else [],
        "notices": report.get("notices", []),
        "dice": {name: f"{value:.3f}" for name, value in dice.items() if value is not None},
        "picture": quote(preview) if done and preview in report.get("outputs", {}) else None,
    }


def _amount(found: Volume | None) -> str:
    if found is None:
        return ""
    return f"{found['voxels']}" if found["ml"] is None else f"{found['ml']:.4g}"
