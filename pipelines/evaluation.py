"""Dice of a trained model on a labelled split, as a table, CSV and JSON."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.data import MetaTensor

from pipelines.cases import Dataset
from pipelines.checkpoints import TrainedModel
from pipelines.engines import SegEvaluator
from pipelines.handlers import validate
from pipelines.metrics import table, write_csv, write_json
from transforms.writers import write_label

logger = logging.getLogger(__name__)


class EvaluationError(ValueError):
    """There is nothing to evaluate."""


def labelled(data: Dataset, split: str) -> list[dict[str, str]]:
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
    """Runs an evaluator over its cases and writes `dice.csv` and `dice.json`.

    Args:
        evaluator: over the cases to evaluate.
        model: the model that the evaluator runs.
        data: the dataset that the cases are from; its labels must be the model's.
        output_dir: folder for the results.
        save_predictions: also write each label map to `predictions/` in that folder.
    """

    def __init__(
        self,
        evaluator: SegEvaluator,
        model: TrainedModel,
        data: Dataset,
        output_dir: str | os.PathLike,
        save_predictions: bool = False,
    ) -> None:
        model.require_labels(data.labels)
        self.evaluator = evaluator
        self.model = model
        self.output_dir = Path(output_dir)
        if save_predictions:
            evaluator.on_prediction = self._save

    def run(self) -> dict[str, Any]:
        """Evaluate; returns the summary, see `pipelines.metrics.summarise`."""
        summary = validate(self.evaluator)
        if int(os.environ.get("RANK", "0")) != 0:
            return summary
        cases = self.evaluator.state.cases
        write_csv(self.output_dir / "dice.csv", cases, self.model.class_names)
        write_json(self.output_dir / "dice.json", cases, summary)
        print(f"\n{table(summary)}\n\nper case and class: {self.output_dir / 'dice.csv'}\n")
        return summary

    def _save(self, item: Mapping[str, Any], labels: MetaTensor) -> None:
        write_label(self.output_dir / "predictions" / f"{item['case']}.nii.gz", labels)
