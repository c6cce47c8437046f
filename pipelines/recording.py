"""What a training tells MLflow: where it comes from, how it goes, and what comes out of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from monai.utils.enums import CommonKeys as Keys

from pipelines.cases import Dataset
from pipelines.checkpoints import BEST, CARD
from pipelines.config import ExecutedConfig
from pipelines.dataset import PatchDataset
from pipelines.engines import SegEvaluator, SegTrainer, unwrapped
from pipelines.handlers import mean_loss
from pipelines.provenance import code_version, environment
from pipelines.tracking import Tracking

logger = logging.getLogger(__name__)


class Record:
    """Writes a training into its MLflow run.

    Args:
        tracking: the run.
        config: `executed_config()`.
        data: the dataset that is trained on.
        evaluator: of the validation; None without one.
        log_interval: iterations between training metrics.
    """

    def __init__(
        self,
        tracking: Tracking,
        config: ExecutedConfig,
        data: Dataset,
        evaluator: SegEvaluator | None = None,
        log_interval: int = 10,
    ) -> None:
        self.tracking = tracking
        self.config = config
        self.data = data
        self.evaluator = evaluator
        self.log_interval = max(1, log_interval)
        self._losses: list[torch.Tensor] = []
        self._epoch_started = 0.0

    def begin(self, trainer: SegTrainer, continue_run: str | None = None) -> None:
        """Open the run, or go on with one, and say what is trained, on what, with which code and where."""
        run_id = self.tracking.start(continue_run=continue_run)
        if run_id is None:
            return
        self.tracking.params(self.config.flat())
        self.tracking.json(self.config.raw, "config.json")
        dataset = trainer.data_loader.dataset  # type: ignore[union-attr]
        store = dataset.store.digest() if isinstance(dataset, PatchDataset) else "not a patch store"
        self.tracking.tags(
            code_version()
            | environment()
            | {
                "data.name": self.data.name,
                "data.digest": self.data.digest(),
                "data.patches": store,
                "data.training_cases": str(len(self.data.training)),
                "data.validation_cases": str(len(self.data.validation)),
            }
        )
        cases = {split: [case.id for case in self.data.cases(split)] for split in ("training", "validation")}
        self.tracking.json(cases, "cases.json")
        parameters = sum(p.numel() for p in unwrapped(trainer.network).parameters())
        logger.info(
            "%s: %d training and %d validation cases, %d classes, %.2f M parameters, MLflow run %s",
            self.data.name,
            len(self.data.training),
            len(self.data.validation),
            self.data.num_classes,
            parameters / 1e6,
            run_id,
        )

    def epoch_started(self, engine: SegTrainer) -> None:
        self._losses = []
        self._epoch_started = time.monotonic()

    def iteration(self, engine: SegTrainer) -> None:
        """Metrics of one iteration, every `log_interval`."""
        loss = engine.state.output[Keys.LOSS]  # type: ignore[index]
        self._losses.append(loss)
        iteration = engine.state.iteration
        if iteration % self.log_interval == 0 and self.tracking.run_id is not None:
            values = {"train_loss": float(loss), "learning_rate": engine.optimizer.param_groups[0]["lr"]}
            if engine.grad_norm is not None:
                values["grad_norm"] = float(engine.grad_norm)
            self.tracking.metrics(values, iteration)

    def epoch(self, engine: SegTrainer) -> dict[str, float]:
        """Metrics of one epoch with its validation, if there was one; called on every rank."""
        epoch, evaluator = engine.state.epoch, self.evaluator
        seconds = time.monotonic() - self._epoch_started
        values: dict[str, float] = {"epoch_loss": mean_loss(self._losses), "epoch": float(epoch)}
        values["epoch_seconds"] = seconds
        if evaluator is not None and evaluator.state.epoch == epoch and evaluator.state.cases:
            values.update({k: v for k, v in evaluator.state.metrics.items() if v == v})
        self.tracking.metrics(values, engine.state.iteration)
        return values

    def end(self, trainer: SegTrainer, folder: Path, summary: Mapping[str, Any]) -> None:
        """Store the model and the best result, and wait until MLflow has everything.

        Args:
            folder: where `model.pt` and `model.json` lie.
            summary: of the best validation; empty without one.
        """
        for name in (BEST, CARD):
            self.tracking.artifact(folder / name, "model")
        if summary:
            self.tracking.metrics({"best_val_mean_dice": summary["mean_dice"]}, trainer.state.iteration)
        self.tracking.flush()
