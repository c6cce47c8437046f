"""Float32 convolutions of one map in 3D: this project's against torch's. Run as ``python -m benchmarks.small_maps``.

Both run in turn in one process, forward alone and with backward, in both memory layouts, on maps with the sizes of the
networks' levels; the median over the rounds. The peer is `torch.nn.Conv3d` with the same weights. To emulate a
processor without AVX-512, set ``ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2``.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn

from networks.convolution import make_conv

# Channels in and out, stride, size of the map
MAPS = (
    (16, 16, 1, (8, 8, 8)),
    (32, 32, 1, (8, 8, 8)),
    (16, 16, 1, (16, 16, 16)),
    (8, 8, 1, (32, 32, 32)),
    (16, 16, 1, (32, 32, 16)),
    (32, 32, 1, (16, 16, 16)),
    (64, 64, 1, (16, 16, 16)),
    (64, 64, 1, (14, 12, 12)),
    (64, 128, 2, (14, 12, 12)),
    (128, 128, 1, (8, 8, 8)),
    (128, 128, 1, (7, 6, 6)),
    (256, 256, 1, (4, 4, 4)),
    (256, 256, 1, (6, 6, 6)),
    (320, 320, 1, (4, 4, 4)),
    # Not small: of these the weight gradient alone is another one, without AVX-512.
    (8, 8, 1, (112, 96, 40)),
    (16, 16, 1, (64, 64, 64)),
    (32, 32, 1, (32, 32, 32)),
)


def milliseconds(conv: nn.Module, x: torch.Tensor, gradient: torch.Tensor | None) -> float:
    """Of one pass, with backward where there is a gradient."""
    x = x.detach().requires_grad_(gradient is not None)
    start = time.perf_counter()
    y = conv(x)
    if gradient is not None:
        y.backward(gradient)
    return (time.perf_counter() - start) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=0, help="0 leaves torch's own choice")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print(
        f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    )
    for channels, width, stride, size in MAPS:
        ours = make_conv(3, channels, width, 3, stride)
        peer = nn.Conv3d(channels, width, 3, stride, 1, bias=False)
        peer.load_state_dict(ours.state_dict())
        for layout, name in (
            (torch.contiguous_format, "contiguous"),
            (torch.channels_last_3d, "channels-last"),
        ):
            a, b = ours.to(memory_format=layout), peer.to(memory_format=layout)
            x = torch.randn(1, channels, *size).contiguous(memory_format=layout)
            y = b(x).detach()
            torch.testing.assert_close(a(x), y, rtol=1e-4, atol=1e-4)
            for gradient, what in ((None, "forward"), (torch.randn_like(y), "step")):
                rounds = range(arguments.rounds + 2)
                with torch.set_grad_enabled(gradient is not None):
                    times = [(milliseconds(a, x, gradient), milliseconds(b, x, gradient)) for _ in rounds][2:]
                p, q = (statistics.median(column) for column in zip(*times, strict=True))
                shape = "x".join(map(str, (channels, *size))) + (f"-to-{width}" if width != channels else "")
                print(
                    f"RESULT {what}_ms_{name}_{shape} ours={p:.2f} peer={q:.2f} ratio={p / q:.2f}", flush=True
                )


if __name__ == "__main__":
    main()
