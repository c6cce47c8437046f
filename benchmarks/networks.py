"""Cost of our networks next to MONAI's at one 3D patch, batch 1. Run as ``python -m benchmarks.networks``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

from monai.networks.nets import BasicUNet, DynUNet, SegResNet, UNet
from torch import nn

from benchmarks.measure import PRECISIONS, measure, run_apart
from networks import R2UNet, UPerNet

CLASSES = 3
SMALL, LARGE = (8, 16, 32, 64), (16, 32, 64, 128, 256)

OURS: dict[str, Callable[[], nn.Module]] = {
    "R2UNet 8..64": lambda: R2UNet(3, 1, CLASSES, SMALL),
    "R2UNet 16..256": lambda: R2UNet(3, 1, CLASSES, LARGE),
    "R2UNet 16..256, checkpointing": lambda: R2UNet(3, 1, CLASSES, LARGE, checkpointing=True),
    "RU-Net 16..256": lambda: R2UNet(3, 1, CLASSES, LARGE, residual=False),
    "UPerNet resnet18": lambda: UPerNet(3, 1, CLASSES, "resnet18"),
    "UPerNet resnet18, refine": lambda: UPerNet(3, 1, CLASSES, "resnet18", refine=True),
    "UPerNet resnet50": lambda: UPerNet(3, 1, CLASSES, "resnet50"),
}
MONAI: dict[str, Callable[[], nn.Module]] = {
    "MONAI UNet 16..256": lambda: UNet(3, 1, CLASSES, LARGE, (2, 2, 2, 2), num_res_units=2),
    "MONAI BasicUNet": lambda: BasicUNet(3, 1, CLASSES),
    "MONAI SegResNet": lambda: SegResNet(3, 16, 1, CLASSES),
    "MONAI DynUNet 32..320": lambda: DynUNet(
        3, 1, CLASSES, [3] * 5, [1, 2, 2, 2, 2], [2] * 4, filters=[32, 64, 128, 256, 320], res_block=False
    ),
}
PEER = "MONAI UNet 16..256"
FIGURES = {
    "parameters": ("parameters (M)", "{:.2f}"),
    "gflops": ("GFLOPs", "{:.0f}"),
    "forward": ("forward (s)", "{:.3f}"),
    "training": ("training step (s)", "{:.3f}"),
    "saved": ("saved activations (MiB)", "{:.0f}"),
}


def main() -> None:
    networks = {**OURS, **MONAI}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=96, help="side of the cubic patch in voxels")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="bf16 is autocast")
    parser.add_argument("--repeats", type=int, default=2, help="timed repetitions within a process")
    parser.add_argument("--rounds", type=int, default=2, help="processes per network, interleaved")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--only", choices=networks, help="measure one network and print JSON")
    args = parser.parse_args()
    if args.only:
        shape = (1, 1, args.size, args.size, args.size)
        print(
            json.dumps(
                measure(networks[args.only], shape, args.device, args.precision, args.repeats, args.threads)
            )
        )
        return

    passed = [
        f"--{key}={getattr(args, key)}" for key in ("size", "device", "precision", "repeats", "threads")
    ]
    results = run_apart("benchmarks.networks", list(networks), args.rounds, passed)
    print("| network | " + " | ".join(title for title, _ in FIGURES.values()) + " |")
    print("| --- |" + " ---: |" * len(FIGURES))
    for name, figures in results.items():
        print(f"| {name} | " + " | ".join(form.format(figures[k]) for k, (_, form) in FIGURES.items()) + " |")
    for name in OURS:
        for figure in ("training", "forward", "saved"):
            ours, peer = results[name][figure], results[PEER][figure]
            label = f"{figure}:{name}:{PEER}".replace(", ", "-").replace(" ", "-")
            print(f"RESULT {label} ours={ours:.4g} peer={peer:.4g} ratio={ours / peer:.3f}")


if __name__ == "__main__":
    main()
