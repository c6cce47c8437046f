"""Layers and checks that both networks share."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from monai.networks.layers.factories import Act, Dropout, Norm, split_args
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from .convolution import make_conv
from .errors import NetworkError
from .group_norm import GroupNorm, norm_act

GROUP_NORM = ("group", {"num_groups": 8})
RELU = ("relu", {"inplace": True})

MAX_HEADS = 3


class ChannelBias(nn.Module):
    """One learned offset per channel, which replaces the norm after a convolution if there is none.

    Args:
        spatial_dims: 2 or 3.
        channels: number of channels.
    """

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, channels, *(1,) * spatial_dims))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.bias


def group_count(channels: int, num_groups: int) -> int:
    """The largest divisor of ``channels`` not above ``num_groups`` that leaves two channels to a group.

    A group of a single channel is instance norm, which is undefined on a map of one voxel.
    """
    limit = max(1, min(num_groups, channels // 2))
    return next(n for n in range(limit, 0, -1) if channels % n == 0)


def make_norm(norm: str | tuple | None, spatial_dims: int, channels: int) -> nn.Module:
    """A MONAI norm by name; group norm with a group count that fits ``channels`` (see `group_count`).

    Instance norm is affine where nothing else is said, and then the `GroupNorm` of a group for each channel, which is
    fast on channels-last maps; the tensors of its state dict are those of torch's.

    ``None`` gives a `ChannelBias`, so that every convolution before it can go without a bias.
    """
    if norm is None:
        return ChannelBias(spatial_dims, channels)
    name, args = split_args(norm)
    name = str(name).upper()
    args = dict(args)
    if name == Norm.GROUP:
        args["num_groups"] = group_count(channels, int(args.get("num_groups", 8)))
        args["num_channels"] = channels
        return GroupNorm(**args)
    elif name == Norm.LAYER:
        # MONAI's "layer" is torch's LayerNorm over the last axes, which needs a fixed size. Over channels and
        # space at once, the same idea is a group norm of one group.
        return GroupNorm(num_groups=1, num_channels=channels)
    elif name in (Norm.INSTANCE, Norm.INSTANCE_NVFUSER):
        args.setdefault("affine", True)
        if name == Norm.INSTANCE and args["affine"] and args.keys() <= {"affine", "eps"}:
            del args["affine"]
            return GroupNorm(num_groups=channels, num_channels=channels, **args)
        args["num_features"] = channels
    elif name == Norm.LOCALRESPONSE:
        args.setdefault("size", 5)
    else:
        args["num_features"] = channels
    return Norm[name, spatial_dims](**args)


def make_act(act: str | tuple | None) -> nn.Module:
    """A MONAI activation by name; ``None`` is the identity."""
    if act is None:
        return nn.Identity()
    name, args = split_args(act)
    return Act[name](**args)


def make_dropout(dropout: float, spatial_dims: int) -> nn.Module:
    """Dropout of whole channels, as neighbouring voxels of one map carry the same information.

    Raises:
        NetworkError: `dropout` is not a probability below 1.
    """
    if not 0.0 <= dropout < 1.0:
        raise NetworkError(f"dropout is a probability in [0, 1); got {dropout}.")
    return Dropout[Dropout.DROPOUT, spatial_dims](dropout) if dropout > 0 else nn.Identity()


class NormAct(nn.Module):
    """``act(norm(x) + skip)``, as one step if `norm_act` supports it; only this class has a branch for TorchScript.

    A state dict names the norm's tensors without the name of this wrapper (``bn1.weight``), as torchvision does.

    Args:
        norm: MONAI norm, see `make_norm`.
        act: MONAI activation; one with parameters is left to the `outer_act` of the module around.
        spatial_dims: 2 or 3.
        channels: channels of the map.
    """

    def __init__(
        self, norm: str | tuple | None, act: str | tuple | None, spatial_dims: int, channels: int
    ) -> None:
        super().__init__()
        self.norm = make_norm(norm, spatial_dims, channels)
        activation = make_act(act)
        self.act = nn.Identity() if _learns(activation) else activation

    def forward(self, x: torch.Tensor, skip: torch.Tensor | None = None) -> torch.Tensor:
        if not torch.jit.is_scripting():
            return norm_act(self.norm, self.act, x, skip)
        y = self.norm(x)
        return self.act(y if skip is None else y + skip)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.norm.state_dict(*args, **kwargs)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in [name for name in state_dict if name.startswith(prefix)]:
            state_dict[f"{prefix}norm.{name[len(prefix) :]}"] = state_dict.pop(name)
        super()._load_from_state_dict(state_dict, prefix, *args)


def outer_act(act: str | tuple | None) -> nn.Module:
    """The activation after a `NormAct` if it has parameters, which the layers of a block share; else the identity."""
    activation = make_act(act)
    return activation if _learns(activation) else nn.Identity()


def _learns(module: nn.Module) -> bool:
    """Whether a module has parameters to train."""
    return any(True for _ in module.parameters())


class ConvNormAct(nn.Sequential):
    """Convolution (no bias), norm, activation: ``(B, in_channels, *spatial)`` to ``(B, out_channels, *spatial / stride)``."""

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int | Sequence[int] = 1,
        norm: str | tuple | None = GROUP_NORM,
        act: str | tuple | None = RELU,
    ) -> None:
        super().__init__(
            make_conv(spatial_dims, in_channels, out_channels, kernel_size, stride),
            NormAct(norm, act, spatial_dims, out_channels),
            outer_act(act),
        )


def resize(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A map ``(B, C, *spatial)`` interpolated linearly to the size of another."""
    mode = "trilinear" if x.dim() == 5 else "bilinear"
    return F.interpolate(x, size=like.shape[2:], mode=mode, align_corners=False)


