"""The model card `model.json`, which a training writes beside its weights."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pipelines.config.executed import ExecutedConfig
from pipelines.data.cases import Dataset, DatasetError
from pipelines.data.patch_dataset import PatchDataset
from pipelines.distributed.collectives import from_first
from pipelines.inference.evaluator import SegEvaluator
from pipelines.inference.model_card import Card, CardError, checked
from pipelines.inference.sliding_window import SlidingWindow
from pipelines.inference.trained_model import CARD, CheckpointError
from pipelines.inference.training_data import TrainingData
from pipelines.metrics.result_files import without_nan
from pipelines.planning.card_data import card_plan, training_data
from pipelines.planning.fingerprint import fingerprint
from pipelines.planning.plan_file import executed_plan
from pipelines.tracking.run import Tracking
from transforms.preprocess import Preprocess
from transforms.utils.files import FolderError

logger = logging.getLogger(__name__)


class ModelCards:
    """Makes the cards of one training.

    Args:
        config, data, preprocess, tracking: of the training.
        evaluator: its validation; None without one.
    """

    def __init__(
        self,
        config: ExecutedConfig,
        data: Dataset,
        preprocess: Preprocess,
        tracking: Tracking,
        evaluator: SegEvaluator | None,
    ) -> None:
        self.config, self.data, self.preprocess = config, data, preprocess
        self.tracking, self.evaluator = tracking, evaluator
        self._training_data: TrainingData | None = None

    def summarise(self, patches: Any) -> None:
        """Summarise the training cases for the card; to be called by all ranks together.

        A plan has read the cases before; otherwise each case is read once, and its figures are cached beside the patch
        store. If that is impossible, a warning says so, and the card has no summary.

        Args:
            patches: dataset of the training; a summary is made of a `PatchDataset` only.
        """
        if isinstance(patches, PatchDataset):
            root, ct = patches.store.root, patches.preprocess.ct_channels
            self._training_data = from_first(lambda: _summary(self.data, root, ct))

    def card(self, epoch: int) -> Card:
        """The content of `model.json` after an epoch, without the checksum of the weights."""
        card: Card = {
            "format": 1,
            "network": self.config.resolved("network_def"),
            "labels": {str(value): name for value, name in self.data.labels.items()},
            "preprocessing": self.preprocess.parameters(),
            "patch_size": self.config.resolved("patch_size"),
            "run_id": self.tracking.run_id,
            "experiment": self.tracking.experiment,
            "epoch": epoch,
        }
        if self.data.regions:
            card["regions"] = {name: list(values) for name, values in self.data.regions.items()}
        if self.evaluator is not None and isinstance(self.evaluator.inferer, SlidingWindow):
            window = self.evaluator.inferer
            dense = window.overlap
            card["overlap"] = list(dense) if isinstance(dense, tuple) else dense
            card["mirror_axes"] = list(window.mirror_axes)
        if self.evaluator is not None and self.evaluator.state.cases:
            card["validation"] = [
                without_nan({key: case[key] for key in ("case", "dice", "confidence") if key in case})
                for case in self.evaluator.state.cases
            ]
        if self._training_data is not None:
            card["training_data"] = self._training_data
        overlay = executed_plan(self.config)
        if overlay is not None:
            card["plan"] = card_plan(overlay)
        return card


def _summary(data: Dataset, root: Path, ct_channels: Collection[int]) -> TrainingData | None:
    try:
        return training_data(fingerprint(data, root), ct_channels)
    except (DatasetError, FolderError) as error:
        logger.warning(
            "%s gets no summary of the training cases, so predictions cannot report images that differ from them: %s",
            CARD,
            error,
        )
        return None


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
