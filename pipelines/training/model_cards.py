"""The model card `model.json`, which a training writes beside its weights."""

from __future__ import annotations

import json

from pipelines.config.executed import ExecutedConfig
from pipelines.data.cases import Dataset
from pipelines.inference.evaluator import SegEvaluator
from pipelines.inference.model_card import Card, CardError, checked
from pipelines.inference.trained_model import CARD, CheckpointError
from pipelines.tracking.run import Tracking
from transforms.preprocess import Preprocess


def model_card(
    config: ExecutedConfig,
    data: Dataset,
    preprocess: Preprocess,
    tracking: Tracking,
    evaluator: SegEvaluator | None,
    epoch: int,
) -> Card:
    """The content of `model.json` after an epoch, without the checksum of the weights."""
    card: Card = {
        "format": 1,
        "network": config.resolved("network_def"),
        "labels": {str(value): name for value, name in data.labels.items()},
        "preprocessing": preprocess.parameters(),
        "patch_size": config.resolved("patch_size"),
        "run_id": tracking.run_id,
        "experiment": tracking.experiment,
        "epoch": epoch,
    }
    if data.regions:
        card["regions"] = {name: list(values) for name, values in data.regions.items()}
    if evaluator is not None and evaluator.state.cases:
        card["validation"] = [
            {"case": case["case"], "dice": {k: None if v != v else v for k, v in case["dice"].items()}}
            for case in evaluator.state.cases
        ]
    return card


def require_openable(card: Card) -> None:
    """Check before a training that `TrainedModel` will accept its model.

    Raises:
        CheckpointError: it would refuse the model.
    """
    try:
        checked(json.loads(json.dumps({**card, "sha256": "0" * 64})))
    except (CardError, TypeError) as error:
        raise CheckpointError(
            f"the model of this training could not be opened again: in its {CARD}, {error}; change the config to "
            "values that docs/security.md allows"
        ) from error
