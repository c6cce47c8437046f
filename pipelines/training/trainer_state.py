"""What of a trainer has to be carried on, as tensors and plain types, and how it is put back."""

from __future__ import annotations

from typing import Any, TypedDict

import torch

from pipelines.training.trainer import SegTrainer
from pipelines.utils.modules import unwrapped

StateDict = dict[str, Any]
"""What `state_dict()` of one of torch's objects gives."""


class TrainerState(TypedDict):
    """What of a trainer has to be carried on, as tensors and plain types; None for what it does not have."""

    network: StateDict
    optimizer: StateDict
    lr_scheduler: StateDict | None
    grad_scaler: StateDict
    average: StateDict | None
    grad_norm: torch.Tensor | None


def trainer_state(trainer: SegTrainer) -> TrainerState:
    """Weights, average, optimiser, schedule, loss scale and the last step's norm; the same on every rank."""
    schedule = trainer.lr_scheduler.state_dict() if trainer.lr_scheduler is not None else None
    if schedule is not None:
        # A function is no plain value; the config makes it again.
        schedule = {key: value for key, value in schedule.items() if key != "lr_lambdas"}
    return {
        "network": unwrapped(trainer.network).state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "lr_scheduler": schedule,
        "grad_scaler": trainer.grad_scaler.state_dict(),
        "average": trainer.average.state_dict() if trainer.average is not None else None,
        # Iterations within an accumulation window tell that of the step before them.
        "grad_norm": trainer.grad_norm,
    }


def restore_trainer(trainer: SegTrainer, state: TrainerState, settings: bool = True) -> None:
    """Put back what `trainer_state` gave.

    A schedule by the number of steps (`LambdaLR`, as `lr_schedule` makes) is set to its place in the present
    length, so that with more epochs the very next step has the rate of the longer schedule.

    Args:
        settings: False keeps the present learning rate, weight decay and so on instead of the stored ones.

    Raises:
        RuntimeError, ValueError, KeyError: the state is of another network or optimiser.
    """
    unwrapped(trainer.network).load_state_dict(state["network"])
    present = [{k: v for k, v in group.items() if k != "params"} for group in trainer.optimizer.param_groups]
    trainer.optimizer.load_state_dict(state["optimizer"])
    _lay_out(trainer.optimizer)
    if not settings:
        for group, values in zip(trainer.optimizer.param_groups, present, strict=True):
            group.update(values)
    if trainer.lr_scheduler is not None and state["lr_scheduler"] is not None:
        _restore_schedule(trainer.lr_scheduler, trainer.optimizer, state["lr_scheduler"], settings)
    if trainer.grad_scaler.is_enabled() and state["grad_scaler"]:
        trainer.grad_scaler.load_state_dict(state["grad_scaler"])
    if trainer.average is not None and state["average"] is not None:
        trainer.average.load_state_dict(state["average"])
    norm = state.get("grad_norm")
    trainer.grad_norm = norm.to(trainer.state.device) if norm is not None else None


def _lay_out(optimizer: torch.optim.Optimizer) -> None:
    """Moments in the memory format of their weights, which another machine may have kept in another one.

    A fused optimiser walks through both as they lie in memory: with two formats it mixes them up without a word
    (measured with torch 2.13).
    """
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(
                    value
                )


def _restore_schedule(
    schedule: Any, optimizer: torch.optim.Optimizer, state: StateDict, settings: bool
) -> None:
    lambdas = isinstance(schedule, torch.optim.lr_scheduler.LambdaLR)
    if not settings:
        state = {key: value for key, value in state.items() if key in ("last_epoch", "_step_count")}
    schedule.load_state_dict(
        {**state, "lr_lambdas": [None] * len(schedule.lr_lambdas)} if lambdas else dict(state)
    )
    if lambdas:
        for group, base, factor in zip(
            optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True
        ):
            group["lr"] = base * factor(schedule.last_epoch)
        schedule._last_lr = [group["lr"] for group in optimizer.param_groups]


def place_schedule(trainer: SegTrainer, steps: int) -> None:
    """Set a schedule by the number of steps to its place after so many, counted in those of the present length."""
    schedule = trainer.lr_scheduler
    if isinstance(schedule, torch.optim.lr_scheduler.LambdaLR):
        state = schedule.state_dict() | {"last_epoch": steps, "_step_count": steps + 1}
        _restore_schedule(schedule, trainer.optimizer, state, settings=True)
