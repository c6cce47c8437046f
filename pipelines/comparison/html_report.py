"""A comparison as one self-contained HTML page with tables, plots and pictures."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from pipelines.comparison.comparison import Comparison
from pipelines.comparison.differences import config_differences, origin_differences
from pipelines.comparison.plots import MOST_POINTS, boxes, differences
from pipelines.comparison.run_finder import RunFinder
from pipelines.comparison.run_results import picture_of
from pipelines.comparison.text_report import number, p_value
from pipelines.utils.html import write_page

WORST, BEST, MOST_PICTURES = 3, 2, 6
PICTURE_WIDTH = 900
MOST_BYTES = 6_000_000
MOST_CELLS = 5000


def pictures(finder: RunFinder, comparison: Comparison) -> dict[str, list[str | None]]:
    """Pictures of the cases with the largest differences: case to one data URI per run, None if a run has none.

    They are scaled to `PICTURE_WIDTH` pixels and limited to `MOST_BYTES` in total.
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
        comparison: the comparison to write.
        shown: result of `pictures`.
    """
    names = " and ".join(run.name for run in comparison.runs[:3])
    differing = {
        "Configuration": config_differences(comparison.runs),
        "Code, data, machine": origin_differences(comparison.runs),
    }
    write_page(
        path,
        Path(__file__).with_suffix(".html"),
        title=names + (" and more" if len(comparison.runs) > 3 else ""),
        comparison=comparison,
        numbered=[f"{place} {run.name}" for place, run in enumerate(comparison.runs, 1)],
        runs=[_run(comparison, index) for index in range(len(comparison.runs))],
        others=[_against_baseline(comparison, other) for other in range(1, len(comparison.runs))],
        boxes=boxes(comparison),
        pictures=[_pictures(comparison, case, row) for case, row in shown.items()],
        differing=differing,
        direction=partial(_direction, comparison),
        isnan=math.isnan,
        p_value=p_value,
        value=partial(number, metric=comparison.metric),
    )


def _run(comparison: Comparison, index: int) -> dict[str, Any]:
    """A row of the table of runs."""
    run = comparison.runs[index]
    known = [value for value in comparison.means[index].tolist() if not math.isnan(value)]
    started = f"{datetime.fromtimestamp(run.start_time / 1000):%Y-%m-%d %H:%M}"
    commit = run.tags.get("mlflow.source.git.commit", "")[:8]
    commit += " + changes" if run.tags.get("git.dirty") == "true" else ""
    return {
        "number": index + 1,
        "words": (run.name, run.experiment, run.kind, run.split, run.status, started, commit),
        "id": run.run_id[:8],
        "mean": sum(known) / len(known) if known else math.nan,
    }


def _against_baseline(comparison: Comparison, other: int) -> dict[str, Any]:
    """The statistics of a run against the baseline, and its values case by case."""
    rows, changes = comparison.rows_of(other), comparison.changes(other)
    place = {case: index for index, case in enumerate(comparison.cases)}
    points = sum(row.statistics.pairs for row in rows)
    return {
        "number": other + 1,
        "name": comparison.runs[other].name,
        "rows": rows,
        "plot": differences(comparison, other),
        "points_left_out": points if points > MOST_POINTS else 0,
        "every_class": len(changes) * len(comparison.classes) <= MOST_CELLS,
        # Each change with the values of both runs, one pair per class.
        "changes": [
            (change, comparison.values[[0, other], place[change.case]].T.tolist()) for change in changes
        ],
        "lost": len(comparison.cases) - len(changes),
    }


def _pictures(comparison: Comparison, case: str, row: Sequence[str | None]) -> dict[str, Any]:
    values = comparison.means[:, comparison.cases.index(case)].tolist()
    return {"case": case, "figures": list(zip(comparison.runs, row, values, strict=True))}


def _direction(comparison: Comparison, difference: float) -> str:
    gain = difference if comparison.higher_is_better else -difference
    return "better" if gain > 0 else "worse" if gain < 0 else "soft"


def _data_uri(png: bytes | None) -> str | None:
    if png is None:
        return None
    with Image.open(io.BytesIO(png)) as picture:
        small = picture.convert("RGB")
    small.thumbnail((PICTURE_WIDTH, 4 * PICTURE_WIDTH))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
