"""A trainer put back to where its last checkpoint was written."""

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
    """Put a trainer back to the place of a checkpoint.

    Args:
        state: of the checkpoint.
        changed: whether the settings are others now: with another length of an epoch it goes on at the same place
            among the epoch's patches, at the start of an accumulation window.
        patches_per_iteration: of all processes, as of now.
        folder: of the checkpoint, for what is said.

    Returns:
        Iterations of the present epoch that are done already.

    Raises:
        ResumeError: the state is of another network or optimiser.
    """
    try:
        restore_trainer(trainer, state, settings=not changed)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ResumeError(
            f"the checkpoint in {folder} does not fit the network or the optimiser of this config ({reason}); "
            "begin anew with --resume new"
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
        # As many as these patches would have taken now, so that each patch counts once in the epoch's mean.
        earlier = torch.cat([part["losses"] for part in state["ranks"]]).mean()
        trainer.state.losses = [earlier.to(trainer.state.device)] * inside
    if changed:
        steps = trainer.accumulation_steps
        place_schedule(trainer, done * -(-length // steps) + -(-inside // steps))
    within = f", in epoch {done + 1} after iteration {inside} of {length}" if inside else ""
    logger.info("going on after epoch %d of %d%s (%s)", done, trainer.state.max_epochs, within, folder)
    return inside
