"""The highest speed of a machine's libraries: each convolution of a network measured alone, and a matrix product."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import wall_seconds
from networks.group_norm import LAYOUTS

Shape = tuple[Any, ...]


class Convolutions(TorchDispatchMode):
    """Counts the convolutions of a forward pass, grouped by all properties that determine their speed."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[Shape] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            x, weight, bias, stride, padding, dilation, transposed, output_padding, groups = args
            self.found[
                (
                    tuple(x.shape),
                    tuple(weight.shape),
                    bias is not None,
                    tuple(stride),
                    tuple(padding),
                    tuple(dilation),
                    transposed,
                    tuple(output_padding),
                    groups,
                    x.dtype,
                    x.requires_grad or x.grad_fn is not None,
                )
            ] += 1
        return func(*args, **(kwargs or {}))


def timed(run: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median wall seconds of `run`, after one call that is not counted."""
    times = [wall_seconds(run, device) for _ in range(repeats + 1)]
    return statistics.median(times[1:])


def one_convolution(
    shape: Shape, device: torch.device, channels_last: bool, repeats: int
) -> tuple[float, float]:
    """Seconds and floating-point operations of one convolution, forward and backward."""
    size, kernel, has_bias, stride, padding, dilation, transposed, output_padding, groups, dtype, inner = (
        shape
    )
    layout = LAYOUTS[len(size)] if channels_last else torch.contiguous_format
    x = torch.randn(size, device=device, dtype=dtype).contiguous(memory_format=layout).requires_grad_(inner)
    weight = torch.randn(kernel, device=device, dtype=dtype).contiguous(memory_format=layout).requires_grad_()
    out = kernel[1] * groups if transposed else kernel[0]
    bias = torch.zeros(out, device=device, dtype=dtype, requires_grad=True) if has_bias else None

    def forward() -> torch.Tensor:
        return torch.ops.aten.convolution(
            x, weight, bias, stride, padding, dilation, transposed, output_padding, groups
        )

    with torch.no_grad():
        gradient = torch.randn_like(forward())

    def step() -> None:
        x.grad = weight.grad = None
        forward().backward(gradient)

    with FlopCounterMode(display=False) as counter:
        step()
    return timed(step, device, repeats), float(counter.get_total_flops())


def convolution_ceiling(
    forward: Callable[[], object], device: torch.device, channels_last: bool, repeats: int = 5
) -> dict[str, float]:
    """The time of a training step that consists only of its convolutions, each in the faster memory layout.

    Returns:
        "seconds" and "tflops" of forward and backward of all convolutions that `forward` calls.
    """
    with Convolutions() as seen:
        forward()
    seconds = operations = 0.0
    for shape, count in seen.found.items():
        layouts = (False, True) if channels_last else (False,)
        measured = [one_convolution(shape, device, layout, repeats) for layout in layouts]
        seconds += count * min(took for took, _ in measured)
        operations += count * measured[0][1]
    return {"seconds": seconds, "tflops": operations / seconds / 1e12}


def matrix_ceiling(device: torch.device, dtype: torch.dtype = torch.bfloat16) -> float:
    """TFLOP/s of a large square matrix product."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / timed(lambda: a @ b, device, 10) / 1e12
