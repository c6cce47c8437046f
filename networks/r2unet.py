"""R2U-Net: the recurrent residual U-Net in 2D and 3D, and RU-Net, the same without the residual.

Alom et al., "Recurrent Residual Convolutional Neural Network based on U-Net (R2U-Net) for Medical Image
Segmentation", arXiv 1802.06955 (equations 1-4, figures 2-4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from monai.networks.layers.factories import Conv, Pool
from torch import nn

from .convolution import make_conv
from .errors import NetworkError
from .layers import (
    GROUP_NORM,
    RELU,
    as_strides,
    check_dims,
    head_count,
    resize,
    total_strides,
)
from .recurrent import RecurrentResidualUnit

__all__ = ["R2UNet"]


class _UpStage(nn.Module):
    """One decoder level: upsample, merge with the skip connection, recurrent unit.

    The paper concatenates the upsampled map ``u = U(x)`` with the skip ``s`` and projects both to the unit's width
    by a 1x1 convolution: ``P [u, s] = P_u U(x) + P_s s``. ``P_u U`` is linear and of the same form as ``U``, so it
    is learned as one kernel. The function is the same; neither the concatenation nor ``u`` is stored.
    """

    __constants__ = ("interpolates",)

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        channels: int,
        stride: tuple[int, ...],
        upsample: str,
        unit: RecurrentResidualUnit,
    ) -> None:
        super().__init__()
        self.interpolates = upsample == "nontrainable"
        if self.interpolates:
            up = make_conv(spatial_dims, in_channels, channels, kernel_size=1)
        else:
            up = Conv[Conv.CONVTRANS, spatial_dims](
                in_channels, channels, kernel_size=stride, stride=stride, bias=False
            )
        self.up = up
        self.lateral = make_conv(spatial_dims, channels, channels, kernel_size=1, bias=True)
        self.unit = unit

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        x = self.up(x)
        if self.interpolates:
            x = resize(x, skip)
        return self.unit(x + self.lateral(skip))


class _DownStage(nn.Module):
    """One encoder level: max pooling (none at the first), 1x1 projection, recurrent unit."""

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        channels: int,
        stride: tuple[int, ...],
        unit: RecurrentResidualUnit,
    ) -> None:
        super().__init__()
        pooled = max(stride) > 1
        self.pool = (
            Pool[Pool.MAX, spatial_dims](kernel_size=stride, stride=stride) if pooled else nn.Identity()
        )
        self.project = make_conv(spatial_dims, in_channels, channels, kernel_size=1, bias=True)
        self.unit = unit

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.unit(self.project(self.pool(x)))


class R2UNet(nn.Module):
    """Recurrent residual U-Net (arXiv 1802.06955) in 2D and 3D; RU-Net with ``residual=False``.

    Encoder levels are max pooling, a 1x1 projection and a `RecurrentResidualUnit`; decoder levels upsample, merge
    the skip connection by a 1x1 projection and apply a unit again; a 1x1 convolution gives the logits.

    Input: a plain tensor ``(B, in_channels, *spatial)``; pass a ``MetaTensor`` as ``x.as_tensor()``. Each
    spatial size must be a multiple of the product of the strides along its axis (`size_divisor`).
    Output: logits ``(B, out_channels, *spatial)``. In training mode with deep supervision instead one tensor
    ``(B, H, out_channels, *spatial)``: head 0 is the main output, head i that of the decoder level i steps
    deeper, interpolated to full resolution. Weight the heads 1, 1/2, 1/4, ... in the loss.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        out_channels: classes, the background included.
        features: channels per level, from full resolution down.
        num_steps: the paper's t; t = 2 applies each recurrent kernel three times, t = 0 is a residual U-Net.
        residual: ``False`` gives RU-Net.
        recurrence: ``"tied"``, one kernel for input and state, or ``"separate"``, the paper's two.
        norm: MONAI norm name or (name, arguments). The groups of group norm adapt to the channels.
        act: MONAI activation.
        dropout: probability of dropping a channel after each recurrent layer.
        strides: downsampling between the levels, an int for all or ``len(features) - 1`` ints or tuples, e.g.
            ``((2, 2, 1), 2, 2)`` for thick slices along the last axis.
        upsample: ``"deconv"``, transposed convolution, or ``"nontrainable"``, 1x1 convolution and interpolation.
        layer_scale: initial scale of the residual branches; ``None`` is the paper's plain sum.
        deep_supervision: ``True`` for up to 3 heads in training, or the number of heads, the main one included.
        checkpointing: recompute each unit in the backward pass: less memory, more time, the same gradients.

    Raises:
        NetworkError: for arguments that do not fit together, and in `forward` for a size that does not fit the
            strides; the message names the next size that does.

    Examples:
        >>> network = R2UNet(spatial_dims=3, in_channels=1, out_channels=3, features=(4, 8, 16))
        >>> network(torch.zeros(1, 1, 16, 16, 8)).shape
        torch.Size([1, 3, 16, 16, 8])
    """

    __constants__ = ("num_heads",)

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        features: Sequence[int] = (16, 32, 64, 128),
        num_steps: int = 2,
        residual: bool = True,
        recurrence: str = "tied",
        norm: str | tuple | None = GROUP_NORM,
        act: str | tuple | None = RELU,
        dropout: float = 0.0,
        strides: int | Sequence[int | Sequence[int]] = 2,
        upsample: str = "deconv",
        layer_scale: float | None = 0.1,
        deep_supervision: bool | int = False,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        check_dims(spatial_dims)
        if len(features) < 2:
            raise NetworkError(f"features needs two levels or more; got {tuple(features)}.")
        if upsample not in ("deconv", "nontrainable"):
            raise NetworkError(f'upsample is "deconv" or "nontrainable"; got {upsample!r}.')
        level_strides = as_strides(
            strides, spatial_dims, len(features) - 1, "one between each two of features"
        )
        self.size_divisor = list(total_strides(level_strides))
        self.num_heads = head_count(deep_supervision, len(features) - 1)

        def unit(channels: int) -> RecurrentResidualUnit:
            return RecurrentResidualUnit(
                spatial_dims,
                channels,
                num_steps,
                residual,
                recurrence,
                norm,
                act,
                dropout,
                layer_scale,
                checkpointing,
            )

        def down(source: int, channels: int, stride: tuple[int, ...]) -> _DownStage:
            return _DownStage(spatial_dims, source, channels, stride, unit(channels))

        def up(source: int, channels: int, stride: tuple[int, ...]) -> _UpStage:
            return _UpStage(spatial_dims, source, channels, stride, upsample, unit(channels))

        self.stem = down(in_channels, features[0], (1,) * spatial_dims)
        levels = list(zip(features[:-1], features[1:], level_strides, strict=True))
        self.encoder = nn.ModuleList([down(upper, lower, stride) for upper, lower, stride in levels])
        self.decoder = nn.ModuleList([up(lower, upper, stride) for upper, lower, stride in reversed(levels)])
        self.heads = nn.ModuleList(
            [make_conv(spatial_dims, features[i], out_channels, 1, bias=True) for i in range(self.num_heads)]
        )
        self.reset_parameters()

    @torch.jit.ignore
    def reset_parameters(self) -> None:
        """He initialisation of the recurrent kernels, unit gain for the linear maps around them."""
        for name, module in self.named_modules():
            weight = getattr(module, "weight", None)
            if weight is None or weight.ndim < 3:
                continue
            transposed = isinstance(module, nn.ConvTranspose2d | nn.ConvTranspose3d)
            # With kernel = stride, one output voxel of a transposed convolution sees one input voxel.
            fan_in = weight.shape[0] if transposed else weight[0].numel()
            gain = 1.0
            if ".layers." in name:
                gain = 2.0
            elif name.startswith("decoder."):
                gain = 0.5  # upsampled map and skip are summed
            nn.init.normal_(weight, std=math.sqrt(gain / fan_in))
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits ``(B, out_channels, *spatial)``, or all heads stacked on axis 1 when training with them.

        Raises:
            NetworkError: a spatial size is not a multiple of `size_divisor`.
        """
        self.check_size(x)
        skips = [self.stem(x)]
        for stage in self.encoder:
            skips.append(stage(skips[-1]))
        outputs = [skips[-1]]
        for i, stage in enumerate(self.decoder):
            outputs.append(stage(outputs[-1], skips[-2 - i]))
        if self.num_heads == 1 or not self.training:
            return self.heads[0](outputs[-1])
        logits: list[torch.Tensor] = []
        for i, head in enumerate(self.heads):
            y = head(outputs[-1 - i])
            if i > 0:
                y = resize(y, x)
            logits.append(y)
        return torch.stack(logits, dim=1)

    @torch.jit.unused
    def regions(self) -> list[nn.Module]:
        """The blocks that repeat, for compiling them one by one."""
        return [m for m in self.modules() if isinstance(m, RecurrentResidualUnit)]

    def check_size(self, x: torch.Tensor) -> None:
        """Raise NetworkError if a spatial size is no multiple of `size_divisor`."""
        divisors = self.size_divisor
        if x.dim() != len(divisors) + 2:
            raise NetworkError(
                f"R2UNet takes {len(divisors) + 2} axes, batch and channels first; got {x.dim()}."
            )
        fits = True
        for i, d in enumerate(divisors):
            if x.shape[i + 2] % d != 0:
                fits = False
        if not fits:
            fitting = [(x.shape[i + 2] + d - 1) // d * d for i, d in enumerate(divisors)]
            raise NetworkError(
                f"R2UNet with strides {divisors} in all cannot take the size {list(x.shape[2:])}: "
                f"pad the input to {fitting}."
            )
