"""Restores a trainer from a checkpoint."""

from __future__ import annotations

import logging
import os

import torch

from pipelines.distributed.collectives import part_of_rank
from pipelines.training.checkpoints import TrainingState
from pipelines.training.resume import ResumeError
from pipelines.training.trainer import SegTrainer
from pipelines.training.trainer_state import place_schedule, restore_trainer
from pipelines.utils.ranks import rank

logger = logging.getLogger(__name__)


def restore(
    trainer: SegTrainer,
    state: TrainingState,
    changed: bool,
    patches_per_iteration: int,
    folder: str | os.PathLike,
) -> int:
    """Restore the state and the position of a trainer from a checkpoint.

    Args:
        trainer: the trainer.
        state: content of the checkpoint.
        changed: whether settings have changed since. If the length of an epoch has changed, the trainer resumes
            after the same number of patches of the epoch, rounded down to the start of an accumulation window.
        patches_per_iteration: of all processes together, with the current settings.
        folder: folder of the checkpoint, for messages.

    Returns:
        Number of iterations of the current epoch that are already done.

    Raises:
        ResumeError: the checkpoint does not fit the network or the optimiser.
    """
    try:
        restore_trainer(trainer, state, settings=not changed)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ResumeError(
            f"the checkpoint in {folder} does not fit the network or the optimiser of this config ({reason}); "
            "start a new training with --resume new"
        ) from error
    length = trainer.state.epoch_length or 0
    done, inside = int(state["epoch"]), int(state["inside"])
    if changed and 0 < inside < state["epoch_length"]:
        steps = trainer.accumulation_steps
        inside = min(int(state["patches"]) // patches_per_iteration, length - 1) // steps * steps
    elif inside:
        inside = min(inside, length) if not changed else length
    trainer.state.epoch, trainer.state.iteration = done, done * length + inside
    if inside and not changed:
        part = part_of_rank(list(state["ranks"]), rank())
        trainer.state.losses = list(part["losses"].to(trainer.state.device))
    elif inside:
        # One loss per iteration that these patches take with the new settings, so that each patch has the same
        # weight in the mean of the epoch.
        earlier = torch.cat([part["losses"] for part in state["ranks"]]).mean()
        trainer.state.losses = [earlier.to(trainer.state.device)] * inside
    if changed:
        steps = trainer.accumulation_steps
        place_schedule(trainer, done * -(-length // steps) + -(-inside // steps))
    within = f", in epoch {done + 1} after iteration {inside} of {length}" if inside else ""
    logger.info("resuming after epoch %d of %d%s (%s)", done, trainer.state.max_epochs, within, folder)
    return inside
