"""Group norm and ReLU of this project against torch's on channels-last maps. Run as ``python -m benchmarks.group_norm``.

Both in one process and in turn, forward and backward together, on the maps of a network's levels in 3D and in 2D (a batch
of 8), with the groups of the networks' default, or with ``--groups instance`` one for each channel, under autocast; the
median over the rounds. The peer is `torch.nn.GroupNorm` and `torch.nn.ReLU(inplace=True)`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.measure import PRECISIONS
from networks.group_norm import LAYOUTS, GroupNorm, norm_act
from networks.layers import group_count

# (B, C, *spatial)
MAPS = (
    (1, 8, 112, 96, 48),
    (1, 16, 96, 96, 96),
    (1, 32, 48, 48, 48),
    (1, 64, 24, 24, 24),
    (1, 128, 12, 12, 12),
    (8, 16, 256, 256),
    (8, 64, 64, 64),
)


def step(run: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, gradient: torch.Tensor) -> float:
    """Milliseconds of one forward and backward pass, under autocast where `x` is in bfloat16."""
    x = x.detach().requires_grad_()
    if x.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    with torch.autocast(x.device.type, torch.bfloat16, enabled=x.dtype == torch.bfloat16):
        y = run(x)
    y.backward(gradient.to(y.dtype))
    if x.is_cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - start) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=PRECISIONS, default="bf16")
    parser.add_argument("--groups", choices=["default", "instance"], default="default")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    for shape in MAPS:
        x, gradient = (
            torch.randn(shape, device=arguments.device)
            .to(PRECISIONS[arguments.precision])
            .contiguous(memory_format=LAYOUTS[len(shape)])
            for _ in range(2)
        )
        groups = shape[1] if arguments.groups == "instance" else group_count(shape[1], 8)
        ours, peer = (kind(groups, shape[1]).to(arguments.device) for kind in (GroupNorm, nn.GroupNorm))
        relu = nn.ReLU(inplace=True)

        def mine(x: torch.Tensor, norm: nn.Module = ours, act: nn.Module = relu) -> torch.Tensor:
            return norm_act(norm, act, x)

        def theirs(x: torch.Tensor, norm: nn.Module = peer, act: nn.Module = relu) -> torch.Tensor:
            return act(norm(x))

        torch.testing.assert_close(mine(x).float(), theirs(x).float(), rtol=0.02, atol=0.02)
        rounds = range(arguments.rounds + 1)  # the first warms up
        times = [(step(mine, x, gradient), step(theirs, x, gradient)) for _ in rounds][1:]
        a, b = (statistics.median(column) for column in zip(*times, strict=True))
        name = "x".join(map(str, shape)) + ("_instance" if arguments.groups == "instance" else "")
        print(
            f"RESULT group_norm_relu_ms_{arguments.precision}_{name} ours={a:.2f} peer={b:.2f} ratio={a / b:.3f}"
        )


if __name__ == "__main__":
    main()
