"""A whole training: resume or start, one MLflow run, checkpoints, and the words at the end."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events

from pipelines.cases import Dataset
from pipelines.checkpoints import BEST, CARD, Checkpoints
from pipelines.config import ExecutedConfig
from pipelines.dataset_folder import load_dataset
from pipelines.demo import prepare_demo
from pipelines.engines import SegEvaluator, SegTrainer, unwrapped
from pipelines.metrics import summarise, table
from pipelines.preprocess import Preprocess
from pipelines.recording import Record
from pipelines.tracking import Tracking

logger = logging.getLogger(__name__)

DEMO = Path("data/demo")
# What may change between two starts of the same training.
FREE = ("epochs", "run_name", "device", "num_workers", "bundle_root", "initialize", "finalize")


def open_dataset(dataset_dir: str | os.PathLike, fold: int | None = None, seed: int = 0) -> Dataset:
    """The dataset in a folder; the public demo CT is prepared when `data/demo` is asked for and absent.

    Raises:
        DatasetError: the folder or a case in it cannot be used, see `pipelines.dataset_folder.load_dataset`.
    """
    if Path(dataset_dir) == DEMO:
        prepare_demo(DEMO)
    return load_dataset(Path(dataset_dir), fold=fold, seed=seed)


def seed_everything(seed: int, deterministic: bool = False) -> None:
    """Seed weights, dropout and everything else that is not drawn from (seed, epoch, index).

    Args:
        deterministic: also refuse algorithms that differ from run to run; slower on a GPU.
    """
    from monai.utils import set_determinism

    set_determinism(seed, use_deterministic_algorithms=True if deterministic else None)
    if not deterministic:
        # set_determinism also forbids cuDNN to choose the fastest kernel, which costs a GPU up to half its speed.
        torch.backends.cudnn.deterministic = False
        torch.backends.cudnn.benchmark = True


def evaluated_network(network: torch.nn.Module, average: torch.nn.Module | None) -> torch.nn.Module:
    """What validation looks at and `model.pt` keeps: the averaged weights where there are any."""
    return average if average is not None else unwrapped(network)


class Training:
    """Runs the trainer as one MLflow run, with checkpoints after every epoch.

    The same command after an interruption goes on from the last epoch in the same MLflow run; with a changed
    config or dataset, or after a finished training, it starts anew and moves the earlier files to `previous/`.

    Args:
        trainer: with its handlers; validation is one of them.
        evaluator: whose last mean Dice decides which weights are the best; None keeps the last ones.
        network: what is evaluated and kept, see `evaluated_network`.
        data: the dataset that is trained on.
        preprocess: its preprocessing.
        tracking: the run.
        config: `executed_config()`.
        folder: where checkpoints go.
        resume: False never continues an interrupted training.
        log_interval: iterations between training metrics in MLflow.
    """

    def __init__(
        self,
        trainer: SegTrainer,
        network: torch.nn.Module,
        data: Dataset,
        preprocess: Preprocess,
        tracking: Tracking,
        config: ExecutedConfig,
        folder: str | os.PathLike,
        evaluator: SegEvaluator | None = None,
        resume: bool = True,
        log_interval: int = 10,
    ) -> None:
        self.trainer = trainer
        self.evaluator = evaluator
        self.network = network
        self.data = data
        self.preprocess = preprocess
        self.tracking = tracking
        self.config = config
        # Other data or another number of processes is other work: its epochs would not be these.
        work = {
            "config": config.digest(FREE),
            "data": data.digest(),
            "processes": os.environ.get("WORLD_SIZE", "1"),
        }
        self.checkpoints = Checkpoints(folder, hashlib.sha256(json.dumps(work).encode()).hexdigest())
        self.resume = resume
        self.record = Record(tracking, config, data, evaluator, log_interval)
        self.best = float("-inf")
        self._history: list[dict[str, Any]] = []
        self._first = int(os.environ.get("RANK", "0")) == 0

    def run(self) -> dict[str, Any]:
        """Train to the end.

        Returns:
            The summary of the best validation, see `pipelines.metrics.summarise`; empty without validation.
        """
        with self.tracking:
            self._begin()
            for event, handler in (
                (Events.EPOCH_STARTED, self._on_epoch_started),
                (Events.ITERATION_COMPLETED, self.record.iteration),
                (Events.EPOCH_COMPLETED, self._on_epoch),
            ):
                self.trainer.add_event_handler(event, handler)
            self.trainer.run()
            summary = self._end()
        return summary

    def _begin(self) -> None:
        epochs = self.trainer.state.max_epochs or 0
        state = self.checkpoints.unfinished(epochs) if self.resume else None
        if state is not None:
            self.checkpoints.restore(self.trainer, state)
            self.best, self._history = float(state["best"]), list(state["history"])
            logger.info("going on after epoch %d of %d (%s)", state["epoch"], epochs, self.checkpoints.folder)
        # Every rank has looked for `last.pt` before rank 0 moves it.
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.barrier()
        if state is None and self._first:
            moved = self.checkpoints.set_aside()
            if moved is not None:
                logger.info("the files of the training before this one are now in %s", moved)
        self.record.begin(self.trainer, continue_run=state["run_id"] if state is not None else None)

    def _on_epoch_started(self, engine: SegTrainer) -> None:
        self.record.epoch_started(engine)
        sampler = getattr(engine.data_loader, "sampler", None)
        if hasattr(sampler, "set_epoch"):
            # The sampler counts from 0, ignite from 1.
            sampler.set_epoch(engine.state.epoch - 1)  # type: ignore[union-attr]

    def _on_epoch(self, engine: SegTrainer) -> None:
        epoch = engine.state.epoch
        dice = self._validation_dice(epoch)
        improved = dice is not None and dice > self.best
        if improved:
            assert dice is not None
            self.best = dice
        # On every rank: the loss is averaged over them.
        values = self.record.epoch(engine)
        self._history.append({"epoch": epoch, **values})
        if not self._first:
            return
        # Without validation the last weights are the best that is known.
        if improved or (self.best == float("-inf") and epoch == engine.state.max_epochs):
            self.checkpoints.save_model(self.network, self._card(epoch))
        # Once this checkpoint is there, the epoch is not trained again, so its metrics must be in MLflow.
        self.tracking.drain()
        progress = {"best": self.best, "history": self._history, "run_id": self.tracking.run_id}
        self.checkpoints.save(engine, progress, finished=epoch == engine.state.max_epochs)

    def _validation_dice(self, epoch: int) -> float | None:
        """Mean Dice of the validation after this epoch; None if there was none or it has no value."""
        if self.evaluator is None or self.evaluator.state.epoch != epoch or not self.evaluator.state.cases:
            return None
        dice = float(self.evaluator.state.metrics["val_mean_dice"])
        return None if math.isnan(dice) else dice

    def _card(self, epoch: int) -> dict[str, Any]:
        card: dict[str, Any] = {
            "format": 1,
            "network": self.config.resolved("network_def"),
            "labels": {str(value): name for value, name in self.data.labels.items()},
            "preprocessing": self.preprocess.parameters(),
            "patch_size": self.config.resolved("patch_size"),
            "run_id": self.tracking.run_id,
            "epoch": epoch,
        }
        if self.evaluator is not None and self.evaluator.state.cases:
            card["validation"] = [
                {"case": case["case"], "dice": {k: None if v != v else v for k, v in case["dice"].items()}}
                for case in self.evaluator.state.cases
            ]
        return card

    def _end(self) -> dict[str, Any]:
        if not self._first:
            return {}
        folder = self.checkpoints.folder
        card = json.loads((folder / CARD).read_text())
        summary: dict[str, Any] = {}
        lines = [""]
        if "validation" in card:
            names = self.data.class_names[1:]
            cases = [
                {
                    "case": c["case"],
                    "dice": {k: float("nan") if v is None else v for k, v in c["dice"].items()},
                }
                for c in card["validation"]
            ]
            summary = summarise(cases, names)
            lines += [f"best validation, epoch {card['epoch']}:", table(summary)]
        self.record.end(self.trainer, folder, summary)
        lines += ["", f"model: {folder / BEST}", *self._next_commands(), ""]
        print("\n".join(lines))
        return summary

    def _next_commands(self) -> list[str]:
        knobs = self.config.knobs()
        root = knobs.get("bundle_root", self.checkpoints.folder.parent)
        run = "python -m monai.bundle run --config_file"
        data = f" --dataset_dir {knobs['dataset_dir']}" if knobs.get("dataset_dir") != str(DEMO) else ""
        ui = "mlflow ui"
        if os.environ.get("MLFLOW_TRACKING_URI"):
            ui = f"mlflow ui --backend-store-uri {self.tracking.uri}"
        return [
            "what comes next:",
            f"  {run} {root}/evaluate.json{data}",
            f"  {run} {root}/inference.json --input CT_FILE_OR_DICOM_FOLDER --output predictions",
            f"  {ui}",
        ]
