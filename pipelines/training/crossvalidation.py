"""Groups the folds of a cross-validation as child runs of one MLflow run."""

from __future__ import annotations

import hashlib
import json

from pipelines.config.executed import ExecutedConfig
from pipelines.config.knobs import Knob, knobs_of
from pipelines.data.cases import Dataset
from pipelines.tracking.records import Parent

SPREAD = ("best_val_mean_dice", "best_val_dice_")


def parent_of(config: ExecutedConfig, data: Dataset) -> Parent:
    """The description of a fold's parent run for `Tracking.start`, the same for all folds of one config and dataset.

    `Tracking` computes mean and spread over the finished folds (Dice of the best validation, over the classes and
    per class) each time a fold ends.
    """
    cases = sorted(case.id for split in ("training", "validation") for case in data.cases(split))
    work = json.dumps([config.digest(knobs_of(Knob.FOLDS)), data.name, data.class_names, cases])
    key = hashlib.sha256(work.encode()).hexdigest()[:32]
    return {
        "key": key,
        "name": f"{config.knobs().get('experiment', data.name)} cross-validation {key[:6]}",
        "tags": {"segbundles.kind": "cross-validation", "data.name": data.name},
        "spread": list(SPREAD),
    }
