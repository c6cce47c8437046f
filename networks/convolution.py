"""Convolutions that use fast and correct CPU kernels for every size of the feature map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

__all__ = ["Conv2d", "Conv3d", "make_conv"]

# torch (`ConvParams::use_mkldnn`, torch 2.11 to 2.14) hands a float32 convolution of one sample to oneDNN only above
# this product of the channels and all spatial sizes but the last; below it, it multiplies matrices of copied columns.
SMALL_MAP = 20480

# Below this many multiplications the copies cost more time than oneDNN saves (``python -m benchmarks.small_maps``).
WORTHWHILE = 2**22


class _OnCPU(nn.Module):
    """Mixin for torch's convolutions: the same function, computed by kernels that are correct and fast on a CPU.

    - Training in bfloat16 with a kernel longer than the map: float32. There the weight gradient of oneDNN (torch 2.13)
      reads and writes out of bounds: values of 1e30 at random, or a crash of the process. Measured against float32
      on random shapes, 2D and 3D; every wrong one had an axis shorter than the kernel. Such maps are the smallest of a
      network, so float32 costs next to nothing.
    - The weight gradient of a channels-last float32 map in 3D without AVX-512: of a map that is padded along its first
      axis beforehand. With that padding left to oneDNN (torch 2.13) it takes up to twice as long, and where other
      programs keep the cores busy ten times (`pads_slowly`, ``python -m benchmarks.small_maps``).
    - A small float32 map of one sample in 3D: as a batch of its two halves, which overlap by the kernel. torch takes
      oneDNN for a batch, and for one small map a kernel that is up to 6 times slower (`misses_onednn`).
    """

    kernel_size: Any
    _conv_forward: Any

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Scripted networks are only used after training. TorchScript skips a branch only if this is its sole condition.
        if not torch.jit.is_scripting():
            if self.training and x.device.type == "cpu" and in_half(x):
                sizes = zip(x.shape[2:], self.kernel_size, strict=True)
                if any(size < kernel for size, kernel in sizes):
                    with torch.autocast("cpu", enabled=False):
                        bias = None if self.bias is None else self.bias.float()
                        return self._conv_forward(x.float(), self.weight.float(), bias).to(x.dtype)
            if misses_onednn(self, x):
                for axis in range(2, 5):
                    if _rows(self, x, axis) % 2 == 0:
                        return _as_halves(self, x, axis)
            if pads_slowly(self, x):
                return _PaddedWeightGradient.apply(x, self.weight, self.bias, self.stride, self.padding)
        return self._conv_forward(x, self.weight, self.bias)


class Conv2d(_OnCPU, nn.Conv2d):
    """`torch.nn.Conv2d`, safe in bfloat16 on a CPU."""


class Conv3d(_OnCPU, nn.Conv3d):
    """`torch.nn.Conv3d`, safe in bfloat16 and fast on small float32 maps on a CPU."""


def in_half(x: torch.Tensor) -> bool:
    """Whether a layer computes with `x` in bfloat16, by its type or by autocast on a CPU."""
    return x.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")


def _in_float32(conv: Any, x: torch.Tensor) -> bool:
    """Whether this is a convolution in 3D, of several channels, that oneDNN is to compute in float32."""
    return bool(
        # Compilers and exporters, which record the operations, get the plain convolution.
        not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and isinstance(conv, nn.Conv3d)
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and not in_half(x)
        and x.dim() == 5
        # With one channel both memory layouts are the same, for which oneDNN gave wrong results.
        and x.shape[1] > 1
        and conv.groups == 1
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled  # type: ignore[attr-defined]
    )


def misses_onednn(conv: Any, x: torch.Tensor) -> bool:
    """Whether torch would compute this convolution in 3D without oneDNN, at a cost worth avoiding."""
    return (
        _in_float32(conv, x)
        and len(x) == 1
        and 1 < max(conv.kernel_size[1:]) <= 3
        and math.prod(x.shape[1:4]) <= SMALL_MAP
        and conv.weight.numel() * math.prod(_rows(conv, x, axis) for axis in range(2, 5)) >= WORTHWHILE
    )


def pads_slowly(conv: Any, x: torch.Tensor) -> bool:
    """Whether oneDNN's weight gradient of this convolution would be slowed down by its padding."""
    return (
        _in_float32(conv, x)
        and conv.weight.requires_grad
        and torch.is_grad_enabled()
        and conv.padding[0] > 0
        and not x.is_contiguous()
        and torch.backends.cpu.get_cpu_capability() == "AVX2"
    )


class _PaddedWeightGradient(torch.autograd.Function):
    """A convolution in 3D whose weight gradient is taken of a map that is padded along its first axis."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        stride: tuple[int, ...],
        padding: tuple[int, ...],
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding, ctx.has_bias = stride, padding, bias is not None
        return F.conv3d(x, weight, bias, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last_3d)
        sizes = [len(weight)] if ctx.has_bias else None

        def part(source: torch.Tensor, padding: Sequence[int], mask: list[bool]) -> Any:
            settings = (list(ctx.stride), list(padding), [1] * 3, False, [0] * 3, 1)
            return torch.ops.aten.convolution_backward(gradient, source, weight, sizes, *settings, mask)

        inner = part(x, ctx.padding, [True, False, False])[0] if ctx.needs_input_grad[0] else None
        first, *rest = ctx.padding
        padded = F.pad(x, [0, 0, 0, 0, first, first])
        _, outer, shift = part(padded, (0, *rest), [False, True, ctx.has_bias])
        return inner, outer, shift, None, None


def _rows(conv: Any, x: torch.Tensor, axis: int) -> int:
    """Output size of the convolution along an axis of `x`."""
    kernel, stride, padding = _along(conv, axis)
    return (x.shape[axis] + 2 * padding - kernel) // stride + 1


def _along(conv: Any, axis: int) -> tuple[int, int, int]:
    """Kernel size, stride and padding along an axis of the map."""
    return conv.kernel_size[axis - 2], conv.stride[axis - 2], int(conv.padding[axis - 2])


def _as_halves(conv: Any, x: torch.Tensor, axis: int) -> torch.Tensor:
    """Convolve one sample, whose output size along `axis` must be even, as a batch of its two halves."""
    kernel, stride, around = _along(conv, axis)
    padding = [0 if other == axis else int(conv.padding[other - 2]) for other in range(2, 5)]
    step = _rows(conv, x, axis) // 2 * stride
    layout = torch.contiguous_format if x.is_contiguous() else torch.channels_last_3d
    whole = F.pad(x[0], [*(0, 0) * (4 - axis), around, around])
    halves = whole.unfold(axis - 1, step - stride + kernel, step).movedim(axis - 1, 0).movedim(-1, axis)
    halves = halves.contiguous(memory_format=layout)
    y = F.conv3d(halves, conv.weight, conv.bias, conv.stride, padding)
    # Joined by a copy rather than a view, whose batch of one would have a stride that torch's norms refuse.
    return torch.cat(y.chunk(2), axis).contiguous(memory_format=layout)


def make_conv(
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    kernel_size: int = 3,
    stride: int | Sequence[int] = 1,
    groups: int = 1,
    bias: bool = False,
) -> nn.Module:
    """A 2D or 3D convolution, padded so that an odd kernel keeps the size at stride 1."""
    kind: Any = {2: Conv2d, 3: Conv3d}[spatial_dims]
    return kind(
        in_channels,
        out_channels,
        kernel_size=kernel_size,
        stride=stride if isinstance(stride, int) else tuple(stride),
        padding=kernel_size // 2,
        groups=groups,
        bias=bias,
    )
