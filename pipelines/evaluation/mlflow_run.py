"""The MLflow run of an evaluation, in the experiment of the training and, if possible, as a child of its run."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipelines.config.executed import ExecutedConfig
from pipelines.data.cases import Dataset
from pipelines.evaluation.mlflow_results import FOLDER, case_table, log_results
from pipelines.evaluation.results import CURVES, METRICS_CSV, REPORT, SUMMARY_CSV
from pipelines.inference.trained_model import TrainedModel
from pipelines.metrics.pixels import PooledScores, pooled_figures
from pipelines.metrics.result_files import results
from pipelines.metrics.summary import CaseMetrics, Summary, figures
from pipelines.tracking.client import connect, first_line
from pipelines.tracking.run import Tracking
from pipelines.tracking.runs import KEY, PENDING
from pipelines.utils.mlflow_variables import RUN_NAME
from pipelines.utils.passwords import hidden
from pipelines.utils.provenance import code_version, environment

logger = logging.getLogger(__name__)

KIND = "evaluation"
DEFAULT_EXPERIMENT = "evaluation"


class TrainingRun(NamedTuple):
    """The MLflow run that trained a model, and the name of its experiment."""

    run_id: str
    experiment: str


def training_run(run_id: str | None, uri: str) -> TrainingRun | None:
    """Find the run of a training in a tracking database; None if it is not there or the database cannot be read."""
    if not run_id:
        return None
    try:
        client = connect(uri)
        if run_id.startswith(PENDING):  # MLflow could not be reached when the training started
            every = [experiment.experiment_id for experiment in client.search_experiments()]
            run = client.search_runs(every, f"tags.`{KEY}` = '{run_id[len(PENDING) :]}'")[0]
        else:
            run = client.get_run(run_id)
        experiment = client.get_experiment(run.info.experiment_id)
    except Exception as error:  # the evaluation does not need this run, so no error of MLflow may stop it
        logger.info("the training run %s was not found in %s: %s", run_id, hidden(uri), first_line(error))
        return None
    if run.info.lifecycle_stage != "active" or experiment.lifecycle_stage != "active":
        return None
    return TrainingRun(run.info.run_id, experiment.name)


class EvaluationRun:
    """The MLflow run of an evaluation; used as a context manager, see `pipelines.tracking.run.Tracking`.

    If the run of the training is in the tracking database, this run is created in its experiment and as its
    child. The run of an ensemble, which has several trainings, is not a child.

    Args:
        model: the model that is evaluated.
        data: the dataset.
        split: the split of the dataset.
        config: `executed_config()`; its values are the parameters of the run.
        experiment: name of the experiment; None for that of the training, or "evaluation" if it is unknown.
        run_name: None for MLFLOW_RUN_NAME, or else "evaluation of" with the names of dataset and split and the time.
        enabled: False logs nothing.
        uri: tracking URI, see `pipelines.tracking.run.Tracking`.
        experiment_id: MLflow's id of the experiment.
    """

    def __init__(
        self,
        model: TrainedModel,
        data: Dataset,
        split: str,
        config: ExecutedConfig | None = None,
        experiment: str | None = None,
        run_name: str | None = None,
        enabled: bool | None = None,
        uri: str | None = None,
        experiment_id: str | None = None,
    ) -> None:
        self.model = model
        self.data = data
        self.split = split
        self.config = config
        name = (
            run_name
            or os.environ.get(RUN_NAME)
            or f"evaluation of {data.name}, {split}, {datetime.now():%Y-%m-%d %H:%M:%S}"
        )
        chosen = experiment or DEFAULT_EXPERIMENT
        self.tracking = Tracking(chosen, name, uri, enabled=enabled, experiment_id=experiment_id)
        self.named = experiment is not None or experiment_id is not None

    def __enter__(self) -> EvaluationRun:
        self.tracking.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.tracking.__exit__(*error)

    def start(self) -> None:
        """Open the run and log the data, model, code and machine of the evaluation."""
        if not self.tracking.enabled:
            return
        card = self.model.card
        training = training_run(card.get("run_id"), self.tracking.uri)
        tags = {
            "segbundles.kind": KIND,
            "model.sha256": str(card["sha256"]),
            "model.run_id": str(card.get("run_id")),
            "model.epoch": str(card.get("epoch")),
            "data.name": self.data.name,
            "data.digest": self.data.digest(),
            "data.split": self.split,
        }
        # Without the training's run (MLflow may be unreachable), the experiment's name is taken from the model.
        experiment = training.experiment if training is not None else card.get("experiment")
        if not self.named and experiment:
            self.tracking.experiment = experiment
        single = "members" not in card
        if training is not None and single and self.tracking.experiment == training.experiment:
            tags["mlflow.parentRunId"] = training.run_id
        self.tracking.start(tags=tags)
        self.tracking.tags(code_version() | environment())
        if self.config is not None:
            self.tracking.params(self.config.flat())
            self.tracking.json(self.config.raw, "config.json")

    def end(
        self,
        folder: Path,
        cases: Sequence[CaseMetrics],
        summary: Summary,
        pictures: Mapping[str, Path],
        confusion: np.ndarray | None = None,
        pooled: Mapping[str, PooledScores] | None = None,
    ) -> None:
        """Log the metrics, tables, report and pictures of a finished evaluation.

        Args:
            folder: the folder with the results.
            confusion: int64 (classes, classes) voxels of all cases, row = reference, background first.
            pooled: the metrics over the pixels of all cases, where they were measured.
        """
        if self.tracking.run_id is None:
            return
        self.tracking.metrics(figures(summary) | pooled_figures(pooled or {}), 0)
        found = results(cases, list(self.model.structures), summary, self.split, pooled)
        drawn = {case: path.read_bytes() for case, path in pictures.items()}
        with self.tracking.losing(FOLDER):
            log_results(self.tracking, found, drawn, confusion, self.model.class_names)
        self.tracking.table("results/table.json", case_table(found))
        for name in (METRICS_CSV, SUMMARY_CSV, REPORT, *([] if pooled is None else [CURVES])):
            self.tracking.artifact(folder / name, FOLDER)
