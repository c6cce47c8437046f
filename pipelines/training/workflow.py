"""Runs a training from start or resume to the final report, with checkpoints and one MLflow run."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping, Sequence

import torch
from ignite.engine import Events

from pipelines.config.executed import ExecutedConfig
from pipelines.data.cases import Dataset
from pipelines.data.patch_dataset import PatchSampler
from pipelines.distributed.collectives import from_first, max_of_ranks, of_all_ranks, part_of_rank
from pipelines.distributed.failures import failing_together
from pipelines.distributed.process_group import barrier, is_distributed
from pipelines.evaluation.validation import validation_dice
from pipelines.inference.evaluator import SegEvaluator
from pipelines.inference.trained_model import BEST
from pipelines.metrics.summary import Summary
from pipelines.planning.plan_file import executed_plan
from pipelines.planning.planned_config import settings_of
from pipelines.tracking.run import Tracking
from pipelines.training.checkpoints import LAST, Checkpoints, RankState, TrainingState, require_whole
from pipelines.training.early_stopping import EarlyStopping, StoppingError
from pipelines.training.model_cards import ModelCards, require_openable
from pipelines.training.restoring import restore
from pipelines.training.resume import (
    NEW,
    can_resume,
    differences,
    resume_mode,
    same_on_all_ranks,
    training_identity,
)
from pipelines.training.run_logger import Record
from pipelines.training.saving import Saver
from pipelines.training.seed import RandomState, random_state, set_random_state
from pipelines.training.trainer import SegTrainer
from pipelines.training.trainer_state import trainer_state
from pipelines.training.words import finished, results
from pipelines.utils.modules import plain_network
from pipelines.utils.ranks import rank, world_size
from pipelines.utils.signals import StopRequest
from transforms.preprocess import Preprocess

logger = logging.getLogger(__name__)

# Optimiser steps between two agreements of ranks on GPUs whether to write a checkpoint or to stop.
AGREEMENT = 10


class Training:
    """Runs the trainer as one MLflow run, with checkpoints within and after every epoch.

    After an interruption, the same command resumes with the next iteration in the same MLflow run. After a finished
    training, it starts a new one and moves the earlier files to `previous/`. See `pipelines.training.resume`.

    Args:
        trainer: the trainer with its handlers, among them the validation.
        evaluator: its mean Dice selects the best weights; with None the last weights are kept.
        network: the network that is evaluated and saved, see `evaluated_network`.
        data: the training dataset.
        preprocess: preprocessing of the dataset.
        tracking: the MLflow run.
        config: `executed_config()`.
        folder: folder for checkpoints and model.
        resume: see `pipelines.training.resume.resume_mode`.
        log_interval: iterations between training metrics in MLflow.
        pictures: number of cases whose pictures are logged to MLflow at every validation.
        checkpoint_minutes: minutes between checkpoints within an epoch, written at the end of an optimiser step;
            None writes checkpoints only at the end of epochs.
        patience: number of validations without a better mean Dice after which the training ends; None never ends it
            early.
        min_delta: smallest increase of the mean Dice that counts as better.

    Raises:
        ResumeError: `resume` is not valid or, from `run`, the training in the folder cannot be resumed.
        StoppingError: `patience` or `min_delta` is not valid.
        CheckpointError: the model could not be opened again, see `pipelines.inference.model_card`.
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
        resume: bool | str = True,
        log_interval: int = 10,
        pictures: int = 3,
        checkpoint_minutes: float | None = 10.0,
        patience: int | None = None,
        min_delta: float = 0.0,
    ) -> None:
        self.trainer = trainer
        self.evaluator = evaluator
        self.network = network
        self.data = data
        self.preprocess = preprocess
        self.tracking = tracking
        self.config = config
        self.checkpoints = Checkpoints(folder, settings_of(config))
        self.work = training_identity(config.flat(), data.digest())
        self.mode = resume_mode(resume)
        self.record = Record(tracking, config, data, evaluator, log_interval, pictures)
        self.stopping = EarlyStopping(patience, min_delta)
        if patience is not None and (evaluator is None or not data.validation):
            raise StoppingError(
                "patience needs validation cases, and the dataset has none; add some, or remove patience"
            )
        self.best = float("-inf")
        self.stopped_early = False
        self._history: list[dict[str, float]] = []
        self._skip = 0
        self._first = rank() == 0
        self._saver = Saver(self.checkpoints, checkpoint_minutes, tracking.drain, enabled=self._first)
        self._request = StopRequest()
        self._parts: list[RankState] = []
        self._random: RandomState | None = None
        self._ranks: list[RankState] | None = None
        self.cards = ModelCards(config, data, preprocess, tracking, evaluator)
        require_openable(self.cards.card(0))

    def run(self) -> Summary | None:
        """Train to the end.

        Returns:
            The summary of the best validation; None without validation, and on all ranks but the first.
        """
        with contextlib.ExitStack() as stack:
            if self._first:
                stack.enter_context(self.checkpoints.held())
                self.checkpoints.repair()
            if from_first(self._was_finished):
                return self._report_finished()
            try:
                with self.tracking, failing_together(self.tracking):
                    self._begin()
                    self._train()
                    summary = self._end()
            except Exception:
                # The failed run keeps its error; the next start, perhaps with other code, opens a new run.
                self.checkpoints.starts.fail()
                raise
            # Only after `_end`: if the process is killed before, the next start completes the missing steps.
            self.checkpoints.starts.finish()
            self._saver.write(self._state(self.trainer.state.epoch, self._parts, finished=True))
        return summary

    def _begin(self) -> None:
        # The identity of rank 0 is recorded, since the path of the dataset may differ between hosts.
        self.work = same_on_all_ranks(self.work, self.data, self.trainer.data_loader.dataset)  # type: ignore[union-attr]
        epochs = self.trainer.state.max_epochs or 0
        # Only rank 0 reads the checkpoint: other hosts may not have access to the folder.
        state, whole = from_first(self._earlier)
        changed = state is not None and bool(differences(state["work"], self.work))
        if state is not None:
            self._restore(state, changed, whole)
        # Parameters of an MLflow run cannot change, so with other settings a new run is opened.
        continues = state is not None and not changed
        self.record.begin(self.trainer, self._run_to_continue(state if continues else None), self.work)
        if self._first and not continues:
            self.checkpoints.starts.begin(self.work, self.tracking.run_id)
        if self._first:
            # Checked again, since the name of the experiment of MLFLOW_EXPERIMENT_ID is only known now.
            require_openable(self.cards.card(0))
        # Only after `record.begin`: a start that MLflow refuses must not change any file.
        if state is None and self._first:
            moved = self.checkpoints.set_aside()
            if moved is not None:
                logger.info("the files of the previous training were moved to %s", moved)
        self.cards.summarise(self.trainer.data_loader.dataset)  # type: ignore[union-attr]
        plan = executed_plan(self.config)
        if state is None and self._first and plan is not None:
            self.checkpoints.keep_plan(plan)
        if state is not None and changed:
            self.tracking.tags({"segbundles.continues": str(state["run_id"])})
        if state is not None and epochs != state["epochs"]:
            self.tracking.tags({"segbundles.epochs": f"{epochs}, before it went on {state['epochs']}"})

    def _run_to_continue(self, state: TrainingState | None) -> str | None:
        """The run of the checkpoint, or of a process killed before its first checkpoint; None for a new run."""
        if state is not None or not self._first:
            return state["run_id"] if state is not None else None
        begun = self.checkpoints.starts.run_begun(self.work) if self.mode != NEW else None
        self.checkpoints.starts.begin(self.work, begun or self.tracking.next_id)
        return begun

    def _was_finished(self) -> bool:
        """Whether exactly this training is finished, but its process was killed before it exited."""
        if self.mode == NEW or not self.checkpoints.starts.was_finished():
            return False
        state, epochs = self._latest(), self.trainer.state.max_epochs or 0
        if state is None or not state["finished"] or differences(state["work"], self.work):
            return False
        return epochs == state["epochs"] and self.checkpoints.has_model()

    def _report_finished(self) -> Summary | None:
        if not self._first:
            return None
        summary, lines = self._results()
        print("\n".join([finished(self.checkpoints.folder), *lines]))
        self.checkpoints.starts.told()
        return summary

    def _latest(self) -> TrainingState | None:
        """The state of the last checkpoint, checked for completeness unless an older version wrote it."""
        state = self.checkpoints.latest()
        if state is not None and "format" in state:
            require_whole(state, self.checkpoints.folder)
        return state

    def _earlier(self) -> tuple[TrainingState | None, bool]:
        """The state to resume from (None to start new), and whether its best model exists."""
        state = self._latest() if self.mode != NEW else None
        epochs = self.trainer.state.max_epochs or 0
        stops = lambda s: self._has_to_stop(s["history"])  # noqa: E731
        if not can_resume(state, self.work, epochs, self.mode, stops, self.checkpoints.folder):
            return None, False
        return state, self.checkpoints.has_model()

    def _restore(self, state: TrainingState, changed: bool, whole: bool) -> None:
        folder = self.checkpoints.folder
        self._skip = restore(self.trainer, state, changed, self._patches_per_iteration(), folder)
        self._parts = list(state["ranks"])
        part = part_of_rank(self._parts, rank())
        if part is not None:
            self._random = part["random"]
        self.best, self._history = float(state["best"]), list(state["history"])
        # On every rank, since all of them compare with the best Dice.
        if self.best > float("-inf") and not whole:
            logger.warning(
                "%s is missing or damaged in %s; the next validation writes a new one", BEST, folder
            )
            self.best = float("-inf")
        self.stopped_early = self._has_to_stop(self._history)

    def _train(self) -> None:
        trainer = self.trainer
        trainer.add_event_handler(Events.EPOCH_STARTED, self._on_epoch_started)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._on_iteration)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._on_epoch)
        self._saver.start()
        if self._random is not None:
            # Set directly before the training, so that no random numbers drawn at the start change it.
            set_random_state(self._random)
        with self._request:
            try:
                if self._skip and self._skip == trainer.state.epoch_length:
                    # All iterations of the epoch are done; only its validation is missing.
                    trainer.state.epoch += 1
                    self._skip = 0
                    trainer.fire_event(Events.EPOCH_STARTED)
                    self._ready_to_validate()
                    trainer.fire_event(Events.EPOCH_COMPLETED)
                epochs = trainer.state.max_epochs or 0
                if trainer.state.epoch < epochs and not self._has_to_stop(self._history):
                    trainer.run()
            except BaseException:
                # Stopped during a validation: the weights have not changed since the end of the iterations.
                if self._request.number is not None and self._ranks is not None:
                    self._request.busy = True
                    self._saver.write(self._state(trainer.state.epoch - 1, self._ranks))
                raise

    def _on_epoch_started(self, engine: SegTrainer) -> None:
        self.record.epoch_started(engine)
        sampler = getattr(engine.data_loader, "sampler", None)
        # The sampler counts from 0, ignite from 1.
        if isinstance(sampler, PatchSampler):
            sampler.set_epoch(engine.state.epoch - 1, self._skip * (engine.data_loader.batch_size or 1))  # type: ignore[union-attr]
        elif hasattr(sampler, "set_epoch"):
            sampler.set_epoch(engine.state.epoch - 1)  # type: ignore[union-attr]
        self._skip = 0

    def _on_iteration(self, engine: SegTrainer) -> None:
        self.record.iteration(engine)
        length = engine.state.epoch_length or 1
        inside = (engine.state.iteration - 1) % length + 1
        # Within an accumulation window there are gradients, which a checkpoint does not hold.
        if inside < length and inside % engine.accumulation_steps:
            return
        step = -(-inside // engine.accumulation_steps)
        # An agreement at each step would make ranks on GPUs wait for each other.
        if inside < length and step % AGREEMENT and engine.state.device.type == "cuda" and is_distributed():
            return
        due = self._saver.due()
        asked = max_of_ranks(self._request.number or int(due))
        if asked and isinstance(getattr(engine.data_loader, "sampler", None), PatchSampler):
            ranks = of_all_ranks(self._of_this_rank(engine.state.losses))
            # On a GPU the trainer checks for NaN only every few iterations, so it is checked again here.
            if all(bool(torch.isfinite(part["losses"]).all()) for part in ranks):
                self._saver.write(self._state(engine.state.epoch - 1, ranks))
        if asked > 1:
            self._stop(asked)
        if inside == length:
            self._ready_to_validate()

    def _ready_to_validate(self) -> None:
        """Allow to stop at once: until the end of the epoch nothing changes that a checkpoint holds."""
        self._ranks = of_all_ranks(self._of_this_rank(self.trainer.state.losses))
        self._request.at_once = True

    def _on_epoch(self, engine: SegTrainer) -> None:
        self._request.at_once = False
        epoch = engine.state.epoch
        dice = validation_dice(self.evaluator, epoch)
        improved = dice is not None and dice > self.best
        if improved:
            assert dice is not None
            self.best = dice
        # Called on every rank, since the loss is averaged over them.
        values = self.record.epoch(engine, improved)
        self._history.append({"epoch": epoch, **values})
        self.stopped_early = epoch < (engine.state.max_epochs or 0) and self._has_to_stop(self._history)
        last = self.stopped_early or epoch == engine.state.max_epochs
        self._ranks = None
        # Without a validation the last weights are saved as the model.
        if self._first and (improved or (last and self.best == float("-inf"))):
            self._saver.keep_model(self.network, self.cards.card(epoch))
        # Empty, since the next epoch has no losses yet.
        self._parts = of_all_ranks(self._of_this_rank([]))
        self._saver.write(self._state(epoch, self._parts), required=last)
        asked = max_of_ranks(self._request.number or 0)
        if asked and not last:
            self._stop(asked)
        if self.stopped_early:
            engine.terminate()

    def _has_to_stop(self, history: Sequence[Mapping[str, float]]) -> bool:
        return self.stopping.reached(row["val_mean_dice"] for row in history if "val_mean_dice" in row)

    def _stop(self, number: int) -> None:
        state, last = self.trainer.state, self.checkpoints.folder / LAST
        message = "stopped on request in epoch %d after iteration %d; the same command resumes from %s"
        logger.info(message, state.epoch, state.iteration, last)
        # When one rank exits, torchrun ends the others; the barrier prevents this while rank 0 writes.
        barrier()
        self._request.end_now(number)

    def _patches_per_iteration(self) -> int:
        batch: int = getattr(self.trainer.data_loader, "batch_size", None) or 1
        return batch * world_size()

    def _of_this_rank(self, losses: list[torch.Tensor]) -> RankState:
        stacked = torch.stack(losses).cpu() if losses else torch.zeros(0)
        return {"random": random_state(), "losses": stacked}

    def _state(self, done: int, ranks: list[RankState], finished: bool = False) -> TrainingState:
        """The content of a checkpoint after `done` completed epochs, with the state `ranks` of each process."""
        length = self.trainer.state.epoch_length or 0
        inside = self.trainer.state.iteration - done * length
        return {
            "work": self.work,
            "finished": finished,
            "stopped_early": self.stopped_early,
            "epochs": self.trainer.state.max_epochs or 0,
            "epoch": done,
            "epoch_length": length,
            "iteration": self.trainer.state.iteration,
            "inside": inside,
            "patches": inside * self._patches_per_iteration(),
            "best": self.best,
            "history": self._history,
            "run_id": self.tracking.run_id,
            "ranks": ranks,
            **trainer_state(self.trainer),
        }

    def _end(self) -> Summary | None:
        if not self._first:
            return None
        folder = self.checkpoints.folder
        if not self.checkpoints.has_model():
            # The files were deleted, or a training without validation already had all its epochs when resumed.
            weights = plain_network(self.network).state_dict()
            self.checkpoints.save_model(weights, self.cards.card(self.trainer.state.epoch))
        if self.stopped_early:
            epoch, of = self.trainer.state.epoch, self.trainer.state.max_epochs
            message = "%d validations in a row were not better, so the training ends after epoch %d of %d"
            logger.info(message, self.stopping.patience, epoch, of)
            self.tracking.tags({"segbundles.stopped_early": f"after epoch {epoch}"})
        summary, lines = self._results()
        self.record.end(self.trainer, folder, summary)
        print("\n".join(lines))
        return summary

    def _results(self) -> tuple[Summary | None, list[str]]:
        return results(
            self.checkpoints.folder, list(self.data.structures), self.config.knobs(), self.tracking.uri
        )
