"""Learning rate schedule, and moving average of the weights."""

from __future__ import annotations

import math

import torch

from pipelines.utils.modules import unwrapped
from transforms.errors import SettingError


def lr_schedule(
    optimizer: torch.optim.Optimizer,
    kind: str,
    total_steps: int,
    warmup_steps: int = 0,
    power: float = 0.9,
    decay_share: float = 0.2,
) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up, then a decrease to zero until optimiser step `total_steps`, or a constant rate.

    Args:
        kind: "poly", (1 - t)**power (Liu et al., ParseNet, arXiv 1506.04579, section 4); "cosine",
            (1 + cos(pi t)) / 2 (Loshchilov and Hutter, SGDR, arXiv 1608.03983, eq. 5); "wsd" (warm-up, stable, decay),
            constant until a straight fall to zero at the end (Hu et al., MiniCPM, arXiv 2404.06395, section 4;
            Hägele et al., arXiv 2405.18392, section 3); "constant".
        total_steps: optimiser steps of the whole training, warm-up included.
        warmup_steps: steps over which the rate rises linearly from 1/warmup_steps of its value; at most
            `total_steps` - 1.
        power: of "poly".
        decay_share: of the steps after the warm-up, in which "wsd" falls.

    Raises:
        SettingError: the kind is unknown, or the share is not between 0 and 1.

    Examples:
        >>> optimizer = torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), lr=1.0)
        >>> schedule = lr_schedule(optimizer, kind="constant", total_steps=10, warmup_steps=4)
        >>> schedule.get_last_lr()
        [0.25]
    """
    if kind not in ("poly", "cosine", "wsd", "constant"):
        raise SettingError(f"the schedule '{kind}' is unknown; choose poly, cosine, wsd or constant")
    if not 0 < decay_share <= 1:
        raise SettingError(f"decay_share is {decay_share}; give a share of the steps, above 0 and at most 1")
    warmup_steps = min(int(warmup_steps), max(0, total_steps - 1))

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        t = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        if kind == "poly":
            return (1 - t) ** power
        if kind == "wsd":
            return min(1.0, (1 - t) / decay_share)
        return (1 + math.cos(math.pi * t)) / 2 if kind == "cosine" else 1.0

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def averaged(network: torch.nn.Module, decay: float | None) -> torch.nn.Module | None:
    """An exponential moving average of the weights, or None if `decay` is None.

    The decay rises with the number of steps n as min(decay, (1 + n) / (10 + n)), so that the random initial weights
    lose their influence in a short training too.

    Examples:
        >>> average = averaged(torch.nn.Linear(4, 2), decay=0.99)
        >>> average(torch.zeros(1, 4)).shape
        torch.Size([1, 2])
    """
    if decay is None:
        return None

    return _Average(unwrapped(network), decay)


class _Average(torch.optim.swa_utils.AveragedModel):
    """AveragedModel without its wait for the GPU at every step: the count of steps stays on the CPU."""

    def __init__(self, network: torch.nn.Module, decay: float) -> None:
        super().__init__(network)
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: torch.nn.Module) -> None:
        count = int(self.n_averaged)
        # The first average is the weights of the network themselves.
        weight = 1 - min(self.decay, (1 + count) / (10 + count)) if count else 1.0
        averages: list[torch.Tensor] = list(self.module.parameters())
        current = [p.to(a.device) for p, a in zip(model.parameters(), averages, strict=True)]
        torch._foreach_lerp_(averages, current, weight)
        for average, buffer in zip(self.module.buffers(), model.buffers(), strict=True):
            average.copy_(buffer)
        self.n_averaged += 1


def evaluated_network(network: torch.nn.Module, average: torch.nn.Module | None) -> torch.nn.Module:
    """The network that is validated and saved as `model.pt`: with averaged weights if there are any.

    Examples:
        >>> network = torch.nn.Linear(4, 2)
        >>> evaluated_network(network, averaged(network, decay=None)) is network
        True
    """
    return average if average is not None else unwrapped(network)
