"""Regional compilation (torch.compile of a network's repeated blocks), and removal of a network's wrappers."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

__all__ = ["compile_regions"]

# Enough for each level of a network, in training and evaluation, with two sizes of patches.
VARIANTS = 64


def compile_regions(network: torch.nn.Module, **options: Any) -> bool:
    """Compile the repeated blocks of a network in place.

    A block is compiled once per shape for all its copies, which takes seconds, while compiling a whole network takes
    minutes. Operations between the blocks are not compiled. The names in the state dict do not change.

    Args:
        network: the network; its method `regions()`, if it has one, returns the blocks.
        options: options of `torch.compile`, such as `mode` or `backend`.

    Returns:
        Whether the network has a method `regions()`.
    """
    regions = getattr(network, "regions", None)
    if regions is None:
        return False
    # Each level has a different number of channels; beyond this limit torch stops compiling without an error.
    limit = torch._dynamo.config.recompile_limit
    torch._dynamo.config.recompile_limit = max(limit, VARIANTS)
    for region in regions():
        region.compile(**{"dynamic": False, **options})
    return True


def unwrapped(network: torch.nn.Module) -> torch.nn.Module:
    """The network without the wrappers of DistributedDataParallel and torch.compile."""
    while True:
        inner = network.module if isinstance(network, DistributedDataParallel) else network
        inner = getattr(inner, "_orig_mod", inner)
        if inner is network:
            return network
        network = inner


def plain_network(network: torch.nn.Module) -> torch.nn.Module:
    """The network without any wrapper (distribution, compilation, weight averaging), for saving its state dict."""
    network = unwrapped(network)
    if isinstance(network, torch.optim.swa_utils.AveragedModel):
        network = unwrapped(network.module)
    return network
