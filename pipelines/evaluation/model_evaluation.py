"""Evaluation of a trained model on a labelled split: tables, JSON, an HTML report, and an MLflow run."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.data import MetaTensor

from pipelines.config.executed import ExecutedConfig
from pipelines.data.cases import CaseItem, Dataset
from pipelines.evaluation.mlflow_run import EvaluationRun
from pipelines.evaluation.results import METRICS_CSV, PICTURES, CasePictures, write_results
from pipelines.evaluation.validation import validate
from pipelines.inference.evaluator import SegEvaluator, annotated
from pipelines.inference.trained_model import TrainedModel
from pipelines.metrics.pixels import PooledScores, pooled_scores, pooled_table
from pipelines.metrics.summary import CaseMetrics, Summary, table
from pipelines.utils.ranks import rank
from transforms.errors import FAILED, UserError
from transforms.io.writers import write_label
from transforms.preprocess import PreparedCase
from transforms.utils.files import require_folder

logger = logging.getLogger(__name__)


class EvaluationError(UserError, ValueError):
    """There is nothing to evaluate, or some cases failed; the message lists all of them."""

    exit_status = FAILED
    impersonal = True


def labelled(data: Dataset, split: str) -> list[CaseItem]:
    """The cases of a split that have a label.

    Raises:
        EvaluationError: there are none.
    """
    cases = [case for case in data.as_dicts(split) if case.get("label")]
    if not cases:
        raise EvaluationError(
            f"the {split} split of {data.root} has no case with a label; choose another --split"
        )
    return cases


class Evaluation:
    """Runs an evaluator over its cases, writes the results and stores them in MLflow.

    The output folder then has `metrics.csv`, `summary.csv`, `metrics.json`, `report.html` and `pictures/`, see
    docs/evaluation.md. A case that fails does not stop the others.

    Args:
        evaluator: evaluator of the cases; if it has a surface tolerance, surface metrics are computed.
        model: the model that the evaluator runs.
        data: the dataset of the cases; it must have the labels of the model.
        output_dir: folder for the results.
        save_predictions: also write each label map to `predictions/` in that folder.
        split: name of the evaluated split, which is stored with the results.
        pictures: number of the worst cases to draw.
        track: False logs nothing to MLflow.
        experiment, run_name, config, uri, experiment_id: arguments of the MLflow run, see
            `pipelines.evaluation.mlflow_run.EvaluationRun`.
    """

    def __init__(
        self,
        evaluator: SegEvaluator,
        model: TrainedModel,
        data: Dataset,
        output_dir: str | os.PathLike,
        save_predictions: bool = False,
        split: str = "validation",
        pictures: int = 32,
        track: bool = True,
        experiment: str | None = None,
        run_name: str | None = None,
        config: ExecutedConfig | None = None,
        uri: str | None = None,
        experiment_id: str | None = None,
    ) -> None:
        model.require_labels(data.labels, data.regions)
        self.evaluator = evaluator
        self.model = model
        self.data = data
        self.split = split
        self.output_dir = Path(output_dir)
        preprocess = evaluator.preprocess
        self.pictures = CasePictures(
            self.output_dir / PICTURES, model.labels, pictures, preprocess.shows_ct, preprocess.channels
        )
        self.mlflow = EvaluationRun(
            model,
            data,
            split,
            config,
            experiment,
            run_name,
            enabled=None if track else False,
            uri=uri,
            experiment_id=experiment_id,
        )
        dataset: Any = evaluator.data_loader.dataset  # type: ignore[union-attr]
        self._images = {case["case"]: case for case in dataset.data}
        dataset.problems_as_items = evaluator.go_on = True
        evaluator.on_score = self._draw
        if save_predictions:
            evaluator.on_prediction = self._save

    def run(self) -> Summary:
        """Evaluate; returns the summary.

        Raises:
            EvaluationError: cases failed; raised after the results of the others were written, with all reasons.
            FolderError: the folder cannot be written to; raised before the evaluation starts.
        """
        if rank() == 0:
            require_folder(self.output_dir, "the results", "choose another --output_dir")
        with self.mlflow:
            self.mlflow.start()
            summary = validate(self.evaluator, intervals=True)
            if rank() != 0:
                return summary
            cases = self.evaluator.state.cases
            failures = self.evaluator.state.failures
            lines = [f"{len(failures)} of {len(cases) + len(failures)} cases failed:"]
            failure_list = "\n".join(lines + [f"  {case}: {why}" for case, why in failures.items()])
            if not cases:
                raise EvaluationError(failure_list)
            pictures = self.pictures.worst(cases)
            pooled = self._pooled()
            page = write_results(
                self.output_dir,
                cases,
                list(self.model.structures),
                summary,
                self.split,
                title=f"{self.data.name}: {self.split}",
                facts=self._facts() | {f"failed, {case}": why for case, why in failures.items()},
                pictures=pictures,
                pooled=pooled,
                histograms=self.evaluator.state.histograms,
            )
            confusion = self.evaluator.state.confusion.numpy()
            computed = self.evaluator.computed
            self.mlflow.tracking.tags({f"computed.{name}": value for name, value in computed.items()})
            self.mlflow.end(self.output_dir, cases, summary, pictures, confusion, pooled)
            pixels = [] if pooled is None else ["", "pixels of all cases together:", pooled_table(pooled)]
            places = ["", f"per case and class: {self.output_dir / METRICS_CSV}", f"page: {page}", ""]
            print("\n".join(["", table(summary), *pixels, *places]))
            if failures:
                raise EvaluationError(failure_list)
        return summary

    def _pooled(self) -> dict[str, PooledScores] | None:
        state = self.evaluator.state
        if state.histograms is None:
            return None
        return pooled_scores(state.confusion, state.histograms, self.model.class_names, self.model.regions)

    def _facts(self) -> dict[str, str]:
        card = self.model.card
        facts = {
            "dataset": f"{self.data.name}, {self.split}",
            "model": f"sha256 {card['sha256'][:12]}, epoch {card.get('epoch')}, MLflow run {card.get('run_id')}",
        }
        computed = self.evaluator.computed
        facts["computed"] = f"by {computed['engine']} in {computed['precision']} on {computed['device']}"
        cases = self.evaluator.state.cases
        fields = [case["field_of_view"] for case in cases if "field_of_view" in case]
        if fields:
            facts["field of view"] = (
                f"{len(fields)} of {len(cases)} cases have one, {sum(fields) / len(fields):.0%} of their pixels on average;"
                " only what is inside is measured"
            )
        tolerance = self.evaluator.surface_tolerance
        if tolerance is not None:
            facts["tolerance of the surface Dice"] = (
                ", ".join(f"{name} {mm} mm" for name, mm in tolerance.items())
                if isinstance(tolerance, Mapping)
                else f"{tolerance} mm"
            )
        return facts

    def _save(self, item: PreparedCase, labels: MetaTensor) -> None:
        path = self.output_dir / "predictions" / f"{item['case']}.nii.gz"
        write_label(path, labels, like=item["path"])

    def _draw(self, item: PreparedCase, labels: MetaTensor, record: CaseMetrics) -> None:
        self.pictures.add(record, self._images[item["case"]], labels, annotated(item))
