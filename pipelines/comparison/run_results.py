"""Reading the results of a run per case and class: its artifact `results/cases.json`, and the pictures."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.comparison.run_finder import KIND, RunError, RunFinder, described
from pipelines.metrics.names import METRICS

if TYPE_CHECKING:
    from mlflow.entities import Run

    # Only types; importing them at run time would import torch, which is slow.
    from pipelines.metrics.result_files import Results
    from pipelines.metrics.summary import CaseMetrics

FOLDER = "results"
FILE = f"{FOLDER}/cases.json"
PICTURES = f"{FOLDER}/pictures"
FORMAT = 1


@dataclass
class RunResults:
    """One run and its results.

    Attributes:
        run_id, name, experiment, kind, status: as in MLflow.
        start_time: milliseconds since 1970.
        params, tags: all parameters and tags of the run.
        split: split of the dataset that the cases are from.
        classes: names of the foreground classes.
        cases: ids of the cases.
        values: metric to values, shape (cases, classes), NaN for a missing value.
        sources: case to the id of the run that has its picture (in a cross-validation, that of the fold).
    """

    run_id: str
    name: str
    experiment: str
    kind: str
    status: str
    start_time: int
    params: dict[str, str]
    tags: dict[str, str]
    split: str
    classes: list[str]
    cases: list[str]
    values: dict[str, np.ndarray]
    sources: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"'{self.name}' ({self.run_id[:8]})"

    def of(self, metric: str) -> np.ndarray:
        """Values of a metric.

        Raises:
            RunError: the run has none.
        """
        if metric not in self.values:
            raise RunError(
                f"the run {self} has no {metric}, only {', '.join(self.values)}: the validation during a training "
                "computes only overlap metrics; evaluate its model with evaluate.json and compare the evaluation runs"
            )
        return self.values[metric]


def read_results(finder: RunFinder, run: Run) -> RunResults:
    """Read the results of a run; for a cross-validation, those of all folds.

    Raises:
        RunError: the run has no results, or they cannot be read.
    """
    content = _content(finder, run)
    folds = []
    if content is None or run.data.tags.get(KIND) == "cross-validation":
        read = ((child, _content(finder, child)) for child in finder.children(run))
        folds = [(child, found) for child, found in read if found is not None]
    parts = [(run, content)] if content is not None else folds
    if not parts:
        raise RunError(
            f"the run {described(run)} of {finder.experiment_of(run)} has no {FILE}: it ended before its first "
            "validation, or an earlier version wrote it; train or evaluate it again"
        )
    classes = list(dict.fromkeys(name for _, found in parts for name in found["classes"]))
    cases: list[str] = []
    sources: dict[str, str] = {}
    rows: list[CaseMetrics] = []
    for source, found in parts:
        for case in found["cases"]:
            if case["case"] in sources:
                raise RunError(
                    f"the run {described(run)} has the case {case['case']} twice; compare the runs of its folds instead"
                )
            sources[case["case"]] = source.info.run_id
            cases.append(case["case"])
            rows.append(case)
    # The run of a cross-validation may have the values of its folds, but the pictures are in the runs of the folds.
    sources |= {case["case"]: fold.info.run_id for fold, found in folds for case in found["cases"]}
    return RunResults(
        run_id=run.info.run_id,
        name=run.info.run_name or run.info.run_id[:8],
        experiment=finder.experiment_of(run),
        kind=run.data.tags.get(KIND, "run"),
        status=run.info.status,
        start_time=run.info.start_time,
        params=dict(run.data.params),
        tags=dict(run.data.tags),
        split=", ".join(dict.fromkeys(str(found.get("split", "")) for _, found in parts)),
        classes=classes,
        cases=cases,
        values=_values(rows, classes),
        sources=sources,
    )


def picture_of(finder: RunFinder, results: RunResults, case: str) -> bytes | None:
    """The picture of a case as PNG; None if the run has none."""
    source = results.sources.get(case)
    path = f"{PICTURES}/{case}.png"
    if source is None or path not in {item.path for item in finder.client.list_artifacts(source, PICTURES)}:
        return None
    with tempfile.TemporaryDirectory() as folder:
        return Path(finder.client.download_artifacts(source, path, folder)).read_bytes()


def _content(finder: RunFinder, run: Run) -> Results | None:
    try:
        if FILE not in {item.path for item in finder.client.list_artifacts(run.info.run_id, FOLDER)}:
            return None
        with tempfile.TemporaryDirectory() as folder:
            text = Path(finder.client.download_artifacts(run.info.run_id, FILE, folder)).read_text("utf-8")
    except Exception as error:
        raise RunError(
            f"{FILE} of the run {described(run)} cannot be downloaded from MLflow: {error}"
        ) from error
    try:
        content = json.loads(text)
        written = content["format"]
        if written == FORMAT:
            _ = (
                [str(case["case"]) for case in content["cases"]],
                _values(content["cases"], content["classes"]),
            )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(
            f"{FILE} of the run {described(run)} is damaged ({error}); evaluate it again"
        ) from error
    if written != FORMAT:
        raise RunError(
            f"{FILE} of the run {described(run)} has the format {written}, but this version reads only {FORMAT}; update"
            " segbundles"
        )
    return content


def _values(rows: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> dict[str, np.ndarray]:
    metrics = [metric for metric in METRICS if any(isinstance(row.get(metric), Mapping) for row in rows)]
    return {
        metric: np.array(
            [[_number((row.get(metric) or {}).get(name)) for name in classes] for row in rows], float
        ).reshape(len(rows), len(classes))
        for metric in metrics
    }


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)
