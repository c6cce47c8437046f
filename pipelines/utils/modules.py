"""torch.compile by regions: the blocks that a network repeats, instead of the network as a whole."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

__all__ = ["compile_regions"]

# Levels of a network times training and evaluation, with room for a second size of patch.
VARIANTS = 64


def compile_regions(network: torch.nn.Module, **options: Any) -> bool:
    """Compile in place what a network names as its repeated blocks; whether it names any.

    A block is compiled once per shape, for all its copies together, so that this takes seconds where a whole
    network takes minutes; what lies between the blocks stays eager. Names in the state dict stay as they are.

    Args:
        network: with a method `regions()` that gives the blocks.
        options: of `torch.compile`, such as `mode` or `backend`.
    """
    regions = getattr(network, "regions", None)
    if regions is None:
        return False
    # Each level has its own number of channels; beyond this limit torch goes back to eager without an error.
    limit = torch._dynamo.config.recompile_limit
    torch._dynamo.config.recompile_limit = max(limit, VARIANTS)
    for region in regions():
        region.compile(**{"dynamic": False, **options})
    return True


def unwrapped(network: torch.nn.Module) -> torch.nn.Module:
    """The network itself behind DistributedDataParallel and torch.compile."""
    while True:
        inner = network.module if isinstance(network, DistributedDataParallel) else network
        inner = getattr(inner, "_orig_mod", inner)
        if inner is network:
            return network
        network = inner


def plain_network(network: torch.nn.Module) -> torch.nn.Module:
    """The network whose state dict a user expects: no wrapper of distribution, compiling or averaging."""
    network = unwrapped(network)
    if isinstance(network, torch.optim.swa_utils.AveragedModel):
        network = unwrapped(network.module)
    return network
