"""Learning rate over the steps of a training."""

from __future__ import annotations

import math

import torch


def lr_schedule(
    optimizer: torch.optim.Optimizer,
    kind: str,
    total_steps: int,
    warmup_steps: int = 0,
    power: float = 0.9,
) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up, then a fall to zero over `total_steps` optimiser steps.

    Args:
        kind: "poly", (1 - t)**power (Liu et al., ParseNet, arXiv 1506.04579, section 4); "cosine",
            (1 + cos(pi t)) / 2 (Loshchilov and Hutter, SGDR, arXiv 1608.03983, eq. 5); "constant".
        total_steps: optimiser steps of the whole training, warm-up included.
        warmup_steps: steps over which the rate rises linearly from 1/warmup_steps of its value; in a training
            that is shorter than this, all steps but the last.

    Raises:
        ValueError: the kind is unknown.
    """
    if kind not in ("poly", "cosine", "constant"):
        raise ValueError(f"the schedule '{kind}' is unknown; choose poly, cosine or constant")
    warmup_steps = min(int(warmup_steps), max(0, total_steps - 1))

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        t = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        if kind == "poly":
            return (1 - t) ** power
        return (1 + math.cos(math.pi * t)) / 2 if kind == "cosine" else 1.0

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
