"""UPerNet: a feature pyramid with pyramid pooling on an undilated encoder, in 2D and 3D.

Xiao et al., "Unified Perceptual Parsing for Scene Understanding", arXiv 1807.10221 (section 3.2, figure 4); the
pyramid pooling module is that of Zhao et al., "Pyramid Scene Parsing Network", arXiv 1612.01105 (figure 3), the
top-down pathway that of Lin et al., "Feature Pyramid Networks for Object Detection", arXiv 1612.03144.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.networks.layers.factories import Norm, split_args
from torch import nn

from .convolution import make_conv
from .encoders import BasicBlock, Bottleneck, ResNetEncoder, load_encoder_weights
from .errors import NetworkError
from .layers import (
    GROUP_NORM,
    RELU,
    ConvNormAct,
    check_dims,
    head_count,
    make_dropout,
    resize,
)

__all__ = ["PyramidPooling", "Refinement", "UPerDecoder", "UPerNet"]


def adaptive_average(x: torch.Tensor, size: int) -> torch.Tensor:
    """Adaptive average pooling of ``(B, C, *spatial)`` to ``size`` bins along each spatial axis.

    Equal to ``torch.nn.functional.adaptive_avg_pool``, but computed as masked sums over one axis after another, which
    every exporter supports at every shape. Bin i of n voxels covers ``[floor(i n / size), ceil((i + 1) n / size))``.
    """
    bins = torch.arange(size, device=x.device).unsqueeze(0)
    for _ in range(x.dim() - 2):
        # The first spatial axis is summed away and its bins come last, so that the order is restored in the end.
        n = x.shape[2]
        voxel = torch.arange(n, device=x.device).unsqueeze(1)
        start = torch.div(bins * n, size, rounding_mode="floor")
        stop = torch.div((bins + 1) * n + size - 1, size, rounding_mode="floor")
        member = ((voxel >= start) & (voxel < stop)).to(x.dtype)
        count = (stop - start).to(x.dtype).squeeze(0)
        for _ in range(x.dim() - 3):
            member = member.unsqueeze(1)
        x = (x.unsqueeze(-1) * member).sum(2) / count
    return x


class PyramidPooling(nn.Module):
    """Context at several scales for the deepest feature map (arXiv 1612.01105).

    The map is averaged to ``s`` bins per axis for every pool scale, projected, interpolated back, concatenated
    with the map itself and fused by a 3x3 convolution. The projection comes before the interpolation: a 1x1
    convolution commutes with it, and the bins are few.

    On the single bin of scale 1, instance norm is undefined in training and so is batch norm at batch size 1;
    that branch then has a bias instead of the norm.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the deepest map.
        channels: channels per branch, and of the output.
        pool_scales: bins per axis, one branch each.
        norm: MONAI norm.
        act: MONAI activation.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        channels: int,
        pool_scales: Sequence[int],
        norm: str | tuple | None = GROUP_NORM,
        act: str | tuple | None = RELU,
    ) -> None:
        super().__init__()
        if not pool_scales or min(pool_scales) < 1:
            raise NetworkError(
                f"pool_scales needs one or more positive numbers of bins; got {tuple(pool_scales)}."
            )
        self.pool_scales: list[int] = list(pool_scales)
        name = "" if norm is None else str(split_args(norm)[0]).upper()
        single = norm if name in (Norm.GROUP, Norm.LAYER) else None
        self.branches = nn.ModuleList(
            [
                ConvNormAct(spatial_dims, in_channels, channels, 1, norm=single if s == 1 else norm, act=act)
                for s in pool_scales
            ]
        )
        self.fuse = ConvNormAct(
            spatial_dims, in_channels + channels * len(pool_scales), channels, 3, 1, norm, act
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(B, in_channels, *spatial)`` to ``(B, channels, *spatial)``."""
        maps = [x]
        for i, branch in enumerate(self.branches):
            y = branch(adaptive_average(x, self.pool_scales[i]))
            maps.append(resize(y, x))
        return self.fuse(torch.cat(maps, dim=1))


class UPerDecoder(nn.Module):
    """Pyramid pooling, top-down pathway and fusion (arXiv 1807.10221, figure 4).

    Input: encoder maps from fine to coarse. Output: the fused map at the resolution of the finest, then the
    pyramid's maps from fine to coarse, all with ``channels`` channels.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the encoder maps, fine to coarse.
        channels: width of the decoder.
        pool_scales: see `PyramidPooling`.
        norm: MONAI norm.
        act: MONAI activation.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: Sequence[int],
        channels: int,
        pool_scales: Sequence[int],
        norm: str | tuple | None = GROUP_NORM,
        act: str | tuple | None = RELU,
    ) -> None:
        super().__init__()
        self.pooling = PyramidPooling(spatial_dims, in_channels[-1], channels, pool_scales, norm, act)
        finer = in_channels[:-1]
        self.laterals = nn.ModuleList(
            [ConvNormAct(spatial_dims, c, channels, 1, norm=norm, act=act) for c in finer]
        )
        self.smooth = nn.ModuleList(
            [ConvNormAct(spatial_dims, channels, channels, norm=norm, act=act) for _ in finer]
        )
        self.fuse = ConvNormAct(spatial_dims, channels * len(in_channels), channels, norm=norm, act=act)

    def forward(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        """The fused map and the maps of the pyramid, from fine to coarse, see above."""
        top = self.pooling(features[-1])
        pyramid: list[torch.Tensor] = []
        for i, lateral in enumerate(self.laterals):
            pyramid.append(lateral(features[i]))
        pyramid.append(top)
        for k in range(len(pyramid) - 1):
            i = len(pyramid) - 2 - k
            pyramid[i] = pyramid[i] + resize(pyramid[i + 1], pyramid[i])
        for i, smooth in enumerate(self.smooth):
            pyramid[i] = smooth(pyramid[i])
        merged = [pyramid[0]]
        for y in pyramid[1:]:
            merged.append(resize(y, pyramid[0]))
        pyramid.insert(0, self.fuse(torch.cat(merged, dim=1)))
        return pyramid


class Refinement(nn.Module):
    """Upsample the fused map to full resolution in two steps, adding shallow features of the image.

    A logit map at stride 4 cannot represent structures smaller than its voxels. Each step interpolates to the next finer
    resolution, adds image features of that resolution and applies one 3x3 convolution; few channels, as the
    finest maps are the largest.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        channels: channels of the fused map.
        stride: stride of the encoder's first convolution: the resolution between the fused map and the image.
        norm: MONAI norm.
        act: MONAI activation.
    """

    widths: tuple[int, int] = (16, 8)

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        channels: int,
        stride: tuple[int, ...],
        norm: str | tuple | None = GROUP_NORM,
        act: str | tuple | None = RELU,
    ) -> None:
        super().__init__()
        half, full = self.widths
        self.image_full = ConvNormAct(spatial_dims, in_channels, full, 3, norm=norm, act=act)
        self.image_half = ConvNormAct(spatial_dims, full, half, 3, stride, norm, act)
        self.reduce_half = make_conv(spatial_dims, channels, half, 1)
        self.merge_half = ConvNormAct(spatial_dims, half, half, 3, norm=norm, act=act)
        self.reduce_full = make_conv(spatial_dims, half, full, 1)
        self.merge_full = ConvNormAct(spatial_dims, full, full, 3, norm=norm, act=act)

    def forward(self, fused: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Fused map and image ``(B, in_channels, *spatial)`` to ``(B, 8, *spatial)``."""
        full = self.image_full(image)
        half = self.image_half(full)
        half = self.merge_half(half + resize(self.reduce_half(fused), half))
        return self.merge_full(full + resize(self.reduce_full(half), full))


# State dicts keep older names for two submodules of `UPerNet`, so that checkpoints of every version load.
IN_FILES = {"decoder.": "head.", "heads.": "classifiers."}


def _as_in_files(module: nn.Module, state_dict: dict[str, Any], prefix: str, metadata: Any) -> None:
    _rename(state_dict, {prefix + name: prefix + kept for name, kept in IN_FILES.items()})


def _rename(state_dict: dict[str, Any], prefixes: Mapping[str, str]) -> None:
    """Replace prefixes of tensor names in place; the order of the tensors stays."""
    for name in list(state_dict):
        tensor = state_dict.pop(name)
        before = next((p for p in prefixes if name.startswith(p)), "")
        state_dict[prefixes.get(before, "") + name.removeprefix(before)] = tensor


class UPerNet(nn.Module):
    """Unified perceptual parsing network (arXiv 1807.10221) in 2D and 3D.

    A ResNet or ResNeXt without dilation gives maps at strides 4, 8, 16 and 32; `UPerDecoder` merges them at stride
    4; a 1x1 convolution gives logits, which are interpolated to the size of the input, or with ``refine`` come
    from a `Refinement` at full resolution.

    Input: a plain tensor ``(B, in_channels, *spatial)`` of any spatial size; pass a ``MetaTensor`` as
    ``x.as_tensor()``. Multiples of the total stride (32) keep all maps exactly aligned.
    Output: logits ``(B, out_channels, *spatial)``. In training mode with deep supervision instead one tensor
    ``(B, H, out_channels, *spatial)``: head 0 is the main output, head i the pyramid map at stride 4 * 2**i,
    interpolated to full resolution. Weight the heads 1, 1/2, 1/4, ... in the loss.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        out_channels: classes, the background included.
        encoder: a name of `networks.encoders.ENCODERS`.
        encoder_weights: path of a torchvision- or timm-style state dict for the encoder, see
            `networks.encoders.load_encoder_weights`; ``encoder_report`` then lists the matched weights.
        pool_scales: bins per axis of the pyramid pooling; by default (1, 2, 3, 6) in 2D and (1, 2, 3) in 3D,
            where the deepest map of a usual patch has three voxels a side.
        fpn_channels: width of the decoder; by default 256 in 2D and 64 in 3D.
        norm: MONAI norm name or (name, arguments), of encoder and decoder. The groups of group norm adapt.
        act: MONAI activation.
        dropout: probability of dropping a channel before the heads.
        strides: five entries, of the encoder's first convolution, max pooling and stages 2 to 4; each an int or
            one per axis. Thick slices along the last axis: ``((2, 2, 1), (2, 2, 1), 2, 2, 2)``.
        refine: end at stride 1 instead of 4.
        deep_supervision: ``True`` for 3 heads in training, or the number of heads up to 4, the main one included.
        checkpointing: recompute each encoder stage in the backward pass.

    Raises:
        NetworkError: for arguments that do not fit together, or weights that do not fit the encoder.

    Examples:
        >>> network = UPerNet(spatial_dims=2, in_channels=1, out_channels=3, encoder="resnet18", fpn_channels=16)
        >>> network.eval()(torch.zeros(1, 1, 64, 96)).shape
        torch.Size([1, 3, 64, 96])
    """

    __constants__ = ("num_heads", "refine")

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        encoder: str = "resnet50",
        encoder_weights: str | Path | None = None,
        pool_scales: Sequence[int] | None = None,
        fpn_channels: int | None = None,
        norm: str | tuple | None = GROUP_NORM,
        act: str | tuple | None = RELU,
        dropout: float = 0.0,
        strides: int | Sequence[int | Sequence[int]] | None = None,
        refine: bool = False,
        deep_supervision: bool | int = False,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        check_dims(spatial_dims)
        channels = fpn_channels or (256 if spatial_dims == 2 else 64)
        scales = pool_scales or ((1, 2, 3, 6) if spatial_dims == 2 else (1, 2, 3))
        self.refine = refine
        self.num_heads = head_count(deep_supervision, 4)
        self.encoder = ResNetEncoder(encoder, spatial_dims, in_channels, norm, act, strides, checkpointing)
        self.decoder = UPerDecoder(spatial_dims, self.encoder.channels, channels, scales, norm, act)
        width = channels
        if refine:
            stride = self.encoder.first_stride
            self.refinement = Refinement(spatial_dims, in_channels, channels, stride, norm, act)
            width = Refinement.widths[1]
        self.dropout = make_dropout(dropout, spatial_dims)
        self.heads = nn.ModuleList(
            [
                make_conv(spatial_dims, channels if i else width, out_channels, 1, bias=True)
                for i in range(self.num_heads)
            ]
        )
        self.register_state_dict_post_hook(_as_in_files)
        self.reset_parameters()
        self.encoder_report = (
            str(load_encoder_weights(self.encoder, encoder_weights)) if encoder_weights else ""
        )

    @torch.jit.ignore
    def reset_parameters(self) -> None:
        """He initialisation of the other convolutions; the encoder has its own."""
        for name, module in self.named_modules():
            if name.startswith("encoder.") or not isinstance(module, nn.Conv2d | nn.Conv3d):
                continue
            linear = name.startswith("heads.") or ".reduce_" in name
            gain = 1.0 if linear else 2.0
            nn.init.normal_(module.weight, std=math.sqrt(gain / module.weight[0].numel()))
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits ``(B, out_channels, *spatial)``, or all heads stacked on axis 1 when training with them."""
        maps = self.decoder(self.encoder(x))
        fused = maps[0]
        if self.refine:
            fused = self.refinement(fused, x)
        main = resize(self.heads[0](self.dropout(fused)), x)
        if self.num_heads == 1 or not self.training:
            return main
        logits = [main]
        for i, head in enumerate(self.heads):
            if i > 0:
                logits.append(resize(head(self.dropout(maps[i + 1])), x))
        return torch.stack(logits, dim=1)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        _rename(state_dict, {prefix + kept: prefix + name for name, kept in IN_FILES.items()})
        super()._load_from_state_dict(state_dict, prefix, *args)

    @torch.jit.unused
    def regions(self) -> list[nn.Module]:
        """The blocks that repeat, for compiling them one by one."""
        return [m for m in self.modules() if isinstance(m, BasicBlock | Bottleneck | ConvNormAct)]
