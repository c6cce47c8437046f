"""UPerNet against PSPNet, whose encoder is dilated. Run as ``python -m benchmarks.pspnet``.

PSPNet (Zhao et al., arXiv 1612.01105) keeps stride 8 from the third stage on and dilates the convolutions behind
it (rates 2 and 4), so its deepest stages work on 16 times as many pixels as UPerNet's, which trades the dilation
for a pyramid (arXiv 1807.10221, table 1). Auxiliary losses are left out on both sides.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence

import torch
from torch import nn

from benchmarks.measure import PRECISIONS, measure, run_apart
from networks import UPerNet
from networks.convolution import make_conv
from networks.encoders import ResNetEncoder
from networks.layers import GROUP_NORM, resize
from networks.upernet import PyramidPooling

CLASSES = 3


def dilate(encoder: ResNetEncoder) -> ResNetEncoder:
    """Dilate the 3x3 convolutions of the last two stages, whose strides are 1, by 2 and 4."""
    for stage, rate in ((encoder.layer3, 2), (encoder.layer4, 4)):
        for module in stage.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d) and max(module.kernel_size) > 1:
                module.dilation = module.padding = (rate,) * encoder.spatial_dims
    return encoder


class PSPNet(nn.Module):
    """Pyramid scene parsing network on a ResNet of output stride 8.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: classes.
        encoder: a name of `networks.encoders.ENCODERS`.
        channels: width of the pooling branches and of the head (512 in the paper).
        pool_scales: bins per axis.
        norm: MONAI norm.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        encoder: str = "resnet50",
        channels: int = 512,
        pool_scales: Sequence[int] = (1, 2, 3, 6),
        norm: str | tuple | None = GROUP_NORM,
    ) -> None:
        super().__init__()
        self.encoder = dilate(
            ResNetEncoder(encoder, spatial_dims, in_channels, norm, strides=(2, 2, 2, 1, 1))
        )
        self.pooling = PyramidPooling(spatial_dims, self.encoder.channels[-1], channels, pool_scales, norm)
        self.classify = make_conv(spatial_dims, channels, out_channels, 1, bias=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits ``(B, out_channels, *spatial)``."""
        y = self.classify(self.pooling(self.encoder(x)[-1]))
        return resize(y, x)


def networks_for(encoder: str) -> dict[str, Callable[[], nn.Module]]:
    """PSPNet as published, and UPerNet at three head widths (512 is the published one)."""
    return {
        "PSPNet-512": lambda: PSPNet(2, 3, CLASSES, encoder),
        "UPerNet-512": lambda: UPerNet(2, 3, CLASSES, encoder, fpn_channels=512),
        "UPerNet-256": lambda: UPerNet(2, 3, CLASSES, encoder, fpn_channels=256),
        "UPerNet-128": lambda: UPerNet(2, 3, CLASSES, encoder, fpn_channels=128),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=256, help="side of the square image in pixels")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--encoder", default="resnet50")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", help="measure one network and print JSON")
    args = parser.parse_args()
    networks = networks_for(args.encoder)
    if args.only:
        shape = (args.batch, 3, args.size, args.size)
        print(
            json.dumps(
                measure(networks[args.only], shape, args.device, args.precision, args.repeats, args.threads)
            )
        )
        return
    keys = ("size", "batch", "encoder", "device", "precision", "repeats", "threads")
    passed = [f"--{key}={getattr(args, key)}" for key in keys]
    results = run_apart("benchmarks.pspnet", list(networks), args.rounds, passed)
    print(
        f"| {args.encoder}, {args.size}x{args.size} | parameters (M) | GFLOPs | training step (s) | saved (MiB) |"
    )
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, r in results.items():
        print(
            f"| {name} | {r['parameters']:.1f} | {r['gflops']:.0f} | {r['training']:.3f} | {r['saved']:.0f} |"
        )
    peer = results["PSPNet-512"]
    for name in list(networks)[1:]:
        for figure in ("training", "saved"):
            ours, theirs = results[name][figure], peer[figure]
            label = f"{figure}:{name}:PSPNet:{args.encoder}"
            print(f"RESULT {label} ours={ours:.4g} peer={theirs:.4g} ratio={ours / theirs:.3f}")


if __name__ == "__main__":
    main()
