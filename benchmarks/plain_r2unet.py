"""A plain R2U-Net in float32, like its public reimplementations: the reference for the training speed.

Structure after Alom et al., arXiv 1802.06955 (figures 2 to 4), in the form that became common: one kernel per
recurrent convolution, applied t + 1 times to x and x + h; batch norm shared by the steps; max pooling; decoder of
nearest upsampling, convolution, batch norm, ReLU; every convolution with a bias. Only for benchmarks: the shared
batch norm makes its evaluation mode wrong (docs/networks.md).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
POOL = {2: nn.MaxPool2d, 3: nn.MaxPool3d}


def convolution(dims: int, inside: int, outside: int) -> nn.Sequential:
    return nn.Sequential(
        CONV[dims](inside, outside, 3, padding=1), NORM[dims](outside), nn.ReLU(inplace=True)
    )


class Recurrent(nn.Module):
    def __init__(self, dims: int, channels: int, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.conv = convolution(dims, channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv(x)
        for _ in range(self.steps):
            h = self.conv(x + h)
        return h


class Unit(nn.Module):
    def __init__(self, dims: int, inside: int, outside: int, steps: int) -> None:
        super().__init__()
        self.projection = CONV[dims](inside, outside, 1)
        self.body = nn.Sequential(Recurrent(dims, outside, steps), Recurrent(dims, outside, steps))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.projection(x)
        return x + self.body(x)


class PlainR2UNet(nn.Module):
    """R2U-Net of the common reimplementation; `features` from the first level to the deepest, `steps` the paper's t."""

    def __init__(
        self, dims: int, in_channels: int, out_channels: int, features: Sequence[int], steps: int = 2
    ) -> None:
        super().__init__()
        self.pool = POOL[dims](2)
        inputs = [in_channels, *features[:-1]]
        self.encoder = nn.ModuleList(Unit(dims, a, b, steps) for a, b in zip(inputs, features, strict=True))
        pairs = list(itertools.pairwise(features))[::-1]
        self.up = nn.ModuleList(
            nn.Sequential(nn.Upsample(scale_factor=2), *convolution(dims, below, above))
            for above, below in pairs
        )
        self.decoder = nn.ModuleList(Unit(dims, 2 * above, above, steps) for above, _ in pairs)
        self.head = CONV[dims](features[0], out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept: list[torch.Tensor] = []
        for level, unit in enumerate(self.encoder):
            x = unit(x if level == 0 else self.pool(x))
            kept.append(x)
        for up, unit, skip in zip(self.up, self.decoder, reversed(kept[:-1]), strict=True):
            x = unit(torch.cat([skip, up(x)], 1))
        return self.head(x)
