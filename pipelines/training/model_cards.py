"""The card that a training writes beside its model: what its weights need around them."""

from __future__ import annotations

import json
import logging
from typing import Any

from pipelines.config.executed import ExecutedConfig
from pipelines.data.cases import Dataset, DatasetError
from pipelines.data.patch_dataset import PatchDataset
from pipelines.inference.evaluator import SegEvaluator
from pipelines.inference.model_card import Card, CardError, checked
from pipelines.inference.trained_model import CARD, CheckpointError
from pipelines.inference.training_data import TrainingData
from pipelines.metrics.result_files import without_nan
from pipelines.planning.card_data import training_data
from pipelines.planning.fingerprint import fingerprint
from pipelines.tracking.run import Tracking
from transforms.preprocess import Preprocess
from transforms.utils.files import FolderError

logger = logging.getLogger(__name__)


def model_card(
    config: ExecutedConfig,
    data: Dataset,
    preprocess: Preprocess,
    tracking: Tracking,
    evaluator: SegEvaluator | None,
    epoch: int,
    looks: TrainingData | None = None,
) -> Card:
    """The content of `model.json` after an epoch, but for the checksum of the weights.

    Args:
        looks: what the training cases look like, see `training_cases`.
    """
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
    if evaluator is not None and evaluator.state.cases:
        card["validation"] = [
            without_nan({key: case[key] for key in ("case", "dice", "confidence") if key in case})
            for case in evaluator.state.cases
        ]
    if looks is not None:
        card["training_data"] = looks
    return card


def training_cases(data: Dataset, patches: Any) -> TrainingData | None:
    """What the training cases look like, with which `predict` compares its inputs.

    A plan has looked at them already; else each case is read once and remembered beside the patch store. None, and a
    warning, where that cannot be: the training can do without.

    Args:
        data: the dataset.
        patches: what the training reads; of anything but a `PatchDataset` nothing is said.
    """
    if not isinstance(patches, PatchDataset):
        return None
    try:
        return training_data(fingerprint(data, patches.store.root), patches.preprocess.ct_channels)
    except (DatasetError, FolderError) as error:
        logger.warning(
            "the model will not know what its training cases look like, so that predictions cannot say which images"
            " are unlike them: %s",
            error,
        )
        return None


def require_openable(card: Card) -> None:
    """Check, before days of training, that `TrainedModel` will accept what they end in.

    Raises:
        CheckpointError: it would not.
    """
    try:
        checked(json.loads(json.dumps({**card, "sha256": "0" * 64})))
    except (CardError, TypeError) as error:
        raise CheckpointError(
            f"the model of this training could not be opened again: in its {CARD}, {error}; give the config such "
            "values as docs/security.md names"
        ) from error