def keeps_statistics(norm: nn.Module) -> bool:
    """Whether a norm layer has running statistics, and so a state that must not be shared between maps."""
    return any(True for _ in norm.buffers())


def as_strides(
    strides: int | Sequence[int | Sequence[int]], spatial_dims: int, count: int, where: str
) -> list[tuple[int, ...]]:
    """One stride tuple per level out of an int for all, or a sequence of ints and tuples.

    Raises:
        NetworkError: if the number of levels, the length of a tuple or a value does not fit.
    """
    levels: list[int | Sequence[int]] = [strides] * count if isinstance(strides, int) else list(strides)
    if len(levels) != count:
        raise NetworkError(f"strides needs {count} entries ({where}); got {len(levels)}: {strides}.")
    result = [(s,) * spatial_dims if isinstance(s, int) else tuple(int(v) for v in s) for s in levels]
    for stride in result:
        if len(stride) != spatial_dims or min(stride) < 1:
            raise NetworkError(
                f"each entry of strides is a positive int or a tuple of {spatial_dims} of them; got {stride}."
            )
    return result


def total_strides(strides: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The product of all strides, per axis."""
    return tuple(math.prod(axis) for axis in zip(*strides, strict=True))


def head_count(deep_supervision: bool | int, available: int) -> int:
    """Number of output heads, the main one included: 1 without deep supervision, up to 3 by default.

    Raises:
        NetworkError: if more heads are asked for than the network has levels.
    """
    if deep_supervision is True:
        return min(MAX_HEADS, available)
    count = max(1, int(deep_supervision))
    if count > available:
        raise NetworkError(
            f"deep_supervision={count} asks for more heads than the {available} levels there are."
        )
    return count


def check_dims(spatial_dims: int) -> None:
    """Raise NetworkError unless ``spatial_dims`` is 2 or 3."""
    if spatial_dims not in (2, 3):
        raise NetworkError(f"spatial_dims is 2 or 3; got {spatial_dims}.")


class Recomputed(nn.Module):
    """A module that keeps its activations for the backward pass or, with `checkpointing`, recomputes them there.

    Subclasses define the forward pass in `compute` (gradient checkpointing: Chen et al., arXiv 1604.06174).
    """

    checkpointing: bool

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Two nested conditions, because TorchScript skips a branch only if this is its sole condition.
        if not torch.jit.is_scripting():  # noqa: SIM102
            if self.checkpointing and self.training:
                return _run_checkpointed(self, x)
        return self.compute(x)


@contextmanager
def _frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Make batch norms normalise by the batch without updating their running statistics."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    before = [(n.momentum, n.num_batches_tracked) for n in norms]
    for n in norms:
        n.momentum, n.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for n, (momentum, tracked) in zip(norms, before, strict=True):
            n.momentum, n.num_batches_tracked = momentum, tracked


def _run_checkpointed(module: Recomputed, x: torch.Tensor) -> torch.Tensor:
    """Run a checkpointed module; the second pass keeps running statistics, as each batch would count twice otherwise."""
    if not any(isinstance(m, _BatchNorm) for m in module.modules()):
        return checkpoint(module.compute, x, use_reentrant=False)

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), _frozen_statistics(module)

    return checkpoint(module.compute, x, use_reentrant=False, context_fn=contexts)
