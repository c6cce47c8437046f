"""Logs a training to MLflow: config, code and data, metrics and pictures, and the trained model."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from monai.utils.enums import CommonKeys as Keys

from pipelines.config.executed import ExecutedConfig
from pipelines.data.cases import Dataset
from pipelines.data.patch_dataset import PatchDataset
from pipelines.deployment.mlflow_model import write_model
from pipelines.distributed.collectives import mean_of_ranks, of_all_ranks
from pipelines.evaluation.mlflow_results import case_table, log_results
from pipelines.inference.evaluator import SegEvaluator
from pipelines.inference.model_card import read_card
from pipelines.inference.precision import AUTO, choose_precision
from pipelines.inference.trained_model import CARD
from pipelines.metrics.mlflow_names import metric_names
from pipelines.metrics.result_files import Measured, Results, results
from pipelines.metrics.summary import Summary, statistics_of, summarise
from pipelines.planning.plan_file import PLAN_FILE, executed_plan
from pipelines.tracking.run import Tracking
from pipelines.training.checkpoints import LAST
from pipelines.training.crossvalidation import parent_of
from pipelines.training.handlers import mean_loss
from pipelines.training.resume import DATA
from pipelines.training.timing import StepTimer, Stopwatch
from pipelines.training.trainer import SegTrainer
from pipelines.training.validation_pictures import Snapshots, decoded
from pipelines.utils.anonymity import without_places
from pipelines.utils.modules import unwrapped
from pipelines.utils.passwords import hidden
from pipelines.utils.provenance import code_version, environment, invocation, uncommitted

logger = logging.getLogger(__name__)

MOST_PICTURES = 32
"""Largest number of cases whose pictures of the best validation are kept."""
SPLITS = ("training", "validation")
_COLUMNS = [{"name": name, "type": "string", "required": True} for name in ("case", "image", "label")]


class Record:
    """Logs a training to its MLflow run.

    Args:
        tracking: the MLflow run.
        config: `executed_config()`.
        data: the training dataset.
        evaluator: evaluator of the validation; None without validation.
        log_interval: iterations between training metrics.
        pictures: number of cases, the first by id, whose pictures are logged at every validation; 0 for none.
    """

    def __init__(
        self,
        tracking: Tracking,
        config: ExecutedConfig,
        data: Dataset,
        evaluator: SegEvaluator | None = None,
        log_interval: int = 10,
        pictures: int = 3,
    ) -> None:
        self.tracking = tracking
        self.config = config
        self.data = data
        self.evaluator = evaluator
        self.log_interval = max(1, log_interval)
        self.shown = sorted(case.id for case in data.validation)[: max(0, pictures)]
        self._epoch_started = 0.0
        self._timer: StepTimer | None = None
        self._validation = Stopwatch()
        self._snapshots: Snapshots | None = None
        self._pictures: dict[str, bytes] = {}
        self._best: Results | None = None
        self._fold = config.knobs().get("fold")

    def begin(
        self, trainer: SegTrainer, continue_run: str | None = None, work: Mapping[str, str] | None = None
    ) -> None:
        """Open a new run or continue one, and log config, code, data and machine. To be called on every rank.

        Args:
            trainer: the trainer.
            continue_run: the run of the checkpoint from which the training is resumed.
            work: see `pipelines.training.resume.training_identity`; the next start with the same `work` closes a run
                that was left open.
        """
        parent = parent_of(self.config, self.data) if self._fold is not None else None
        tags = {"segbundles.kind": "training"}
        if work is not None:
            named = json.dumps([self.tracking.experiment, dict(work)], sort_keys=True)
            tags["segbundles.work"] = hashlib.sha256(named.encode()).hexdigest()
        if self._fold is not None:
            tags["fold"] = str(self._fold)
        run_id = self.tracking.start(continue_run=continue_run, parent=parent, tags=tags)
        self._attach(trainer, tracked=run_id is not None)
        if run_id is None:
            return
        self._log_origin()
        # The digest reads the state of every file, of which DICOM folders have many: it is computed only once.
        self._log_data(trainer, work[DATA] if work is not None else self.data.digest())
        parameters = sum(p.numel() for p in unwrapped(trainer.network).parameters())
        self.tracking.tags({"network.parameters": str(parameters), **_computed(trainer)})
        logger.info(
            "%s: %d training and %d validation cases, %d classes, %.2f M parameters, MLflow run %s",
            self.data.name,
            len(self.data.training),
            len(self.data.validation),
            self.data.num_classes,
            parameters / 1e6,
            run_id,
        )

    def _attach(self, trainer: SegTrainer, tracked: bool) -> None:
        if tracked:
            self._timer = StepTimer(trainer.state.device)  # type: ignore[attr-defined]
            self._timer.attach(trainer)
        if self.evaluator is None:
            return
        self._validation.attach(self.evaluator)
        # Each rank validates different cases, but only rank 0 has the run.
        if any(of_all_ranks(tracked)):
            # pictures=0 also turns off the pictures of the best validation: they may be unwanted for privacy.
            most = MOST_PICTURES if self.shown else 0
            drawn = sorted(case.id for case in self.data.validation)[:most]
            self._snapshots = Snapshots(drawn, self.data.labels, self.evaluator.preprocess)
            self._snapshots.attach(self.evaluator)

    def _log_origin(self) -> None:
        called = invocation()
        params = self.config.flat()
        # If MLFLOW_EXPERIMENT_ID or MLFLOW_RUN_ID is set, the name of the experiment comes from MLflow.
        if "experiment" in params:
            params["experiment"] = self.tracking.experiment
        self.tracking.params(params)
        self.tracking.json(self.config.raw, "config.json")
        self.tracking.json(called, "invocation.json")
        plan = executed_plan(self.config)
        if plan is not None:
            self.tracking.json(plan, PLAN_FILE)
        self.tracking.tags(code_version() | environment() | _beginning(self.config))
        self.tracking.tags({"overrides": json.dumps(called["overrides"], default=str)})
        with self.tracking.losing("config_files", "code"), tempfile.TemporaryDirectory() as name:
            for place, given in enumerate(called["config_files"]):
                # The number keeps config files of the same name from two folders apart.
                copy = Path(name) / f"{place}_{Path(given).name}"
                # surrogateescape preserves bytes that are not UTF-8.
                text = without_places(Path(given).read_bytes().decode("utf-8", "surrogateescape"))
                copy.write_bytes(hidden(text).encode("utf-8", "surrogateescape"))
                self.tracking.artifact(copy, "config_files")
            changes = uncommitted()
            if changes:
                diff = Path(name) / "uncommitted.diff"
                diff.write_bytes(changes.encode())
                self.tracking.artifact(diff, "code")

    def _log_data(self, trainer: SegTrainer, digest: str) -> None:
        dataset = trainer.data_loader.dataset  # type: ignore[union-attr]
        store = dataset.store.digest() if isinstance(dataset, PatchDataset) else "not a patch store"
        cases = {split: [case.id for case in self.data.cases(split)] for split in SPLITS}
        self.tracking.tags(
            {
                "data.name": self.data.name,
                "data.digest": digest,
                "data.patches": store,
                "data.training_cases": str(len(self.data.training)),
                "data.validation_cases": str(len(self.data.validation)),
            }
        )
        self.tracking.json(cases, "cases.json")
        self.tracking.inputs(
            [
                {
                    "name": f"{self.data.name} {split}"[:500],
                    # MLflow allows 36 characters; the full digest is in the tag data.digest.
                    "digest": hashlib.sha256(json.dumps([digest, split, ids]).encode()).hexdigest()[:32],
                    "source_type": "local",
                    "source": json.dumps({"uri": without_places(str(self.data.root))}),
                    "schema": json.dumps({"mlflow_colspec": _COLUMNS}),
                    "profile": json.dumps(
                        {"num_cases": len(ids), "classes": self.data.class_names, "cases": ids[:10_000]}
                    ),
                    "context": split,
                }
                for split, ids in cases.items()
                if ids
            ]
        )

    def epoch_started(self, engine: SegTrainer) -> None:
        self._epoch_started = time.monotonic()

    def iteration(self, engine: SegTrainer) -> None:
        """Log the metrics of every `log_interval`-th iteration; the others do not wait for the device."""
        loss = engine.state.output[Keys.LOSS]  # type: ignore[index]
        iteration = engine.state.iteration
        if iteration % self.log_interval != 0:
            return
        tensors = {"train_loss": mean_of_ranks(loss)}
        if self.tracking.run_id is None:
            return
        if engine.grad_norm is not None:
            tensors["grad_norm"] = engine.grad_norm
        # One transfer from the device for all of them.
        read = torch.stack([value.detach().double() for value in tensors.values()]).tolist()
        values = dict(zip(tensors, read, strict=True))
        values["learning_rate"] = engine.optimizer.param_groups[0]["lr"]
        if self._timer is not None:
            values |= self._timer.take()
        self.tracking.metrics(values, iteration)

    def epoch(self, engine: SegTrainer, improved: bool = False) -> dict[str, float]:
        """Log the metrics of one epoch, and of its validation if there was one. To be called on every rank.

        Args:
            engine: the trainer.
            improved: whether the validation was the best so far; its results are then kept.

        Returns:
            The metrics by name.
        """
        epoch, evaluator = engine.state.epoch, self.evaluator
        seconds = time.monotonic() - self._epoch_started
        values: dict[str, float] = {"epoch_loss": mean_loss(engine.state.losses), "epoch": float(epoch)}
        values["epoch_seconds"] = seconds
        timed = self._timer.take() if self._timer is not None else {}
        # A collective call on every rank: a rank without cases has not validated, but must take part.
        if self._snapshots is not None and any(of_all_ranks(self._validated(engine))):
            self._pictures = self._snapshots.take()
        if self._validated(engine):
            assert evaluator is not None
            values.update({k: v for k, v in evaluator.state.metrics.items() if v == v})
            if self._validation.seconds is not None:
                timed["time/validation"] = self._validation.seconds
            for case in self.shown:
                if case in self._pictures and self.tracking.run_id is not None:
                    self.tracking.image(_image_key(case), decoded(self._pictures[case]), epoch)
        self.tracking.metrics(values | timed, engine.state.iteration)
        if improved and evaluator is not None and self.tracking.run_id is not None:
            self._keep_results(engine, evaluator)
        return values

    def _keep_results(self, engine: SegTrainer, evaluator: SegEvaluator) -> None:
        names = list(evaluator.structures)
        summary = summarise(evaluator.state.cases, names)
        values = {"best_val_mean_dice": summary["mean_dice"], "best_epoch": float(engine.state.epoch)}
        keys = metric_names(names)
        values |= {
            f"best_val_dice_{keys[name]}": statistics_of(row, "dice")["mean"]
            for name, row in summary["classes"].items()
        }
        self.tracking.metrics({k: v for k, v in values.items() if v == v}, engine.state.iteration)
        self._best = results(evaluator.state.cases, names, summary)
        with self.tracking.losing(f"results of epoch {engine.state.epoch}"):
            confusion = evaluator.state.confusion.numpy()
            log_results(self.tracking, self._best, self._pictures, confusion, evaluator.class_names)

    def end(self, trainer: SegTrainer, folder: Path, summary: Summary | None) -> None:
        """Log the model, the last checkpoint and the table of the best validation, and wait for MLflow.

        Args:
            trainer: the trainer.
            folder: folder of `model.pt`, `model.json` and `last.ckpt`.
            summary: summary of the best validation; None without validation.
        """
        if self.tracking.run_id is None:
            return
        if (folder / LAST).is_file():
            self.tracking.artifact(folder / LAST, "checkpoint")
        card = read_card(folder / CARD)
        if "validation" in card:
            # If the training was resumed after its best validation, only the model card has results of it.
            kept: Measured = {"classes": list(self.data.structures), "cases": card["validation"]}
            self.tracking.table("results/table.json", case_table(self._best or kept))
        with self.tracking.losing("model"), tempfile.TemporaryDirectory() as name:
            sources = invocation()["config_files"]
            root = write_model(
                Path(name) / "model", folder, Path(sources[0]).parent if sources else None, self.config.raw
            )
            self.tracking.artifacts(root, "model")
        if summary is not None and summary["mean_dice"] == summary["mean_dice"]:
            name = model_name(self.tracking.experiment)
            self.tracking.register(name, "model", summary["mean_dice"], alias="best")
        self.tracking.flush()

    def _validated(self, engine: SegTrainer) -> bool:
        state = self.evaluator.state if self.evaluator is not None else None
        return state is not None and state.epoch == engine.state.epoch and bool(state.cases)


def model_name(experiment: str) -> str:
    """The name of an experiment's registered model.

    MLflow allows no / and : in it, and cannot search for a name with a quotation mark.
    """
    return re.sub(r'[/:"]', "_", experiment)


def _image_key(case: str) -> str:
    """A name for a case's series of images: with the characters that MLflow allows, and different for each case."""
    name = re.sub(r"[^A-Za-z0-9_\-. ]", "_", case)
    return name if name == case else f"{name} {hashlib.sha256(case.encode()).hexdigest()[:4]}"


def _computed(trainer: SegTrainer) -> dict[str, str]:
    """Tags with the values that "auto" was resolved to on this machine."""
    device = torch.device(trainer.state.device)  # type: ignore[attr-defined]
    tags = {
        "computed.precision": trainer.precision,
        "computed.memory_format": "channels-last" if trainer.channels_last else "channels-first",
        "computed.threads": str(torch.get_num_threads()),
    }
    if trainer.asked_precision == AUTO:
        tags["computed.precision_reason"] = choose_precision(device).reason
    return tags


def _beginning(config: ExecutedConfig) -> dict[str, str]:
    """Where the weights of a fine-tuning are from, as tags."""
    return config.parser.get_parsed_content("weights").tags() if "init" in config.raw else {}
