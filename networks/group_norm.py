"""Group norm that keeps the type and the channels-last layout of a map, with the sum and the ReLU that follow it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from .errors import NetworkError

__all__ = ["GroupNorm", "norm_act"]

LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}

# Values per row of the flat view of a map: enough for the vector units even if a voxel has few channels.
ROW = 256

# Values worked on at a time: what a CPU's caches hold in float32, and elsewhere what bounds the memory that float32 takes.
CPU_PIECE, PIECE = 2**18, 2**24

# torch's CPU kernels are slow backward where a group has fewer channels than this; and maps of fewer values than this
# are slower here, where the norm takes several operations, than in torch (``python -m benchmarks.group_norm``).
WIDE = {torch.bfloat16: 16, torch.float32: 8}
LARGE = 2**17

# With fewer channels than this, torch's CPU kernel for channels-last maps is slower than reordering there and back.
NARROW = 16


class GroupNorm(nn.GroupNorm):
    """`torch.nn.GroupNorm`, fast on channels-last maps.

    There, torch (2.13) runs its CPU backward pass several times slower than on contiguous memory in bfloat16 and twice
    as slow in float32 where groups are narrow, and on CUDA reorders a bfloat16 map and, under autocast, computes and
    keeps it in float32 (``python -m benchmarks.group_norm``).
    Here a map keeps its type and its memory layout; means, variances and all sums are in float32. Every other map
    goes to torch's own.

    With a group for each channel it is instance norm (Ulyanov et al., arXiv 1607.08022), which has no value for a map of
    a single voxel.

    Raises:
        NetworkError: each group is a single value.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Two nested conditions, because TorchScript skips a branch only if this is its sole condition.
        if not torch.jit.is_scripting():
            _check_spread(self, x)
            if fuses(self, x):
                return _FusedGroupNorm.apply(
                    x, None, self.weight, self.bias, self.num_groups, self.eps, False
                )
        return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


def fuses(norm: nn.Module, x: torch.Tensor) -> bool:
    """Whether `norm` is a group norm and `x` a map for which this module is faster than torch."""
    return (
        isinstance(norm, GroupNorm)
        and norm.affine
        and x.dim() in LAYOUTS
        and x.shape[1] > 1
        # Compilers and exporters, which record the operations, get torch's own norm.
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and (_pays_on_cpu(norm, x) if x.device.type == "cpu" else x.dtype == torch.bfloat16)
        and not x.is_contiguous()
        and x.is_contiguous(memory_format=LAYOUTS[x.dim()])
    )


def _check_spread(norm: nn.GroupNorm, x: torch.Tensor) -> None:
    """Refuse maps of which a group is a single value: it has no deviation, and torch would give zeros."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return
    if x.shape[1:].numel() == norm.num_groups:
        raise NetworkError(
            f"a map of shape {tuple(x.shape)} has one value for each of its {norm.num_groups} groups, which has no deviation"
            " to be divided by; give the network a larger image, or fewer groups"
        )


def _pays_on_cpu(norm: nn.GroupNorm, x: torch.Tensor) -> bool:
    return x.shape[1] // norm.num_groups < WIDE.get(x.dtype, 0) and x.numel() >= LARGE


def norm_act(
    norm: nn.Module, act: nn.Module, x: torch.Tensor, skip: torch.Tensor | None = None
) -> torch.Tensor:
    """``act(norm(x) + skip)``; with `GroupNorm` and ReLU as one step that keeps nothing but `x` and the result.

    Args:
        norm, act: the layers.
        x: map ``(B, C, *spatial)``.
        skip: a map of the same shape to be added before the activation, or ``None``.
    """
    alike = skip is None or (skip.dtype == x.dtype and skip.stride() == x.stride())
    if type(act) is nn.ReLU and alike and fuses(norm, x):
        return _FusedGroupNorm.apply(x, skip, norm.weight, norm.bias, norm.num_groups, norm.eps, True)
    y = norm(x)
    return act(y if skip is None else y + skip)


class _FusedGroupNorm(torch.autograd.Function):
    """Group norm (Wu and He, arXiv 1803.08494, equations 1 to 7), an optional sum, an optional ReLU.

    Per sample and channel c the norm is y = a_c x + b_c. With D the gradient where the ReLU let the value through,
    and the sums p_c = sum(D), q_c = sum(D x), the gradient of x is a_c D + k x + l, with k and l per group.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        skip: torch.Tensor | None,
        weight: torch.Tensor,
        bias: torch.Tensor,
        groups: int,
        eps: float,
        relu: bool,
    ) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):
            normalise = _by_torch if x.device.type == "cpu" else _by_sums
            y, mean, rstd = normalise(x, weight, bias, groups, eps)
            if skip is not None:
                y = y.add_(skip)
            if relu:
                y = y.relu_()
        ctx.save_for_backward(x, y if relu else None, weight, mean, rstd)
        ctx.has_skip = skip is not None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        x, y, weight, mean, rstd = ctx.saved_tensors
        batch, channels = x.shape[:2]
        groups = mean.shape[1]
        each = channels // groups
        with torch.autocast(x.device.type, enabled=False):
            rows, slope = _rows(x), _rows(gradient.to(x.dtype))
            if y is not None:
                slope, p, q = _through_relu(slope, _rows(y), rows, channels)
            else:
                p, q = _sums(slope, channels), _sums(slope, channels, rows)
            scale = weight.float().view(1, groups, each)
            spread = x[0, 0].numel() * each
            p_group, q_group = ((scale * s.view(batch, groups, each)).sum(2) for s in (p, q))
            k = (p_group * mean - q_group) * rstd.pow(3) / spread
            shift = -k * mean - p_group * rstd / spread
            mean, rstd, k, shift = (v.repeat_interleave(each, 1) for v in (mean, rstd, k, shift))
            # If the slope is not needed otherwise, the gradient reuses its memory.
            out = torch.empty_like(slope) if ctx.has_skip or y is None else slope
            inner = _combined(rows, k, shift, slope, rstd * weight.float(), out)
            weight_gradient = ((q - mean * p) * rstd).sum(0).to(weight.dtype)
            bias_gradient = p.sum(0).to(weight.dtype)
        skip = _map(slope, x) if ctx.has_skip else None
        return _map(inner, x), skip, weight_gradient, bias_gradient, None, None, None


