"""Saves and restores the state of a trainer as tensors and plain types."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, TypedDict

import torch

from pipelines.training.trainer import SegTrainer
from pipelines.utils.modules import unwrapped

logger = logging.getLogger(__name__)

StateDict = dict[str, Any]
"""Result of a `state_dict()` of torch."""


class TrainerState(TypedDict):
    """The part of a trainer that a checkpoint holds; None for a component that the trainer does not have."""

    network: StateDict
    optimizer: StateDict
    lr_scheduler: StateDict | None
    grad_scaler: StateDict
    average: StateDict | None
    grad_norm: torch.Tensor | None


def trainer_state(trainer: SegTrainer) -> TrainerState:
    """Weights, average, optimiser, schedule, loss scale and the last gradient norm; the same on every rank."""
    schedule = trainer.lr_scheduler.state_dict() if trainer.lr_scheduler is not None else None
    if schedule is not None:
        # Functions are not plain types; the config creates them again.
        schedule = {key: value for key, value in schedule.items() if key != "lr_lambdas"}
    return {
        "network": unwrapped(trainer.network).state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "lr_scheduler": schedule,
        "grad_scaler": trainer.grad_scaler.state_dict(),
        "average": trainer.average.state_dict() if trainer.average is not None else None,
        # Iterations within an accumulation window log the norm of the previous step.
        "grad_norm": trainer.grad_norm,
    }


def restore_trainer(trainer: SegTrainer, state: TrainerState, settings: bool = True) -> None:
    """Restore a result of `trainer_state`.

    A schedule that is a function of the step (`LambdaLR`, as `lr_schedule` returns) is evaluated with the current
    number of epochs, so that after more epochs were given the next step already has the rate of the longer schedule.

    Args:
        trainer: the trainer.
        state: result of `trainer_state`.
        settings: False keeps the current learning rate, weight decay and so on instead of the stored ones. If the
            optimiser is another one, which needs averages that the stored one did not keep, it begins without any, and
            says so.

    Raises:
        RuntimeError, ValueError, KeyError: the state does not fit the network or the optimiser.
    """
    unwrapped(trainer.network).load_state_dict(state["network"])
    present = [{k: v for k, v in group.items() if k != "params"} for group in trainer.optimizer.param_groups]
    if settings or _continues(trainer.optimizer, state["optimizer"]):
        trainer.optimizer.load_state_dict(state["optimizer"])
        _match_memory_format(trainer.optimizer)
    else:
        logger.warning(
            "the optimiser is another one than in the checkpoint and begins with averages of its own: the first steps are"
            " less sure than those before"
        )
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


def _continues(optimizer: torch.optim.Optimizer, stored: Mapping[str, Any]) -> bool:
    """Whether a stored optimiser kept all averages that this one needs, or is of other parameters, which torch refuses."""
    groups = [len(group["params"]) for group in stored["param_groups"]]
    kept: Mapping[int, Mapping[str, Any]] = stored["state"]
    if not kept or groups != [len(group["params"]) for group in optimizer.param_groups]:
        return True
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    needed = _first_averages(optimizer, [parameters[number] for number in kept])
    return all(names <= set(values) for names, values in zip(needed, kept.values(), strict=True))


def _first_averages(optimizer: torch.optim.Optimizer, parameters: list[torch.nn.Parameter]) -> list[set[str]]:
    """What an optimiser keeps of each parameter, by a step that changes none and is forgotten."""
    rates = [group["lr"] for group in optimizer.param_groups]
    gradients = [parameter.grad for parameter in parameters]
    for group in optimizer.param_groups:
        group["lr"] = 0.0 * group["lr"]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    found = [set(optimizer.state.get(parameter, {})) for parameter in parameters]
    optimizer.state.clear()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    return found


def _match_memory_format(optimizer: torch.optim.Optimizer) -> None:
    """Convert the optimiser's moments to the memory format of their weights.

    The machine that wrote the checkpoint may have used another format. A fused optimiser reads weights and moments in
    the order of their memory: with two formats it combines wrong elements without an error (measured with torch
    2.13).
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
    """Set a `LambdaLR` schedule to the rate after `steps` optimiser steps; other schedules are left unchanged."""
    schedule = trainer.lr_scheduler
    if isinstance(schedule, torch.optim.lr_scheduler.LambdaLR):
        state = schedule.state_dict() | {"last_epoch": steps, "_step_count": steps + 1}
        _restore_schedule(schedule, trainer.optimizer, state, settings=True)
