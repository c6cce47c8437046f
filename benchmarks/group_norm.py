"""Group norm of this project against torch's on channels-last maps. Run as ``python -m benchmarks.group_norm``.

Both in one process and in turn, forward and backward together, on the map of a network's first level and on a
deeper one; the median over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn

from benchmarks.measure import PRECISIONS
from networks.layers import GroupNorm

MAPS = {
    "8x96x80x80": (1, 8, 96, 80, 80),
    "16x48x40x40": (1, 16, 48, 40, 40),
    "64x12x10x10": (1, 64, 12, 10, 10),
}


def step(norm: nn.Module, x: torch.Tensor, gradient: torch.Tensor) -> float:
    """Milliseconds of one forward and backward pass."""
    x = x.detach().requires_grad_()
    start = time.perf_counter()
    norm(x).backward(gradient)
    return (time.perf_counter() - start) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    for precision, dtype in PRECISIONS.items():
        for name, shape in MAPS.items():
            x, gradient = (
                torch.randn(shape, dtype=dtype).contiguous(memory_format=torch.channels_last_3d)
                for _ in range(2)
            )
            ours, peer = (kind(4, shape[1]).to(dtype) for kind in (GroupNorm, nn.GroupNorm))
            torch.testing.assert_close(ours(x), peer(x), rtol=0.02, atol=0.02)
            rounds = range(arguments.rounds + 1)  # the first warms up
            times = [(step(ours, x, gradient), step(peer, x, gradient)) for _ in rounds][1:]
            mine, theirs = (statistics.median(column) for column in zip(*times, strict=True))
            print(
                f"RESULT group_norm_ms_{precision}_{name} ours={mine:.2f} peer={theirs:.2f} ratio={mine / theirs:.3f}"
            )


if __name__ == "__main__":
    main()