def _by_torch(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The norm by torch's CPU kernel, which reads channels-last maps; its forward pass is fast from 16 channels."""
    batch, channels = x.shape[:2]
    source = x.contiguous() if channels < NARROW else x
    y, mean, rstd = torch.native_group_norm(
        source, weight.float(), bias.float(), batch, channels, x[0, 0].numel(), groups, eps
    )
    return y.contiguous(memory_format=LAYOUTS[x.dim()]), mean.float(), rstd.float()


def _by_sums(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The norm by sums over the map in its memory order, for devices whose kernel would reorder it."""
    batch, channels = x.shape[:2]
    each = channels // groups
    rows = _rows(x)
    spread = x[0, 0].numel() * each
    sums = _sums(rows, channels), _sums(rows, channels, rows)
    mean, square = (s.view(batch, groups, each).sum(2) / spread for s in sums)
    rstd = (square - mean * mean).clamp_min(0).add(eps).rsqrt()
    a = weight.float().view(1, groups, each) * rstd[..., None]
    b = bias.float().view(1, groups, each) - a * mean[..., None]
    y = torch.empty_like(rows)
    a, b = (_wide(v.view(batch, channels), rows) for v in (a, b))
    torch.addcmul(b, rows, a, out=y)
    return _map(y, x), mean, rstd


def _rows(x: torch.Tensor) -> torch.Tensor:
    """A channels-last map ``(B, C, *spatial)`` as ``(B, R, k C)`` in the order of memory: k voxels a row."""
    batch, channels = x.shape[:2]
    voxels = x[0, 0].numel()
    per_row = 1
    while per_row * channels < ROW and voxels % (2 * per_row) == 0:
        per_row *= 2
    last = x.contiguous(memory_format=LAYOUTS[x.dim()]).movedim(1, -1)
    return last.reshape(batch, voxels // per_row, per_row * channels)


def _map(rows: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The inverse of `_rows`."""
    return rows.view(len(like), *like.shape[2:], like.shape[1]).movedim(-1, 1)


def _pieces(rows: torch.Tensor) -> list[slice]:
    """Slices of rows, each small enough to be computed on at once for all samples of the batch."""
    batch, count, width = rows.shape
    step = max(1, (CPU_PIECE if rows.device.type == "cpu" else PIECE) // (batch * width))
    return [slice(start, start + step) for start in range(0, count, step)]


def _sums(rows: torch.Tensor, channels: int, factor: torch.Tensor | None = None) -> torch.Tensor:
    """Sums of the rows, or of their products with `factor`, over the voxels: float32 ``(B, C)``."""
    total = rows.new_zeros((len(rows), rows.shape[2]), dtype=torch.float32)
    for piece in _pieces(rows):
        part = rows[:, piece]
        if factor is not None:
            part = part.float() * factor[:, piece]
        total += part.sum(1, dtype=torch.float32)
    return total.view(len(rows), -1, channels).sum(1)


def _through_relu(
    gradient: torch.Tensor, result: torch.Tensor, rows: torch.Tensor, channels: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradient where `result` is positive, its sums, and those of its products with `rows`."""
    slope = torch.empty_like(rows)
    totals = rows.new_zeros((2, len(rows), rows.shape[2]), dtype=torch.float32)
    for piece in _pieces(rows):
        part = slope[:, piece]
        torch.ops.aten.threshold_backward.grad_input(gradient[:, piece], result[:, piece], 0, grad_input=part)
        wide = part.to(torch.float32, copy=True)
        totals[0] += wide.sum(1)
        totals[1] += wide.mul_(rows[:, piece]).sum(1)
    p, q = totals.view(2, len(rows), -1, channels).sum(2)
    return slope, p, q


def _wide(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Values per channel ``(B, C)``, repeated to ``(B, 1, k C)`` to match the rows."""
    return values.repeat(1, rows.shape[2] // values.shape[1])[:, None]


def _combined(
    rows: torch.Tensor,
    k: torch.Tensor,
    shift: torch.Tensor,
    slope: torch.Tensor,
    scale: torch.Tensor,
    out: torch.Tensor,
) -> torch.Tensor:
    """``k rows + shift + scale slope`` with values per channel ``(B, C)``, into `out`, which may be `slope`."""
    scale, k, shift = (_wide(v, rows) for v in (scale, k, shift))
    if rows.device.type == "cpu":
        # Types that differ would be converted in memory here; on a GPU they meet in registers.
        scale, k, shift = (v.to(rows.dtype) for v in (scale, k, shift))
    for piece in _pieces(rows):
        part = torch.empty_like(rows[:, piece])
        torch.addcmul(shift, rows[:, piece], k, out=part)
        torch.addcmul(part, slope[:, piece], scale, out=out[:, piece])
    return out
