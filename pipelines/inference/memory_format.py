"""Memory format of a network, channels-first or channels-last: as configured, or the faster one on this machine."""

from __future__ import annotations

import copy
import logging
import math
import time

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pipelines.distributed.collectives import from_first
from pipelines.inference.precision import AUTO, autocast, resolve_precision
from transforms.errors import SettingError

__all__ = ["channels_last_format", "lies_channels_last", "place"]

logger = logging.getLogger(__name__)

# Channels-first is chosen only if it takes less than this fraction of the time of channels-last, which most layers
# here are optimised for.
WORTHWHILE = 0.95
# Each format is timed at least REPEATS times and for at least ENOUGH seconds. The shortest time is used, as other
# programs disturb some passes.
REPEATS, ENOUGH = 4, 0.2
# Number of values, over all channels, of the feature map that is timed.
VALUES = 2**20


def place(
    network: nn.Module,
    device: torch.device | str,
    channels_last: bool | str = False,
    precision: str = AUTO,
) -> nn.Module:
    """Move a network to a device, and its weights to the channels-last memory format if requested.

    Call this before the network is wrapped in DistributedDataParallel, which arranges its gradient buckets by the
    format of the weights: if the format is changed afterwards, the averaged gradients are wrong without an error
    (measured with torch 2.13 and gloo).

    Args:
        network: the network.
        device: the device.
        channels_last: True, False or "auto". With "auto" and a network in training mode, a convolution and a norm of
            this network are timed in both formats, since the faster one depends on the processor, the norm and the
            precision; rank 0 decides for all ranks. With "auto" and a network in evaluation mode, the format is
            always channels-last: the format changes the last bits of the result, and a model must always give the
            same labels.
        precision: precision in which the network will compute, for "auto".

    Raises:
        SettingError: `channels_last` is none of these.

    Examples:
        >>> network = place(nn.Conv3d(4, 8, 3), "cpu", channels_last=True)
        >>> lies_channels_last(network)
        True
    """
    network = network.to(device)
    if isinstance(channels_last, str):
        if channels_last != AUTO:
            raise SettingError(f"channels_last is '{channels_last}'; give '$True', '$False' or 'auto'")
        channels_last = from_first(lambda: _choose(network, torch.device(device), precision))
    if channels_last:
        # mypy does not know this form of Module.to.
        network = network.to(memory_format=channels_last_format(network))  # type: ignore[call-overload]
    return network


def lies_channels_last(network: nn.Module) -> bool:
    """Whether a network's weights are in channels-last memory."""
    layout = channels_last_format(network)
    weights = [p for p in network.parameters() if p.ndim in (4, 5)]
    return any(not p.is_contiguous() and p.is_contiguous(memory_format=layout) for p in weights)


def channels_last_format(value: nn.Module | torch.Tensor) -> torch.memory_format:
    """torch's channels-last format, 2D or 3D, for a feature map or for the weights of a network."""
    if isinstance(value, torch.Tensor):
        dims = value.ndim
    else:
        dims = max((p.ndim for p in value.parameters()), default=4)
    return torch.channels_last_3d if dims == 5 else torch.channels_last


def _choose(network: nn.Module, device: torch.device, precision: str) -> bool:
    block = _block(network)
    if block is None or not network.training or torch.are_deterministic_algorithms_enabled():
        return True
    share = _channels_first_share(block, device, resolve_precision(precision, device))
    last = share > WORTHWHILE
    logger.info(
        "memory format: %s, since a convolution and its norm take %.2f times as long in channels-first",
        "channels-last" if last else "channels-first",
        share,
    )
    return last


def _block(network: nn.Module) -> tuple[nn.Conv2d | nn.Conv3d, nn.Module | None] | None:
    """A convolution with as many output as input channels, as most have, and the norm that follows it."""
    if isinstance(network, DistributedDataParallel):
        network = network.module
    found: nn.Conv2d | nn.Conv3d | None = None
    for module in network.modules():
        if found is None:
            if not isinstance(module, nn.Conv2d | nn.Conv3d):
                continue
            if module.in_channels == module.out_channels > 1 and max(module.kernel_size) > 1:
                found = module
        elif any(p.shape == (found.out_channels,) for p in module.parameters(recurse=False)):
            return found, module
    return (found, None) if found is not None else None


def _channels_first_share(
    block: tuple[nn.Conv2d | nn.Conv3d, nn.Module | None],
    device: torch.device,
    precision: str,
) -> float:
    """Time of the block, forward and backward, in channels-first memory over that in channels-last."""
    # Frozen layers too are timed as those that learn, which most of the network does.
    layers = [copy.deepcopy(layer).requires_grad_() for layer in block if layer is not None]
    dims, channels = block[0].weight.ndim - 2, block[0].in_channels
    side = max(8, round(math.pow(VALUES / channels, 1 / dims) / 8) * 8)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, channels, *(side,) * dims, generator=generator).to(device)
    parameters = [p for layer in layers for p in layer.parameters()]

    def seconds(layout: torch.memory_format) -> float:
        for layer in layers:
            layer.to(memory_format=layout)  # type: ignore[call-overload]
        values = x.contiguous(memory_format=layout).requires_grad_()
        _wait(device)
        started = time.perf_counter()
        with torch.enable_grad(), autocast(device, precision):
            y = values
            for layer in layers:
                y = layer(y)
            y = y.relu()
        torch.autograd.grad(y, [values, *parameters], y.detach())
        _wait(device)
        return time.perf_counter() - started

    layouts = (torch.contiguous_format, channels_last_format(x))
    for layout in layouts:
        seconds(layout)  # warm-up, in which the kernels are created
    began = time.perf_counter()
    times: list[list[float]] = []
    while len(times) < REPEATS or time.perf_counter() - began < ENOUGH:
        times.append([seconds(layout) for layout in layouts])
    first, last = (min(column) for column in zip(*times, strict=True))
    return first / last


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
