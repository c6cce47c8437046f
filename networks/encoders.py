"""ResNet and ResNeXt feature pyramids in 2D and 3D, and 2D weights for them.

He et al., "Deep Residual Learning for Image Recognition", arXiv 1512.03385 (table 1; the stride sits in the 3x3
convolution of the bottleneck); Xie et al., "Aggregated Residual Transformations for Deep Neural Networks",
arXiv 1611.05431 (32x4d).

Submodules carry torchvision's names (``conv1``, ``bn1``, ``layer1.0.conv2``, ``layer1.0.downsample.0``), which
timm shares, so that a 2D checkpoint can be loaded without a table of names.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from monai.networks.layers.factories import Pool
from monai.utils import optional_import
from torch import nn

from .convolution import make_conv
from .errors import NetworkError, WeightsNotFoundError
from .layers import (
    GROUP_NORM,
    RELU,
    NormAct,
    Recomputed,
    as_strides,
    check_dims,
    make_norm,
    outer_act,
)

__all__ = ["ENCODERS", "MatchReport", "ResNetEncoder", "load_encoder_weights"]

logger = logging.getLogger(__name__)

MIN_MATCH = 0.9


class EncoderSpec(NamedTuple):
    """Depth and width of one encoder: blocks per stage, groups of the 3x3 convolution and their width in the
    first stage, channels of the first convolution."""

    bottleneck: bool
    blocks: tuple[int, int, int, int]
    groups: int = 1
    group_width: int = 64
    stem: int = 64


ENCODERS: dict[str, EncoderSpec] = {
    "resnet18": EncoderSpec(False, (2, 2, 2, 2)),
    "resnet34": EncoderSpec(False, (3, 4, 6, 3)),
    "resnet50": EncoderSpec(True, (3, 4, 6, 3)),
    "resnet101": EncoderSpec(True, (3, 4, 23, 3)),
    "resnext50_32x4d": EncoderSpec(True, (3, 4, 6, 3), 32, 4),
    "resnext101_32x4d": EncoderSpec(True, (3, 4, 23, 3), 32, 4),
}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the identity around them (arXiv 1512.03385, figure 5 left)."""

    expansion: int = 1

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        width: int,
        stride: tuple[int, ...],
        spec: EncoderSpec,
        norm: str | tuple | None,
        act: str | tuple | None,
    ) -> None:
        super().__init__()
        self.conv1 = make_conv(spatial_dims, in_channels, width, 3, stride)
        self.bn1 = NormAct(norm, act, spatial_dims, width)
        self.conv2 = make_conv(spatial_dims, width, width, 3)
        self.bn2 = NormAct(norm, act, spatial_dims, width)
        self.act = outer_act(act)
        self.downsample = _shortcut(spatial_dims, in_channels, width, stride, norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.act(self.bn1(self.conv1(x)))
        return self.act(self.bn2(self.conv2(h), self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1 reduction, 3x3 (grouped in ResNeXt), 1x1 expansion, and the identity (figure 5 right)."""

    expansion: int = 4

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        width: int,
        stride: tuple[int, ...],
        spec: EncoderSpec,
        norm: str | tuple | None,
        act: str | tuple | None,
    ) -> None:
        super().__init__()
        inner = width * spec.group_width // 64 * spec.groups
        channels = width * self.expansion
        self.conv1 = make_conv(spatial_dims, in_channels, inner, 1)
        self.bn1 = NormAct(norm, act, spatial_dims, inner)
        self.conv2 = make_conv(spatial_dims, inner, inner, 3, stride, groups=spec.groups)
        self.bn2 = NormAct(norm, act, spatial_dims, inner)
        self.conv3 = make_conv(spatial_dims, inner, channels, 1)
        self.bn3 = NormAct(norm, act, spatial_dims, channels)
        self.act = outer_act(act)
        self.downsample = _shortcut(spatial_dims, in_channels, channels, stride, norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.act(self.bn1(self.conv1(x)))
        h = self.act(self.bn2(self.conv2(h)))
        return self.act(self.bn3(self.conv3(h), self.downsample(x)))


def _shortcut(
    spatial_dims: int, in_channels: int, channels: int, stride: tuple[int, ...], norm: str | tuple | None
) -> nn.Module:
    if in_channels == channels and max(stride) == 1:
        return nn.Identity()
    return nn.Sequential(
        make_conv(spatial_dims, in_channels, channels, 1, stride), make_norm(norm, spatial_dims, channels)
    )


class _Stage(Recomputed, nn.Sequential):
    """The blocks of one resolution."""

    __constants__ = ("checkpointing",)

    def __init__(self, blocks: Sequence[nn.Module], checkpointing: bool) -> None:
        super().__init__(*blocks)
        self.checkpointing = checkpointing

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        for block in self:
            x = block(x)
        return x


class ResNetEncoder(nn.Module):
    """ResNet without its classifier: four feature maps, the strides of a plain ResNet being 4, 8, 16, 32.

    Input ``(B, in_channels, *spatial)``; output a list of four maps ``(B, channels[i], *spatial / reduction[i])``,
    sizes rounded up.

    Args:
        name: one of `ENCODERS`.
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        norm: MONAI norm, for all norms of the encoder. ``"batch"`` is what 2D checkpoints were trained with.
        act: MONAI activation.
        strides: five entries, of the first convolution, the max pooling and the stages 2, 3 and 4; each an int
            or one int per axis. Thick slices: ``((2, 2, 1), (2, 2, 1), 2, 2, 2)``.
        checkpointing: recompute each stage in the backward pass.

    Raises:
        NetworkError: for an unknown name or strides that do not fit.
    """

    def __init__(
        self,
        name: str,
        spatial_dims: int,
        in_channels: int,
        norm: str | tuple | None = GROUP_NORM,
        act: str | tuple | None = RELU,
        strides: int | Sequence[int | Sequence[int]] | None = None,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        check_dims(spatial_dims)
        if name not in ENCODERS:
            raise NetworkError(f"there is no encoder {name!r}; there are {', '.join(ENCODERS)}.")
        self.name = name
        self.spatial_dims = spatial_dims
        spec = ENCODERS[name]
        block = Bottleneck if spec.bottleneck else BasicBlock
        where = "first convolution, max pooling, stages 2 to 4"
        level_strides = as_strides(2 if strides is None else strides, spatial_dims, 5, where)
        self.first_stride: tuple[int, ...] = level_strides[0]
        widths = [spec.stem * 2**i for i in range(4)]
        self.channels: list[int] = [width * block.expansion for width in widths]

        self.conv1 = make_conv(spatial_dims, in_channels, spec.stem, 7, level_strides[0])
        self.bn1 = NormAct(norm, act, spatial_dims, spec.stem)
        self.act = outer_act(act)
        self.maxpool = Pool[Pool.MAX, spatial_dims](kernel_size=3, stride=level_strides[1], padding=1)
        channels = spec.stem
        stages = []
        stage_strides = [(1,) * spatial_dims, *level_strides[2:]]
        for width, count, stride in zip(widths, spec.blocks, stage_strides, strict=True):
            blocks: list[nn.Module] = []
            for i in range(count):
                step = stride if i == 0 else (1,) * spatial_dims
                blocks.append(block(spatial_dims, channels, width, step, spec, norm, act))
                channels = width * block.expansion
            stages.append(_Stage(blocks, checkpointing))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                # Fan-in, because the fan-out of a strided first convolution on one channel is too large.
                std = math.sqrt(2.0 / module.weight[0].numel())
                nn.init.normal_(module.weight, std=std)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Feature maps ``(B, channels[i], *spatial / reduction[i])`` of an image, from fine to coarse."""
        x = self.act(self.bn1(self.conv1(x)))
        c2 = self.layer1(self.maxpool(x))
        c3 = self.layer2(c2)
        c4 = self.layer3(c3)
        return [c2, c3, c4, self.layer4(c4)]


@dataclass(frozen=True)
class MatchReport:
    """Which weights of an encoder were loaded from a checkpoint.

    Attributes:
        matched: names of the encoder's tensors that were filled.
        missing: names of the encoder's tensors that the file does not have.
        mismatched: names with a shape that does not fit, with both shapes.
        unused: tensors of the file that the encoder does not have (classifier, batch-norm statistics for a
            group-norm encoder).
        adapted: tensors that were changed to fit, such as an inflated kernel, by name.
        fraction: share of the encoder's weights, counted in elements, that were filled.
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    mismatched: tuple[str, ...]
    unused: tuple[str, ...]
    adapted: Mapping[str, str]
    fraction: float

    def __str__(self) -> str:
        parts = [f"{len(self.matched)} tensors matched ({self.fraction:.1%} of the encoder's weights)"]
        inflated = sum("inflated" in how for how in self.adapted.values())
        if inflated:
            parts.append(f"{inflated} kernels inflated to 3D by their centre slice")
        parts += [f"{name}: {how}" for name, how in self.adapted.items() if how != "inflated"]
        for title in ("missing", "mismatched", "unused"):
            names = getattr(self, title)
            if names:
                more = f" and {len(names) - 4} more" if len(names) > 4 else ""
                parts.append(f"{title}: {', '.join(names[:4])}{more}")
        return "; ".join(parts)


def load_encoder_weights(
    encoder: ResNetEncoder, weights: str | Path | Mapping[str, Any], min_match: float = MIN_MATCH
) -> MatchReport:
    """Fill an encoder from a torchvision- or timm-style state dict of the 2D network, or of the same in 3D.

    - Wrappers (``state_dict``, ``model``, ...) and prefixes (``module.``, ``backbone.``, ...) are removed.
    - The first kernel is summed to a grey kernel if the encoder takes other channels than the file's, and spread
      evenly over them: a grey image in every channel gives the features of the same image in RGB.
    - A 2D kernel becomes the centre slice, along the last axis, of a 3D kernel of zeros. A volume that is
      constant along that axis therefore has the 2D network's features in every slice.

    Args:
        encoder: the encoder to fill, in place.
        weights: path of a ``.pth``/``.pt`` (loaded with ``weights_only=True``) or ``.safetensors`` file, or the
            state dict itself.
        min_match: refuse below this share of matched weights.

    Returns:
        What matched and what did not; it is logged as well.

    Raises:
        WeightsNotFoundError: if there is no such file.
        NetworkError: if the file holds no state dict or matches too little; the encoder then is unchanged.
    """
    source = "the given state dict" if isinstance(weights, Mapping) else str(weights)
    state = _unwrap(weights if isinstance(weights, Mapping) else _read(Path(weights)), source)
    target = encoder.state_dict()
    state = _strip_prefix(state, target)

    matched: dict[str, torch.Tensor] = {}
    mismatched, adapted = [], {}
    for name, own in target.items():
        if name not in state:
            continue
        value, how = _fit(state[name], own.shape)
        if value is None:
            mismatched.append(f"{name} ({_shape(state[name])} in the file, {_shape(own)} here)")
            continue
        matched[name] = value.to(own.dtype)
        if how:
            adapted[name] = how

    tensors = encoder.state_dict(keep_vars=True)
    weights_here = {n: t.numel() for n, t in tensors.items() if isinstance(t, nn.Parameter)}
    fraction = sum(n for name, n in weights_here.items() if name in matched) / sum(weights_here.values())
    report = MatchReport(
        matched=tuple(matched),
        # Old files lack `num_batches_tracked`, and no norm here uses it.
        missing=tuple(n for n in target if n not in state and not n.endswith("num_batches_tracked")),
        mismatched=tuple(mismatched),
        unused=tuple(n for n in state if n not in target),
        adapted=adapted,
        fraction=fraction,
    )
    if fraction < min_match:
        raise NetworkError(
            f"{source} does not hold the weights of a {encoder.name}: {report}. "
            f"At least {min_match:.0%} must match; choose the encoder that the file was made for."
        )
    encoder.load_state_dict(matched, strict=False)
    logger.info("%s: %s", source, report)
    return report


def _read(path: Path) -> Any:
    if not path.is_file():
        raise WeightsNotFoundError(f"there is no file of encoder weights at {path}.")
    if path.suffix == ".safetensors":
        load_file, _ = optional_import("safetensors.torch", name="load_file")
        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _unwrap(content: Any, source: str) -> dict[str, torch.Tensor]:
    for _ in range(3):
        if not isinstance(content, Mapping):
            break
        if any(isinstance(v, torch.Tensor) for v in content.values()):
            return {str(k): v for k, v in content.items() if isinstance(v, torch.Tensor)}
        keys = [k for k in ("state_dict", "model_state_dict", "model", "teacher", "net") if k in content]
        content = content[keys[0]] if keys else None
    raise NetworkError(f"{source} holds no state dict: expected a mapping of names to tensors.")


def _strip_prefix(
    state: dict[str, torch.Tensor], target: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Remove the prefix of the encoder's names in the file, found by the first convolution's name."""
    prefixes = sorted((k[: -len("conv1.weight")] for k in state if k.endswith("conv1.weight")), key=len)
    best = max(prefixes, key=lambda p: sum(p + name in state for name in target), default="")
    return {k[len(best) :] if k.startswith(best) else k: v for k, v in state.items()}


def _fit(value: torch.Tensor, shape: torch.Size) -> tuple[torch.Tensor | None, str]:
    """``value`` made to fit ``shape`` by spreading input channels and inflating to 3D; None if it cannot fit."""
    how = []
    is_kernel = value.ndim >= 4 and len(shape) >= 4
    if is_kernel and value.shape[0] == shape[0] and value.shape[1] != shape[1] and value.shape[1] == 3:
        value = (value.sum(dim=1, keepdim=True) / shape[1]).repeat_interleave(shape[1], dim=1)
        how.append(f"3 input channels to {shape[1]}")
    if is_kernel and value.ndim == 4 and len(shape) == 5 and value.shape == shape[:4]:
        inflated = value.new_zeros(shape)
        inflated[..., shape[4] // 2] = value
        value = inflated
        how.append("inflated")
    return (value, ", ".join(how)) if value.shape == shape else (None, "")


def _shape(x: torch.Tensor) -> str:
    return "x".join(map(str, x.shape)) or "scalar"
